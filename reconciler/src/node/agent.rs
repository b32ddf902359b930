//! The loop of `fabrik agent`: looks, asks `fabrik_core::agent` what comes next, and has it done.
//!
//! It hears of the API server through a channel, and goes on without: deadlines run by this node's own clock. To stop it
//! is to drop it: what it has begun runs in a unit of its own and is found again by the journal.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use fabrik_core::agent::{self, Do, Facts, Journal, Outcome, Try, Wish};
use fabrik_core::id::StorePath;
use fabrik_core::system::{Phase, Publication, Report, Retirement, SignedPublication};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::sleep;

use super::secrets::Holdings;
use super::stage::{Progress, Source, Wanted};
use super::state::State;
use super::unit::Units;
use super::{AgentConfig, NodeError, host_key, look};
use crate::cluster::resources::{FabrikNode, FabrikNodeSpec, FabrikNodeStatus};
use crate::publication::{self, Why};

/// How often the machine is looked at when nothing is heard: a person may have switched it.
const REFRESH: Duration = Duration::from_secs(30);
/// How long after an error of the machine itself it is tried again.
const PAUSE: Duration = Duration::from_secs(10);

/// What the agent is connected to.
pub struct Channels {
    /// This node's FabrikNode, as it was seen last.
    pub seen: watch::Receiver<Option<FabrikNode>>,
    pub status: watch::Sender<Option<FabrikNodeStatus>>,
    pub wanted: watch::Sender<Wanted>,
    pub progress: watch::Receiver<Progress>,
    pub secrets: watch::Receiver<Holdings>,
}

pub struct Agent {
    config: AgentConfig,
    state: State,
    units: Units,
    channels: Channels,
    last: Option<Outcome>,
    /// Why the system that is whole in the store can't be tried all the same.
    unusable: Option<String>,
    /// The publication that was checked last, and what came of it.
    checked: Option<(SignedPublication, Result<Publication, Why>)>,
}

impl Agent {
    /// `config_file` and `fabrik` are this agent's own, for the units that it starts.
    pub fn new(config: AgentConfig, config_file: &Path, fabrik: &Path, channels: Channels) -> Self {
        Self {
            state: State::new(&config.state_dir),
            units: Units::new(&config, config_file, fabrik),
            config,
            channels,
            last: None,
            unusable: None,
            checked: None,
        }
    }

    /// Runs until dropped.
    pub async fn run(mut self) {
        let mut journal = self.read_journal().await;
        if let Some(current) = journal.current.as_ref().filter(|t| !t.is_over()) {
            if let Ok(facts) = look::facts(&self.config, None) {
                self.report(&journal, &facts);
            }
            self.last = self.units.found(current).await;
        }
        loop {
            if let Err(error) = self.step(&mut journal).await {
                tracing::error!(%error, "the agent can't go on");
                self.say("Failed", error.to_string());
                sleep(PAUSE).await;
            }
        }
    }

    /// Without a journal that it can read, the agent does nothing but report.
    async fn read_journal(&mut self) -> Journal {
        loop {
            let error = match self.state.journal() {
                Ok(journal) => return journal,
                Err(error) => error,
            };
            tracing::error!(%error, "nothing is done");
            if let Ok(facts) = look::facts(&self.config, None) {
                self.report(&Journal::default(), &facts);
            }
            self.say("Failed", error.to_string());
            sleep(PAUSE).await;
        }
    }

