//! One run: a world, what happens to it and when, and whether the rules held. A seed is a run.

use std::fmt;

use fabrik_core::observed::Role;

use crate::coverage::Coverage;
use crate::mutant::Mutant;
use crate::people::{self, Act};
use crate::rng::Rng;
use crate::systems::Fate;
use crate::world::{Size, World, servers_pool, workers_pool};

/// Steps with faults, and the least without.
const FAULTY_STEPS: u32 = 200;
const QUIET_STEPS: u32 = 100;
/// Every cluster has come to rest by then: it waits for people, rests and deadlines on the way.
const MAX_QUIET_STEPS: u32 = 2500;
/// For how long a node may need a person before one comes.
const PATIENCE_STEPS: u32 = 10;
/// From this seed on servers of the control plane come and go as well.
const RESIZED_FROM: u64 = 500_000;

/// The `number`-th seed of a run that begins with `first`: every other one is of a control plane that is resized.
pub fn seed(first: u64, number: u64) -> u64 {
    let kind = if number.is_multiple_of(2) {
        0
    } else {
        RESIZED_FROM
    };
    kind + first + number / 2
}

#[derive(Debug, Clone)]
pub struct Schedule {
    pub seed: u64,
    pub max_unavailable: u32,
    pub acts: Vec<(u32, Act)>,
}

#[derive(Debug, Clone)]
pub struct Failure {
    pub schedule: Schedule,
    pub step: u32,
    pub rule: &'static str,
    pub what: String,
    pub log: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Outcome {
    pub cover: Coverage,
    pub steps: u32,
    pub acts: usize,
    pub failure: Option<Failure>,
}

impl Schedule {
    /// At least three faults, beside one to four commits.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let at = |rng: &mut Rng| u32::try_from(rng.below(FAULTY_STEPS as usize)).expect("few");
        let mut acts = vec![(2, people::push(&mut rng))];
        for _ in 0..rng.below(4) {
            acts.push((at(&mut rng), people::push(&mut rng)));
        }
        if rng.one_in(4) {
            acts.push((at(&mut rng), Act::Revert));
        }
        for _ in 0..3 + rng.below(8) {
            acts.push((at(&mut rng), people::any(&mut rng)));
        }
        let max_unavailable = 1 + u32::try_from(rng.below(2)).expect("few");
        if seed >= RESIZED_FROM {
            // The only server can't be taken back from a minor by anybody.
            for (_, act) in &mut acts {
                if let Act::Push { servers, .. } = act
                    && *servers == Fate::Sick
                {
                    *servers = Fate::Panics;
                }
            }
            acts.push((at(&mut rng), people::scale_servers(&mut rng)));
            for _ in 0..=rng.below(4) {
                acts.push((at(&mut rng), people::of_servers(&mut rng)));
            }
        }
        acts.sort_by_key(|(step, _)| *step);
        Self {
            seed,
            max_unavailable,
            acts,
        }
    }

    pub fn run(&self, mutant: Option<Mutant>, with_log: bool) -> Outcome {
        let size = Size {
            servers: 3,
            agents: 4,
            leaders: 3,
            max_unavailable: self.max_unavailable,
        };
        let mut world = World::new(&size, self.seed);
        world.mutant = mutant;
        if self.seed >= RESIZED_FROM {
            world.want_servers(Some(3));
        }
        world.log = with_log.then(Vec::new);
        let mut acts = self.acts.iter().peekable();
        let mut steps = 0;
        while steps < FAULTY_STEPS && world.book.broken.is_none() {
            while let Some((_, act)) = acts.next_if(|(at, _)| *at <= steps) {
                world.act(*act);
            }
            world.tick();
            steps += 1;
        }
        world.faults_stop();
        world.act(Act::Push {
            kernel: true,
            minor: false,
            servers: Fate::Well,
            workers: Fate::Well,
        });
        let mut stuck = 0;
        while world.book.broken.is_none() {
            let quiet = steps - FAULTY_STEPS.min(steps);
            let left = world.unsettled();
            if quiet >= QUIET_STEPS && left.is_none() {
                break;
            }
            if quiet >= MAX_QUIET_STEPS {
                let (rule, what) = left.expect("it is not at rest");
                world.book.blame(Some((rule, what)));
                break;
            }
            world.tidy_up_by_hand();
            world.tick();
            steps += 1;
            stuck = if world.book.stuck { stuck + 1 } else { 0 };
            if stuck >= PATIENCE_STEPS {
                world.mend();
                stuck = 0;
            }
        }
        let failure = world.book.broken.take().map(|(rule, what)| Failure {
            schedule: self.clone(),
            step: steps,
            rule,
            what,
            log: world.log.take().unwrap_or_default(),
        });
        Outcome {
            cover: world.cover,
            steps,
            acts: self.acts.len(),
            failure,
        }
    }

    /// The shortest list of acts that breaks the same rule, as far as leaving out one at a time finds it.
    #[must_use]
    pub fn shrink(&self, rule: &str, mutant: Option<Mutant>) -> Self {
        let mut best = self.clone();
        let mut place = 0;
        while place < best.acts.len() {
            let mut fewer = best.clone();
            fewer.acts.remove(place);
            let failure = fewer.run(mutant, false).failure;
            if failure.is_some_and(|f| f.rule == rule) {
                best = fewer;
            } else {
                place += 1;
            }
        }
        best
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {} is broken at step {}: {}",
            self.schedule.seed, self.rule, self.step, self.what
        )?;
        for (step, act) in &self.schedule.acts {
            writeln!(f, "  step {step}: {act:?}")?;
        }
        write!(
            f,
            "again, with all that happens: make sim SEED={}",
            self.schedule.seed
        )
    }
}

impl World {
    /// What is still to come when all is quiet: L1, L2, L3 and L5.
    pub fn unsettled(&self) -> Option<(&'static str, String)> {
        let ledger = &self.observed.ledger;
        let held: Vec<String> = self.book.held.iter().map(ToString::to_string).collect();
        let held = held.join("; ");
        if let Some(ticket) = ledger.tickets.values().next() {
            return Some(("L3", format!("{} holds a ticket: {held}", ticket.node)));
        }
        for (name, node) in &self.observed.nodes {
            if node.unschedulable || node.cordoned_under.is_some() {
                return Some(("L2", format!("{name} is left cordoned, or with our mark")));
            }
        }
        let agents = ledger
            .members
            .values()
            .filter(|m| m.role == Role::Agent)
            .count();
        let wanted = self.desired.spec.pools[&workers_pool()].count as usize;
        if agents != wanted || !ledger.intents.is_empty() {
            let what = format!("{agents} agents, and {wanted} are wanted: {held}");
            return Some(("L5", what));
        }
        let servers = ledger.members.values().filter(|m| m.role == Role::Server);
        let (servers, wanted) = (servers.count(), self.desired.spec.servers.as_ref());
        if let Some(wanted) = wanted.filter(|w| w.count as usize != servers) {
            let what = format!("{servers} servers, and {} are wanted: {held}", wanted.count);
            return Some(("L5", what));
        }
        for member in ledger.members.values() {
            let pool = if member.role == Role::Server {
                servers_pool()
            } else {
                workers_pool()
            };
            let wanted = self
                .systems
                .find(&self.desired.targets[&pool].system.output);
            let there = self.machine(&member.name).is_some_and(|m| {
                m.running == wanted && m.default == wanted && m.is_well(&self.systems, self.now)
            });
            if !there {
                let what = format!("{} does not run its system: {held}", member.name);
                return Some(("L1", what));
            }
        }
        None
    }
}
