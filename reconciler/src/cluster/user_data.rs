//! What a new server is told at its first boot. Everybody on the machine can read it, so it holds one secret only: a
//! worker's join token, which lives for minutes and is revoked when the Node has joined, or a nonce, which serves once.

use std::collections::BTreeMap;

use fabrik_core::effect::NewServer;
use fabrik_core::id::{ClusterId, ClusterName, NodeName, PoolName};
use fabrik_core::observed::{Hetzner, Role};
use serde::{Deserialize, Serialize};

use super::tokens;
use crate::config::Config;
use crate::hetzner;
use crate::secrets::{Secret, in_clear};
use crate::signing::SigningKey;

/// The layout's version.
pub const VERSION: u32 = 1;

/// The role of a worker.
pub const AGENT: &str = "agent";

/// The role of a server of the control plane.
pub const SERVER: &str = "server";

/// What every server of a cluster is told.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    pub name: &'a ClusterName,
    pub id: &'a ClusterId,
    /// Supervisors to join at.
    pub servers: &'a [String],
    /// What a node may run is signed with its other half; `None` where no systems are built.
    pub public_key: Option<&'a str>,
    /// Where what was built here is fetched.
    pub cache_urls: &'a [String],
}

/// What a machine of the user's own joins by, but for its token: the leader publishes it for `fabrik install`. No secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Joining {
    pub servers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    #[serde(default)]
    pub cache_urls: Vec<String>,
    /// Where servers ask for their keys.
    #[serde(default)]
    pub join_urls: Vec<String>,
    /// SHA-256 in hex of the authority's file, which a token names.
    pub ca_hash: String,
}

impl Joining {
    /// `None`, with a line in the log, where a file of it can't be read.
    pub fn of(config: &Config) -> Option<Self> {
        let key = config.nix.as_ref();
        let key = key.map(|nix| SigningKey::read(&nix.signing_key_file));
        let public_key = key.transpose().map(|key| key.map(|key| key.public_half()));
        let public_key = public_key
            .inspect_err(|error| tracing::warn!(%error, "machines can't be installed"))
            .ok()?;
        let ca_hash = tokens::ca_hash(&config.kubernetes.ca_file)
            .inspect_err(|error| tracing::warn!(%error, "machines can't be installed"))
            .ok()?;
        Some(Self {
            servers: config.kubernetes.join_urls.clone(),
            public_key,
            cache_urls: config.cache_urls(),
            join_urls: config.join_desk_urls(),
            ca_hash,
        })
    }

    /// Without servers of before whose address is a worker's by now: it is told to nobody who joins (`join::for_new_machines`).
    #[must_use]
    pub fn without_workers(&self, there: &Hetzner) -> Self {
        let workers = there.servers.values().filter(|s| s.role == Role::Agent);
        let theirs = workers.filter_map(|s| s.address).collect();
        Self {
            servers: hetzner::not_at(&self.servers, &theirs),
            cache_urls: hetzner::not_at(&self.cache_urls, &theirs),
            join_urls: hetzner::not_at(&self.join_urls, &theirs),
            ..self.clone()
        }
    }
}

/// The user data of a server: JSON, with k3s' words. The machine tries `servers` in order, and again until one answers:
/// it can join while any of them is up. What a newer leader adds, an older image passes over.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UserData {
    pub fabrik: u32,
    pub role: String,
    pub pool: PoolName,
    pub node_name: NodeName,
    pub cluster_name: ClusterName,
    pub cluster_id: ClusterId,
    pub public_key: Option<String>,
    #[serde(default)]
    pub cache_urls: Vec<String>,
    pub servers: Vec<String>,
    #[serde(with = "in_clear")]
    pub token: Secret,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub taints: Vec<String>,
}

/// The user data of a server of the control plane. It holds nothing of what such a server has: with the nonce the machine
/// asks one of `join_urls` for that, by TLS under the authority that `ca_hash` is of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServerData {
    pub fabrik: u32,
    pub role: String,
    pub pool: PoolName,
    pub node_name: NodeName,
    pub cluster_name: ClusterName,
    pub cluster_id: ClusterId,
    pub public_key: Option<String>,
    #[serde(default)]
    pub cache_urls: Vec<String>,
    #[serde(with = "in_clear")]
    pub nonce: Secret,
    /// SHA-256 in hex of the authority's file, as in k3s' tokens.
    pub ca_hash: String,
    pub join_urls: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub taints: Vec<String>,
}

/// By what a new server of the control plane is let in.
#[derive(Debug, Clone)]
pub struct Invitation {
    pub nonce: Secret,
    pub ca_hash: String,
    pub join_urls: Vec<String>,
}

/// The user data of a server of the control plane, as Hetzner gets it.
pub fn server(server: &NewServer, cluster: Cluster<'_>, invitation: Invitation) -> Secret {
    let user_data = ServerData {
        fabrik: VERSION,
        role: SERVER.to_owned(),
        pool: server.pool.clone(),
        node_name: server.name.clone(),
        cluster_name: cluster.name.clone(),
        cluster_id: cluster.id.clone(),
        public_key: cluster.public_key.map(str::to_owned),
        cache_urls: cluster.cache_urls.to_vec(),
        nonce: invitation.nonce,
        ca_hash: invitation.ca_hash,
        join_urls: invitation.join_urls,
        labels: server.node_labels.clone(),
        taints: server.node_taints.clone(),
    };
    // Names, lists and texts: nothing in it has no JSON.
    Secret::new(serde_json::to_vec(&user_data).unwrap_or_default())
}

