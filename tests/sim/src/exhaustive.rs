//! Each placement of a few events in one rollout of a small cluster, not only those that a seed happens upon.
//!
//! A branch ends where it comes to a state that was seen with the same events still to come: times are taken relative
//! to the moment, so that waiting for longer is no other state.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use fabrik_core::observed::Role;
use jiff::Timestamp;

use crate::people::Act;
use crate::systems::Fate;
use crate::world::{Size, World};

/// A branch has come to rest by then.
const MAX_TICKS: u32 = 600;
/// No wait is longer than this where it makes a difference.
const FAR_SECS: i64 = 900;

/// Events that may still come.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub struct Left {
    pub crashes: u8,
    pub human: bool,
    pub pause: bool,
}

#[derive(Debug, Default)]
pub struct Found {
    /// Different states.
    pub states: u64,
    /// Branches, each with one more event.
    pub branches: u64,
    pub broken: Option<String>,
    /// It was left before its end.
    pub cut_short: bool,
}

struct Search {
    seen: HashSet<u64>,
    found: Found,
    path: Vec<(u32, Act)>,
    max_states: u64,
}

/// A rollout over 3 servers and 2 workers under 2 leaders.
pub fn search(left: Left, servers: Fate, max_states: u64) -> Found {
    let size = Size {
        servers: 3,
        agents: 2,
        leaders: 2,
        max_unavailable: 1,
    };
    let mut world = World::new(&size, 1);
    world.tick();
    world.act(Act::Push {
        kernel: true,
        minor: false,
        servers,
        workers: Fate::Well,
    });
    let mut search = Search {
        seen: HashSet::new(),
        found: Found::default(),
        path: Vec::new(),
        max_states,
    };
    search.branch(world, left, 0);
    search.found.states = search.seen.len() as u64;
    search.found
}

impl Search {
    /// Goes on without another event, and from each new state with each that may come.
    fn branch(&mut self, mut world: World, left: Left, began: u32) {
        for tick in began..began + MAX_TICKS {
            if self.found.broken.is_some() || self.found.cut_short {
                return;
            }
            if self.seen.len() as u64 >= self.max_states {
                self.found.cut_short = true;
                return;
            }
            if !self.seen.insert(fingerprint(&world, left)) {
                return;
            }
            for (act, then) in events(&world, left) {
                let mut other = world.clone();
                other.act(act);
                self.found.branches += 1;
                self.path.push((tick, act));
                self.branch(other, then, tick);
                self.path.pop();
            }
            world.tick();
            if let Some((rule, what)) = world.book.broken.take() {
                let path = &self.path;
                self.found.broken = Some(format!("{rule} at tick {tick} after {path:?}: {what}"));
                return;
            }
            if world.is_quiet() {
                return;
            }
        }
        let path = &self.path;
        self.found.broken = Some(format!("it does not come to rest after {path:?}"));
    }
}

fn events(world: &World, left: Left) -> Vec<(Act, Left)> {
    let mut events = Vec::new();
    let nodes = world.machines.len();
    if let Some(crashes) = left.crashes.checked_sub(1) {
        let then = Left { crashes, ..left };
        for node in same_workers_once(world) {
            // The next thing that it writes down, or begins, is its last.
            events.push((Act::PowerCut(node, 0), then));
            events.push((Act::AgentDies(node, 0), then));
        }
    }
    if left.human {
        let then = Left {
            human: false,
            ..left
        };
        for node in 0..nodes {
            events.push((Act::Cordon(node), then));
            events.push((Act::Uncordon(node), then));
        }
        events.push((Act::Revert, then));
    }
    if left.pause {
        let then = Left {
            pause: false,
            ..left
        };
        let leader = world.lease.holder.unwrap_or(0);
        events.push((Act::LeaderPauses(leader, 60), then));
    }
    events
}

/// Workers that are alike in all are one.
fn same_workers_once(world: &World) -> Vec<usize> {
    let mut seen = HashSet::new();
    let nodes = world.machines.iter().enumerate();
    let different = nodes.filter(|(_, machine)| {
        let mut hasher = DefaultHasher::new();
        let name = (machine.role == Role::Server).then_some(&machine.name);
        name.hash(&mut hasher);
        machine.fingerprint(world.now, &mut hasher);
        let ticket = world.observed.ledger.tickets.get(&machine.id);
        ticket.is_some().hash(&mut hasher);
        seen.insert(hasher.finish())
    });
    different.map(|(number, _)| number).collect()
}

