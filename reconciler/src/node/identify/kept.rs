//! What a machine knows of itself since its first boot, on its disk.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fabrik_core::id::{ClusterId, ClusterName, NodeName, ServerId};
use fabrik_core::names::API_PORT;
use serde::{Deserialize, Serialize};

use super::metadata::Addresses;
use crate::node::state::{read, write_durably};
use crate::node::{NodeError, config};
use crate::secrets::Secret;

/// Below the machine's root.
pub const STATE_DIR: &str = "var/lib/fabrik-identity";
const CACHE_PORT: u16 = 9642;
pub const IDENTITY: &str = "identity.json";
/// What k3s is started with.
pub(super) const TOKEN: &str = "token";

/// What is kept of the first boot. The token is in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Identity {
    /// Hetzner's id of the server, or what stands for a machine of the user's own.
    pub(super) server: u64,
    pub(super) addresses: Addresses,
    /// In the configuration of the agent, where the cluster has a key.
    pub(super) agent: Option<config::Cluster>,
    pub(super) cache_urls: Vec<String>,
    pub(super) node: NodeName,
    pub(super) servers: Vec<String>,
    pub(super) labels: Vec<String>,
    pub(super) taints: Vec<String>,
    /// Of a server of the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) control_plane: Option<ControlPlane>,
}

/// Which cluster a server belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ControlPlane {
    pub name: ClusterName,
    pub id: ClusterId,
    /// Whether it is the one that founds it.
    pub(super) is_first: bool,
}

impl Identity {
    /// Of the first server of a cluster.
    pub fn of_first_server(
        server: ServerId,
        addresses: Addresses,
        node: NodeName,
        (name, id): (ClusterName, ClusterId),
    ) -> Self {
        let own_cache = format!("https://{}:{CACHE_PORT}", addresses.private);
        Self {
            server: server.0,
            addresses,
            // Its key is not made yet.
            agent: None,
            cache_urls: vec![own_cache],
            node,
            servers: Vec::new(),
            labels: Vec::new(),
            taints: Vec::new(),
            control_plane: Some(ControlPlane {
                name,
                id,
                is_first: true,
            }),
        }
    }

    /// Whether it is a machine of the user's own: no metadata service knows it, and nobody had its host key.
    pub fn is_own_machine(&self) -> bool {
        ServerId(self.server).is_own()
    }

    pub fn node(&self) -> &NodeName {
        &self.node
    }

    pub(super) fn server_id(&self) -> ServerId {
        ServerId(self.server)
    }

    pub fn control_plane(&self) -> Option<&ControlPlane> {
        self.control_plane.as_ref()
    }

    pub fn is_first_server(&self) -> bool {
        self.control_plane.as_ref().is_some_and(|c| c.is_first)
    }

    /// Where its own k3s is reached by others.
    pub fn supervisor(&self) -> String {
        format!("https://{}:{}", self.addresses.private, API_PORT)
    }

    /// From now on its agent obeys what the key with this public half has signed.
    pub fn trust(&mut self, public_key: &str) {
        let cluster = self.control_plane.as_ref();
        self.agent = cluster.map(|cluster| config::Cluster {
            name: cluster.name.clone(),
            id: cluster.id.clone(),
            public_key: public_key.to_owned(),
        });
    }
}

/// `None` before the first boot has come to its end, and on machines that a person made.
pub fn kept(root: &Path) -> Result<Option<Identity>, NodeError> {
    let path = root.join(STATE_DIR).join(IDENTITY);
    let Some(text) = read(&path)? else {
        return Ok(None);
    };
    let identity = serde_json::from_str(&text);
    identity.map(Some).map_err(|error| NodeError::Malformed {
        path,
        problem: error.to_string(),
    })
}

pub fn keep(root: &Path, identity: &Identity) -> Result<(), NodeError> {
    let text = serde_json::to_vec_pretty(identity).map_err(|error| NodeError::Malformed {
        path: root.join(STATE_DIR).join(IDENTITY),
        problem: error.to_string(),
    })?;
    keep_file(root, IDENTITY, &text)
}

/// What k3s is started with.
pub fn keep_token(root: &Path, token: &Secret) -> Result<(), NodeError> {
    keep_file(root, TOKEN, token.expose())
}

/// For root alone.
fn keep_file(root: &Path, name: &str, bytes: &[u8]) -> Result<(), NodeError> {
    let dir = root.join(STATE_DIR);
    let path = dir.join(name);
    write_durably(&dir, &path, bytes).map_err(NodeError::io(path))
}

/// For all to read, as systemd-networkd has to; there is no secret in it. It is written again at the next boot.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)?;
    let readable = fs::Permissions::from_mode(0o644);
    let mut new = tempfile::Builder::new()
        .permissions(readable)
        .tempfile_in(dir)?;
    new.write_all(text.as_bytes())?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::identity;
    use super::*;

    #[test]
    fn what_is_kept_reads_back() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(kept(root.path()).unwrap(), None);
        let mut identity = identity();
        keep(root.path(), &identity).unwrap();
        assert_eq!(kept(root.path()).unwrap(), Some(identity.clone()));
        identity.control_plane = Some(ControlPlane {
            name: "demo".parse().unwrap(),
            id: "abcdefgh01234567".parse().unwrap(),
            is_first: true,
        });
        identity.trust("fabrik-demo-1:AAAA");
        keep(root.path(), &identity).unwrap();
        assert_eq!(kept(root.path()).unwrap(), Some(identity));
    }
}
