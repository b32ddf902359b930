//! A machine, its disk and its agent, in memory: commands take steps, and it may crash between any two of them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use fabrik_core::agent::{
    Command, Do, Facts, Journal, Objection, Outcome, Wish, next, report, to_fetch,
};
use fabrik_core::id::{BootId, StorePath};
use fabrik_core::names::SERVERS_POOL;
use fabrik_core::system::{Action, Needs, Order, Phase, Publication, Report, Staged, System};
use jiff::{SignedDuration, Timestamp};

pub const OLD: &str = "old";
pub const NEW: &str = "new";
pub const OTHER: &str = "other";
pub const SECONDS: u32 = 900;
pub const UNREADABLE: &str = "loader.conf: the default is `nixos-*`";

pub fn path(name: &str) -> StorePath {
    format!("/nix/store/{}-{name}", "a".repeat(32))
        .parse()
        .unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Well,
    /// The activation fails when the new system runs already.
    FailsLate,
    /// It fails before that.
    FailsEarly,
    /// It does not come up when it is booted.
    Panics,
    /// The menu that it writes can't be read.
    BadMenu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    Agent,
    PowerCut,
}

#[allow(
    clippy::struct_excessive_bools,
    reason = "each may be true without the others"
)]
pub struct Machine {
    pub journal: Journal,
    pub wish: Wish,
    pub fate: Fate,
    /// The crash, and after how many more steps it comes.
    pub crashes: Vec<(u32, Crash)>,
    pub now: Timestamp,
    pub boot: u32,
    pub running: StorePath,
    pub default: StorePath,
    pub booted: StorePath,
    /// The boot loader's files do not say what the default is.
    pub unreadable: bool,
    once: Option<StorePath>,
    /// Units run as the running system has them.
    pub whole: bool,
    pub fetched: Option<StorePath>,
    pub needs: Needs,
    pub last: Option<Outcome>,
    pub commands: Vec<Command>,
    /// From which phase to which one it went.
    pub phases: BTreeSet<(Phase, Phase)>,
    /// When each attempt was begun.
    pub begun: Vec<Timestamp>,
    /// So many commands fail as soon as they are begun.
    pub refuses: u32,
    /// The new minor's k3s has run, and the server's data are its own.
    pub new_minor_ran: bool,
    /// And the agent could know of it.
    pub seen_to_run: bool,
}

/// It crashed on the way.
pub struct Crashed;

impl Machine {
    pub fn new(needs: Needs) -> Self {
        Self {
            journal: Journal::default(),
            wish: Wish::default(),
            fate: Fate::Well,
            crashes: Vec::new(),
            now: Timestamp::from_second(1_000_000).unwrap(),
            boot: 1,
            running: path(OLD),
            default: path(OLD),
            booted: path(OLD),
            unreadable: false,
            once: None,
            whole: true,
            fetched: None,
            needs,
            last: None,
            commands: Vec::new(),
            phases: BTreeSet::new(),
            begun: Vec::new(),
            refuses: 0,
            new_minor_ran: false,
            seen_to_run: false,
        }
    }

    pub fn publish(&mut self, sequence: u64, pool: &str, system: &str) {
        self.wish.publication = Some(Publication {
            schema: Publication::SCHEMA,
            cluster: "abcdefgh01234567".parse().unwrap(),
            pool: pool.parse().unwrap(),
            commit: "2f3a".repeat(10).parse().unwrap(),
            sequence,
            systems: vec![System {
                output: path(system),
                derivation: path("x.drv"),
                kubernetes: "1.36.3+k3s1".parse().unwrap(),
            }],
        });
        self.wish.aim = Some(path(system));
    }

    pub fn order(&mut self, ticket: u64, system: &str, action: Action, minor: bool) {
        self.wish.order = Some(Order {
            ticket,
            system: path(system),
            needs: self.needs,
            minor,
            action,
            seconds: SECONDS,
            not_after: None,
        });
    }

    pub fn act(&mut self, action: Action) {
        self.wish.order.as_mut().unwrap().action = action;
    }

    /// With the new system published, fetched and ordered.
    pub fn ordered(needs: Needs, pool: &str, minor: bool) -> Self {
        let mut machine = Self::new(needs);
        machine.publish(1, pool, NEW);
        machine.order(1, NEW, Action::Try, minor);
        machine.fetched = Some(path(NEW));
        machine
    }