    async fn step(&mut self, journal: &mut Journal) -> Result<(), NodeError> {
        if let Some(retirement) = self.retirement() {
            return self.retire(journal, &retirement).await;
        }
        let wish = self.wish();
        let staged = self.channels.progress.borrow_and_update().staged.clone();
        let mut facts = look::facts(&self.config, self.last.clone())?;
        let staged = staged.map(|new| look::staged(&self.config, &facts, &new));
        (facts.staged, self.unusable) = match staged.transpose() {
            Ok(staged) => (staged, None),
            Err(error) => (None, Some(error.to_string())),
        };
        self.report(journal, &facts);
        self.want(journal, &wish);
        match agent::next(journal, &facts, &wish) {
            Do::Write(next) => self.write(journal, next)?,
            Do::Run(next, command) => {
                self.write(journal, next)?;
                self.report(journal, &facts);
                if let Some(current) = &journal.current {
                    self.last = Some(self.units.run(current, command).await);
                }
            }
            Do::Wait(until) => self.wait(until).await,
        }
        Ok(())
    }

    /// That this server leaves for good, if the cluster's key says so of this boot of this machine.
    fn retirement(&self) -> Option<Retirement> {
        let object = self.channels.seen.borrow().clone()?;
        let signed = object.spec.retirement?;
        let cluster = &self.config.cluster;
        let said = publication::verify_retirement(&cluster.public_key, &cluster.id, &signed);
        let said = said.inspect_err(|why| tracing::error!("the retirement {why}"));
        let boot = look::facts(&self.config, None).ok()?.boot;
        let own = |r: &Retirement| r.node == self.config.node && r.boot == boot;
        let told = said.ok().filter(own)?;
        if told.is_late(Timestamp::now()) && !self.state.is_retired() {
            tracing::warn!(not_after = ?told.not_after, "the retirement came too late, and is not obeyed");
            return None;
        }
        Some(told)
    }

    /// k3s starts no more; it is stopped only when that is known, for nothing can be said without it.
    async fn retire(
        &mut self,
        journal: &Journal,
        retirement: &Retirement,
    ) -> Result<(), NodeError> {
        self.state.retire()?;
        let facts = look::facts(&self.config, self.last.clone())?;
        self.report(journal, &facts);
        let seen = self.channels.seen.borrow_and_update().clone();
        let status = seen.and_then(|object| object.status);
        let is_known = status.and_then(|s| s.report).is_some_and(|r| r.retired);
        let stops = retirement.stops && !retirement.is_late(Timestamp::now());
        if is_known && stops {
            self.units.stop_k3s().await?;
        }
        self.wait(None).await;
        Ok(())
    }

    fn write(&self, journal: &mut Journal, next: Journal) -> Result<(), NodeError> {
        self.state.write_journal(&next)?;
        if let Some(now) = next.current.as_ref()
            && journal.current.as_ref().map(|t| (t.ticket, t.phase))
                != Some((now.ticket, now.phase))
        {
            let (ticket, system, message) = (now.ticket, &now.system, &now.message);
            tracing::info!(ticket, %system, phase = ?now.phase, message, "the order goes on");
        }
        *journal = next;
        Ok(())
    }

    /// Until something is heard, the time has come, or it is time for another look.
    async fn wait(&mut self, until: Option<Timestamp>) {
        let left = until.map(|until| until.duration_since(Timestamp::now()));
        let left = left.map(|left| Duration::try_from(left).unwrap_or(Duration::ZERO));
        let Channels {
            seen,
            progress,
            secrets,
            ..
        } = &mut self.channels;
        tokio::select! {
            () = sleep(left.unwrap_or(REFRESH).min(REFRESH)) => {}
            Ok(()) = seen.changed() => {}
            Ok(()) = progress.changed() => {}
            Ok(()) = secrets.changed() => {}
        }
    }

    /// What the leader wants, with nothing in it that it has not signed.
    fn wish(&mut self) -> Wish {
        let object = self.channels.seen.borrow_and_update().clone();
        let Some(FabrikNodeSpec {
            aim,
            publication,
            order,
            ..
        }) = object.map(|object| object.spec)
        else {
            return Wish::default();
        };
        let publication = publication.and_then(|signed| self.check(signed));
        Wish {
            aim: aim.and_then(|aim| aim.parse().ok()),
            publication,
            order,
        }
    }

