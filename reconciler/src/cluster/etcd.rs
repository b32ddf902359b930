//! etcd, by gRPC: who is a member and how it does, and the three things that are asked of it: another leader, a snapshot,
//! and one member less.
//!
//! k3s runs etcd with client certificates of an authority of its own. Nothing here decides: what could not be read is an
//! error, and the caller knows of no etcd then.

mod alone;
mod members;
mod snapshots;
mod wire;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use fabrik_core::id::NodeName;
use fabrik_core::observed;
use futures::future::join_all;
use reqwest::Client;

pub use self::alone::{Alone, Other};
pub use self::members::Hosts;
use self::members::Look;
use self::wire::{
    AlarmRequest, MemberList, MemberListRequest, MemberRemoveRequest, MoveLeaderRequest,
    StatusRequest, call,
};
use crate::config;
use crate::secrets::Secret;

/// A member that takes longer than this to say how it does is not well.
const ANSWER: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("etcd: can't read {}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("etcd: its certificates can't be used: {0}")]
    Certificates(reqwest::Error),
    #[error("etcd: {url} does not answer: {source}")]
    Unreachable { url: String, source: reqwest::Error },
    #[error("etcd: {url} refuses {path}: {message}")]
    Refused {
        url: String,
        path: &'static str,
        message: String,
    },
    #[error("etcd: no member is called {0}")]
    NoMember(String),
    #[error("etcd: no member says that it leads")]
    NoLeader,
    #[error(
        "etcd: member {id:x} is called `{name}` and is not of server {server}; it was not removed"
    )]
    OtherMember {
        id: u64,
        name: String,
        server: NodeName,
    },
    #[error("etcd: member {0:x} can only be removed by another one, and none has a client URL")]
    NoOtherMember(u64),
    #[error("etcd: `k3s etcd-snapshot save` can't be run: {0}. fabrik looks for `k3s` on its PATH")]
    NoK3s(std::io::Error),
    #[error("etcd: `k3s etcd-snapshot save` failed: {0}")]
    Snapshot(String),
}

/// The etcd of this server's control plane.
pub struct Etcd {
    config: config::Etcd,
    /// k3s renews its certificates when it starts: with files that changed comes another client.
    client: Mutex<Option<(Vec<SystemTime>, Client)>>,
}

impl Etcd {
    pub fn new(config: config::Etcd) -> Self {
        Self {
            config,
            client: Mutex::new(None),
        }
    }

    /// The members, each asked itself, and the snapshots on this server's disk.
    pub async fn observe(&self, hosts: &Hosts) -> Result<observed::Etcd, EtcdError> {
        let client = self.client()?;
        let (list, looks) = self.look(&client).await?;
        let troubled = looks.iter().flatten().any(|look| look.status.is_troubled());
        // To ask for alarms is a proposal to the whole cluster, so it is done only where a member speaks of trouble.
        let alarms = if troubled {
            let alarms = call(&client, &self.config.endpoint, &AlarmRequest {});
            alarms.await?.alarms
        } else {
            Vec::new()
        };
        Ok(observed::Etcd {
            members: members::put_together(&list, &looks, &alarms, hosts),
            snapshots: snapshots::complete(&self.config.snapshot_dir, hosts)?,
        })
    }

    /// Has the member of that name lead. Where it does already, nothing is asked.
    pub async fn move_leader(&self, to: &str) -> Result<(), EtcdError> {
        let client = self.client()?;
        let (list, looks) = self.look(&client).await?;
        let target = list.members.iter().find(|m| m.name == to);
        let target = target.ok_or_else(|| EtcdError::NoMember(to.to_owned()))?;
        let leads = |(member, look): &(&wire::Member, &Option<Look>)| {
            look.as_ref().is_some_and(|l| l.status.leader == member.id)
        };
        let (leader, _) = list
            .members
            .iter()
            .zip(&looks)
            .find(leads)
            .ok_or(EtcdError::NoLeader)?;
        if leader.id == target.id {
            return Ok(());
        }
        let url = leader.client_urls.first().ok_or(EtcdError::NoLeader)?;
        let asked = MoveLeaderRequest { target: target.id };
        call(&client, url, &asked).await.map(drop)
    }

