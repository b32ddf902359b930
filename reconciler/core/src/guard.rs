//! The safety rules, each a sentence that lets an act happen or refuses it with a reason. Nothing else in fabrik
//! decides that a node may go.

use jiff::{SignedDuration, Timestamp};

use crate::hold::{Hold, HoldReason, goes_on};
use crate::id::{IntentId, NodeName, PoolName, ServerId, Uid};
use crate::ledger::Member;
use crate::names::{CLUSTER_LABEL, CONFIRM_GONE_ANNOTATION, INTENT_LABEL, POOL_LABEL, ROLE_LABEL};
use crate::observed::{Node, Observed};
use crate::servers;
use crate::spec::{LocalData, Pool, Spec};

/// After this a machine that is neither on nor off is reported.
const STOP_DEADLINE_SECS: i64 = 600;
/// More members than this without a Node is no accident of one machine: nothing is deleted for it.
pub const MAX_MISSING_NODES: usize = 3;

/// A member is available when its Node is there, Ready, schedulable and holds no ticket (S2).
pub fn is_available(id: &IntentId, member: &Member, observed: &Observed) -> bool {
    let usable = |node: &Node| node.ready && !node.unschedulable && node.uid == member.uid;
    !observed.ledger.tickets.contains_key(id)
        && observed.nodes.get(&member.name).is_some_and(usable)
}

/// S2: taking a member down leaves no more than `max-unavailable` of its pool unavailable; a member that is unavailable
/// already may go, one at a time, so that a sick node never blocks its own removal.
pub fn within_budget(
    member: &Member,
    unavailable: usize,
    available: bool,
    ticketed: usize,
    pool: &Pool,
) -> Result<(), Hold> {
    let after = unavailable + usize::from(available);
    let max = pool.max_unavailable as usize;
    if after <= max || (!available && ticketed == 0) {
        return Ok(());
    }
    Err(Hold {
        about: format!("node {}", member.name),
        reason: HoldReason::Budget,
        message: format!(
            "waits: {unavailable} of pool {} are unavailable and max-unavailable is {max}; \
             it goes on when they are available or gone",
            member.pool
        ),
    })
}

/// S5: a node that a bound local PersistentVolume is pinned to stays, unless its pool gives the data up.
pub fn keeps_local_data(node: &NodeName, observed: &Observed, pool: &Pool) -> Result<(), Hold> {
    if pool.local_data == LocalData::Discard || !observed.pinned.contains(node) {
        return Ok(());
    }
    Err(Hold {
        about: format!("node {node}"),
        reason: HoldReason::LocalData,
        message: "holds the only copy of a bound local PersistentVolume; move the data and delete the claim, \
                  or set local-data = \"discard\" for its pool"
            .to_owned(),
    })
}

/// S5: no more deletions in an hour than the spec allows, so that a mistake is slow. `again` is when there is room.
pub fn within_hourly_cap(
    about: &str,
    done: usize,
    cap: u32,
    again: Option<Timestamp>,
) -> Result<(), Hold> {
    if done < cap as usize {
        return Ok(());
    }
    Err(Hold {
        about: about.to_owned(),
        reason: HoldReason::Throttled,
        message: format!(
            "waits: [limits] deletions-per-hour is {cap} and is used up{}",
            goes_on(again)
        ),
    })
}

/// Nodes that vanish in number are a fault of the cluster (a restored etcd), not of the machines: nothing is deleted.
pub fn nodes_are_believable(without_node: &[&NodeName]) -> Result<(), Hold> {
    let missing = without_node.len();
    if missing <= MAX_MISSING_NODES {
        return Ok(());
    }
    Err(Hold {
        about: "nodes".to_owned(),
        reason: HoldReason::Unexplained,
        message: format!(
            "{missing} servers that had joined have no Node any more ({}); that looks like a restored or damaged \
             cluster, so none of these servers is deleted. Bring back the cluster's state that has the Nodes (one \
             that is made by hand is another Node), or delete their servers at Hetzner, at most {MAX_MISSING_NODES} \
             at a time",
            some_of(without_node)
        ),
    })
}