/// The user data of a worker, as Hetzner gets it.
pub fn worker(server: &NewServer, cluster: Cluster<'_>, token: &Secret) -> Secret {
    let user_data = UserData {
        fabrik: VERSION,
        role: AGENT.to_owned(),
        pool: server.pool.clone(),
        node_name: server.name.clone(),
        cluster_name: cluster.name.clone(),
        cluster_id: cluster.id.clone(),
        public_key: cluster.public_key.map(str::to_owned),
        cache_urls: cluster.cache_urls.to_vec(),
        servers: cluster.servers.to_vec(),
        token: token.clone(),
        labels: server.node_labels.clone(),
        taints: server.node_taints.clone(),
    };
    // Names, lists and texts: nothing in it has no JSON.
    Secret::new(serde_json::to_vec(&user_data).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use fabrik_core::id::ServerId;
    use serde_json::{Value, json};

    use super::*;

    fn new(pool: &str) -> NewServer {
        NewServer {
            intent: "k3x9qd".parse().unwrap(),
            pool: pool.parse().unwrap(),
            name: format!("demo-{pool}-k3x9qd").parse().unwrap(),
            choices: Vec::new(),
            image: "debian-12".to_owned(),
            network: 1,
            firewall: 2,
            ssh_keys: Vec::new(),
            placement_group: None,
            node_labels: BTreeMap::from([("tier".to_owned(), "web".to_owned())]),
            node_taints: vec!["dedicated=web:NoSchedule".to_owned()],
        }
    }

    #[test]
    fn a_machine_of_one_s_own_is_told_of_no_server_whose_address_a_worker_has_by_now() {
        let urls = ["https://10.0.1.1:6443", "https://10.0.1.2:6443"].map(str::to_owned);
        let joining = Joining {
            servers: urls.to_vec(),
            public_key: None,
            cache_urls: urls.to_vec(),
            join_urls: urls.to_vec(),
            ca_hash: String::new(),
        };
        let told = |role: &str| {
            let server = json!({
                "id": 1, "name": "demo-x", "role": role, "power": "running", "address": "10.0.1.2",
                "server_type": "cx33", "location": "fsn1", "created": "2026-01-01T00:00:00Z",
            });
            let there = Hetzner {
                servers: BTreeMap::from([(ServerId(1), serde_json::from_value(server).unwrap())]),
                ..Hetzner::default()
            };
            let told = joining.without_workers(&there);
            [&told.servers, &told.cache_urls, &told.join_urls].map(Vec::len)
        };
        assert_eq!(told("server"), [2; 3]);
        assert_eq!(told("agent"), [1; 3]);
    }

    #[test]
    fn a_server_is_told_where_to_ask_and_has_one_word_to_ask_with() {
        let cluster = Cluster {
            name: &"demo".parse().unwrap(),
            id: &"abcdefgh01234567".parse().unwrap(),
            servers: &["https://10.0.1.1:6443".to_owned()],
            public_key: Some("fabrik-demo-1:AAAA"),
            cache_urls: &[],
        };
        let invitation = Invitation {
            nonce: Secret::new(b"a-nonce".to_vec()),
            ca_hash: "00".repeat(32),
            join_urls: vec!["https://10.0.1.1:9643".to_owned()],
        };
        let text = super::server(&new("servers"), cluster, invitation);
        let document: Value = serde_json::from_str(text.expose_str().unwrap()).unwrap();
        let expected = json!({
            "fabrik": 1, "role": "server", "pool": "servers", "node-name": "demo-servers-k3x9qd",
            "cluster-name": "demo", "cluster-id": "abcdefgh01234567", "public-key": "fabrik-demo-1:AAAA", "cache-urls": [],
            "nonce": "a-nonce", "ca-hash": "00".repeat(32), "join-urls": ["https://10.0.1.1:9643"],
            "labels": {"tier": "web"}, "taints": ["dedicated=web:NoSchedule"],
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn a_worker_is_told_all_servers_and_one_secret() {
        let server = new("workers");
        let urls = ["https://127.20.0.1:9345", "https://127.20.0.2:9345"].map(str::to_owned);
        let token = Secret::new(b"K10ca::id.secret".to_vec());
        let caches = ["https://127.20.0.1:9642".to_owned()];
        let cluster = Cluster {
            name: &"demo".parse().unwrap(),
            id: &"abcdefgh01234567".parse().unwrap(),
            servers: &urls,
            public_key: Some("fabrik-demo-1:AAAA"),
            cache_urls: &caches,
        };
        let text = worker(&server, cluster, &token);
        let document: Value = serde_json::from_str(text.expose_str().unwrap()).unwrap();
        let expected = json!({
            "fabrik": 1, "role": "agent", "pool": "workers", "node-name": "demo-workers-k3x9qd",
            "servers": urls, "token": "K10ca::id.secret",
            "labels": {"tier": "web"}, "taints": ["dedicated=web:NoSchedule"],
            "cluster-name": "demo", "cluster-id": "abcdefgh01234567", "public-key": "fabrik-demo-1:AAAA", "cache-urls": caches,
        });
        assert_eq!(document, expected);
    }
}
