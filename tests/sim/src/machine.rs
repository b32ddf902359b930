//! A machine with its boot loader and its disk, and the product's own agent on it.

use std::hash::{Hash, Hasher};

use fabrik_core::agent::{self, Command, Do, Facts, Journal, Outcome, Wish};
use fabrik_core::id::{BootId, IntentId, NodeName, ServerId};
use fabrik_core::observed::Role;
use fabrik_core::system::{Phase, Report, Staged};
use jiff::{SignedDuration, Timestamp};

use crate::exhaustive::relative;
use crate::systems::{Fate, Sys, Systems};

const SWITCH_SECS: i64 = 15;
const BOOT_SECS: i64 = 40;
const FETCH_SECS: i64 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Power {
    On,
    /// Comes up on that system.
    Booting {
        until: Timestamp,
        into: Sys,
    },
    Hung,
    Off,
}

/// What happens at the next boot in the place of what should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mishap {
    Hangs,
    OldSystem,
    Late { secs: i64 },
}

#[derive(Debug, Clone)]
pub struct Machine {
    pub id: IntentId,
    pub name: NodeName,
    pub server: ServerId,
    pub role: Role,
    pub journal: Journal,
    /// As the agent heard it last; it forgets it when it dies.
    pub wish: Wish,
    pub power: Power,
    pub boot: u32,
    pub running: Sys,
    pub default: Sys,
    pub booted: Sys,
    once: Option<Sys>,
    staged: Option<Sys>,
    fetching: Option<(Sys, Timestamp)>,
    /// In a unit of its own, which outlives the agent that began it.
    command: Option<Begun>,
    last: Option<Outcome>,
    pub skew: SignedDuration,
    pub mishap: Option<Mishap>,
    /// The agent dies after so many more things that it does, and with it the machine if `power_cut`.
    pub dies_in: Option<u32>,
    pub power_cut: bool,
    pub agent_dead_until: Timestamp,
    pub kubelet_dead_until: Timestamp,
    pub cut_off_until: Timestamp,
    pub disk_full_until: Timestamp,
    /// The newest k3s minor whose data it holds.
    pub data_minor: u32,
    /// It has something new to report.
    pub dirty: bool,
}

#[derive(Debug, Clone)]
struct Begun {
    command: Command,
    ticket: u64,
    phase: Phase,
    attempt: u32,
    ends: Timestamp,
    /// Its agent is still there.
    watched: bool,
}

/// A command that a machine began, for the checker.
#[derive(Debug, Clone)]
pub struct Did {
    pub command: Command,
    pub ticket: u64,
}

impl Machine {
    pub fn new(
        id: IntentId,
        name: NodeName,
        server: ServerId,
        role: Role,
        runs: Sys,
        systems: &Systems,
    ) -> Self {
        let long_ago = Timestamp::UNIX_EPOCH;
        Self {
            id,
            name,
            server,
            role,
            journal: Journal::default(),
            wish: Wish::default(),
            power: Power::On,
            boot: 1,
            running: runs,
            default: runs,
            booted: runs,
            once: None,
            staged: None,
            fetching: None,
            command: None,
            last: None,
            skew: SignedDuration::ZERO,
            mishap: None,
            dies_in: None,
            power_cut: false,
            agent_dead_until: long_ago,
            kubelet_dead_until: long_ago,
            cut_off_until: long_ago,
            disk_full_until: long_ago,
            data_minor: systems.minor(runs),
            dirty: true,
        }
    }

    pub fn is_on(&self) -> bool {
        self.power == Power::On
    }

    /// Its kubelet, and its etcd member where it is a server.
    pub fn is_well(&self, systems: &Systems, now: Timestamp) -> bool {
        self.is_on() && systems.fate(self.running) != Fate::Sick && now >= self.kubelet_dead_until
    }

    pub fn hears_the_api(&self, now: Timestamp) -> bool {
        self.is_on() && now >= self.cut_off_until && now >= self.agent_dead_until
    }

    /// Nothing is under way on it.
    pub fn rests(&self) -> bool {
        let over = self
            .journal
            .current
            .as_ref()
            .is_none_or(agent::Try::is_over);
        over && self.is_on() && self.command.is_none()
    }

    pub fn clock(&self, now: Timestamp) -> Timestamp {
        now + self.skew
    }