    /// Takes a member out, by another one: it may be this server's own. It has to be `server`'s still, by its name or by
    /// its address; one that is gone already is.
    pub async fn remove(
        &self,
        server: &NodeName,
        id: u64,
        address: Option<IpAddr>,
    ) -> Result<(), EtcdError> {
        let client = self.client()?;
        let agreed = MemberListRequest { linearizable: true };
        let list = call(&client, &self.config.endpoint, &agreed).await?;
        let Some(member) = list.members.iter().find(|m| m.id == id) else {
            return Ok(());
        };
        if !members::is_of(member, server, address) {
            return Err(EtcdError::OtherMember {
                id,
                name: member.name.clone(),
                server: server.clone(),
            });
        }
        let asked = MemberRemoveRequest { id };
        let others = list.members.iter().filter(|m| m.id != id && !m.is_learner);
        let mut failure = EtcdError::NoOtherMember(id);
        for url in others.filter_map(|m| m.client_urls.first()) {
            match call(&client, url, &asked).await {
                Ok(_) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Takes a snapshot on this server, by k3s' own way, so that `k3s server --cluster-reset` finds it.
    pub async fn snapshot(&self, name: &str) -> Result<(), EtcdError> {
        snapshots::save(name).await
    }

    /// The list of members that a quorum agrees on, and what each member says; `None` for one that does not answer.
    async fn look(&self, client: &Client) -> Result<(MemberList, Vec<Option<Look>>), EtcdError> {
        let agreed = MemberListRequest { linearizable: true };
        let list = call(client, &self.config.endpoint, &agreed).await?;
        let looks = list.members.iter().map(async |member| {
            let url = member.client_urls.first()?;
            let own = MemberListRequest::default();
            let status = call(client, url, &StatusRequest {});
            match futures::join!(status, call(client, url, &own)) {
                (Ok(status), Ok(list)) => Some(Look { status, list }),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::debug!(%error, member = member.name, "an etcd member does not answer");
                    None
                }
            }
        });
        let looks = join_all(looks).await;
        Ok((list, looks))
    }

    fn client(&self) -> Result<Client, EtcdError> {
        let config = &self.config;
        let files = [&config.ca_file, &config.certificate_file, &config.key_file];
        let changed = files.map(|path| {
            let changed = std::fs::metadata(path).and_then(|m| m.modified());
            changed.map_err(unreadable(path))
        });
        let changed = changed.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut client = match self.client.lock() {
            Ok(client) => client,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some((then, client)) = client.as_ref()
            && *then == changed
        {
            return Ok(client.clone());
        }
        let fresh = self.connect()?;
        *client = Some((changed, fresh.clone()));
        Ok(fresh)
    }

    fn connect(&self) -> Result<Client, EtcdError> {
        let config = &self.config;
        let read = |path: &PathBuf| std::fs::read(path).map_err(unreadable(path));
        let authority = reqwest::Certificate::from_pem(&read(&config.ca_file)?);
        let mut identity = read(&config.key_file)?;
        identity.extend(read(&config.certificate_file)?);
        let identity = Secret::new(identity);
        let identity = reqwest::Identity::from_pem(identity.expose());
        Client::builder()
            .tls_certs_only([authority.map_err(EtcdError::Certificates)?])
            .identity(identity.map_err(EtcdError::Certificates)?)
            .timeout(ANSWER)
            .http2_prior_knowledge()
            .no_proxy()
            .build()
            .map_err(EtcdError::Certificates)
    }
}

fn unreadable(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> EtcdError {
    let path = path.to_owned();
    move |source| EtcdError::File { path, source }
}
