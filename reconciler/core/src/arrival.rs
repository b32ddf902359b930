//! A server's way in: intended, created with a join token of its own, joined, the token revoked.

pub mod left;

use jiff::{SignedDuration, Timestamp};

use crate::effect::{Choice, Effect, NewServer, ServerRef};
use crate::guard;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, ServerId};
use crate::image;
use crate::infrastructure::Ground;
use crate::ledger::{Change, Intent};
use crate::names::POOL_LABEL;
use crate::observed::{Node, Observed, Power, Role, Server};
use crate::servers;
use crate::spec::Pool;
use crate::step::Step;

/// How long a create that nobody wants any more may still turn up before its intent is forgotten: longer than any
/// request of ours lives.
const SETTLE_SECS: i64 = 45;
/// After this a server that has not joined is reported: its join token lives 20 minutes and was made before it.
const JOIN_DEADLINE_SECS: i64 = 1200;

/// The next step of one intent.
pub fn step(
    id: &IntentId,
    intent: &Intent,
    pool: &Pool,
    ground: &mut Ground,
    observed: &Observed,
    now: Timestamp,
) -> Step {
    let Some(server) = intent.server else {
        return unbound(id, intent, pool, ground, observed, now);
    };
    if servers::is_servers(&intent.pool) {
        return servers::arrive(id, intent, server, pool, observed, now);
    }
    if observed.hetzner.gone.contains(&server) {
        return clear_up(id, intent, server, observed);
    }
    let Some(server) = observed.hetzner.servers.get(&server) else {
        let about = format!("server {}", intent.name);
        let seen = guard::server_is_seen(id, &intent.pool, about, server, observed);
        return Step::holds(seen.err());
    };
    match observed.nodes.get(&intent.name) {
        Some(node) if is_joined(node, server) => join(id, node, observed),
        // A Node that was never taken for its own may have been given a volume all the same.
        _ if intent.cancelled.is_some() => {
            match guard::keeps_local_data(&intent.name, observed, pool) {
                Ok(()) => leave(id, intent, server, observed, now),
                Err(hold) => Step::hold(hold),
            }
        }
        Some(node) => Step::hold(not_joined(node, server)),
        None => wait_for_join(intent, server, now),
    }
}

/// Servers that bear our label and that no intent and no member stands for.
pub fn strays(observed: &Observed) -> Step {
    let ledger = &observed.ledger;
    let mut step = Step::default();
    for server in observed
        .hetzner
        .servers
        .values()
        .filter(|s| s.role == Role::Agent || is_of_an_intent(s, observed))
    {
        let accounted =
            |id: &IntentId| ledger.intents.contains_key(id) || ledger.members.contains_key(id);
        if server.intent.as_ref().is_some_and(accounted) {
            continue;
        }
        match late_server(server, observed) {
            Some(change) => step.changes.push(change),
            None => step.holds.push(Hold {
                about: format!("server {}", server.name),
                reason: HoldReason::Unexplained,
                message: format!(
                    "(id {}) bears this cluster's label and no intent stands for it; it is left alone and costs \
                     money. Delete it by hand if it is not wanted",
                    server.id
                ),
            }),
        }
    }
    step
}

/// A server of the control plane that was made for an intent. Those that were there before fabrik bear none, and one whose
/// Node is there is a member soon.
fn is_of_an_intent(server: &Server, observed: &Observed) -> bool {
    let provider_id = server.id.provider_id();
    let mut nodes = observed.nodes.values();
    server.role == Role::Server
        && server.intent.is_some()
        && !nodes.any(|n| n.provider_id.as_ref() == Some(&provider_id))
}

/// The labels that a pool's Nodes bear.
pub fn node_labels(
    pool_name: &crate::id::PoolName,
    pool: &Pool,
) -> std::collections::BTreeMap<String, String> {
    let mut labels = pool.labels.clone();
    labels.insert(POOL_LABEL.to_owned(), pool_name.to_string());
    labels
}

fn unbound(
    id: &IntentId,
    intent: &Intent,
    pool: &Pool,
    ground: &mut Ground,
    observed: &Observed,
    now: Timestamp,
) -> Step {
    let found = observed
        .hetzner
        .servers
        .values()
        .find(|s| s.intent.as_ref() == Some(id) && s.pool.as_ref() == Some(&intent.pool));
    if let Some(server) = found {
        return Step::change(Change::Bind {
            id: id.clone(),
            server: server.id,
            address: server.address.filter(|_| servers::is_servers(&intent.pool)),
        });
    }
    if let Some(step) = left::step(id, intent, observed) {
        return step;
    }
    if let Some(since) = intent.cancelled {
        let settled = now.duration_since(since) > SignedDuration::from_secs(SETTLE_SECS);
        // A server that was made for it could be among those that the lists lack.
        return if settled && observed.hetzner.missing.is_empty() {
            end(id, observed)
        } else {
            Step::hold(Hold {
                about: format!("server {}", intent.name),
                reason: HoldReason::Settling,
                message: format!(
                    "is not wanted any more; a request for it could still be on its way, so Hetzner is watched for it \
                     for {SETTLE_SECS} seconds, and it is removed should it come"
                ),
            })
        };
    }
    let image = match image::of(&intent.pool, pool, observed) {
        Ok(image) => image,
        Err(hold) => return Step::hold(hold),
    };
    let Some(placement) = ground.for_server(&intent.pool, pool) else {
        return Step::default();
    };
    Step::effect(Effect::CreateServer(NewServer {
        intent: id.clone(),
        pool: intent.pool.clone(),
        name: intent.name.clone(),
        choices: choices(pool),
        image,
        network: placement.network,
        firewall: placement.firewall,
        ssh_keys: placement.ssh_keys,
        placement_group: placement.group,
        node_labels: pool.labels.clone(),
        node_taints: pool.taints.clone(),
    }))
}

