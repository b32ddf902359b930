//! What is left of a server that was gone before the ledger knew it: its Node, which bears the name of its intent, and says
//! which server it was. Another machine can't join by that name.
//!
//! A Node's word is a question to Hetzner, and nothing more. What Hetzner says is gone is written down as the server of the
//! intent, and goes the way of any other one that is gone. Of one that exists, whoever's it is, nothing is written down.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::Desired;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, NodeName, PoolName, ServerId};
use crate::ledger::{Change, Intent, Ledger};
use crate::observed::{FEW_MISSING, Hetzner, Node, Observed};
use crate::servers;
use crate::spec::Spec;
use crate::step::Step;

/// Servers that Hetzner is to be asked for by their ids, because Nodes name them and nobody else does: a few in a look, since a
/// Node may name anything. None where no 404 is believed, nor beside many that are gone.
pub fn to_ask(
    spec: &Spec,
    ledger: &Ledger,
    nodes: &BTreeMap<NodeName, Node>,
    there: &Hetzner,
) -> BTreeSet<ServerId> {
    if there.network.is_none() || !there.missing.is_empty() {
        return BTreeSet::new();
    }
    let awaited = ledger.intents.values().filter(|i| i.server.is_none());
    let awaited = awaited.filter_map(|intent| {
        let node = nodes.get(&intent.name).filter(|n| !n.ready)?;
        named(node, &intent.pool, ledger, there)
    });
    let forgotten = forgotten(spec, ledger, nodes, there).map(|(_, _, server)| server);
    let all: BTreeSet<_> = awaited.chain(forgotten).collect();
    let room = FEW_MISSING.saturating_sub(there.gone.len());
    all.into_iter().take(room).collect()
}

/// The next step of an intent without a server, whose name a Node has already.
pub fn step(id: &IntentId, intent: &Intent, observed: &Observed) -> Option<Step> {
    let (ledger, there) = (&observed.ledger, &observed.hetzner);
    let node = observed.nodes.get(&intent.name)?;
    let server = named(node, &intent.pool, ledger, there)?;
    // A Node that is Ready is somebody's.
    if !node.ready && there.gone.contains(&server) {
        return Some(Step::change(Change::Bind {
            id: id.clone(),
            server,
            address: None,
        }));
    }
    let is_wanted = intent.cancelled.is_none();
    is_wanted.then(|| Step::hold(in_the_way(node, server)))
}

/// A server whose intent was forgotten and whose Node is there still: it is awaited again, for as long as it takes to clear up
/// after it.
pub fn of_forgotten(desired: &Desired, observed: &Observed) -> Option<Change> {
    let (ledger, there) = (&observed.ledger, &observed.hetzner);
    let mut forgotten = forgotten(&desired.spec, ledger, &observed.nodes, there);
    let (id, node, server) = forgotten.find(|(_, _, server)| there.gone.contains(server))?;
    Some(Change::Expect {
        id,
        pool: PoolName::servers(),
        name: node.name.clone(),
        server,
    })
}

/// The server that a Node of an intent's name says it is, if neither the list nor the ledger knows it.
fn named(node: &Node, pool: &PoolName, ledger: &Ledger, there: &Hetzner) -> Option<ServerId> {
    let server = ServerId::from_provider_id(node.provider_id.as_deref()?)?;
    let is_known =
        ledger.known_servers().any(|known| known == server) || there.servers.contains_key(&server);
    let is_one = node.control_plane == servers::is_servers(pool) && !server.is_own();
    (is_one && !is_known).then_some(server)
}

/// Nodes of servers whose intents were forgotten: one after the other, and only where servers come and go by their number. A
/// worker's keeps nobody waiting.
fn forgotten<'a>(
    spec: &'a Spec,
    ledger: &'a Ledger,
    nodes: &'a BTreeMap<NodeName, Node>,
    there: &'a Hetzner,
) -> impl Iterator<Item = (IntentId, &'a Node, ServerId)> {
    let come_and_go = spec.servers.is_some() && spec.hetzner.is_some();
    let clears_up = come_and_go && servers::none_is_under_way(ledger);
    let is_left = move |node: &&Node| clears_up && node.control_plane && !node.ready;
    nodes.values().filter(is_left).filter_map(|node| {
        let pool = PoolName::servers();
        let id: IntentId = node.name.as_str().rsplit_once('-')?.1.parse().ok()?;
        let mut members = ledger.members.iter();
        let is_taken = members.any(|(other, m)| *other == id || m.name == node.name);
        if is_taken || node.name != NodeName::of(&spec.name, &pool, &id) {
            return None;
        }
        let server = named(node, &pool, ledger, there)?;
        ledger.once_intended(&id).then_some((id, node, server))
    })
}

fn in_the_way(node: &Node, server: ServerId) -> Hold {
    Hold {
        about: format!("server {}", node.name),
        reason: HoldReason::Unexplained,
        message: format!(
            "waits: there is a Node of its name, and no other machine can join by that. The Node says that it is server \
             {server}, which Hetzner does not list as this cluster's. When Hetzner says that one is gone, and the Node is \
             not Ready, the Node is deleted; else look at its machine, and delete the Node if it is not wanted"
        ),
    }
}
