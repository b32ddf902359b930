//! What people ask for on the `FabrikCluster`. Read without its status: a leader of another version may have written
//! one that this version can't read.

use std::collections::BTreeSet;

use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::ServerId;
use fabrik_core::join::Asked;
use fabrik_core::names::CONFIRM_GONE_ANNOTATION;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Client, ResourceExt as _};

use super::error::{ClusterError, while_doing};
use super::resources::{FabrikCluster, FabrikClusterSpec, Installing};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// Why all effects are paused, by whom and since when.
    pub paused: Option<String>,
    /// Servers that a person says are gone.
    pub confirmed_gone: BTreeSet<ServerId>,
    /// What was meant as such a server's id and is none.
    pub no_ids: Vec<String>,
    /// Whom a person is installing as a server.
    pub asked: Option<Asked>,
    /// The UID of the object.
    pub uid: Option<String>,
}

impl Wishes {
    /// What can't be done of them, and how to say it right.
    pub fn hold(&self) -> Option<Hold> {
        (!self.no_ids.is_empty()).then(|| Hold {
            about: "FabrikCluster".to_owned(),
            reason: HoldReason::Unexplained,
            message: format!(
                "annotation {CONFIRM_GONE_ANNOTATION} holds `{}`, which is no server id; write ids with commas between \
                 them, as 41,42",
                self.no_ids.join("`, `")
            ),
        })
    }
}

pub async fn read(client: &Client, name: &str) -> Result<Wishes, ClusterError> {
    let object = dynamic(client).get_opt(name).await;
    let object = object
        .map_err(while_doing(format!("reading FabrikCluster {name}")))?
        .ok_or_else(|| ClusterError::Malformed {
            object: format!("FabrikCluster {name}"),
            problem: "it was deleted; run `fabrik found` on this server again".to_owned(),
        })?;
    of(&object).map_err(|problem| ClusterError::Malformed {
        object: format!("FabrikCluster {name}"),
        problem,
    })
}

/// All `FabrikCluster`s, as far as any version can read them.
pub fn dynamic(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &ApiResource::erase::<FabrikCluster>(&()))
}

fn of(object: &DynamicObject) -> Result<Wishes, String> {
    let spec = object.data.get("spec").cloned().unwrap_or_default();
    let spec: FabrikClusterSpec = serde_json::from_value(spec).map_err(|e| e.to_string())?;
    let ids = object.annotations().get(CONFIRM_GONE_ANNOTATION);
    let ids = ids.iter().flat_map(|ids| ids.split(',')).map(str::trim);
    let mut confirmed_gone = BTreeSet::new();
    let mut no_ids = Vec::new();
    for text in ids.filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(id) => drop(confirmed_gone.insert(ServerId(id))),
            Err(_) => no_ids.push(text.to_owned()),
        }
    }
    Ok(Wishes {
        paused: spec
            .paused
            .map(|p| format!("{} (by {} at {})", p.reason, p.by, p.at)),
        confirmed_gone,
        no_ids,
        asked: spec.installing.as_ref().and_then(asked),
        uid: object.uid(),
    })
}

/// `None` where it is not as `fabrik install` writes it: nobody is let in by that.
fn asked(installing: &Installing) -> Option<Asked> {
    Some(Asked {
        node: installing.node.parse().ok()?,
        hash: installing.nonce_hash.parse().ok()?,
        until: installing.until,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wishes(
        annotations: &serde_json::Value,
        status: &serde_json::Value,
    ) -> Result<Wishes, String> {
        let object = json!({
            "apiVersion": "fabrik.dev/v1alpha1", "kind": "FabrikCluster",
            "metadata": {"name": "demo", "annotations": annotations}, "status": status,
            "spec": {"clusterId": "abcdefgh01234567", "paused":
                {"reason": "night", "by": "ada", "at": "2026-11-21T01:00:00Z"}},
        });
        of(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_pause_is_read_whatever_a_newer_leader_wrote_into_the_status() {
        let newer = json!({"holds": [{"about": "x", "message": "y", "reason": "NotInventedYet"}]});
        let read = wishes(&json!({}), &newer).unwrap();
        assert_eq!(
            read.paused.as_deref(),
            Some("night (by ada at 2026-11-21T01:00:00Z)")
        );
    }

    #[test]
    fn what_is_no_hash_lets_nobody_in() {
        let read = |hash: &str| {
            let installing = json!({"node": "demo-servers-attic", "nonceHash": hash, "until": "2026-11-21T12:20:00Z"});
            let object = json!({
                "apiVersion": "fabrik.dev/v1alpha1", "kind": "FabrikCluster", "metadata": {"name": "demo"},
                "spec": {"clusterId": "abcdefgh01234567", "installing": installing},
            });
            of(&serde_json::from_value(object).unwrap()).unwrap().asked
        };
        let asked = read(&"0a".repeat(32)).unwrap();
        assert_eq!(asked.node.as_str(), "demo-servers-attic");
        assert_eq!(read("a nonce"), None);
    }

    #[test]
    fn confirmed_servers_are_a_list_of_ids() {
        let read =
            |text: &str| wishes(&json!({CONFIRM_GONE_ANNOTATION: text}), &json!({})).unwrap();
        assert_eq!(
            read("41, 42,").confirmed_gone,
            [ServerId(41), ServerId(42)].into()
        );
        assert_eq!(read("41, 42,").hold(), None);
        let typo = read("41 42,43");
        assert!(typo.paused.is_some(), "a typo must not hide the pause");
        assert_eq!(typo.confirmed_gone, [ServerId(43)].into());
        assert!(typo.hold().unwrap().message.contains("`41 42`"));
    }
}
