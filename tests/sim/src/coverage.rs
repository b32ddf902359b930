//! How often each state, transition, refusal and fault was met. What was never met was never tested.

use std::collections::{BTreeMap, BTreeSet};

use fabrik_core::desired::Desired;
use fabrik_core::hold::HoldReason;
use fabrik_core::observed::Observed;
use fabrik_core::rollout::ways::GRANTED;
use fabrik_core::rollout::{Rollout, stage};
use fabrik_core::step::Step;
use jiff::Timestamp;

#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// Nobody looks at it.
    pub is_off: bool,
    pub stages: BTreeMap<&'static str, u64>,
    pub transitions: BTreeMap<(&'static str, &'static str), u64>,
    pub holds: BTreeMap<HoldReason, u64>,
    pub faults: BTreeMap<&'static str, u64>,
    /// Where each ticket stood when it was last looked at.
    before: BTreeMap<u64, &'static str>,
}

/// All that there are; a run that misses one fails.
pub const STAGES: [&str; 23] = [
    "lost",
    "withdrawn",
    "out-of-time",
    "cordon",
    "drain",
    "force",
    "hand-over",
    "snapshot",
    "try",
    "unsent",
    "unordered",
    "applying",
    "reset",
    "verifying",
    "keep",
    "keeping",
    "go-back",
    "going-back",
    "done",
    "went-back",
    "try-again",
    "stuck",
    "released",
];

/// Refusals that a rollout can meet.
pub const HOLDS: [HoldReason; 16] = [
    HoldReason::Paused,
    HoldReason::Budget,
    HoldReason::Quorum,
    HoldReason::Window,
    HoldReason::ServersFirst,
    HoldReason::Canary,
    HoldReason::HeldOut,
    HoldReason::Fetching,
    HoldReason::Verifying,
    HoldReason::Denied,
    HoldReason::Stuck,
    HoldReason::DrainBlocked,
    HoldReason::Resting,
    HoldReason::NotReporting,
    HoldReason::Postponed,
    HoldReason::VersionSkew,
];

impl Coverage {
    pub fn fault(&mut self, name: &'static str) {
        if !self.is_off {
            *self.faults.entry(name).or_default() += 1;
        }
    }

    pub fn add(&mut self, other: &Self) {
        sum(&mut self.stages, &other.stages);
        sum(&mut self.transitions, &other.transitions);
        sum(&mut self.holds, &other.holds);
        sum(&mut self.faults, &other.faults);
    }

    /// What was never met.
    pub fn missing(&self, faults: &BTreeSet<&'static str>) -> Vec<String> {
        let stages = STAGES.iter().filter(|s| !self.stages.contains_key(*s));
        let stages = stages.map(|s| format!("stage {s}"));
        let holds = HOLDS.iter().filter(|h| !self.holds.contains_key(h));
        let holds = holds.map(|h| format!("refusal {h:?}"));
        let faults = faults.iter().filter(|f| !self.faults.contains_key(*f));
        let faults = faults.map(|f| format!("fault {f}"));
        stages.chain(holds).chain(faults).collect()
    }
}

fn sum<K: Ord + Copy>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(*key).or_default() += count;
    }
}

pub fn holds(cover: &mut Coverage, step: &Step) {
    if cover.is_off {
        return;
    }
    for hold in &step.holds {
        *cover.holds.entry(hold.reason).or_default() += 1;
    }
}

/// Where each ticket stands, and where it stood before.
pub fn stages(cover: &mut Coverage, desired: &Desired, view: &Observed, now: Timestamp) {
    if cover.is_off {
        return;
    }
    let rollout = Rollout {
        desired,
        observed: view,
        now,
    };
    for (id, ticket) in &view.ledger.tickets {
        let Some(update) = ticket.update() else {
            continue;
        };
        let name = stage(&rollout, id, ticket, update).name();
        let before = cover.before.insert(update.number, name);
        if before != Some(name) {
            *cover.stages.entry(name).or_default() += 1;
            let way = (before.unwrap_or(GRANTED), name);
            *cover.transitions.entry(way).or_default() += 1;
        }
    }
}
