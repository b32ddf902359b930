//! How k3s makes its etcd a member of one that runs: first a learner, which has no vote, and a voter when it has caught up
//! (pkg/etcd/etcd.go, `join` and `manageLearners`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::control_plane::{Component, ControlPlane, EtcdCluster};
use crate::namespaces::Entrance;

const PROMOTION_LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(500);

/// Where etcdctl asks, and with what.
pub struct Etcdctl<'a> {
    pub program: &'a Path,
    pub network: Entrance,
    /// Has `etcd-ca.crt`, `etcd.crt` and `etcd.key`.
    pub certificates: &'a Path,
    /// `https://ADDRESS:2379` of a server that runs.
    pub endpoint: String,
}

#[derive(Deserialize)]
struct Members {
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    #[serde(rename = "ID")]
    id: u64,
    /// Empty until it has started for the first time.
    #[serde(default)]
    name: String,
    #[serde(rename = "peerURLs", default)]
    peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default)]
    learner: bool,
}

/// Adds the member and starts it; returns when it is a voter. A member that was added before and did not start is taken up.
pub async fn join(etcd: &Etcdctl<'_>, control_plane: &ControlPlane) -> Result<()> {
    let peer_url = format!("https://{}:2380", control_plane.address());
    let own = |member: &&Member| member.peer_urls.contains(&peer_url);
    let members = etcd.members().await?;
    match members.iter().find(own) {
        Some(member) if !member.name.is_empty() => bail!(
            "etcd cluster join failed: duplicate node name found, please use a unique name for this node: {} is a member",
            member.name
        ),
        Some(_) => {}
        None => {
            let peer = format!("--peer-urls={peer_url}");
            etcd.run(&["member", "add", control_plane.member(), "--learner", &peer])
                .await?;
        }
    }
    let members = etcd.members().await?;
    let id = members
        .iter()
        .find(own)
        .context("etcd forgot its member")?
        .id;
    let url = |member: &Member| {
        let name = if member.name.is_empty() {
            control_plane.member()
        } else {
            &member.name
        };
        member.peer_urls.first().map(|url| format!("{name}={url}"))
    };
    control_plane.set_etcd_cluster(EtcdCluster {
        members: members.iter().filter_map(url).collect::<Vec<_>>().join(","),
        existing: true,
    });
    control_plane.start(Component::Etcd)?;
    promote(etcd, id).await
}

/// Goes on where a join was cut off: a server whose etcd has data and no vote yet. Where nobody can tell, it has one.
pub async fn resume(etcd: &Etcdctl<'_>, control_plane: &ControlPlane) -> Result<()> {
    let peer_url = format!("https://{}:2380", control_plane.address());
    let members = etcd.members().await.unwrap_or_default();
    let own = |member: &&Member| member.learner && member.peer_urls.contains(&peer_url);
    let Some(learner) = members.iter().find(own) else {
        return Ok(());
    };
    control_plane.start(Component::Etcd)?;
    promote(etcd, learner.id).await
}

/// Refused for as long as the learner is behind.
async fn promote(etcd: &Etcdctl<'_>, id: u64) -> Result<()> {
    let began = Instant::now();
    let number = format!("{id:x}");
    loop {
        let Err(refused) = etcd.run(&["member", "promote", &number]).await else {
            return Ok(());
        };
        let members = etcd.members().await.unwrap_or_default();
        if members
            .iter()
            .any(|member| member.id == id && !member.learner)
        {
            return Ok(());
        }
        if began.elapsed() > PROMOTION_LIMIT {
            return Err(refused.context("etcd's learner does not catch up"));
        }
        sleep(PAUSE).await;
    }
}

impl Etcdctl<'_> {
    async fn members(&self) -> Result<Vec<Member>> {
        let text = self.run(&["member", "list", "--write-out=json"]).await?;
        let members: Members = serde_json::from_str(&text).context("reading members of etcd")?;
        Ok(members.members)
    }

    async fn run(&self, arguments: &[&str]) -> Result<String> {
        let file = |name: &str| self.certificates.join(name);
        let program = self.program.to_string_lossy();
        let mut command = Command::from(self.network.in_network(&program));
        command
            .args(arguments)
            .env("ETCDCTL_ENDPOINTS", &self.endpoint)
            .env("ETCDCTL_CACERT", file("etcd-ca.crt"))
            .env("ETCDCTL_CERT", file("etcd.crt"))
            .env("ETCDCTL_KEY", file("etcd.key"))
            .kill_on_drop(true);
        let output = command.output().await.context("starting etcdctl")?;
        crate::bed::success(&output, arguments)
    }
}
