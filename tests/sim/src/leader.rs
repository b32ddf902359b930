//! Servers' fabriks: which of them leads, or believes that it does, and what it decides and has done.

mod land;

use std::sync::Arc;

use fabrik_core::arrival::left;
use fabrik_core::effect::Effect;
use fabrik_core::id::ServerId;
use fabrik_core::ledger::Change;
use fabrik_core::observed::{Observed, Role};
use fabrik_core::step::Step;
use jiff::{SignedDuration, Timestamp};

use crate::coverage;
use crate::machine::Machine;
use crate::mutant;
use crate::world::World;

/// For how long a leader acts after it renewed its Lease, and after which another one may take it.
const RENEW_SECS: i64 = 10;
const LEASE_SECS: i64 = 15;
/// As in the leader's loop.
const MAX_ROUNDS: usize = 20;

#[derive(Debug, Clone, Default)]
pub struct Lease {
    pub holder: Option<usize>,
    pub renewed: Timestamp,
}

#[derive(Debug, Clone)]
pub struct Leader {
    pub(crate) number: usize,
    pub skew: SignedDuration,
    pub dead_until: Timestamp,
    /// It stops in the middle of a pass, after so many more effects and for so long.
    pub pauses: Option<(u32, SignedDuration)>,
    /// Effects that it carries out before it dies.
    pub dies_in: Option<u32>,
    /// What it still believes to see: watches that have missed something.
    pub stale: Option<(Timestamp, Box<Observed>)>,
    /// The commit in force is not evaluated before.
    pub evaluates_until: Timestamp,
    /// How many effects its last pass had.
    pub had: u32,
}

/// A request that is under way while its sender may be nobody any more.
#[derive(Debug, Clone)]
pub struct Flight {
    pub lands: Timestamp,
    pub effect: Effect,
    pub spec_version: u64,
}

impl Leader {
    pub fn new(number: usize) -> Self {
        Self {
            number,
            skew: SignedDuration::ZERO,
            dead_until: Timestamp::UNIX_EPOCH,
            pauses: None,
            dies_in: None,
            stale: None,
            evaluates_until: Timestamp::UNIX_EPOCH,
            had: 0,
        }
    }
}

/// What nobody can fence: a request to Hetzner lands before its time is over, or never.
fn is_at_hetzner(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Reset { .. }
            | Effect::PowerOff { .. }
            | Effect::DeleteServer { .. }
            | Effect::CreateServer(_)
    )
}

impl World {
    /// The server that a leader is on.
    pub fn host(&self, number: usize) -> Option<&Machine> {
        let mut servers = self.machines.iter().filter(|m| m.role == Role::Server);
        servers.nth(number)
    }

    /// One turn of a leader: renews its Lease or takes it, and makes a pass.
    pub fn lead(&mut self, number: usize) {
        let now = self.now;
        self.leaders[number].had = 0;
        if now < self.leaders[number].dead_until || !self.api_is_up() {
            return;
        }
        if self.host(number).is_none_or(|h| !h.is_on() || h.k3s_ended) {
            return;
        }
        let age = now.duration_since(self.lease.renewed);
        // Nobody renews it more often than once in a step.
        let lasts = LEASE_SECS.max(self.step_secs);
        if self.lease.holder != Some(number) {
            if self.lease.holder.is_some() && age <= SignedDuration::from_secs(lasts) {
                return;
            }
            self.cover.fault("new-leader");
            self.leaders[number].evaluates_until = now + SignedDuration::from_secs(30);
            self.lease.holder = Some(number);
        } else if age > SignedDuration::from_secs(lasts + RENEW_SECS) {
            // It was away for longer than its Lease, and nobody else took it.
            self.cover.fault("lease-lapsed");
        }
        self.lease.renewed = now;
        self.pass(number);
    }

    pub fn pass(&mut self, number: usize) {
        let now = self.now + self.leaders[number].skew;
        self.ask_by_id();
        debug_assert_eq!(self.leaders[number].number, number);
        let mut stale = self.leaders[number].stale.take();
        if stale.as_ref().is_some_and(|(until, _)| self.now >= *until) {
            stale = None;
        }
        if let Some((_, view)) = &mut stale {
            view.ledger.clone_from(&self.observed.ledger);
        }
        let blank = self.now < self.leaders[number].evaluates_until;
        let wanted = self.desired.clone();
        if blank {
            Arc::make_mut(&mut self.desired).targets.clear();
        }
        let decided = self.decide(stale.as_mut().map(|(_, view)| view.as_mut()), now);
        self.desired = wanted;
        self.leaders[number].stale = stale;
        if let Some(step) = decided {
            self.carry_out(number, step.effects);
        }
    }

