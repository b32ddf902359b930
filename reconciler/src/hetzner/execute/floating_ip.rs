//! The address that one server has, and another one when that goes.

use fabrik_core::effect::NewFloatingIp;
use fabrik_core::id::{ClusterId, ServerId};
use reqwest::Method;
use serde_json::json;

use super::{Outcome, create, ours, write};
use crate::hetzner::client::{Client, Purpose};
use crate::hetzner::convert;
use crate::hetzner::error::HetznerError;
use crate::hetzner::wire;

/// Nobody has it at first.
pub async fn make(
    client: &Client,
    new: &NewFloatingIp,
    cluster: &ClusterId,
) -> Result<Outcome, HetznerError> {
    let body = json!({"type": new.family.word(), "home_location": new.location});
    let labels = convert::cluster_labels(cluster);
    create::<wire::FloatingIp>(client, cluster, &new.name, &labels, body).await
}

/// One request, whoever has it now (docs.hetzner.cloud, "Assign a Floating IP to a Server").
pub async fn assign(
    client: &Client,
    id: u64,
    name: &str,
    server: ServerId,
    cluster: &ClusterId,
) -> Result<Outcome, HetznerError> {
    let what = format!("assign floating IP `{name}` (id {id}) to server {server}");
    let found = ours::<wire::FloatingIp>(client, cluster, id, &what).await?;
    if found.server == Some(server.0) {
        return Ok(Outcome::AlreadyDone);
    }
    let path = format!("floating_ips/{id}/actions/assign");
    let body = json!({"server": server.0});
    write(client, Method::POST, path, Some(&body), what).await?;
    Ok(Outcome::Done)
}

/// What a server has is taken from it first, and deleted when it is seen that nobody has it: since May 2026 Hetzner refuses
/// otherwise (docs.hetzner.cloud, changelog).
pub async fn delete(
    client: &Client,
    id: u64,
    name: &str,
    cluster: &ClusterId,
) -> Result<Outcome, HetznerError> {
    let what = format!("delete floating IP `{name}` (id {id})");
    let found = client.get::<wire::FloatingIp>(id, Purpose::Act).await?;
    let is_meant = |found: &wire::FloatingIp| found.name == name;
    match found {
        Some(found) if is_meant(&found) && found.server.is_some() => {
            ours::<wire::FloatingIp>(client, cluster, id, &what).await?;
            let path = format!("floating_ips/{id}/actions/unassign");
            write(client, Method::POST, path, None, what).await?;
            Ok(Outcome::Done)
        }
        _ => super::delete(client, cluster, id, what, is_meant).await,
    }
}
