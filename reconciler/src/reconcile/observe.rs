//! One pass of looking: Hetzner and Kubernetes at the same time, put together for the core.

mod recent;
mod systems;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use fabrik_core::arrival::left;
use fabrik_core::drain;
use fabrik_core::id::NodeName;
use fabrik_core::ledger::{Ledger, Ticket};
use fabrik_core::observed::{Hetzner, Node, Observed};
use futures::future::join_all;
use jiff::Timestamp;
use tracing::warn;

pub use self::recent::Recent;
use self::recent::Subject;
use super::leader::{InForce, Leader};
use super::pace;
use crate::cluster::nodes::{self, Claim, NodesSeen, PodsSeen, SystemsSeen, VolumesSeen};
use crate::hetzner;

/// What this pass sees.
pub struct Seen {
    pub observed: Observed,
    /// Why Hetzner could not be read, if it could not: `observed` shows nothing of it then.
    pub blind: Option<String>,
    /// Hetzner is shown as an earlier pass saw it, and may be asked again by now.
    pub hetzner_is_old: bool,
}

/// Everything, or the reason why this pass sees too little to act on. Before the first commit there is no token for
/// Hetzner, and only Kubernetes is looked at.
pub async fn observe(
    leader: &mut Leader,
    in_force: Option<&InForce>,
    ledger: Ledger,
) -> Result<Seen, String> {
    let (at, began) = (Timestamp::now(), Instant::now());
    let has_project = in_force.filter(|f| f.hetzner.is_some());
    let subject = has_project.map(|f| Subject::new(f, &ledger, &leader.wishes));
    let left = leader.hetzner_left();
    let is_old = |recent: &Recent| recent.at.elapsed() >= pace::busy(left);
    let recent = leader.hetzner.take();
    let recent = recent.filter(|recent| recent.counts_for(subject.as_ref()));
    // Else this pass would end where it begins with the next node, and another one would look.
    let makes_room = std::mem::take(&mut leader.makes_room);
    let recent = recent.filter(|recent| !makes_room || !is_old(recent));
    let client = &leader.replica.clients.leader;
    let (mut hetzner, seen, volumes, tokens, mut pods, told, heard, ready_pods) = tokio::join!(
        async {
            match &recent {
                Some(recent) => Ok(recent.seen.clone()),
                None => observe_hetzner(leader, in_force, &ledger).await,
            }
        },
        async { nodes::observe_nodes(client).await.map_err(text) },
        async { nodes::observe_volumes(client).await.map_err(text) },
        async { leader.tokens.observe().await.map_err(text) },
        pods_of_ticketed(client, &ledger),
        async { nodes::observe_systems(client).await.map_err(text) },
        heard_of_ticketed(client, &ledger),
        ready_pods_of_checks(client, in_force, &ledger),
    );
    let (mut seen, volumes, tokens, mut told) = (seen?, volumes?, tokens?, told?);
    let waiting = not_told(&ledger, &told);
    leader.watch_pods_of(&waiting);
    let emptied = emptied(&waiting, &seen, &pods, at);
    let (attached, etcd) = tokio::join!(
        attached_to(client, &waiting, &emptied, &volumes, &mut pods),
        systems::read_etcd(leader, &seen),
    );
    let hetzner_is_old = recent.as_ref().is_some_and(is_old);
    if let (Ok(there), None) = (&mut hetzner, &recent) {
        find_left(in_force, &ledger, &seen.nodes, there).await;
    }
    let (hetzner, blind) = match hetzner {
        Ok(seen) => {
            let now = |subject| Recent {
                at: began,
                subject,
                seen: seen.clone(),
            };
            leader.hetzner = recent.or_else(|| subject.map(now));
            (seen, None)
        }
        Err(problem) => (Hetzner::default(), Some(problem)),
    };
    let datastore = systems::datastore(leader, etcd);
    if !seen.unreadable.is_empty() {
        warn!(nodes = ?seen.unreadable, "Nodes with names that no server of ours can have; passed over");
    }
    systems::tell_unreadable(leader, &told);
    let deliveries = systems::deliveries(leader, &told).await;
    let uids = std::mem::take(&mut told.uids);
    leader.events.know(leader.wishes.uid.clone(), uids);
    systems::look_for_blockers(leader).await;
    let addresses = seen.hosts.by_address.keys().copied();
    leader.caches = leader.replica.config.caches_at(addresses);
    let (ours, caches) = (&leader.publications, &leader.caches);
    systems::forget_spoiled_aims(ours, caches, &ledger.members, &mut told);
    move_daemons(&mut pods, &mut told);
    for (name, heard) in heard {
        if let Some(node) = seen.nodes.get_mut(&name) {
            (node.heard, node.lease_unread) = heard.map_or((None, true), |at| (at, false));
        }
    }
    let mut observed = Observed {
        at,
        hetzner,
        nodes: seen.nodes,
        pods: pods.into_iter().map(|(node, p)| (node, p.pods)).collect(),
        attached,
        ready_pods,
        pinned: volumes.pinned,
        tokens,
        units: leader.units().inventories(),
        ledger,
        systems: told.systems,
        deliveries,
        datastore,
        leader: Some(leader.replica.config.node.clone()),
        released: told.released,
        asked: leader.wishes.asked.clone(),
        blockers: leader.blockers.1.clone(),
        paused: leader.wishes.paused.clone(),
    };
    remember_blocked(leader, &mut observed);
    if let Some(in_force) = in_force {
        systems::remember_well(leader, &in_force.desired.spec.update, &mut observed);
    }
    Ok(Seen {
        observed,
        blind,
        hetzner_is_old,
    })
}