/// Each type in each location, the first type everywhere before the second.
fn choices(pool: &Pool) -> Vec<Choice> {
    let in_location = |server_type: &String| {
        let server_type = server_type.clone();
        pool.locations.iter().map(move |l| Choice {
            server_type: server_type.clone(),
            location: l.clone(),
        })
    };
    pool.server_types.iter().flat_map(in_location).collect()
}

fn is_joined(node: &Node, server: &Server) -> bool {
    node.provider_id.as_deref() == Some(server.id.provider_id().as_str()) && !node.deleting
}

/// The token goes first, so that a crash leaves none over.
fn join(id: &IntentId, node: &Node, observed: &Observed) -> Step {
    if observed.tokens.contains(id) {
        Step::effect(Effect::RevokeToken { intent: id.clone() })
    } else {
        Step::change(Change::Join {
            id: id.clone(),
            uid: node.uid.clone(),
        })
    }
}

/// A server that never joined goes without a drain: its token first, so that it can't join meanwhile. A Node of its
/// name that is not known to be its own is left to a person.
fn leave(
    id: &IntentId,
    intent: &Intent,
    server: &Server,
    observed: &Observed,
    now: Timestamp,
) -> Step {
    let server_ref = ServerRef {
        id: server.id,
        name: intent.name.clone(),
        intent: id.clone(),
    };
    if observed.tokens.contains(id) {
        return Step::effect(Effect::RevokeToken { intent: id.clone() });
    }
    match server.power {
        Power::Running => Step::effect(Effect::PowerOff { server: server_ref }),
        Power::Off => Step::effect(Effect::DeleteServer { server: server_ref }),
        Power::Changing => {
            let about = format!("server {}", intent.name);
            let since = intent.cancelled.unwrap_or(now);
            let stops = guard::stops_in_time(about, server.id, since, now);
            Step::holds(stops.err())
        }
    }
}

/// Its server is gone: the Node goes that is known to be that one's.
fn clear_up(id: &IntentId, intent: &Intent, server: ServerId, observed: &Observed) -> Step {
    let node = observed.nodes.get(&intent.name);
    let own = node.filter(|n| !n.control_plane && n.provider_id == Some(server.provider_id()));
    match own {
        Some(node) => Step::effect(Effect::DeleteNode { node: node.into() }),
        None => end(id, observed),
    }
}

/// Nothing is left of the intent but, perhaps, its token.
fn end(id: &IntentId, observed: &Observed) -> Step {
    if observed.tokens.contains(id) {
        Step::effect(Effect::RevokeToken { intent: id.clone() })
    } else {
        Step::change(Change::Forget { id: id.clone() })
    }
}

fn wait_for_join(intent: &Intent, server: &Server, now: Timestamp) -> Step {
    let waited = now.duration_since(server.created);
    if waited <= SignedDuration::from_secs(JOIN_DEADLINE_SECS) {
        return Step::default();
    }
    Step::hold(Hold {
        about: format!("server {}", intent.name),
        reason: HoldReason::NotJoined,
        message: format!(
            "(id {}) was created {} minutes ago and its Node has not joined; its join token has ended, so it will \
             not. Look at its console, then delete it at Hetzner: it is replaced",
            server.id,
            waited.as_mins()
        ),
    })
}

fn not_joined(node: &Node, server: &Server) -> Hold {
    let message = if node.deleting {
        format!(
            "is being deleted and has not joined yet; it is given nothing and not counted. If it stays so, delete its \
             server (id {}) at Hetzner: it is replaced",
            server.id
        )
    } else {
        format!(
            "has the provider id {} and should have {}; it is given nothing and not counted. Look at its machine, or \
             delete the server at Hetzner and then the Node: the server is replaced",
            node.provider_id.as_deref().unwrap_or("(none)"),
            server.id.provider_id()
        )
    };
    Hold {
        about: format!("node {}", node.name),
        reason: HoldReason::Unexplained,
        message,
    }
}

/// A server of an intent that we once had and that never joined: a create that took longer than anyone waited.
fn late_server(server: &Server, observed: &Observed) -> Option<Change> {
    let id = server.intent.clone()?;
    let pool = server.pool.clone()?;
    let name = server.name.parse().ok()?;
    // A server that votes in etcd is deleted for no label.
    let is_worker = server.role == Role::Agent;
    let abandoned =
        is_worker && observed.ledger.once_intended(&id) && !observed.nodes.contains_key(&name);
    abandoned.then_some(Change::Readopt {
        id,
        pool,
        name,
        server: server.id,
    })
}

/// What the leader writes on Nodes that have joined: the pool's labels, and nobody else's key.
pub fn relabel(node: &Node, wanted: &std::collections::BTreeMap<String, String>) -> Option<Effect> {
    let missing = wanted
        .iter()
        .any(|(key, value)| node.labels.get(key) != Some(value));
    let left_over = node.our_labels.iter().any(|key| !wanted.contains_key(key));
    (missing || left_over).then(|| Effect::LabelNode {
        node: node.into(),
        labels: wanted.clone(),
    })
}
