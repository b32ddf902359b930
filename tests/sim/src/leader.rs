//! Servers' fabriks: which of them leads, or believes that it does, and what it decides and has done.

use fabrik_core::effect::Effect;
use fabrik_core::ledger::Change;
use fabrik_core::observed::{Observed, Power};
use fabrik_core::step::Step;
use jiff::{SignedDuration, Timestamp};

use crate::coverage;
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
    number: usize,
    pub skew: SignedDuration,
    pub dead_until: Timestamp,
    /// It stops in the middle of its next pass, for so long.
    pub pauses_for: Option<SignedDuration>,
    /// Effects that it carries out before it dies.
    pub dies_in: Option<u32>,
    /// What it still believes to see: watches that have missed something.
    pub stale: Option<(Timestamp, Box<Observed>)>,
    /// The commit in force is not evaluated before.
    pub evaluates_until: Timestamp,
}

/// A request that is under way while its sender may be nobody any more.
#[derive(Debug, Clone)]
pub struct Flight {
    lands: Timestamp,
    effect: Effect,
    spec_version: u64,
}

impl Leader {
    pub fn new(number: usize) -> Self {
        Self {
            number,
            skew: SignedDuration::ZERO,
            dead_until: Timestamp::UNIX_EPOCH,
            pauses_for: None,
            dies_in: None,
            stale: None,
            evaluates_until: Timestamp::UNIX_EPOCH,
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
    /// One turn of a leader: renews its Lease or takes it, and makes a pass.
    pub fn lead(&mut self, number: usize) {
        let now = self.now;
        if now < self.leaders[number].dead_until || !self.api_is_up() {
            return;
        }
        let servers = self.machines.iter();
        let host = servers
            .filter(|m| m.role == fabrik_core::observed::Role::Server)
            .nth(number);
        if host.is_none_or(|h| !h.is_on()) {
            return;
        }
        let age = now.duration_since(self.lease.renewed);
        if self.lease.holder != Some(number) {
            if self.lease.holder.is_some() && age <= SignedDuration::from_secs(LEASE_SECS) {
                return;
            }
            self.cover.fault("new-leader");
            self.leaders[number].evaluates_until = now + SignedDuration::from_secs(30);
            self.lease.holder = Some(number);
        } else if age > SignedDuration::from_secs(LEASE_SECS + RENEW_SECS) {
            // It was away for longer than its Lease, and nobody else took it.
            self.cover.fault("lease-lapsed");
        }
        self.lease.renewed = now;
        self.pass(number);
    }

    pub fn pass(&mut self, number: usize) {
        let now = self.now + self.leaders[number].skew;
        debug_assert_eq!(self.leaders[number].number, number);
        let mut stale = self.leaders[number].stale.take();
        if stale.as_ref().is_some_and(|(until, _)| self.now >= *until) {
            stale = None;
        }
        if let Some((_, view)) = &mut stale {
            view.ledger.clone_from(&self.observed.ledger);
        }
        let blank = self.now < self.leaders[number].evaluates_until;
        let targets = if blank {
            std::mem::take(&mut self.desired.targets)
        } else {
            std::collections::BTreeMap::new()
        };
        let decided = self.decide(stale.as_mut().map(|(_, view)| view.as_mut()), now);
        if blank {
            self.desired.targets = targets;
        }
        self.leaders[number].stale = stale;
        if let Some(step) = decided {
            self.carry_out(number, step.effects);
        }
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
        for effect in effects {
            let flight = Flight {
                lands: self.now,
                spec_version: self.spec_version(&effect),
                effect,
            };
            if let Some(time) = self.leaders[number].pauses_for.take() {
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
            Effect::Order { node, .. } | Effect::Withdraw { node } | Effect::Aim { node, .. } => {
                self.truths.get(&node.name).map_or(0, |t| t.spec_version)
            }
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

    /// Does what an executor does, with the preconditions that it has.
    #[allow(
        clippy::too_many_lines,
        reason = "one short arm for each effect; apart they would read worse"
    )]
    fn land(&mut self, effect: &Effect, spec_version: u64) {
        self.note(|| format!("{} {}", effect.verb(), effect.target()));
        self.check_effect(effect);
        let now = self.now;
        let hetzner = now >= self.hetzner_down_until;
        match effect {
            Effect::Cordon { node, mark, over } => {
                if let Some(there) = self.observed.nodes.get_mut(&node.name)
                    && there.uid == node.uid
                    && there.cordoned_under == *over
                    && (!there.unschedulable || over.is_some())
                {
                    there.unschedulable = true;
                    there.cordoned_under = Some(mark.clone());
                }
            }
            Effect::Uncordon { node, mark } => {
                if let Some(there) = self.observed.nodes.get_mut(&node.name)
                    && there.uid == node.uid
                    && there.cordoned_under.as_ref() == Some(mark)
                {
                    there.unschedulable = false;
                    there.cordoned_under = None;
                }
            }
            Effect::Evict { node, uid, .. } => self.evict(node, uid),
            Effect::ForcePod { node, uid, .. } => self.force(node, uid),
            Effect::Aim { node, pool, system } => {
                let publication = self.publication(pool);
                if let Some(truth) = self.truths.get_mut(&node.name)
                    && let Some(there) = self.observed.systems.get_mut(&node.name)
                    && truth.spec_version == spec_version
                {
                    there.aim = Some(system.clone());
                    truth.publication = publication;
                    truth.spec_version += 1;
                }
            }
            Effect::Order { node, order } => {
                if let Some(truth) = self.truths.get_mut(&node.name)
                    && let Some(there) = self.observed.systems.get_mut(&node.name)
                    && truth.spec_version == spec_version
                {
                    there.order = Some(order.clone());
                    truth.spec_version += 1;
                }
            }
            Effect::Withdraw { node } => {
                if let Some(truth) = self.truths.get_mut(&node.name)
                    && let Some(there) = self.observed.systems.get_mut(&node.name)
                    && truth.spec_version == spec_version
                {
                    there.order = None;
                    truth.spec_version += 1;
                }
            }
            Effect::MoveEtcdLeader { to, .. } => {
                self.etcd_leader = to.parse().ok();
                self.sync();
            }
            Effect::SnapshotEtcd { node, name } => {
                let full = self
                    .machine(&node.name)
                    .is_some_and(|m| now < m.disk_full_until);
                if !full {
                    self.snapshots.insert(format!("{name}-{}-1", node.name));
                    self.book.snapshot(&self.machines, &self.systems);
                    self.sync();
                }
            }
            Effect::Reset { server } => {
                if hetzner {
                    let systems = &self.systems;
                    let machine = self.machines.iter_mut().find(|m| m.server == server.id);
                    if let Some(machine) = machine {
                        machine.reset(systems, now);
                    }
                }
            }
            Effect::PowerOff { server } => {
                if hetzner && let Some(there) = self.observed.hetzner.servers.get_mut(&server.id) {
                    there.power = Power::Off;
                    if let Some(machine) = self.machines.iter_mut().find(|m| m.server == server.id)
                    {
                        machine.power_off();
                    }
                }
            }
            Effect::DeleteNode { node } => {
                if self
                    .observed
                    .nodes
                    .get(&node.name)
                    .is_some_and(|n| n.uid == node.uid)
                {
                    self.forget_node(&node.name);
                }
            }
            Effect::DeleteServer { server } => {
                if hetzner && self.observed.hetzner.servers.remove(&server.id).is_some() {
                    self.observed.hetzner.gone.insert(server.id);
                    self.machines.retain(|m| m.server != server.id);
                    self.joining.retain(|(_, m)| m.server != server.id);
                }
            }
            Effect::CreateServer(new) => {
                if hetzner {
                    self.create(&new.intent, &new.name);
                }
            }
            Effect::RevokeToken { intent } => {
                self.observed.tokens.remove(intent);
            }
            Effect::LabelNode { node, labels } => {
                if let Some(there) = self.observed.nodes.get_mut(&node.name) {
                    there.our_labels = labels.keys().cloned().collect();
                    there.labels.extend(labels.clone());
                }
            }
            Effect::SetFirewallRules { rules, .. } => {
                if let Some(firewall) = &mut self.observed.hetzner.firewall {
                    firewall.rules.clone_from(rules);
                }
            }
            Effect::CreateNetwork { .. }
            | Effect::CreateFirewall { .. }
            | Effect::CreateSshKey { .. }
            | Effect::CreatePlacementGroup { .. } => {}
        }
    }

    pub fn forget_node(&mut self, name: &fabrik_core::id::NodeName) {
        self.observed.nodes.remove(name);
        self.observed.systems.remove(name);
        self.observed.pods.remove(name);
        self.truths.remove(name);
    }

    /// No budget is asked.
    fn force(&mut self, node: &fabrik_core::id::NodeName, uid: &fabrik_core::id::Uid) {
        let Some(truth) = self.truths.get_mut(node) else {
            return;
        };
        let until = std::mem::replace(&mut truth.pdb_until, Timestamp::UNIX_EPOCH);
        self.evict(node, uid);
        if let Some(truth) = self.truths.get_mut(node) {
            truth.pdb_until = until;
        }
    }

    /// The API server's own: a PodDisruptionBudget refuses, and on a dead node nothing ends.
    fn evict(&mut self, node: &fabrik_core::id::NodeName, uid: &fabrik_core::id::Uid) {
        let now = self.now;
        let lives = self
            .machine(node)
            .is_some_and(|m| m.is_well(&self.systems, now));
        let Some(truth) = self.truths.get_mut(node) else {
            return;
        };
        let Some(pod) = truth.pods.iter_mut().find(|p| p.uid == *uid) else {
            return;
        };
        if now < truth.pdb_until {
            pod.blocked = Some("PodDisruptionBudget web/shop".to_owned());
        } else if lives {
            truth.pods.retain(|p| p.uid != *uid);
        } else if !pod.terminating {
            pod.terminating = true;
            pod.ends = Some(now + SignedDuration::from_secs(30));
        }
    }

    fn publication(
        &self,
        pool: &fabrik_core::id::PoolName,
    ) -> Option<fabrik_core::system::Publication> {
        let target = self.desired.targets.get(pool)?;
        let systems = target.first.iter().chain([&target.system]);
        Some(fabrik_core::system::Publication {
            schema: fabrik_core::system::Publication::SCHEMA,
            cluster: self.observed.ledger.cluster.clone(),
            pool: pool.clone(),
            commit: self.desired.commit.clone(),
            sequence: self.sequence,
            systems: systems.cloned().collect(),
        })
    }
}