    /// Cuts the power; it comes up on what an ordinary boot starts, or on what was set to be booted once.
    pub fn reset(&mut self, systems: &Systems, now: Timestamp) {
        self.command = None;
        self.reboot(systems, now);
    }

    pub fn power_off(&mut self) {
        self.command = None;
        self.forget();
        self.power = Power::Off;
    }

    pub fn agent_dies(&mut self, until: Timestamp) {
        self.agent_dead_until = until;
        self.forget();
    }

    fn forget(&mut self) {
        self.last = None;
        self.wish = Wish::default();
        if let Some(begun) = &mut self.command {
            begun.watched = false;
        }
    }

    fn reboot(&mut self, systems: &Systems, now: Timestamp) {
        self.forget();
        // A one-shot entry is used up by the boot that reads it.
        let mut into = self.once.take().unwrap_or(self.default);
        let mut secs = BOOT_SECS;
        let mut hangs = systems.fate(into) == Fate::Hangs;
        match self.mishap.take() {
            Some(Mishap::Hangs) => hangs = true,
            Some(Mishap::OldSystem) => into = self.default,
            Some(Mishap::Late { secs: more }) => secs += more,
            None => {}
        }
        if systems.fate(into) == Fate::Panics && into != self.default {
            into = self.default;
            secs += BOOT_SECS;
        }
        self.power = if hangs && (into != self.default || systems.fate(into) != Fate::Hangs) {
            Power::Hung
        } else {
            let until = now + SignedDuration::from_secs(secs);
            Power::Booting { until, into }
        };
    }

    fn start(&mut self, sys: Sys, systems: &Systems) {
        self.running = sys;
        self.data_minor = self.data_minor.max(systems.minor(sys));
        self.dirty = true;
    }

    /// What it does in one step of time.
    pub fn go_on(&mut self, systems: &Systems, now: Timestamp) -> Vec<Did> {
        let mut did = Vec::new();
        if let Power::Booting { until, into } = self.power
            && now >= until
        {
            self.power = Power::On;
            self.boot += 1;
            self.booted = into;
            self.start(into, systems);
        }
        if !self.is_on() {
            return did;
        }
        self.end_command(systems, now);
        if now < self.agent_dead_until {
            return did;
        }
        self.fetch(systems, now);
        for _ in 0..8 {
            if !self.is_on() || self.command.as_ref().is_some_and(|c| c.watched) {
                break;
            }
            match agent::next(&self.journal, &self.facts(systems, now), &self.wish) {
                Do::Wait(_) => break,
                Do::Write(journal) => {
                    if self.dies(systems, now) {
                        break;
                    }
                    self.journal = journal;
                    self.dirty = true;
                }
                Do::Run(journal, command) => {
                    self.journal = journal;
                    self.dirty = true;
                    if self.dies(systems, now) {
                        break;
                    }
                    did.extend(self.begin(command, now));
                }
            }
            if self.dies(systems, now) {
                break;
            }
        }
        did
    }

    /// Whether it dies here, as the schedule has it.
    fn dies(&mut self, systems: &Systems, now: Timestamp) -> bool {
        let Some(left) = self.dies_in else {
            return false;
        };
        if left > 0 {
            self.dies_in = Some(left - 1);
            return false;
        }
        self.dies_in = None;
        if std::mem::take(&mut self.power_cut) {
            self.reset(systems, now);
        } else {
            self.agent_dies(now + SignedDuration::from_secs(20));
        }
        true
    }

    /// A unit of the same name that runs on is waited for, and not begun twice.
    fn begin(&mut self, command: Command, now: Timestamp) -> Option<Did> {
        let current = self.journal.current.as_ref()?;
        if let Some(begun) = &mut self.command
            && begun.command == command
        {
            begun.watched = true;
            begun.attempt = current.attempts;
            return None;
        }
        let secs = match command {
            Command::Switch { .. } | Command::SwitchBack { .. } => SWITCH_SECS,
            _ => 5,
        };
        self.command = Some(Begun {
            command: command.clone(),
            ticket: current.ticket,
            phase: current.phase,
            attempt: current.attempts,
            ends: now + SignedDuration::from_secs(secs),
            watched: true,
        });
        Some(Did {
            command,
            ticket: current.ticket,
        })
    }

