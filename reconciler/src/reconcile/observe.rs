//! One pass of looking: Hetzner and Kubernetes at the same time, put together for the core.

mod systems;

use std::collections::BTreeMap;
use std::time::Instant;

use fabrik_core::id::NodeName;
use fabrik_core::ledger::Ledger;
use fabrik_core::observed::{Hetzner, Observed};
use futures::future::try_join_all;
use jiff::Timestamp;
use tokio::try_join;
use tracing::warn;

use super::leader::{InForce, Leader};
use crate::cluster::nodes::{self, PodsSeen};
use crate::hetzner;

/// Everything, or the reason why this pass sees too little to act on. Before the first commit there is no token for
/// Hetzner, and only Kubernetes is looked at.
pub async fn observe(
    leader: &mut Leader,
    in_force: Option<&InForce>,
    ledger: Ledger,
) -> Result<Observed, String> {
    let at = Timestamp::now();
    let client = &leader.replica.clients.leader;
    let (hetzner, mut seen, pinned, tokens, mut pods, told, heard) = try_join!(
        observe_hetzner(leader, in_force, &ledger),
        async { nodes::observe_nodes(client).await.map_err(text) },
        async { nodes::observe_pinned(client).await.map_err(text) },
        async { leader.tokens.observe().await.map_err(text) },
        pods_of_ticketed(client, &ledger),
        async { nodes::observe_systems(client).await.map_err(text) },
        heard_of_updating(client, &ledger),
    )?;
    let datastore = systems::datastore(leader, &seen).await;
    if !seen.unreadable.is_empty() {
        warn!(nodes = ?seen.unreadable, "Nodes with names that no server of ours can have; passed over");
    }
    systems::tell_unreadable(leader, &told);
    let mut told = told;
    for (node, seen) in &mut pods {
        if let Some(system) = told.systems.get_mut(node) {
            system.unready_daemons = std::mem::take(&mut seen.unready_daemons);
        }
    }
    for (name, at) in heard {
        if let Some(node) = seen.nodes.get_mut(&name) {
            node.heard = at;
        }
    }
    let units = leader
        .units()
        .units
        .into_iter()
        .map(|(name, unit)| (name, unit.inventory))
        .collect();
    let mut observed = Observed {
        at,
        hetzner,
        nodes: seen.nodes,
        pods: pods.into_iter().map(|(node, p)| (node, p.pods)).collect(),
        pinned,
        tokens,
        units,
        ledger,
        systems: told.systems,
        datastore,
        leader: Some(leader.replica.config.node.clone()),
        released: told.released,
        paused: leader.wishes.paused.clone(),
    };
    remember_blocked(leader, &mut observed);
    systems::remember_well(leader, &mut observed);
    Ok(observed)
}

async fn observe_hetzner(
    leader: &Leader,
    in_force: Option<&InForce>,
    ledger: &Ledger,
) -> Result<Hetzner, String> {
    let Some(in_force) = in_force else {
        return Ok(Hetzner::default());
    };
    let cluster = &leader.replica.config.cluster.id;
    let spec = &in_force.desired.spec;
    let confirmed = &leader.wishes.confirmed_gone;
    hetzner::observe(&in_force.hetzner, cluster, spec, ledger, confirmed)
        .await
        .map_err(text)
}

async fn pods_of_ticketed(
    client: &kube::Client,
    ledger: &Ledger,
) -> Result<BTreeMap<NodeName, PodsSeen>, String> {
    let of_node = |node: NodeName| async move {
        let pods = nodes::observe_pods(client, &node).await.map_err(text)?;
        Ok::<_, String>((node, pods))
    };
    let nodes = ledger.tickets.values().map(|t| t.node.clone());
    Ok(try_join_all(nodes.map(of_node))
        .await?
        .into_iter()
        .collect())
}

async fn heard_of_updating(
    client: &kube::Client,
    ledger: &Ledger,
) -> Result<Vec<(NodeName, Option<Timestamp>)>, String> {
    let updating = ledger.tickets.values().filter(|t| t.update().is_some());
    let heard = updating.map(async |ticket| {
        let at = nodes::heard(client, &ticket.node).await.map_err(text)?;
        Ok((ticket.node.clone(), at))
    });
    try_join_all(heard).await
}

/// Gives each pod what refused its last eviction, and forgets pods that are gone.
fn remember_blocked(leader: &mut Leader, observed: &mut Observed) {
    let mut still_there = BTreeMap::<_, (String, Instant)>::new();
    for pod in observed.pods.values_mut().flatten() {
        if let Some((uid, blocked)) = leader.blocked.remove_entry(&pod.uid) {
            pod.blocked = Some(blocked.0.clone());
            still_there.insert(uid, blocked);
        }
    }
    leader.blocked = still_there;
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
