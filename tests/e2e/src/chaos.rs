//! Faults, each put in where a node is on its way to another system, and mended by themselves some seconds later.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::fabrik::Fabrik;
use fabrik_bed::{Bed, Machine, State};
use tokio::time::{Instant, sleep};

use crate::random::Random;
use crate::way::{Step, Ways};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL for the `fabrik run` that leads. It is started again when another one leads.
    LeaderKilled,
    /// SIGKILL for the node's agent, which is started again at once.
    AgentKilled,
    /// The node reaches no API server for a while.
    CutOff,
}

impl Fault {
    pub const ALL: [Self; 3] = [Self::LeaderKilled, Self::AgentKilled, Self::CutOff];
}

/// Which faults are put in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Each at each step, until it has been.
    All,
    /// One at every third step or so: which ones the seed alone says.
    Sample,
}

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// A Node that is silent for so long is still Ready, and so are the pods on it.
const SHORT: Duration = Duration::from_secs(3);
/// Long enough for a Node to be called not Ready.
const LONG: Duration = Duration::from_secs(12);
/// A leader that is dead for so long is started again in any case: it may have been the only one.
const DEAD: Duration = Duration::from_secs(6);
/// For a rollout with faults at each step of it.
pub const ROLLED_OUT: Duration = Duration::from_secs(1200);
/// From the last node's success to the end of all that belongs to it.
const STILL: Duration = Duration::from_secs(90);

/// Puts faults in while nodes go their way.
pub struct Chaos<'a> {
    bed: &'a Bed,
    ways: Ways,
    random: Random,
    plan: Plan,
    hits: BTreeMap<(Step, Fault), u32>,
    dead: Option<(String, Instant)>,
    cut: Option<(Machine, Instant)>,
}

impl<'a> Chaos<'a> {
    pub async fn start(bed: &'a Bed, random: Random, plan: Plan) -> Result<Self> {
        Ok(Self {
            bed,
            ways: Ways::start(bed).await?,
            random,
            plan,
            hits: BTreeMap::new(),
            dead: None,
            cut: None,
        })
    }

    /// Until the rollout has come about and nothing of it, and of the faults, is left: no ticket, no cordon.
    pub async fn play(&mut self, rolled_out: impl Future<Output = Result<()>>) -> Result<()> {
        tokio::pin!(rolled_out);
        let mut ended = None;
        loop {
            for (machine, step) in self.ways.look() {
                self.put_in(&machine, step)?;
            }
            self.mend()?;
            tokio::select! {
                result = &mut rolled_out, if ended.is_none() => {
                    result?;
                    ended = Some(Instant::now());
                }
                () = sleep(LOOK) => {}
            }
            let Some(ended) = ended else { continue };
            let left = self.ways.left();
            if left.is_empty() && self.dead.is_none() && self.cut.is_none() {
                return Ok(());
            }
            ensure!(ended.elapsed() < STILL, "it does not come to rest: {left}");
        }
    }

    /// How often each fault was put in at each step.
    pub fn table(&self) -> String {
        // Writing to a string does not fail.
        let mut table = format!("{:12}", "");
        for fault in Fault::ALL {
            let _ = write!(table, "{:>14}", format!("{fault:?}"));
        }
        for step in Step::ALL {
            let _ = write!(table, "\n{:12}", format!("{step:?}"));
            for fault in Fault::ALL {
                let _ = write!(table, "{:>14}", self.hits(step, fault));
            }
        }
        table
    }

    /// What was never put in.
    pub fn missing(&self) -> Vec<(Step, Fault)> {
        let pairs = Step::ALL.iter().flat_map(|s| Fault::ALL.map(|f| (*s, f)));
        pairs.filter(|(s, f)| self.hits(*s, *f) == 0).collect()
    }

    /// How many were put in.
    pub fn count(&self) -> u32 {
        self.hits.values().sum()
    }

    fn hits(&self, step: Step, fault: Fault) -> u32 {
        self.hits.get(&(step, fault)).copied().unwrap_or(0)
    }

    fn put_in(&mut self, machine: &Machine, step: Step) -> Result<()> {
        let possible = |fault: &Fault| match fault {
            Fault::LeaderKilled => self.dead.is_none() && self.leads().is_some(),
            Fault::AgentKilled => machine.agent_runs(),
            Fault::CutOff => self.cut.is_none(),
        };
        let mut faults: Vec<_> = Fault::ALL.into_iter().filter(possible).collect();
        match self.plan {
            Plan::All => faults.retain(|fault| self.hits(step, *fault) == 0),
            Plan::Sample => faults.retain(|fault| self.in_sample(machine, step) == Some(*fault)),
        }
        // It comes once for all nodes, and again when the leader died of it: then there is room for both others.
        let rare = self.plan == Plan::All && step == Step::Snapshotted;
        if !rare || faults.contains(&Fault::LeaderKilled) {
            faults = match self.random.pick(&faults) {
                _ if rare => vec![Fault::LeaderKilled],
                Some(fault) => vec![fault],
                None => Vec::new(),
            };
        }
        for fault in faults {
            if self.strike(machine, step, fault)? {
                println!("{} {step:?}: {fault:?}", machine.name());
                *self.hits.entry((step, fault)).or_default() += 1;
            }
        }
        Ok(())
    }

    fn in_sample(&self, machine: &Machine, step: Step) -> Option<Fault> {
        let machines = self.bed.machines();
        let number = machines.iter().position(|m| m.id() == machine.id())?;
        let place = number * Step::ALL.len() + Step::ALL.iter().position(|s| *s == step)?;
        let mut random = self.random.at(u64::try_from(place).ok()?);
        random.pick(&[0, 1, 2]).filter(|chance| *chance == 0)?;
        random.pick(&Fault::ALL)
    }

    /// False: there was nothing to strike.
    fn strike(&mut self, machine: &Machine, step: Step, fault: Fault) -> Result<bool> {
        match fault {
            Fault::LeaderKilled => {
                let Some((name, fabrik)) = self.leads() else {
                    return Ok(false);
                };
                if !fabrik.crash() {
                    return Ok(false);
                }
                self.dead = Some((name, Instant::now()));
            }
            Fault::AgentKilled => return machine.kill_agent(),
            Fault::CutOff => {
                // Not while pods run on it that others need.
                let empty = step >= Step::Drained && step < Step::Uncordoned;
                let length = if empty { LONG } else { SHORT };
                machine.cut_off();
                self.cut = Some((machine.clone(), Instant::now() + length));
            }
        }
        Ok(true)
    }

    fn mend(&mut self) -> Result<()> {
        if let Some((machine, until)) = &self.cut
            && Instant::now() >= *until
        {
            machine.reconnect();
            self.cut = None;
        }
        let Some((name, since)) = &self.dead else {
            return Ok(());
        };
        let leader = self.ways.leader();
        if leader.is_some_and(|leader| leader != *name) || since.elapsed() > DEAD {
            // Where its server boots it is started by that.
            if matches!(self.bed.machine(name)?.state(), State::Running { .. }) {
                self.fabrik(name)?.boot()?;
            }
            self.dead = None;
        }
        Ok(())
    }

    fn leads(&self) -> Option<(String, &'a Fabrik)> {
        let name = self.ways.leader()?;
        let fabrik = self.fabrik(&name).ok()?;
        fabrik.is_running().then_some((name, fabrik))
    }

    fn fabrik(&self, server: &str) -> Result<&'a Fabrik> {
        let mut servers = self.bed.servers().iter();
        let server = servers.find(|s| s.control_plane.name() == server);
        Ok(&server.context("a server of the bed")?.fabrik)
    }
}
