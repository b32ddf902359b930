//! How the product is lied to, and what is changed of what it says.

use std::collections::BTreeSet;

use fabrik_core::desired::Desired;
use fabrik_core::effect::{Effect, NodeRef};
use fabrik_core::hold::HoldReason;
use fabrik_core::ledger::Change;
use fabrik_core::observed::{Datastore, Etcd, Observed, Role};
use fabrik_core::step::{self, Step};
use fabrik_core::system::{Action, Needs, Order};
use jiff::Timestamp;

pub fn lie(
    desired: &Desired,
    view: &Observed,
    now: Timestamp,
    about: impl Fn(&mut Desired, &mut Observed),
) -> Step {
    let (mut desired, mut view) = (desired.clone(), view.clone());
    about(&mut desired, &mut view);
    step::step(&desired, &view, now)
}

pub fn etcd(view: &mut Observed) -> Option<&mut Etcd> {
    match &mut view.datastore {
        Datastore::Etcd(etcd) => Some(etcd),
        _ => None,
    }
}

pub fn heal_etcd(view: &mut Observed) {
    let members = etcd(view)
        .into_iter()
        .flat_map(|e| e.members.iter_mut().flatten());
    members.into_iter().for_each(|m| m.healthy = true);
}

pub fn with_orders(
    desired: &Desired,
    view: &Observed,
    now: Timestamp,
    change: impl Fn(Action) -> Action,
) -> Step {
    let mut step = step::step(desired, view, now);
    for effect in &mut step.effects {
        if let Effect::Order { order, .. } = effect {
            order.action = change(order.action);
        }
    }
    step
}

/// What would be written down if the stuck had given their tickets back.
pub fn beside_stuck(desired: &Desired, view: &Observed, now: Timestamp) -> Step {
    let mut step = step::step(desired, view, now);
    let stuck = step.holds.iter().filter(|h| h.reason == HoldReason::Stuck);
    let stuck: BTreeSet<String> = stuck.map(|h| h.about.clone()).collect();
    let mut others = view.clone();
    let tickets = &mut others.ledger.tickets;
    tickets.retain(|_, t| !stuck.contains(&format!("node {}", t.node)));
    if others.ledger.tickets.len() < view.ledger.tickets.len() {
        let mut changes = step::step(desired, &others, now).changes;
        changes.retain(|change| matches!(change, Change::Ordered { .. }));
        step.changes.extend(changes);
    }
    step
}

/// Each order that a node does not have, as long as it is written down.
pub fn send_all(desired: &Desired, view: &Observed, now: Timestamp) -> Step {
    let mut step = step::step(desired, view, now);
    for ticket in view.ledger.tickets.values() {
        let update = ticket.update().filter(|u| u.ordered.is_some());
        let Some((update, system)) = update.zip(view.systems.get(&ticket.node)) else {
            continue;
        };
        let order = system.order.as_ref();
        if order.is_none_or(|o| o.ticket != update.number) {
            let node = NodeRef {
                name: ticket.node.clone(),
                uid: ticket.uid.clone(),
            };
            let order = Order {
                ticket: update.number,
                system: update.system.clone(),
                needs: update.needs,
                minor: update.minor,
                action: Action::Try,
                seconds: 300,
                not_after: None,
            };
            step.effects.push(Effect::Order { node, order });
        }
    }
    step
}

/// Grants to servers as if no other had a ticket, beside what goes on.
pub fn two_servers(desired: &Desired, view: &Observed, now: Timestamp) -> Step {
    let mut step = step::step(desired, view, now);
    let blind = lie(desired, view, now, |_, v| {
        let members = &v.ledger.members;
        let servers: BTreeSet<_> = members
            .iter()
            .filter(|(_, m)| m.role == Role::Server)
            .map(|(id, _)| id.clone())
            .collect();
        v.ledger.tickets.retain(|id, _| !servers.contains(id));
    });
    let more = blind.changes.into_iter().filter(|c| {
        matches!(c, Change::Grant { id, .. } if !view.ledger.tickets.contains_key(id)
            && view.ledger.members.get(id).is_some_and(|m| m.role == Role::Server))
    });
    let more: Vec<Change> = more.filter(|c| !step.changes.contains(c)).collect();
    step.changes.extend(more);
    step
}

/// Grants to agents as if all servers were done.
pub fn agents_at_once(desired: &Desired, view: &Observed, now: Timestamp) -> Step {
    let mut step = step::step(desired, view, now);
    if !step.changes.is_empty() {
        return step;
    }
    let blind = lie(desired, view, now, |d, v| {
        v.ledger.tickets.retain(|_, t| t.pool.as_str() != "servers");
        for member in v.ledger.members.values().filter(|m| m.role == Role::Server) {
            let target = d.targets.get(&member.pool);
            let system = v.systems.get_mut(&member.name);
            if let Some((target, report)) = target.zip(system.and_then(|s| s.report.as_mut())) {
                report.running.clone_from(&target.system.output);
                report.default = Some(target.system.output.clone());
            }
            let node = v.nodes.get_mut(&member.name);
            if let (Some(node), Some(target)) = (node, target) {
                node.kubelet_version = format!("v1.{}.0", target.system.kubernetes.minor);
            }
        }
    });
    let agents = blind.changes.into_iter().filter(|c| {
        matches!(c, Change::Grant { id, ticket } if ticket.update().is_some_and(|u| u.needs > Needs::Nothing)
            && view.ledger.members.get(id).is_some_and(|m| m.role == Role::Agent))
    });
    step.changes.extend(agents);
    step
}
