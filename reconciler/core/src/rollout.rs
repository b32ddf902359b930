//! How a new system reaches the nodes: fetched everywhere, tried on one node after the other, kept where it is well.
//!
//! A rollout is nothing that is kept: it is the difference between what the pools should run and what the nodes say
//! they run. Each node goes its way under a ticket (`update`); who gets one next is decided in `grant`.

mod forecast;
mod gates;
mod grant;
mod skew;
mod state;
mod update;
pub mod ways;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

pub use self::forecast::{Forecast, Wave, forecast, to_drain};
pub use self::gates::lacks;
pub use self::grant::{Budget, budgets};
pub use self::state::{NodeState, State, states};
pub use self::update::{Stage, stage};
use crate::departure;
use crate::desired::Desired;
use crate::effect::{Effect, NodeRef};
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, NodeName, PoolName, StorePath};
use crate::ledger::{Change, Ledger, Member};
use crate::observed::{Datastore, Node, Observed, Role};
use crate::quorum;
use crate::spec::K3sVersion;
use crate::step::Step;
use crate::system::{System, Target, Update};

/// The next step of the rollout: of the nodes that hold a ticket for an update, and of those that wait for one.
/// `budgets` are what the pools have left after what this pass granted already, to the members `granted`.
pub fn step(
    desired: &Desired,
    observed: &Observed,
    budgets: &mut BTreeMap<PoolName, Budget>,
    granted: &BTreeSet<IntentId>,
    now: Timestamp,
) -> Step {
    let mut step = Step::default();
    let rollout = Rollout {
        desired,
        observed,
        now,
    };
    let mut number = rollout.next_number();
    step.changes.extend(rollout.forget_denials());
    for (id, ticket) in &observed.ledger.tickets {
        if let Some(update) = ticket.update() {
            step.extend(update::step(&rollout, id, ticket, update, &mut number));
        }
    }
    step.effects.extend(rollout.aims());
    step.effects.extend(rollout.stale_orders());
    step.holds.extend(skew::holds(&rollout));
    step.effects.extend(rollout.stale_cordons(granted));
    step.extend(grant::step(&rollout, budgets, granted, number));
    step
}

