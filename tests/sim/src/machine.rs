//! A machine with its boot loader and its disk, and the product's own agent on it.

mod command;

use fabrik_core::agent::{self, Command, Do, Facts, Journal, Outcome, Wish};
use fabrik_core::id::{BootId, IntentId, NodeName, ServerId};
use fabrik_core::observed::Role;
use fabrik_core::system::{Report, Retirement, Staged};
use jiff::{SignedDuration, Timestamp};

pub use self::command::Begun;
use crate::systems::{Fate, Sys, Systems};

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
#[allow(
    clippy::struct_excessive_bools,
    reason = "each may be true without the others"
)]
pub struct Machine {
    pub id: IntentId,
    pub name: NodeName,
    pub server: ServerId,
    pub role: Role,
    pub journal: Journal,
    /// As the agent heard it last; it forgets it when it dies.
    pub wish: Wish,
    pub power: Power,
    pub(crate) boots: u32,
    pub boot: BootId,
    pub running: Sys,
    pub default: Sys,
    pub booted: Sys,
    pub(crate) once: Option<Sys>,
    pub(crate) staged: Option<Sys>,
    pub(crate) fetching: Option<(Sys, Timestamp)>,
    /// In a unit of its own, which outlives the agent that began it.
    pub(crate) command: Option<Begun>,
    pub(crate) last: Option<Outcome>,
    pub skew: SignedDuration,
    pub mishap: Option<Mishap>,
    /// The agent dies after so many more things that it does, and with it the machine if `power_cut`.
    pub dies_in: Option<u32>,
    pub power_cut: bool,
    pub agent_dead_until: Timestamp,
    pub kubelet_dead_until: Timestamp,
    pub cut_off_until: Timestamp,
    pub disk_full_until: Timestamp,
    /// Its k3s starts no more: that is on its disk.
    pub retired: bool,
    /// Its k3s is to be stopped as soon as that is known.
    pub stops: bool,
    /// Until when, by its clock.
    pub stops_until: Option<Timestamp>,
    /// k3s does not run on it.
    pub k3s_ended: bool,
    pub stays_learner: bool,
    /// The newest k3s minor whose data it holds.
    pub data_minor: u32,
    /// It has something new to report.
    pub dirty: bool,
    /// At how many places of its last step it could have died.
    pub places_to_die: u32,
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
            boots: 1,
            boot: boot_id(1),
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
            retired: false,
            stops: false,
            stops_until: None,
            k3s_ended: false,
            stays_learner: false,
            data_minor: systems.minor(runs),
            dirty: true,
            places_to_die: 0,
        }
    }

    pub fn is_on(&self) -> bool {
        self.power == Power::On
    }

    /// Its kubelet, and its etcd member where it is a server.
    pub fn is_well(&self, systems: &Systems, now: Timestamp) -> bool {
        let sick = systems.fate(self.running) == Fate::Sick;
        self.is_on() && !sick && now >= self.kubelet_dead_until && !self.k3s_ended
    }

    /// k3s goes with its etcd member.
    pub fn k3s_ends(&mut self) {
        self.k3s_ended = true;
        self.dirty = true;
    }

    /// As its agent obeys it: of this boot, and k3s is stopped when it is known that it starts no more.
    pub fn hears_retirement(&mut self, told: Option<&Retirement>, now: Timestamp) {
        let clock = self.clock(now);
        let told = told.filter(|t| t.boot == self.boot && t.node == self.name);
        if let Some(told) = told.filter(|t| !t.is_late(clock)) {
            self.dirty |= !self.retired;
            self.retired = true;
            self.stops_until = told.stops.then_some(told.not_after).flatten();
            self.stops = told.stops;
        }
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

    /// It runs one system and would boot another, to which it can go back: its agent asks a person to reboot it.
    pub fn is_half_way(&self, systems: &Systems) -> bool {
        let may = self.role == Role::Agent || self.data_minor <= systems.minor(self.default);
        self.running != self.default && may
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
        self.places_to_die = 0;
        if let Power::Booting { until, into } = self.power
            && now >= until
        {
            self.power = Power::On;
            self.boots += 1;
            self.boot = boot_id(self.boots);
            self.booted = into;
            self.k3s_ended = self.retired;
            self.start(into, systems);
        }
        if !self.is_on() {
            return did;
        }
        self.end_command(systems, now);
        if now < self.agent_dead_until {
            return did;
        }
        let may_stop = self
            .stops_until
            .is_none_or(|until| self.clock(now) <= until);
        if self.retired && self.stops && may_stop && !self.dirty {
            self.k3s_ended = true;
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
        self.places_to_die += 1;
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
            boot: self.boot.clone(),
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

    pub fn report(&self, systems: &Systems, now: Timestamp) -> Report {
        Report {
            retired: self.retired,
            ..agent::report(&self.journal, &self.facts(systems, now))
        }
    }
}

fn boot_id(number: u32) -> BootId {
    let text = format!("00000000-0000-4000-8000-{number:012}");
    text.parse().expect("it is a boot id")
}