async fn observe_hetzner(
    leader: &Leader,
    in_force: Option<&InForce>,
    ledger: &Ledger,
) -> Result<Hetzner, String> {
    let Some(in_force) = in_force else {
        return Ok(Hetzner::default());
    };
    let Some(client) = &in_force.hetzner else {
        return Ok(Hetzner::unseen(ledger));
    };
    let cluster = &leader.replica.config.cluster.id;
    let spec = &in_force.desired.spec;
    let confirmed = &leader.wishes.confirmed_gone;
    hetzner::observe(client, cluster, spec, ledger, confirmed)
        .await
        .map_err(text)
}

/// Asks which servers are gone that nobody but a Node names, once the Nodes are known.
async fn find_left(
    in_force: Option<&InForce>,
    ledger: &Ledger,
    nodes: &BTreeMap<NodeName, Node>,
    there: &mut Hetzner,
) {
    let Some(in_force) = in_force else {
        return;
    };
    if let Some(client) = &in_force.hetzner {
        let named = left::to_ask(&in_force.desired.spec, ledger, nodes, there);
        hetzner::find_left(client, named, there).await;
    }
}

/// Which of the system's daemons a node lacks is its system's to say.
fn move_daemons(pods: &mut BTreeMap<NodeName, PodsSeen>, told: &mut SystemsSeen) {
    for (node, seen) in pods {
        if let Some(system) = told.systems.get_mut(node) {
            system.unready_daemons = std::mem::take(&mut seen.unready_daemons);
        }
    }
}

/// A node whose pods can't be read is left out: it is not known to be empty.
async fn pods_of_ticketed(client: &kube::Client, ledger: &Ledger) -> BTreeMap<NodeName, PodsSeen> {
    let nodes = ledger.tickets.values().map(|t| &t.node);
    if ledger.tickets.is_empty() {
        return BTreeMap::new();
    }
    let daemon_sets = nodes::observe_daemon_sets(client).await;
    let daemon_sets = match daemon_sets {
        Ok(daemon_sets) => daemon_sets,
        Err(error) => {
            warn!(%error, "no node can be drained");
            return BTreeMap::new();
        }
    };
    let daemon_sets = &daemon_sets;
    let pods = nodes.map(async |node| {
        let pods = nodes::observe_pods(client, node, daemon_sets).await;
        (node, pods)
    });
    told_apart(join_all(pods).await, "its pods can't be read")
}

