//! The servers that bear the label of one intent: who may speak for it.

use fabrik_core::id::{ClusterId, IntentId, ServerId};
use fabrik_core::join::Machine;
use fabrik_core::names::{CLUSTER_LABEL, INTENT_LABEL};

use super::client::{Client, Purpose};
use super::convert::is_ours;
use super::error::{HetznerError, RequestId};
use super::wire;

/// All of them, as they are now.
///
/// # Errors
/// The list is not complete, or a server in it has no time of its creation.
pub async fn claimants(
    client: &Client,
    cluster: &ClusterId,
    intent: &IntentId,
) -> Result<Vec<Machine>, HetznerError> {
    let selector = format!("{CLUSTER_LABEL}=={cluster},{INTENT_LABEL}=={intent}");
    let filter = Some(("label_selector", selector));
    let servers = client.list::<wire::Server>(filter, Purpose::Act).await?;
    // A selector that was not heard would show other machines.
    let is_meant = |server: &&wire::Server| {
        is_ours(*server, cluster)
            && server.labels.get(INTENT_LABEL).map(String::as_str) == Some(intent.as_str())
    };
    servers.iter().filter(is_meant).map(machine).collect()
}

fn machine(server: &wire::Server) -> Result<Machine, HetznerError> {
    let created = server.created.parse();
    let addresses = server.private_net.iter();
    Ok(Machine {
        id: ServerId(server.id),
        name: server.name.clone(),
        created: created.map_err(|_| HetznerError::Malformed {
            what: "list servers".to_owned(),
            problem: format!("server {} has no readable `created`", server.id),
            id: RequestId::default(),
        })?,
        addresses: addresses.filter_map(|net| net.ip.parse().ok()).collect(),
    })
}