    fn end_command(&mut self, systems: &Systems, now: Timestamp) {
        let Some(begun) = self.command.take_if(|c| now >= c.ends) else {
            return;
        };
        self.dirty = true;
        let full = now < self.disk_full_until;
        let mut result = Ok(());
        match &begun.command {
            Command::Switch { to, .. } => {
                let to = systems.find(to);
                match systems.fate(to) {
                    Fate::Panics => result = Err("a unit failed".to_owned()),
                    Fate::Hangs => {
                        self.forget();
                        self.power = Power::Hung;
                        return;
                    }
                    Fate::Well | Fate::Sick => self.start(to, systems),
                }
            }
            Command::BootOnce { .. } | Command::MakeDefault { .. } if full => {
                result = Err("no space left on device".to_owned());
            }
            Command::BootOnce { to, .. } => {
                self.once = Some(systems.find(to));
                self.reboot(systems, now);
                return;
            }
            Command::MakeDefault { system, .. } => self.default = systems.find(system),
            Command::SwitchBack { to } => self.start(systems.find(to), systems),
            Command::RebootBack { .. } => {
                self.once = None;
                self.reboot(systems, now);
                return;
            }
            Command::TidyUp { keep, .. } => {
                self.once = None;
                self.default = systems.find(keep);
            }
        }
        if begun.watched {
            self.last = Some(Outcome {
                ticket: begun.ticket,
                phase: begun.phase,
                attempt: begun.attempt,
                result,
                nothing_ran: false,
            });
        }
    }

    fn fetch(&mut self, systems: &Systems, now: Timestamp) {
        let Some(wanted) = agent::to_fetch(&self.journal, &self.wish).map(|p| systems.find(p))
        else {
            return;
        };
        if self.staged == Some(wanted) {
            return;
        }
        match self.fetching {
            Some((sys, ends)) if sys == wanted => {
                if now >= ends && now >= self.disk_full_until {
                    self.staged = Some(wanted);
                    self.fetching = None;
                    self.dirty = true;
                }
            }
            _ => self.fetching = Some((wanted, now + SignedDuration::from_secs(FETCH_SECS))),
        }
    }

    fn facts(&self, systems: &Systems, now: Timestamp) -> Facts {
        Facts {
            now: self.clock(now),
            boot: self.boot_id(),
            running: systems.path(self.running).clone(),
            default: Ok(systems.path(self.default).clone()),
            booted: systems.path(self.booted).clone(),
            staged: self.staged.map(|sys| Staged {
                system: systems.path(sys).clone(),
                needs: systems.needs(self.booted, self.running, sys),
            }),
            last: self.last.clone(),
        }
    }

    fn boot_id(&self) -> BootId {
        let text = format!("00000000-0000-4000-8000-{:012}", self.boot);
        text.parse().expect("it is a boot id")
    }

    /// All that decides on what it does next.
    pub fn fingerprint(&self, now: Timestamp, into: &mut impl Hasher) {
        match self.power {
            Power::Booting { until, into: sys } => (1, relative(until, now), sys).hash(into),
            Power::On => 2.hash(into),
            Power::Hung => 3.hash(into),
            Power::Off => 4.hash(into),
        }
        (
            self.running,
            self.default,
            self.booted,
            self.once,
            self.staged,
        )
            .hash(into);
        let fetching = self.fetching.map(|(sys, ends)| (sys, relative(ends, now)));
        (fetching, self.dies_in, self.power_cut, self.dirty).hash(into);
        relative(self.agent_dead_until, now).max(0).hash(into);
        let begun = self.command.as_ref();
        begun
            .map(|c| (relative(c.ends, now), c.watched, c.attempt, c.phase as u8))
            .hash(into);
        let last = self.last.as_ref();
        last.map(|l| (l.phase as u8, l.attempt, l.result.is_ok()))
            .hash(into);
        if let Some(current) = &self.journal.current {
            let number = i64::try_from(current.ticket).unwrap_or(i64::MAX);
            (number - now.as_second()).max(-900).hash(into);
            (
                current.phase as u8,
                current.attempts,
                current.keep,
                current.unheard,
            )
                .hash(into);
            relative(current.since, now).max(-60).hash(into);
            relative(current.deadline, now).max(0).hash(into);
            (current.boot == self.boot_id(), current.started_minor).hash(into);
        }
        let order = self.wish.order.as_ref();
        order
            .map(|o| (o.action as u8, o.ticket > self.journal.ticket))
            .hash(into);
    }

    pub fn report(&self, systems: &Systems, now: Timestamp) -> Report {
        agent::report(&self.journal, &self.facts(systems, now))
    }
}