    pub fn facts(&self) -> Facts {
        let staged = self.fetched.clone().map(|system| Staged {
            needs: if system == self.running {
                Needs::Nothing
            } else {
                self.needs
            },
            system,
        });
        Facts {
            now: self.now,
            boot: boot_id(self.boot),
            running: self.running.clone(),
            default: if self.unreadable {
                Err(UNREADABLE.to_owned())
            } else {
                Ok(self.default.clone())
            },
            booted: self.booted.clone(),
            staged,
            last: self.last.clone(),
        }
    }

    pub fn report(&self) -> Report {
        report(&self.journal, &self.facts())
    }

    pub fn phase(&self) -> Option<Phase> {
        self.journal.current.as_ref().map(|t| t.phase)
    }

    pub fn to_fetch(&self) -> Option<StorePath> {
        to_fetch(&self.journal, &self.wish).cloned()
    }

    pub fn objection(&self) -> Option<Objection> {
        self.journal.objection(self.wish.publication.as_ref()?)
    }

    /// Goes on until there is nothing to do but to wait for a word or a deadline.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            if let ControlFlow::Break(until) = self.go_on() {
                let Some(pause) = until.filter(|until| self.is_pause(*until)) else {
                    return;
                };
                self.now = pause;
            }
        }
        panic!("it does not come to rest: {:?}", self.journal);
    }

    /// The next thing; until when it waits, where that is the next thing.
    pub fn go_on(&mut self) -> ControlFlow<Option<Timestamp>> {
        match next(&self.journal, &self.facts(), &self.wish) {
            Do::Wait(until) => {
                assert!(until.is_none_or(|u| u > self.now), "it waits for the past");
                return ControlFlow::Break(until);
            }
            Do::Write(journal) => {
                assert_ne!(journal, self.journal, "it writes what is written");
                let _ = self.write(journal);
            }
            Do::Run(journal, command) => {
                self.begun.push(self.now);
                if self.write(journal).is_ok() {
                    let _ = self.run(command);
                }
            }
        }
        self.check();
        ControlFlow::Continue(())
    }

    /// Between two attempts.
    fn is_pause(&self, until: Timestamp) -> bool {
        let current = self.journal.current.as_ref().unwrap();
        let last_word = current.phase == Phase::Applying && until == current.deadline;
        current.attempts > 0 && !last_word
    }

    pub fn wait_until_deadline(&mut self) {
        let deadline = self.journal.current.as_ref().unwrap().deadline;
        self.now = self.now.max(deadline);
        self.settle();
    }

    pub fn seconds_pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    pub fn power_cut(&mut self) {
        self.last = None;
        self.reboot();
    }

    fn write(&mut self, journal: Journal) -> Result<(), Crashed> {
        self.step()?;
        assert!(journal.ticket >= self.journal.ticket);
        assert!(journal.sequence >= self.journal.sequence);
        if let (Some(before), Some(now)) = (&self.journal.current, &journal.current)
            && before.ticket == now.ticket
            && before.phase != now.phase
        {
            let way = (before.phase, now.phase);
            assert!(way.0.next().contains(&way.1), "{way:?} is not in the table");
            self.phases.insert(way);
        }
        self.journal = journal;
        self.seen_to_run |= self.phase() == Some(Phase::Trying) && self.running == path(NEW);
        self.step()
    }

    fn run(&mut self, command: Command) -> Result<(), Crashed> {
        let (ticket, phase, attempt) = {
            let current = self.journal.current.as_ref().unwrap();
            (current.ticket, current.phase, current.attempts)
        };
        self.commands.push(command.clone());
        self.check_command(&command);
        let nothing_ran = self.refuses > 0;
        let result = self.carry_out(command)?;
        self.last = Some(Outcome {
            ticket,
            phase,
            attempt,
            result,
            nothing_ran,
        });
        self.step()
    }

    fn carry_out(&mut self, command: Command) -> Result<Result<(), String>, Crashed> {
        let is_new = |system: &StorePath| *system == path(NEW);
        self.step()?;
        if self.refuses > 0 {
            self.refuses -= 1;
            return Ok(Err("the bus is gone".to_owned()));
        }
        match command {
            Command::Switch { to, .. } if self.fate == Fate::FailsEarly && is_new(&to) => {
                self.whole = false;
                return Ok(Err("it failed early".to_owned()));
            }
            Command::Switch { to, .. } => {
                self.seen_to_run |= is_new(&to);
                self.start(to);
                self.step()?;
                if self.fate == Fate::FailsLate {
                    return Ok(Err("some units failed".to_owned()));
                }
            }
            Command::BootOnce { to, .. } if self.fate == Fate::FailsEarly && is_new(&to) => {
                return Ok(Err("/boot is full".to_owned()));
            }
            Command::BootOnce { from, to, .. } => {
                self.write_menu(from);
                self.step()?;
                self.once = Some(to);
                self.step()?;
                self.power_cut();
                return Err(Crashed);
            }
            Command::MakeDefault { system, booted } => {
                assert!(!booted || self.booted == system);
                self.write_menu(system);
                self.step()?;
                if self.unreadable {
                    return Ok(Err(UNREADABLE.to_owned()));
                }
            }
            Command::SwitchBack { to } => {
                self.start(to);
                self.step()?;
            }
            Command::RebootBack { to, .. } => {
                self.once = None;
                self.step()?;
                self.write_menu(to);
                self.step()?;
                self.power_cut();
                return Err(Crashed);
            }
            Command::TidyUp { keep, .. } => {
                self.once = None;
                self.step()?;
                self.write_menu(keep);
                self.step()?;
            }
        }
        Ok(Ok(()))
    }

    /// As the installation of `system` does, which makes that the default.
    fn write_menu(&mut self, system: StorePath) {
        self.unreadable = self.fate == Fate::BadMenu && system == path(NEW);
        self.default = system;
    }

    fn start(&mut self, system: StorePath) {
        self.new_minor_ran |= system == path(NEW);
        self.running = system;
        self.whole = true;
    }

    fn reboot(&mut self) {
        self.boot += 1;
        let mut starts = self.once.take().unwrap_or_else(|| self.default.clone());
        if starts == path(NEW) && self.fate == Fate::Panics {
            self.boot += 1;
            starts = self.default.clone();
        }
        self.booted = starts.clone();
        self.start(starts);
    }

    /// One thing that a crash may come after.
    fn step(&mut self) -> Result<(), Crashed> {
        let Some((left, crash)) = self.crashes.last_mut() else {
            return Ok(());
        };
        if *left > 0 {
            *left -= 1;
            return Ok(());
        }
        let crash = *crash;
        self.crashes.pop();
        self.last = None;
        if crash == Crash::PowerCut {
            self.reboot();
        }
        Err(Crashed)
    }

    fn check(&self) {
        let current = self.journal.current.as_ref();
        let is_keep = |c: &Command| matches!(c, Command::MakeDefault { .. });
        let keep = self.commands.iter().any(is_keep);
        // Where a server can't be taken back to its default, its fix must not fall back to that either.
        let fix = current.is_some_and(|t| t.stuck && !t.is_over() && t.from == self.default);
        assert!(
            keep || fix || self.default == path(OLD),
            "the old system is the default until the new one is kept"
        );
        assert!(self.commands.len() <= 11, "{:?}", self.commands);
    }

    fn check_command(&self, command: &Command) {
        let current = self.journal.current.as_ref().unwrap();
        match command {
            Command::Switch { .. } | Command::BootOnce { .. } => {
                assert_eq!(current.phase, Phase::Applying);
                assert_eq!(current.started_minor, current.minor, "noted before");
            }
            Command::SwitchBack { .. } | Command::RebootBack { .. } => {
                let bound = current.minor && self.is_server();
                assert!(
                    !bound || self.running != path(NEW),
                    "a server never leaves a minor that runs"
                );
            }
            Command::MakeDefault { .. } | Command::TidyUp { .. } => {}
        }
    }

    fn is_server(&self) -> bool {
        let pool = self.journal.pool.as_ref();
        pool.is_some_and(|p| p.as_str() == SERVERS_POOL)
    }
}

pub fn boot_id(number: u32) -> BootId {
    format!("00000000-0000-4000-8000-{number:012}")
        .parse()
        .unwrap()
}
