//! What the first server of a cluster is told at its creation. Everybody on the machine can read it, and it is spent before
//! anything secret comes: the host key in it serves for one connection, over which the machine's own takes its place.

use fabrik_core::id::{ClusterId, ClusterName, NodeName};
use serde::{Deserialize, Serialize};

use super::VERSION;
use crate::secrets::{Secret, in_clear};

/// The role of a first server.
pub const ROLE: &str = "first-server";

/// The user data of a first server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FirstServer {
    pub fabrik: u32,
    pub role: String,
    pub node_name: NodeName,
    pub cluster_name: ClusterName,
    pub cluster_id: ClusterId,
    /// By which the laptop knows the machine at its first connection: Ed25519, in OpenSSH's format.
    #[serde(with = "in_clear")]
    pub host_key: Secret,
    /// Of the key that the laptop comes with, as a line of `authorized_keys`.
    pub authorized_key: String,
}

impl FirstServer {
    pub fn new(
        node_name: NodeName,
        (cluster_name, cluster_id): (ClusterName, ClusterId),
        host_key: Secret,
        authorized_key: String,
    ) -> Self {
        Self {
            fabrik: VERSION,
            role: ROLE.to_owned(),
            node_name,
            cluster_name,
            cluster_id,
            host_key,
            authorized_key,
        }
    }

    /// As Hetzner gets it.
    pub fn user_data(&self) -> Secret {
        // Names and texts: nothing in it has no JSON.
        Secret::new(serde_json::to_vec(self).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_first_server_is_told_who_it_is_and_by_which_keys_to_meet_the_laptop() {
        let cluster = ("demo".parse().unwrap(), "abcdefgh01234567".parse().unwrap());
        let first = FirstServer::new(
            "demo-servers-abc234".parse().unwrap(),
            cluster,
            Secret::new(b"a host key\n".to_vec()),
            "ssh-ed25519 AAAA".to_owned(),
        );
        let text = first.user_data();
        let document: Value = serde_json::from_slice(text.expose()).unwrap();
        let expected = json!({
            "fabrik": 1, "role": "first-server", "node-name": "demo-servers-abc234", "cluster-name": "demo",
            "cluster-id": "abcdefgh01234567", "host-key": "a host key\n", "authorized-key": "ssh-ed25519 AAAA",
        });
        assert_eq!(document, expected);
        let back: FirstServer = serde_json::from_slice(text.expose()).unwrap();
        assert_eq!(back, first);
        assert!(!format!("{first:?}").contains("a host key"));
    }
}