/// What goes on while all else is paused, and while Hetzner can't be read: a node that was told to try ends as it began,
/// for it goes back by itself where nobody speaks.
pub fn finish(desired: &Desired, observed: &Observed, now: Timestamp) -> Step {
    let mut step = Step::default();
    let rollout = Rollout {
        desired,
        observed,
        now,
    };
    let mut number = rollout.next_number();
    for (id, ticket) in &observed.ledger.tickets {
        let heard = |u: &&Update| u.ordered.is_some() && update::is_told(&rollout, ticket, u);
        if let Some(update) = ticket.update().filter(heard) {
            step.extend(update::step(&rollout, id, ticket, update, &mut number));
        }
    }
    step.effects.extend(rollout.stale_cordons(&BTreeSet::new()));
    let by_hand = observed.paused.as_ref().map(|reason| Hold {
        about: "everything".to_owned(),
        reason: HoldReason::Paused,
        message: format!("paused: {reason}. `fabrik resume` goes on"),
    });
    step.holds.extend(by_hand);
    step.holds.extend(grant::paused(desired));
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
            Some(first)
                if member.role == Role::Server
                    && !self.is_further(member, first, target)
                    && !self.is_past(first, target) =>
            {
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
            self.running(server) == Some(&first.output) || self.is_further(server, first, target)
        })
    }

    /// Running the second step's system, or a minor beyond the first one's: there is no way back to the first.
    fn is_further(&self, server: &Member, first: &System, target: &Target) -> bool {
        let runs = grant::rung(self, server).map(|r| r.runs.minor);
        self.running(server) == Some(&target.system.output)
            || runs.is_some_and(|minor| minor > first.kubernetes.minor)
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
        report.is_some_and(|r| Some(&r.running) == goal && r.default.as_ref() == goal)
    }

    /// Off, as nodes of its pool may be, perhaps for weeks.
    fn is_off(&self, member: &Member) -> bool {
        let pool = self.desired.spec.pools.get(&member.pool);
        let node = self.observed.nodes.get(&member.name);
        pool.is_some_and(|p| p.may_be_off) && node.is_none_or(|n| !n.ready)
    }

    /// Every node fetches what it will run, long before it may.
    fn aims(&self) -> impl Iterator<Item = Effect> + '_ {
        self.ledger().members.values().filter_map(|member| {
            let goal = self.goal(member)?;
            // Its FabrikNode comes at the end of the pass that sees it join.
            let system = self.observed.systems.get(&member.name)?;
            (system.aim.as_ref() != Some(&goal.output)).then(|| Effect::Aim {
                node: node_ref(member),
                pool: member.pool.clone(),
                system: goal.output.clone(),
            })
        })
    }

    /// Orders whose ticket is no more. A node has obeyed them or never will: their number is past. A node that holds
    /// another ticket gets another order, which takes the place of this one.
    fn stale_orders(&self) -> impl Iterator<Item = Effect> + '_ {
        let updating = |id: &IntentId| {
            let ticket = self.ledger().tickets.get(id);
            ticket.is_some_and(|t| t.update().is_some())
        };
        let members = self.ledger().members.iter();
        members
            .filter(move |(id, _)| !updating(id))
            .filter_map(|(_, member)| {
                self.observed.systems.get(&member.name)?.order.as_ref()?;
                Some(Effect::Withdraw {
                    node: node_ref(member),
                })
            })
    }

    /// Cordons of ours whose ticket is no more: it was taken back before its node was told to try or was off, or a request
    /// of a leader that was long gone has landed that late (L2).
    fn stale_cordons<'b>(
        &'b self,
        granted: &'b BTreeSet<IntentId>,
    ) -> impl Iterator<Item = Effect> + 'b {
        let ticketed =
            |id: &IntentId| granted.contains(id) || self.ledger().tickets.contains_key(id);
        let members = self.ledger().members.iter();
        members
            .filter(move |(id, _)| !ticketed(id))
            .filter_map(|(id, member)| {
                let node = self.observed.nodes.get(&member.name)?;
                let mark = departure::our_mark(id, node).filter(|_| node.uid == member.uid)?;
                Some(Effect::Uncordon {
                    node: node_ref(member),
                    mark: mark.to_owned(),
                })
            })
    }

    /// A denial lasts as long as any pool wants the system (S8): two may share one. What a pool wants may not be known yet;
    /// one that left the specification wants nothing.
    fn forget_denials(&self) -> Option<Change> {
        let targets = &self.desired.targets;
        let wants = |path: &StorePath| {
            let systems = targets.values().flat_map(Target::systems);
            systems.into_iter().any(|s| s.output == *path)
        };
        let known = |pool: &PoolName| {
            targets.contains_key(pool)
                || *pool != PoolName::servers() && !self.desired.spec.pools.contains_key(pool)
        };
        // Where two pools share systems, one's may be evaluated before the other's.
        let fetches = |m: &&Member| {
            let system = self.observed.systems.get(&m.name);
            system.is_some_and(|s| s.aim.is_some())
        };
        let mut fetching = self.ledger().members.values().filter(fetches);
        let all_known = fetching.all(|m| known(&m.pool));
        let unwanted = |path: &StorePath, pool: &PoolName| known(pool) && all_known && !wants(path);
        let tickets = self.ledger().tickets.values();
        let tried: Vec<_> = tickets.filter_map(|t| Some(&t.update()?.system)).collect();
        let denied = self.ledger().denied.iter().map(|(s, d)| (s, &d.pool));
        let lapses = self.ledger().lapses.iter().map(|(s, l)| (s, &l.pool));
        let past = denied.chain(lapses);
        let past = past.filter(|(path, pool)| unwanted(path, pool) && !tried.contains(path));
        let systems: Vec<StorePath> = past.map(|(path, _)| path.clone()).collect();
        (!systems.is_empty()).then_some(Change::ForgetDenials { systems })
    }

    /// S3: whether etcd can spare this server now. The user's word for a control plane of one or two servers counts
    /// where there are no more.
    fn etcd_allows(&self, server: &NodeName) -> Result<(), Hold> {
        let held = |message: &str| {
            Err(Hold {
                about: format!("node {server}"),
                reason: HoldReason::Quorum,
                message: message.to_owned(),
            })
        };
        let members = self.ledger().members.values();
        let servers = members.filter(|m| m.role == Role::Server).count();
        let allowed = self.desired.spec.update.allow_control_plane_downtime && servers <= 2;
        let down = self.unavailable_servers(server);
        match &self.observed.datastore {
            Datastore::Etcd(etcd) => quorum::may_go_down(server, &etcd.members, &down, allowed),
            Datastore::Unread => held("waits: etcd was not read"),
            // Nobody has a quorum to lose, and one API server has to stay.
            Datastore::Other if !down.is_empty() => held("waits: another server is down"),
            Datastore::Other if servers > 1 || allowed => Ok(()),
            Datastore::Other => held(
                "waits: the cluster's API is away while this server, the only one, is; set \
                 allow-control-plane-downtime = true in [update] to accept that",
            ),
        }
    }

    /// A number that no node has seen: nodes may have seen those of a ledger that was lost for an older one.
    fn next_number(&self) -> u64 {
        let seconds = u64::try_from(self.now.as_second()).unwrap_or(0);
        self.ledger().next_ticket.max(seconds)
    }

    /// Control-plane Nodes that no member stands for: nobody updates them, and what they will run is not known.
    fn unadopted_servers(&self) -> impl Iterator<Item = &'a NodeName> {
        let members = &self.observed.ledger.members;
        let adopted = |node: &Node| {
            let is = |m: &Member| m.name == node.name && m.uid == node.uid;
            members.values().any(|m| m.role == Role::Server && is(m))
        };
        let servers = self.observed.nodes.values().filter(|n| n.control_plane);
        servers.filter(move |n| !adopted(n)).map(|n| &n.name)
    }

    fn any_server_runs(&self, minor: u32) -> bool {
        let servers = self.observed.nodes.values().filter(|n| n.control_plane);
        let mut runs = servers.filter_map(|n| K3sVersion::of_kubelet(&n.kubelet_version));
        runs.any(|version| version.minor >= minor)
    }
}

pub(crate) fn node_ref(member: &Member) -> NodeRef {
    NodeRef {
        name: member.name.clone(),
        uid: member.uid.clone(),
    }
}
