//! Machines of the user's own in a pool: each is awaited until a person has installed it, and let go when a person says that
//! it is off. Nothing here makes, powers, resets or deletes one: nobody but a person can.

pub mod means;

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::departure::{self, Departure};
use crate::drain::Left;
use crate::effect::Effect;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, MachineName, NodeName, PoolName, ServerId};
use crate::ledger::{Change, Intent, Ledger, Member, Reason, Ticket};
use crate::observed::{Node, Observed};
use crate::pool::{self, Resize};
use crate::spec::{Pool, Spec};
use crate::step::Step;

/// The Nodes that the machines of a pool are to be.
pub fn nodes<'a>(
    spec: &Spec,
    name: &PoolName,
    pool: &'a Pool,
) -> BTreeMap<NodeName, &'a MachineName> {
    let machines = pool.machines.keys();
    machines
        .map(|machine| (NodeName::of_machine(&spec.name, name, machine), machine))
        .collect()
}

/// Machines that are awaited, by the Node that each is to be.
pub fn awaited(ledger: &Ledger) -> impl Iterator<Item = (&IntentId, &Intent)> {
    ledger.intents.iter().filter(|(_, intent)| intent.is_own())
}

/// Who of a pool is awaited, has joined, or was let go by a person. Where `nodes_are_believable` is false, no missing Node
/// is taken for a person's word.
pub fn step(
    spec: &Spec,
    name: &PoolName,
    pool: &Pool,
    observed: &Observed,
    nodes_are_believable: bool,
) -> Step {
    let ledger = &observed.ledger;
    let wanted = nodes(spec, name, pool);
    let mut step = Step::default();
    for (id, intent) in awaited(ledger).filter(|(_, i)| i.pool == *name) {
        step.extend(match wanted.get(&intent.name) {
            Some(machine) => arrive(id, intent, machine, observed),
            None => end(id, observed),
        });
    }
    let mut known: Vec<&NodeName> = awaited(ledger).map(|(_, intent)| &intent.name).collect();
    for (id, member) in members(ledger, name) {
        known.push(&member.name);
        let was_let_go = !observed.nodes.contains_key(&member.name);
        if was_let_go && nodes_are_believable && !ledger.tickets.contains_key(id) {
            step.changes.push(Change::Depart { id: id.clone() });
        }
    }
    for (node, machine) in &wanted {
        if !known.contains(&node) {
            step.changes.push(Change::Expect {
                id: free_id(node, observed, &step),
                pool: name.clone(),
                name: node.clone(),
                server: ServerId::of_machine(&ledger.cluster, node),
            });
            step.holds.push(not_installed(node, machine));
        }
    }
    step
}

/// Adds to `resize` which of a pool's own machines are to leave, and which may stay after all.
pub fn resize(
    spec: &Spec,
    name: &PoolName,
    pool: &Pool,
    observed: &Observed,
    now: Timestamp,
    resize: &mut Resize,
) {
    let ledger = &observed.ledger;
    let wanted = nodes(spec, name, pool);
    for (id, member) in members(ledger, name) {
        let is_wanted = wanted.contains_key(&member.name);
        match ledger.tickets.get(id) {
            Some(ticket) if ticket.leave().is_some() && is_wanted => {
                resize.take_back.push(id.clone());
            }
            None if !is_wanted && observed.nodes.contains_key(&member.name) => {
                match pool::may_leave(id, member, pool, observed, now) {
                    Ok(()) => resize.remove.push((id.clone(), Reason::ScaleDown)),
                    Err(hold) => resize.holds.push(hold),
                }
            }
            _ => {}
        }
    }
}

/// Where the leave of a machine of the user's own stands, whose Node is the one that joined, or is gone.
pub fn leaving<'a>(id: &IntentId, ticket: &Ticket, observed: &'a Observed) -> Departure<'a> {
    match observed.nodes.get(&ticket.node) {
        None => Departure::Gone,
        Some(node) if departure::takes_cordon(id, ticket, node) => Departure::Cordon,
        // The pods of one that is off can't be moved by asking it.
        Some(node) if !node.ready => Departure::ByHand,
        Some(node) => Left::on(node, observed).map_or(Departure::ByHand, Departure::Drain),
    }
}