    /// The look at Hetzner says what is gone of that alone which it asks for: servers of the ledger, and a few that nobody but
    /// Nodes names.
    fn ask_by_id(&mut self) {
        if self.deleted.is_empty() {
            return;
        }
        let (ledger, there) = (&self.observed.ledger, &mut self.observed.hetzner);
        let is_gone = |id: &ServerId| self.deleted.contains(id);
        there.gone = ledger.known_servers().filter(is_gone).collect();
        let named = left::to_ask(&self.desired.spec, ledger, &self.observed.nodes, there);
        there.gone.extend(named.into_iter().filter(is_gone));
    }

    /// Steps and writes down until nothing is to be written any more.
    fn decide(&mut self, mut stale: Option<&mut Observed>, now: Timestamp) -> Option<Step> {
        for round in 0..MAX_ROUNDS {
            let view: &Observed = stale.as_deref().unwrap_or(&self.observed);
            // What is seen late is no way from one stage to the next.
            if round == 0 && stale.is_none() {
                coverage::stages(&mut self.cover, &self.desired, view, now);
            }
            let step = mutant::step(self.mutant, &self.desired, view, now);
            coverage::holds(&mut self.cover, &step);
            self.book.holds(&step);
            if step.changes.is_empty() {
                let broken = crate::check::sent(&self.desired, view, &step, now, &self.book);
                self.book.blame(broken);
                return Some(step);
            }
            // A compare-and-swap that somebody else was faster with.
            if self.now < self.conflicts_until && self.rng.one_in(2) {
                self.cover.fault("ledger-conflict");
                return None;
            }
            let broken = crate::check::changes(
                &self.desired,
                view,
                &step,
                &self.systems,
                now,
                &mut self.book,
            );
            self.book.blame(broken);
            self.ledger_version += 1;
            for change in &step.changes {
                self.note(|| format!("writes {change:?}"));
                self.observed.ledger.apply(change, now);
                self.remember(change);
            }
            if let Some(view) = stale.as_deref_mut() {
                view.ledger.clone_from(&self.observed.ledger);
            }
        }
        self.book
            .blame(Some(("L5", "there is always another change".to_owned())));
        None
    }

    fn remember(&mut self, change: &Change) {
        match change {
            Change::EndUpdate { id, .. } | Change::Release { id, .. } => {
                if let Some(member) = self.observed.ledger.members.get(id) {
                    self.observed.pods.remove(&member.name);
                }
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, number: usize, effects: Vec<Effect>) {
        self.leaders[number].had = u32::try_from(effects.len()).unwrap_or(u32::MAX);
        for effect in effects {
            let flight = Flight {
                lands: self.now,
                spec_version: self.spec_version(&effect),
                effect,
            };
            let pauses = &mut self.leaders[number].pauses;
            if let Some((more, _)) = pauses
                && *more > 0
            {
                *more -= 1;
            } else if let Some((_, time)) = pauses.take() {
                // One request was let through already; the others ask whether it leads still.
                let wakes = self.now + time;
                self.leaders[number].dead_until = wakes;
                if !is_at_hetzner(&flight.effect) {
                    self.flights.push(Flight {
                        lands: wakes,
                        ..flight
                    });
                }
                self.cover.fault("paused-in-a-pass");
                return;
            }
            match &mut self.leaders[number].dies_in {
                Some(0) => {
                    self.leaders[number].dies_in = None;
                    self.leaders[number].dead_until = self.now + SignedDuration::from_secs(60);
                    self.cover.fault("died-in-a-pass");
                    return;
                }
                Some(left) => *left -= 1,
                None => {}
            }
            if self.now < self.losses_until {
                match self.rng.below(3) {
                    0 => {
                        self.cover.fault("request-lost");
                        continue;
                    }
                    1 => {
                        let most = if is_at_hetzner(&flight.effect) {
                            40
                        } else {
                            300
                        };
                        let secs = self.rng.range(5, most);
                        self.cover.fault("request-late");
                        self.flights.push(Flight {
                            lands: self.now + SignedDuration::from_secs(secs),
                            ..flight
                        });
                        continue;
                    }
                    _ => {}
                }
            }
            self.land(&flight.effect, flight.spec_version);
        }
    }

    fn spec_version(&self, effect: &Effect) -> u64 {
        match effect {
            Effect::Order { node, .. }
            | Effect::Withdraw { node }
            | Effect::StopK3s { node, .. }
            | Effect::Aim { node, .. } => self.truths.get(&node.name).map_or(0, |t| t.spec_version),
            _ => 0,
        }
    }

    pub fn land_flights(&mut self) {
        if self.flights.is_empty() || !self.api_is_up() {
            return;
        }
        let (landing, flying) = std::mem::take(&mut self.flights)
            .into_iter()
            .partition(|f| f.lands <= self.now);
        self.flights = flying;
        let landing: Vec<Flight> = landing;
        for flight in landing {
            self.land(&flight.effect, flight.spec_version);
        }
    }
}
