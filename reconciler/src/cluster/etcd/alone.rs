//! What this server's member says where there may be no quorum: by its own data, which may be old.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fabrik_core::ledger::Ledger;
use fabrik_core::quorum::without_digits;

use super::members::host_of;
use super::wire::{self, MemberListRequest, RangeRequest, StatusRequest, call};
use super::{Etcd, EtcdError};

/// Where the API server keeps fabrik's ledger, an object of a custom resource, in JSON.
/// (kube-apiserver, `--etcd-prefix`; k3s leaves it as it is)
const LEDGER_KEY: &str = "/registry/fabrik.dev/fabrikledgers/ledger";

/// One member's view.
#[derive(Debug, Clone, PartialEq)]
pub struct Alone {
    pub has_leader: bool,
    pub learner: bool,
    pub others: Vec<Other>,
    /// As it was last written here; `None` where it is not there or does not read.
    pub ledger: Option<Ledger>,
}

/// Another member, as this one knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The name of its Node, or what comes nearest to it.
    pub name: String,
    /// Of its peer and client URLs.
    pub addresses: BTreeSet<IpAddr>,
}

impl Etcd {
    /// Asks this server's own member, and needs no other one for it.
    pub async fn alone(&self) -> Result<Alone, EtcdError> {
        let client = self.client()?;
        let endpoint = &self.config.endpoint;
        let status = call(&client, endpoint, &StatusRequest {}).await?;
        let list = call(&client, endpoint, &MemberListRequest::default()).await?;
        let asked = RangeRequest {
            key: LEDGER_KEY.into(),
            serializable: true,
        };
        let ledger = call(&client, endpoint, &asked).await?;
        let own = status.header.map(|header| header.member);
        let others = list.members.iter().filter(|m| Some(m.id) != own);
        Ok(Alone {
            has_leader: status.leader != 0,
            learner: status.is_learner,
            others: others.map(other).collect(),
            ledger: ledger.entries.first().and_then(|e| ledger_in(&e.value)),
        })
    }
}

fn other(member: &wire::Member) -> Other {
    let urls = member.peer_urls.iter().chain(&member.client_urls);
    let addresses: BTreeSet<IpAddr> = urls.filter_map(|url| host_of(url)).collect();
    let address = addresses.first().map(ToString::to_string);
    let name = without_digits(&member.name).unwrap_or(&member.name);
    Other {
        // One that never started has no name.
        name: if name.is_empty() {
            address.unwrap_or_else(|| member.id.to_string())
        } else {
            name.to_owned()
        },
        addresses,
    }
}

fn ledger_in(object: &[u8]) -> Option<Ledger> {
    let mut object: serde_json::Value = serde_json::from_slice(object).ok()?;
    serde_json::from_value(object.get_mut("spec")?.take()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_member_is_called_by_its_node_or_where_it_never_started_by_its_address() {
        let named = |name: &str| {
            other(&wire::Member {
                id: 7,
                name: name.to_owned(),
                peer_urls: vec!["https://10.0.1.2:2380".to_owned()],
                ..wire::Member::default()
            })
        };
        assert_eq!(named("server-2-0a1b2c3d").name, "server-2");
        assert_eq!(named("server-2").name, "server-2");
        assert_eq!(named("").name, "10.0.1.2");
        let addresses = BTreeSet::from(["10.0.1.2".parse().unwrap()]);
        assert_eq!(named("").addresses, addresses);
    }

    #[test]
    fn the_ledger_is_read_as_the_api_server_keeps_it() {
        let spec = r#"{"schema":1,"cluster":"abcdefgh01234567"}"#;
        let object = format!(r#"{{"apiVersion":"fabrik.dev/v1alpha1","spec":{spec}}}"#);
        let ledger = ledger_in(object.as_bytes()).unwrap();
        assert_eq!(ledger.cluster.as_str(), "abcdefgh01234567");
        assert_eq!(ledger_in(b"k8s\0not json"), None);
    }
}