/// Nodes that have a ticket and were not told to go down yet.
fn not_told(ledger: &Ledger, told: &SystemsSeen) -> BTreeSet<NodeName> {
    let was_told = |ticket: &Ticket| {
        let order = told
            .systems
            .get(&ticket.node)
            .and_then(|s| s.order.as_ref());
        order.map(|o| o.ticket) == ticket.update().map(|u| u.number) && order.is_some()
    };
    let waiting = ledger.tickets.values().filter(|t| !was_told(t));
    waiting.map(|ticket| ticket.node.clone()).collect()
}

/// Those that are cordoned and have no pod to move, each with the claims that stay on it.
fn emptied(
    waiting: &BTreeSet<NodeName>,
    seen: &NodesSeen,
    pods: &BTreeMap<NodeName, PodsSeen>,
    at: Timestamp,
) -> BTreeMap<NodeName, BTreeSet<Claim>> {
    let emptied = waiting.iter().filter_map(|name| {
        let (on_it, node) = (pods.get(name)?, seen.nodes.get(name)?);
        let mut pods = on_it.pods.iter();
        let empty = node.unschedulable && !pods.any(|p| drain::obstructs(p, node, at));
        empty.then(|| (name.clone(), on_it.staying_claims.clone()))
    });
    emptied.collect()
}

/// Volumes of the emptied nodes. Where they can't be read, what is on a node that waits is not known, whatever its pods
/// are: nothing is evicted from it, for nobody would see it empty.
async fn attached_to(
    client: &kube::Client,
    waiting: &BTreeSet<NodeName>,
    emptied: &BTreeMap<NodeName, BTreeSet<Claim>>,
    volumes: &VolumesSeen,
    pods: &mut BTreeMap<NodeName, PodsSeen>,
) -> BTreeMap<NodeName, Vec<String>> {
    let attached = if waiting.is_empty() {
        return BTreeMap::new();
    } else if emptied.is_empty() {
        let may = nodes::may_observe_attached(client).await;
        may.map(|()| BTreeMap::new())
    } else {
        nodes::observe_attached(client, emptied, &volumes.claims).await
    };
    attached.unwrap_or_else(|error| {
        warn!(%error, "no node is drained, and none goes down");
        pods.retain(|node, _| !waiting.contains(node));
        BTreeMap::new()
    })
}

/// When kubelets renewed their Leases, where they have one; `None` where it can't be read.
async fn heard_of_ticketed(
    client: &kube::Client,
    ledger: &Ledger,
) -> BTreeMap<NodeName, Option<Option<Timestamp>>> {
    let heard = ledger.tickets.values().map(async |ticket| {
        let at = nodes::heard(client, &ticket.node).await;
        (&ticket.node, at)
    });
    let heard = told_apart(join_all(heard).await, "its Lease can't be read");
    let nodes = ledger.tickets.values().map(|t| &t.node);
    nodes
        .map(|node| (node.clone(), heard.get(node).copied()))
        .collect()
}

/// The user's checks that count pods, asked while a node tries a system. One that can't be read does not hold.
async fn ready_pods_of_checks(
    client: &kube::Client,
    in_force: Option<&InForce>,
    ledger: &Ledger,
) -> BTreeMap<String, u32> {
    let mut updates = ledger.tickets.values().filter_map(|t| t.update());
    let tries = updates.any(|u| u.ordered.is_some());
    let checks = in_force.map(|f| &f.desired.spec.update.checks);
    let checks = checks.filter(|_| tries).into_iter().flatten();
    let counted = checks.filter(|(_, check)| check.ready.is_some());
    let read = counted.map(async |(name, check)| {
        let count = nodes::count_ready(client, &check.pods).await;
        let told = |error| warn!(check = name, %error, "the check's pods can't be read");
        Some((name.clone(), count.map_err(told).ok()?))
    });
    join_all(read).await.into_iter().flatten().collect()
}

/// One node that can't be read does not stop all others.
fn told_apart<T>(
    read: Vec<(&NodeName, Result<T, impl std::fmt::Display>)>,
    problem: &'static str,
) -> BTreeMap<NodeName, T> {
    let read = read.into_iter().filter_map(|(node, read)| match read {
        Ok(read) => Some((node.clone(), read)),
        Err(error) => {
            warn!(%node, %error, "{problem}");
            None
        }
    });
    read.collect()
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
