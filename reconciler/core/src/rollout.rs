//! How a new system reaches the nodes: fetched everywhere, tried on one node after the other, kept where it is well.
//!
//! A rollout is nothing that is kept: it is the difference between what the pools should run and what the nodes say
//! they run. Each node goes its way under a ticket (`update`); who gets one next is decided in `grant`.

mod gates;
mod grant;
mod update;

use std::collections::BTreeMap;

use jiff::Timestamp;

pub use self::grant::{Budget, budgets};
pub use self::update::{Stage, stage};
use crate::desired::Desired;
use crate::effect::{Effect, NodeRef};
use crate::id::{IntentId, PoolName, StorePath};
use crate::ledger::{Change, Ledger, Member};
use crate::observed::{Observed, Role};
use crate::step::Step;
use crate::system::{System, Target};

/// The next step of the rollout: of the nodes that hold a ticket for an update, and of those that wait for one.
/// `budgets` are what the pools have left after what this pass granted already.
pub fn step(
    desired: &Desired,
    observed: &Observed,
    budgets: &mut BTreeMap<PoolName, Budget>,
    now: Timestamp,
) -> Step {
    let mut step = Step::default();
    let rollout = Rollout {
        desired,
        observed,
        now,
    };
    step.changes.extend(rollout.forget_denials());
    for (id, ticket) in &observed.ledger.tickets {
        if let Some(update) = ticket.update() {
            step.extend(update::step(&rollout, id, ticket, update));
        }
    }
    step.effects.extend(rollout.aims());
    step.effects.extend(rollout.stale_orders());
    step.extend(grant::step(&rollout, budgets));
    step
}

/// One look at the world, for all that is decided in it.
pub struct Rollout<'a> {
    pub desired: &'a Desired,
    pub observed: &'a Observed,
    pub now: Timestamp,
}

impl<'a> Rollout<'a> {
    fn ledger(&self) -> &'a Ledger {
        &self.observed.ledger
    }

    /// What a member should run now. Servers take a commit that changes both the operating system and the k3s minor in
    /// two steps, the first one all of them before any takes the second (S4).
    pub fn goal(&self, member: &Member) -> Option<&'a System> {
        let target = self.desired.targets.get(&member.pool)?;
        match &target.first {
            Some(first) if member.role == Role::Server && !self.is_past(first, target) => {
                Some(first)
            }
            _ => Some(&target.system),
        }
    }

    fn is_past(&self, first: &System, target: &Target) -> bool {
        let servers = self
            .ledger()
            .members
            .values()
            .filter(|m| m.role == Role::Server);
        servers.into_iter().all(|server| {
            let running = self.running(server);
            running == Some(&first.output) || running == Some(&target.system.output)
        })
    }

    /// What a member says it runs.
    pub fn running(&self, member: &Member) -> Option<&'a StorePath> {
        let system = self.observed.systems.get(&member.name)?;
        Some(&system.report.as_ref()?.running)
    }

    /// Running its goal, which is what it boots next as well.
    pub fn is_there(&self, member: &Member) -> bool {
        let report = self
            .observed
            .systems
            .get(&member.name)
            .and_then(|s| s.report.as_ref());
        let goal = self.goal(member).map(|g| &g.output);
        report.is_some_and(|r| Some(&r.running) == goal && Some(&r.default) == goal)
    }

    /// Every node fetches what it will run, long before it may.
    fn aims(&self) -> impl Iterator<Item = Effect> + '_ {
        self.ledger().members.values().filter_map(|member| {
            let goal = self.goal(member)?;
            let aim = self
                .observed
                .systems
                .get(&member.name)
                .and_then(|s| s.aim.as_ref());
            (aim != Some(&goal.output)).then(|| Effect::Aim {
                node: node_ref(member),
                pool: member.pool.clone(),
                system: goal.output.clone(),
            })
        })
    }

    /// Orders whose ticket is no more. A node has obeyed them or never will: their number is past.
    fn stale_orders(&self) -> impl Iterator<Item = Effect> + '_ {
        let current = |number: u64| {
            let updates = self.ledger().tickets.values().filter_map(|t| t.update());
            updates.into_iter().any(|u| u.number == number)
        };
        self.ledger().members.values().filter_map(move |member| {
            let order = self.observed.systems.get(&member.name)?.order.as_ref()?;
            (!current(order.ticket)).then(|| Effect::Withdraw {
                node: node_ref(member),
            })
        })
    }

    /// A denial lasts as long as a pool wants the system (S8).
    fn forget_denials(&self) -> Option<Change> {
        let wanted = |path: &StorePath| {
            self.desired.targets.values().any(|t| {
                t.system.output == *path || t.first.as_ref().is_some_and(|f| f.output == *path)
            })
        };
        let past: Vec<StorePath> = self
            .ledger()
            .denied
            .keys()
            .filter(|path| !wanted(path))
            .cloned()
            .collect();
        (!past.is_empty()).then_some(Change::ForgetDenials { systems: past })
    }
}

fn node_ref(member: &Member) -> NodeRef {
    NodeRef {
        name: member.name.clone(),
        uid: member.uid.clone(),
    }
}

/// The member that a ticket is about.
fn member<'a>(ledger: &'a Ledger, id: &IntentId) -> Option<&'a Member> {
    ledger.members.get(id)
}