/// Lists that lack many servers that should exist are a fault of the lists or of the token: none is believed gone.
pub fn servers_are_believable(spec: &Spec, observed: &Observed) -> Result<(), Hold> {
    let missing = &observed.hetzner.missing;
    if missing.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = missing.iter().map(ServerId::to_string).collect();
    let ledger = &observed.ledger;
    let members = ledger.members.values().map(|m| (&m.name, Some(m.server)));
    let names: Vec<&NodeName> = members
        .chain(ledger.intents.values().map(|i| (&i.name, i.server)))
        .filter(|(_, server)| server.is_some_and(|id| missing.contains(&id)))
        .map(|(name, _)| name)
        .collect();
    let (count, some) = (missing.len(), some_of(&names));
    let message = if spec.hetzner.is_some() {
        format!(
            "{count} servers that should exist are missing at Hetzner ({some}): so many at once are rather a fault of the \
             lists or of the token. None of them is believed gone, removed or replaced; all else goes on. When you \
             have seen that they are gone: kubectl annotate --overwrite fabrikcluster {} {CONFIRM_GONE_ANNOTATION}={}",
            spec.name,
            ids.join(",")
        )
    } else {
        format!(
            "{count} servers of this cluster are at Hetzner ({some}), and cluster.toml has no [hetzner]: nothing is known of \
             them, so none of them is removed or replaced. Give it back its [hetzner] until they are gone"
        )
    };
    Err(Hold {
        about: "servers".to_owned(),
        reason: HoldReason::Unexplained,
        message,
    })
}

/// What was asked for at Hetzner may be there or not while nobody can ask: nothing is concluded of it.
pub fn has_project(spec: &Spec, name: &NodeName) -> Result<(), Hold> {
    if spec.hetzner.is_some() {
        return Ok(());
    }
    Err(Hold {
        about: format!("server {name}"),
        reason: HoldReason::Unexplained,
        message: "was asked for at Hetzner, and cluster.toml has no [hetzner], so nobody knows what came of it. Give it back \
                  its [hetzner] until it is gone"
            .to_owned(),
    })
}

/// A server that Hetzner neither lists as ours nor says is gone is left alone, and so is its Node.
pub fn server_is_seen(
    id: &IntentId,
    pool: &PoolName,
    about: String,
    server: ServerId,
    observed: &Observed,
) -> Result<(), Hold> {
    let there = &observed.hetzner;
    if there.servers.contains_key(&server) || there.gone.contains(&server) {
        return Ok(());
    }
    let message = if there.missing.contains(&server) {
        format!(
            "waits: its server (id {server}) is one of many that Hetzner's lists lack, and nobody has confirmed that \
             it is gone"
        )
    } else {
        let is_server = servers::is_servers(pool);
        let role = if is_server { "server" } else { "agent" };
        format!(
            "its server (id {server}) exists at Hetzner without this cluster's labels, so both are left alone. Give \
             it back {CLUSTER_LABEL}={} {ROLE_LABEL}={role} {POOL_LABEL}={pool} {INTENT_LABEL}={id}, or delete it",
            observed.ledger.cluster
        )
    };
    Err(Hold {
        about,
        reason: HoldReason::Unexplained,
        message,
    })
}

/// Seconds lie between on and off. A machine that stays there for long, or whose state Hetzner does not know, is waited
/// for and named: `since` is when it was decided that it goes.
pub fn stops_in_time(
    about: String,
    server: ServerId,
    since: Timestamp,
    now: Timestamp,
) -> Result<(), Hold> {
    let waited = now.duration_since(since);
    if waited <= SignedDuration::from_secs(STOP_DEADLINE_SECS) {
        return Ok(());
    }
    Err(Hold {
        about,
        reason: HoldReason::Unexplained,
        message: format!(
            "was to go {} minutes ago, and Hetzner shows its server (id {server}) between on and off. Look at it in \
             Hetzner's console: it goes on when the server is off or gone",
            waited.as_mins()
        ),
    })
}

/// A Node that was made anew under a member's name is not the one that joined: nobody knows what it stands for.
pub fn is_the_node_that_joined(
    name: &NodeName,
    joined: &Uid,
    observed: &Observed,
) -> Result<(), Hold> {
    match observed.nodes.get(name) {
        Some(node) if node.uid != *joined => Err(Hold {
            about: format!("node {name}"),
            reason: HoldReason::Unexplained,
            message: format!(
                "was deleted and made anew: its UID is {} and the one that joined had {joined}. It is given nothing \
                 and not counted. `kubectl delete node {name}` lets its server go, and another comes if the pool is \
                 short",
                node.uid
            ),
        }),
        _ => Ok(()),
    }
}

/// The first names of a list that may be long.
fn some_of<T: ToString>(names: &[T]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(T::to_string).collect();
    let more = names.len() - shown.len();
    let shown = shown.join(", ");
    if more == 0 {
        shown
    } else {
        format!("{shown} and {more} more")
    }
}
