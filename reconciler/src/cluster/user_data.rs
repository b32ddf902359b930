//! What a new worker is told at its first boot. Everybody on the machine can read it, so it holds one secret only: a join
//! token that lives for minutes and is revoked when the Node has joined.

use fabrik_core::effect::NewServer;
use fabrik_core::id::ClusterId;
use serde_json::json;

use crate::secrets::Secret;

/// The layout's version.
const VERSION: u32 = 1;

/// What every worker of a cluster is told.
#[derive(Debug, Clone, Copy)]
pub struct Cluster<'a> {
    pub id: &'a ClusterId,
    /// Supervisors to join at.
    pub servers: &'a [String],
    /// What a node may run is signed with its other half; `None` where no systems are built.
    pub public_key: Option<&'a str>,
    /// Where what was built here is fetched.
    pub cache_urls: &'a [String],
}

/// The user data of a worker: JSON, with k3s' words. The machine tries `servers` in order, and again until one answers:
/// it can join while any of them is up.
pub fn worker(server: &NewServer, cluster: Cluster<'_>, token: &Secret) -> Secret {
    let document = json!({
        "cluster-id": cluster.id,
        "public-key": cluster.public_key,
        "cache-urls": cluster.cache_urls,
        "fabrik": VERSION,
        "role": "agent",
        "pool": server.pool,
        "node-name": server.name,
        "servers": cluster.servers,
        "token": token.expose_str().unwrap_or_default(),
        "labels": server.node_labels,
        "taints": server.node_taints,
    });
    Secret::new(document.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    #[test]
    fn a_worker_is_told_all_servers_and_one_secret() {
        let server = NewServer {
            intent: "k3x9qd".parse().unwrap(),
            pool: "workers".parse().unwrap(),
            name: "demo-workers-k3x9qd".parse().unwrap(),
            choices: Vec::new(),
            image: "debian-12".to_owned(),
            network: 1,
            firewall: 2,
            ssh_keys: Vec::new(),
            placement_group: None,
            node_labels: BTreeMap::from([("tier".to_owned(), "web".to_owned())]),
            node_taints: vec!["dedicated=web:NoSchedule".to_owned()],
        };
        let urls = ["https://127.20.0.1:9345", "https://127.20.0.2:9345"].map(str::to_owned);
        let token = Secret::new(b"K10ca::id.secret".to_vec());
        let caches = ["https://127.20.0.1:9642".to_owned()];
        let cluster = Cluster {
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
            "cluster-id": "abcdefgh01234567", "public-key": "fabrik-demo-1:AAAA", "cache-urls": caches,
        });
        assert_eq!(document, expected);
    }
}