/// Seconds until (or since) then, as far as anybody cares.
pub fn relative(then: Timestamp, now: Timestamp) -> i64 {
    let seconds = then.duration_since(now).as_secs();
    seconds.clamp(-FAR_SECS, FAR_SECS)
}

fn fingerprint(world: &World, left: Left) -> u64 {
    let mut hasher = DefaultHasher::new();
    let (into, now) = (&mut hasher, world.now);
    left.hash(into);
    for machine in &world.machines {
        machine.fingerprint(now, into);
    }
    let number = |number: u64| {
        let at = i64::try_from(number).unwrap_or(i64::MAX);
        (at - now.as_second()).max(-FAR_SECS)
    };
    for (name, node) in &world.observed.nodes {
        (
            node.ready,
            node.unschedulable,
            &node.cordoned_under,
            &node.kubelet_version,
        )
            .hash(into);
        let truth = &world.truths[name];
        relative(truth.heard_at, now).max(-60).hash(into);
        (truth.pods.len(), truth.cordoned_by_person).hash(into);
        relative(truth.uncordoned_at, now).hash(into);
    }
    for system in world.observed.systems.values() {
        system.aim.as_ref().map(ToString::to_string).hash(into);
        let order = system.order.as_ref();
        order
            .map(|o| (number(o.ticket), o.action as u8, o.seconds))
            .hash(into);
        let well = system.well.as_ref();
        well.map(|w| relative(w.since, now).max(-60)).hash(into);
        let report = system.report.as_ref();
        report
            .map(|r| (r.running.to_string(), format!("{:?}", r.default)))
            .hash(into);
        let activity = report.and_then(|r| r.activity.as_ref());
        let activity = activity.map(|a| (number(a.ticket), a.phase as u8, a.unheard));
        activity.hash(into);
    }
    let ledger = &world.observed.ledger;
    for (id, ticket) in &ledger.tickets {
        (id.to_string(), relative(ticket.at, now)).hash(into);
        if let Some(update) = ticket.update() {
            (number(update.number), update.system.to_string()).hash(into);
            update.started_minor.hash(into);
            for at in [update.ordered, update.deadline, update.reset] {
                at.map(|at| relative(at, now)).hash(into);
            }
        }
    }
    for path in ledger.denied.keys() {
        path.to_string().hash(into);
    }
    for (path, lapses) in &ledger.lapses {
        (path.to_string(), lapses.count, lapses.node.to_string()).hash(into);
    }
    for (id, until) in &ledger.resting {
        (id.to_string(), relative(*until, now).max(0)).hash(into);
    }
    for leader in &world.leaders {
        relative(leader.dead_until, now).max(0).hash(into);
        relative(leader.evaluates_until, now).max(0).hash(into);
        leader.pauses_for.is_some().hash(into);
    }
    (
        world.lease.holder,
        relative(world.lease.renewed, now).max(-60),
    )
        .hash(into);
    world.flights.len().hash(into);
    world
        .etcd_leader
        .as_ref()
        .map(ToString::to_string)
        .hash(into);
    for target in world.desired.targets.values() {
        target.system.output.to_string().hash(into);
    }
    hasher.finish()
}

impl World {
    /// Nothing goes on any more, by what the rules allow: all run their system, or the rollout stands still and says why.
    fn is_quiet(&self) -> bool {
        let ledger = &self.observed.ledger;
        let settled = self.machines.iter().all(crate::machine::Machine::rests);
        let denied = !ledger.denied.is_empty() && ledger.tickets.is_empty();
        let by_person = self.truths.values().any(|t| t.cordoned_by_person);
        let waits = by_person && ledger.tickets.is_empty();
        let marks = self
            .observed
            .nodes
            .values()
            .any(|n| n.cordoned_under.is_some());
        let over = self.unsettled().is_none() || denied || waits;
        settled && !marks && over && self.flights.is_empty() && !self.is_moving()
    }

    /// Somebody is granted something still.
    fn is_moving(&self) -> bool {
        use fabrik_core::hold::HoldReason;
        let standing = |r: HoldReason| {
            matches!(
                r,
                HoldReason::Denied | HoldReason::Quorum | HoldReason::Budget
            )
        };
        let held = self.book.held.iter();
        self.unsettled().is_some() && !held.into_iter().any(|h| standing(h.reason))
    }
}
