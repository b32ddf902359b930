//! Rules about servers that come and go, taken away.

use std::collections::BTreeSet;

use fabrik_core::desired::Desired;
use fabrik_core::effect::{Effect, ServerRef};
use fabrik_core::id::NodeName;
use fabrik_core::ledger::{Change, Ticket};
use fabrik_core::observed::Observed;
use fabrik_core::quorum;
use fabrik_core::step::{self, Step};
use jiff::Timestamp;

use super::lies::{etcd, heal_etcd, lie};
use crate::world::servers_pool;

fn members(view: &mut Observed) -> impl Iterator<Item = &mut quorum::Member> {
    etcd(view)
        .into_iter()
        .flat_map(|e| e.members.iter_mut().flatten())
}

/// Servers that leave for good.
fn retiring(view: &Observed) -> BTreeSet<NodeName> {
    let tickets = view.ledger.tickets.values();
    let retiring = tickets.filter(|t| t.retiring().is_some());
    retiring.map(|t| t.node.clone()).collect()
}

/// Beside what goes on, what would be written down if nobody were under way.
fn beside(d: &Desired, v: &Observed, now: Timestamp, takes: fn(&Change) -> bool) -> Step {
    let mut step = step::step(d, v, now);
    let blind = lie(d, v, now, |_, v| {
        v.ledger.intents.retain(|_, i| i.pool != servers_pool());
        v.ledger.tickets.retain(|_, t| t.pool != servers_pool());
        heal_etcd(v);
        members(v).for_each(|m| m.learner = false);
    });
    let more: Vec<Change> = blind.changes.into_iter().filter(takes).collect();
    step.changes
        .extend(more.into_iter().filter(|change| match change {
            Change::Grant { id, .. } => !v.ledger.tickets.contains_key(id),
            Change::Intend { id, .. } => !v.ledger.intents.contains_key(id),
            _ => true,
        }));
    step
}

pub fn two_join(d: &Desired, v: &Observed, now: Timestamp) -> Step {
    beside(
        d,
        v,
        now,
        |c| matches!(c, Change::Intend { pool, .. } if *pool == servers_pool()),
    )
}

pub fn tickets_beside_a_joiner(d: &Desired, v: &Observed, now: Timestamp) -> Step {
    beside(
        d,
        v,
        now,
        |c| matches!(c, Change::Grant { ticket, .. } if ticket.pool == servers_pool()),
    )
}

pub fn joins_while_etcd_is_sick(d: &Desired, v: &Observed, now: Timestamp) -> Step {
    lie(d, v, now, |_, v| heal_etcd(v))
}

pub fn a_learner_is_a_member(d: &Desired, v: &Observed, now: Timestamp) -> Step {
    lie(d, v, now, |_, v| {
        members(v).for_each(|m| m.learner = false);
        let nodes = v.nodes.values_mut().filter(|n| n.control_plane);
        nodes.for_each(|n| n.ready = true);
    })
}

/// As if its k3s had ended already.
pub fn removed_while_it_runs(d: &Desired, v: &Observed, now: Timestamp) -> Step {
    lie(d, v, now, |_, v| {
        let leave = retiring(v);
        members(v)
            .filter(|m| m.node.as_ref().is_some_and(|n| leave.contains(n)))
            .for_each(|m| m.healthy = false);
        for name in leave {
            if let Some(node) = v.nodes.get_mut(&name) {
                (node.ready, node.heard) = (false, None);
            }
            let system = v.systems.get_mut(&name);
            if let Some(report) = system.and_then(|s| s.report.as_mut()) {
                report.retired = true;
            }
        }
    })
}

/// As if etcd had no member of who leaves.
pub fn members_stay(d: &Desired, v: &Observed, now: Timestamp) -> Step {
    lie(d, v, now, |_, v| {
        let leave = retiring(v);
        if let Some(all) = etcd(v).and_then(|e| e.members.as_mut()) {
            all.retain(|m| m.node.as_ref().is_none_or(|n| !leave.contains(n)));
        }
    })
}

/// As if there were four more voters, and nobody were needed.
pub fn the_last_goes(d: &Desired, v: &Observed, now: Timestamp) -> Step {
    lie(d, v, now, |d, v| {
        let shrinks = d.spec.servers.as_ref().is_some_and(|s| s.count == 1);
        let Some(all) = etcd(v).and_then(|e| e.members.as_mut()).filter(|_| shrinks) else {
            return;
        };
        for number in 0..4 {
            let name = format!("ghost-{number}");
            all.push(quorum::Member {
                id: number,
                address: None,
                node: name.parse().ok(),
                name,
                learner: false,
                healthy: true,
                leader: false,
                lag: 0,
                alarms: Vec::new(),
            });
        }
        if let Some(servers) = &mut d.spec.servers {
            servers.count = 0;
        }
    })
}

pub fn deleted_while_it_runs(d: &Desired, v: &Observed, now: Timestamp) -> Step {
    let mut step = step::step(d, v, now);
    let leave = v
        .ledger
        .tickets
        .iter()
        .filter(|(_, t)| t.retiring().is_some());
    step.effects.extend(
        leave.map(|(id, ticket): (_, &Ticket)| Effect::DeleteServer {
            server: ServerRef {
                id: ticket.server,
                name: ticket.node.clone(),
                intent: id.clone(),
            },
        }),
    );
    step
}

pub fn none_is_asked_for(d: &Desired, v: &Observed, now: Timestamp) -> Step {
    let mut step = step::step(d, v, now);
    let asked = |c: &Change| matches!(c, Change::Intend { pool, .. } if *pool == servers_pool());
    step.changes.retain(|change| !asked(change));
    step
}
