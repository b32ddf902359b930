//! The control plane's machines as members of the ledger. Those that were there before fabrik are taken in as they are,
//! and forgotten when they are gone. Nothing here creates, labels, drains or deletes one.

mod own;

use std::collections::BTreeMap;

use crate::desired::Desired;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, NodeName, ServerId};
use crate::ledger::{Change, Ledger, Member};
use crate::observed::{Node, Observed, Role};
use crate::servers;
use crate::step::Step;

/// Takes in the servers whose machine and Node are there, and forgets those that have neither.
pub fn step(desired: &Desired, observed: &Observed) -> Step {
    let mut step = Step::default();
    for (id, member) in members(&observed.ledger) {
        if member.server.is_own() {
            step.changes
                .extend(own::forgotten(id, member, desired, observed));
            continue;
        }
        // With `[servers]` one that is gone leaves under a ticket, its etcd member first.
        if observed.ledger.tickets.contains_key(id) || desired.spec.servers.is_some() {
            continue;
        }
        let node = observed.nodes.get(&member.name);
        let has_node = node.is_some_and(|n| n.uid == member.uid);
        let is_gone = observed.hetzner.gone.contains(&member.server);
        match (is_gone, has_node) {
            (true, false) => step.changes.push(Change::Depart { id: id.clone() }),
            (true, true) => step.holds.push(unexplained(
                member.name.as_str(),
                "its machine no longer exists at Hetzner. When its etcd member is removed, `kubectl delete node` it",
            )),
            _ => {}
        }
    }
    step.holds.extend(own::missing(desired, observed));
    step.holds.extend(own::left_over(desired, observed));
    for (machine, nodes) in machines(desired, observed) {
        match nodes[..] {
            [node] => adopt(machine, node, observed, &mut step),
            [node, ..] => step.holds.push(unexplained(
                node.name.as_str(),
                &format!("is not the only Node of server {machine}; none of them is taken for it"),
            )),
            [] => {}
        }
    }
    if !desired.targets.is_empty() {
        step.holds.extend(without_machine(desired, observed));
    }
    step
}

/// The control plane's machines, each with the Nodes that bear its provider id.
fn machines<'a>(desired: &Desired, observed: &'a Observed) -> BTreeMap<ServerId, Vec<&'a Node>> {
    let mut machines = BTreeMap::<_, Vec<_>>::new();
    let nodes = observed.nodes.values();
    for node in nodes.filter(|n| n.control_plane && !n.deleting) {
        let machine = machine_of(node, desired, observed);
        // One that was made for an intent becomes a member when it votes.
        let machine = machine.filter(|id| !is_coming(*id, &node.name, observed));
        if let Some(machine) = machine {
            machines.entry(machine).or_default().push(node);
        }
    }
    machines
}

fn is_coming(machine: ServerId, node: &NodeName, observed: &Observed) -> bool {
    let ledger = &observed.ledger;
    let borne = observed.hetzner.servers.get(&machine);
    let borne = borne.and_then(|m| m.intent.as_ref());
    servers::coming(ledger).any(|(id, intent)| {
        intent.server == Some(machine) || borne == Some(id) || intent.name == *node
    })
}

/// The server at Hetzner, or the machine of the user's own, that a Node says it is.
fn machine_of(node: &Node, desired: &Desired, observed: &Observed) -> Option<ServerId> {
    let id = ServerId::from_provider_id(node.provider_id.as_deref()?)?;
    let at_hetzner = observed.hetzner.servers.get(&id);
    let is_server = at_hetzner.is_some_and(|m| m.role == Role::Server)
        || own::named(desired).any(|name| own::is(&name, node, id, observed));
    is_server.then_some(id)
}

/// One Node of a machine that is a member already is that member, made anew: with a ticket it ends its update first.
fn adopt(machine: ServerId, node: &Node, observed: &Observed, step: &mut Step) {
    let ledger = &observed.ledger;
    let known = ledger.members.iter().find(|(_, m)| m.server == machine);
    let id = match known {
        Some((_, m)) if m.role != Role::Server || (m.name == node.name && m.uid == node.uid) => {
            return;
        }
        Some((id, _)) if ledger.tickets.contains_key(id) => return,
        Some((id, _)) => id.clone(),
        None => own_id(machine, observed, step),
    };
    let mut others = ledger.members.iter().filter(|(other, _)| **other != id);
    // The member of that name is another machine, and goes first.
    if others.any(|(_, m)| m.name == node.name) {
        return;
    }
    step.changes.push(Change::Adopt {
        id,
        name: node.name.clone(),
        server: machine,
        uid: node.uid.clone(),
    });
}

/// The id that the machine bears, as one that `fabrik seed` made does; else one that no intent and no member has. None in
/// this pass got it.
pub(crate) fn own_id(machine: ServerId, observed: &Observed, step: &Step) -> IntentId {
    let ledger = &observed.ledger;
    let given = |id: &IntentId| {
        let of = |change: &Change| matches!(change, Change::Adopt { id: other, .. } if other == id);
        step.changes.iter().any(of)
    };
    let in_use = |id: &IntentId| {
        ledger.intents.contains_key(id) || ledger.members.contains_key(id) || given(id)
    };
    let borne = observed.hetzner.servers.get(&machine);
    let borne = borne.and_then(|m| m.intent.as_ref());
    if let Some(id) = borne.filter(|id| !in_use(id)) {
        return id.clone();
    }
    let mut ids = (0..).map(|attempt| IntentId::of_server(&ledger.cluster, machine, attempt));
    ids.find(|id| !in_use(id))
        .unwrap_or_else(|| IntentId::of_server(&ledger.cluster, machine, 0))
}

/// Servers that systems can't reach: an agent could come to be newer than one of them (S4).
fn without_machine<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
) -> impl Iterator<Item = Hold> + 'a {
    let nodes = observed.nodes.values().filter(|n| n.control_plane);
    let unknown = nodes.filter(|n| machine_of(n, desired, observed).is_none());
    let members = &observed.ledger.members;
    let unknown = unknown.filter(|n| !members.values().any(|m| m.uid == n.uid));
    unknown.map(|node| {
        unexplained(
            node.name.as_str(),
            &format!(
                "is a server, and no machine of this cluster at Hetzner stands for it, nor one of [servers.machines] (its \
                 provider id is {}), so it gets no system",
                node.provider_id.as_deref().unwrap_or("missing")
            ),
        )
    })
}

fn members(ledger: &Ledger) -> impl Iterator<Item = (&IntentId, &Member)> {
    let members = ledger.members.iter();
    members.filter(|(_, m)| m.role == Role::Server)
}

fn unexplained(node: &str, message: &str) -> Hold {
    Hold {
        about: format!("node {node}"),
        reason: HoldReason::Unexplained,
        message: message.to_owned(),
    }
}
