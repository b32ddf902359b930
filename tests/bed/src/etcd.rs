//! Members of the control plane's etcd, by the real etcdctl.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::bed::success;
use crate::control_plane::Component;
use crate::parts::Parts;
use crate::server::Server;

/// Reads the members.
pub struct EtcdControl<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) servers: &'a [Arc<Server>],
}

/// A member as etcd lists it.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    /// Empty until the member has started for the first time.
    #[serde(default)]
    pub name: String,
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
