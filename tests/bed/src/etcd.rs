//! Members of the control plane's etcd, by the real etcdctl.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::bed::success;
use crate::control_plane::{Component, EtcdCluster};
use crate::parts::Parts;
use crate::server::Server;

/// Adds and removes members.
pub struct EtcdControl<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) servers: &'a [Arc<Server>],
}

/// A member as etcd lists it.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    #[serde(rename = "ID")]
    pub id: u64,
    /// Empty until the member has started for the first time.
    #[serde(default)]
    pub name: String,
    #[serde(rename = "peerURLs", default)]
    pub peer_urls: Vec<String>,
}

#[derive(Deserialize)]
struct Members {
    members: Vec<Member>,
}

impl EtcdControl<'_> {
    pub fn members(&self) -> Result<Vec<Member>> {
        let text = self.etcdctl(&["member", "list", "--write-out=json"])?;
        Ok(serde_json::from_str::<Members>(&text)
            .context("reading the members of etcd")?
            .members)
    }

    /// Takes a server's member out of etcd. Its etcd ends by itself.
    pub fn remove(&self, server: &str) -> Result<()> {
        let members = self.members()?;
        let member = members.iter().find(|member| member.name == server);
        let member = member.with_context(|| format!("etcd has no member {server}"))?;
        let id = format!("{:x}", member.id);
        self.etcdctl(&["member", "remove", &id]).map(drop)
    }

    /// Adds a server's member anew, with an empty disk, and starts it.
    pub fn add(&self, server: &str) -> Result<()> {
        let found = self
            .servers
            .iter()
            .find(|s| s.control_plane.name() == server);
        let control_plane = &found
            .with_context(|| format!("no server {server}"))?
            .control_plane;
        control_plane.kill(Component::Etcd);
        control_plane.wipe_etcd()?;
        let peer_url = format!("https://{}:2380", control_plane.address());
        self.etcdctl(&["member", "add", server, &format!("--peer-urls={peer_url}")])?;
        let members = self.members()?;
        let name = |member: &Member| {
            if member.name.is_empty() {
                server.to_owned()
            } else {
                member.name.clone()
            }
        };
        let urls = members
            .iter()
            .flat_map(|m| m.peer_urls.iter().map(move |url| (name(m), url)));
        let list: Vec<_> = urls.map(|(name, url)| format!("{name}={url}")).collect();
        control_plane.set_etcd_cluster(EtcdCluster {
            members: list.join(","),
            existing: true,
        });
        control_plane.start(Component::Etcd)
    }

    /// Runs etcdctl against a member that runs.
    fn etcdctl(&self, arguments: &[&str]) -> Result<String> {
        let runs = |server: &&Arc<Server>| server.control_plane.is_running(Component::Etcd);
        let server = self.servers.iter().find(runs).context("no etcd runs")?;
        let dir = server.control_plane.dir();
        let mut command = Command::new(&self.parts.etcdctl);
        command
            .args(arguments)
            .env(
                "ETCDCTL_ENDPOINTS",
                format!("https://{}:2379", server.control_plane.address()),
            )
            .env("ETCDCTL_CACERT", dir.join("etcd-ca.crt"))
            .env("ETCDCTL_CERT", dir.join("etcd.crt"))
            .env("ETCDCTL_KEY", dir.join("etcd.key"));
        success(&command.output().context("starting etcdctl")?, arguments)
    }
}
