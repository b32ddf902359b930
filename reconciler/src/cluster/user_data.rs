//! What a new worker is told at its first boot. Everybody on the machine can read it, so it holds one secret only: a join
//! token that lives for minutes and is revoked when the Node has joined.

use fabrik_core::effect::NewServer;
use serde_json::json;

use crate::secrets::Secret;

/// The layout's version.
const VERSION: u32 = 1;

/// The user data of a worker: JSON, with k3s' words.
pub fn worker(server: &NewServer, join_url: &str, token: &Secret) -> Secret {
    let document = json!({
        "fabrik": VERSION,
        "role": "agent",
        "pool": server.pool,
        "node-name": server.name,
        "server": join_url,
        "token": token.expose_str().unwrap_or_default(),
        "labels": server.node_labels,
        "taints": server.node_taints,
    });
    Secret::new(document.to_string().into_bytes())
}