    fn check(&mut self, signed: SignedPublication) -> Option<Publication> {
        if self.checked.as_ref().is_none_or(|(of, _)| *of != signed) {
            let cluster = &self.config.cluster;
            let checked = publication::verify(&cluster.public_key, &cluster.id, &signed);
            if let Err(why) = &checked {
                tracing::error!("the publication {why}");
            }
            self.checked = Some((signed, checked));
        }
        let (_, checked) = self.checked.as_ref()?;
        checked.clone().ok()
    }

    fn want(&self, journal: &Journal, wish: &Wish) {
        let system = agent::to_fetch(journal, wish).and_then(|output| {
            let systems = wish.publication.iter().flat_map(|p| &p.systems);
            let system = systems.into_iter().find(|s| s.output == *output)?;
            Some(Source {
                output: system.output.clone(),
                derivation: system.derivation.clone(),
            })
        });
        let keep = journal.current.as_ref().map(kept).unwrap_or_default();
        let now = Wanted { system, keep };
        self.channels.wanted.send_if_modified(|wanted| {
            let changed = *wanted != now;
            *wanted = now;
            changed
        });
    }

    fn report(&self, journal: &Journal, facts: &Facts) {
        let current = journal.current.as_ref();
        let secrets = self.channels.secrets.borrow().clone();
        let problem = || {
            let checked = self.checked.as_ref().map(|(_, checked)| checked);
            let publication = checked.and_then(|checked| match checked {
                Ok(genuine) => journal.objection(genuine).map(|why| why.to_string()),
                Err(why) => Some(why.to_string()),
            });
            publication
                .map(|why| format!("the publication {why}"))
                .or_else(|| self.channels.progress.borrow().problem.clone())
                .or_else(|| self.unusable.clone())
                .or_else(|| facts.default.clone().err())
                .or_else(|| secrets.problem.clone())
        };
        let message = current.map(|t| t.message.clone());
        let message = message
            .filter(|message| !message.is_empty())
            .or_else(problem);
        let status = FabrikNodeStatus {
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            report: Some(Report {
                recipient: secrets.recipient.clone(),
                secrets: secrets.digest.clone(),
                retired: self.state.is_retired(),
                ..agent::report(journal, facts)
            }),
            state: Some(self.state_in_words(current, facts).to_owned()),
            message,
            ssh_host_keys: host_key::read(&self.config),
        };
        self.channels.status.send_if_modified(|told| {
            let changed = told.as_ref() != Some(&status);
            *told = Some(status);
            changed
        });
    }

    fn state_in_words(&self, current: Option<&Try>, facts: &Facts) -> &'static str {
        let fetching = self.channels.wanted.borrow().system.is_some();
        match current.map(|t| t.phase) {
            Some(Phase::Accepted) => "Accepted",
            Some(Phase::Applying) => "Applying",
            Some(Phase::Trying) => "Trying",
            Some(Phase::GoingBack) => "GoingBack",
            Some(Phase::Failed) => "Failed",
            Some(Phase::Kept | Phase::WentBack) | None => match &facts.staged {
                Some(staged) if staged.system != facts.running => "Staged",
                None if fetching => "Fetching",
                _ => "Steady",
            },
        }
    }

    /// Beside what was reported last.
    fn say(&self, state: &str, message: String) {
        self.channels.status.send_if_modified(|told| {
            let status = FabrikNodeStatus {
                state: Some(state.to_owned()),
                message: Some(message),
                ..told.clone().unwrap_or_default()
            };
            let changed = told.as_ref() != Some(&status);
            *told = Some(status);
            changed
        });
    }
}

/// Systems that a try must still find (S9).
fn kept(current: &Try) -> BTreeSet<StorePath> {
    let mut keep = BTreeSet::new();
    if !current.is_over() {
        keep.insert(current.from.clone());
        if current.phase != Phase::Accepted {
            keep.insert(current.system.clone());
        }
    }
    keep
}