/// What a person has to do for one that is drained, or is not heard of.
pub fn switch_off(ticket: &Ticket, observed: &Observed) -> Hold {
    let node = &ticket.node;
    let is_ready = observed.nodes.get(node).is_some_and(|n| n.ready);
    let state = if is_ready {
        "is drained, and is a machine of yours"
    } else {
        "is a machine of yours that is not heard of, so what runs on it is not known"
    };
    Hold {
        about: format!("node {node}"),
        reason: HoldReason::ByHand,
        message: format!(
            "{state}: power it off. When you have seen that it is off, say so by `kubectl delete node {node}`; nobody else \
             can know it, and its volumes may be attached elsewhere from then on"
        ),
    }
}

fn members<'a>(
    ledger: &'a Ledger,
    pool: &PoolName,
) -> impl Iterator<Item = (&'a IntentId, &'a Member)> {
    let members = ledger.members.iter();
    members.filter(move |(_, m)| m.pool == *pool && m.server.is_own())
}

/// A Node is taken for the machine only while there is a token that was made to install it: any node's token lets a Node of
/// any name in.
fn arrive(id: &IntentId, intent: &Intent, machine: &MachineName, observed: &Observed) -> Step {
    let Some(node) = observed.nodes.get(&intent.name) else {
        return Step::hold(not_installed(&intent.name, machine));
    };
    if is_its_own(node, intent) && observed.tokens.contains(id) {
        // The token goes when no intent stands for it any more.
        return Step::change(Change::Join {
            id: id.clone(),
            uid: node.uid.clone(),
        });
    }
    Step::hold(Hold {
        about: format!("node {}", node.name),
        reason: HoldReason::Unexplained,
        message: format!(
            "bears the name of machine {machine} and did not come by `fabrik install {machine}`, or took more than \
             minutes: it is given nothing and not counted. If it is yours, run that once more; else delete the Node and \
             look at its machine"
        ),
    })
}

fn is_its_own(node: &Node, intent: &Intent) -> bool {
    let id = intent.server.map(ServerId::provider_id);
    !node.deleting && !node.control_plane && id.is_some() && node.provider_id == id
}

/// Nobody wants it: first its token goes, so that it can't join meanwhile.
fn end(id: &IntentId, observed: &Observed) -> Step {
    if observed.tokens.contains(id) {
        Step::effect(Effect::RevokeToken { intent: id.clone() })
    } else {
        Step::change(Change::Forget { id: id.clone() })
    }
}

fn not_installed(node: &NodeName, machine: &MachineName) -> Hold {
    Hold {
        about: format!("node {node}"),
        reason: HoldReason::ByHand,
        message: format!(
            "is a machine of yours that has not joined yet: run `fabrik install {machine}` where you reach it by SSH"
        ),
    }
}

/// One that nothing else has: always the same for a Node, where that is free.
fn free_id(node: &NodeName, observed: &Observed, step: &Step) -> IntentId {
    let ledger = &observed.ledger;
    let given = |id: &IntentId| {
        let of =
            |change: &Change| matches!(change, Change::Expect { id: other, .. } if other == id);
        step.changes.iter().any(of)
    };
    let in_use = |id: &IntentId| {
        ledger.intents.contains_key(id)
            || ledger.members.contains_key(id)
            || observed.tokens.contains(id)
            || given(id)
    };
    let ids = (0..u64::MAX).map(|attempt| IntentId::of_machine(&ledger.cluster, node, attempt));
    let mut ids = ids.filter(|id| !in_use(id));
    ids.next()
        .unwrap_or_else(|| IntentId::of_machine(&ledger.cluster, node, u64::MAX))
}
