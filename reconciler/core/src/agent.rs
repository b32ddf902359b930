//! What a node does about the order it was given: accepts it, tries the system, keeps it or goes back.
//!
//! `next` is asked again after each thing that was done, and after each start: what it says follows from the journal
//! and from what the machine shows, so a crash at any point loses nothing (S11). A command is begun only when the
//! journal that says so is on the disk, and each may be begun again.

mod journal;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::journal::{Journal, JournalError, Objection, Try};
use crate::id::{BootId, StorePath};
use crate::system::{Action, Activity, Needs, Order, Phase, Publication, Report, Staged};

/// How often a command is begun that does not end, or ends without success, before it is given up.
pub const MAX_ATTEMPTS: u32 = 3;
/// Going back is worth more attempts: a reboot and what it leaves to be tidied up are two.
pub const MAX_ATTEMPTS_BACK: u32 = 5;
/// From the beginning of the first attempt to that of the second, and twice as long for each one more: what is in the
/// way for a moment must not use them up.
pub const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(2);
/// How long an order may be ahead of the publication of its system. They are written one after the other.
pub const UNPUBLISHED_SECS: i64 = 60;

const UNHEARD: &str = "nobody said in time that it is well";
const BOUND: &str = "it has started another k3s minor, or may have, and a server is not taken back from that by itself";

/// What the leader wants of this node, as far as it was heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Its signature and its cluster are verified.
    pub publication: Option<Publication>,
    pub aim: Option<StorePath>,
    pub order: Option<Order>,
}

/// What the machine shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub now: Timestamp,
    pub boot: BootId,
    /// `/run/current-system`.
    pub running: StorePath,
    /// What an ordinary boot would start, or why that can't be told.
    pub default: Result<StorePath, String>,
    /// `/run/booted-system`.
    pub booted: StorePath,
    /// The system that was fetched last, whole and kept from collection.
    pub staged: Option<Staged>,
    /// How the last command ended that was begun since the agent started.
    pub last: Option<Outcome>,
}

/// How a command ended, and which one it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub ticket: u64,
    pub phase: Phase,
    pub attempt: u32,
    /// The error in words for people.
    pub result: Result<(), String>,
    /// It failed before anything was done to what runs, so that says nothing of the new system.
    #[serde(default)]
    pub nothing_ran: bool,
}

/// What is to be done now. Then `next` is asked again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Bring the journal to the disk.
    Write(Journal),
    /// Bring the journal to the disk, then carry out the command.
    Run(Journal, Command),
    /// Nothing, before that time or before something changes.
    Wait(Option<Timestamp>),
}

/// Each may be begun again after a crash at any point of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Run the system now, without making it the default. Given up at the deadline.
    Switch { to: StorePath, deadline: Timestamp },
    /// Boot it once, now; `from` stays the default. Not begun any more after the deadline, if it has one: an older agent
    /// wrote none.
    BootOnce {
        from: StorePath,
        to: StorePath,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
    },
    /// Make the running system the default.
    MakeDefault {
        system: StorePath,
        /// It was booted once.
        booted: bool,
    },
    /// Run the old system again, which never ceased to be the default.
    SwitchBack { to: StorePath },
    /// Take the new system out of the boot menu and boot the old one.
    RebootBack { to: StorePath, from: StorePath },
    /// The old system runs: take the new one out of the boot menu, and make sure that the default is what it was.
    TidyUp { keep: StorePath, drop: StorePath },
}

/// The next thing to do.
pub fn next(journal: &Journal, facts: &Facts, wish: &Wish) -> Do {
    if let Some(publication) = &wish.publication {
        let newer = publication.sequence > journal.sequence || journal.pool.is_none();
        if newer && journal.objection(publication).is_none() {
            return Do::Write(journal.accept(publication));
        }
    }
    let agent = Agent {
        journal,
        facts,
        wish,
    };
    match (&journal.current, agent.new_order()) {
        (Some(current), Some(order)) if agent.gives_way(current, order) => agent.accept(order),
        (Some(current), order) => {
            let replaced = order.is_some_and(|o| agent.is_allowed(&o.system));
            agent.go_on(current, replaced)
        }
        (None, Some(order)) => agent.accept(order),
        (None, None) => Do::Wait(None),
    }
}

/// The system that is to be fetched, if any: that of the order on its way, else the aim. Only what is published. One
/// that is on trial is there already, and a node that can't go back from it must be able to fetch the fix.
pub fn to_fetch<'a>(journal: &'a Journal, wish: &'a Wish) -> Option<&'a StorePath> {
    let open = journal.current.as_ref();
    let open = open.filter(|t| !t.is_over() && t.phase != Phase::Trying);
    let wanted = open.map(|t| &t.system).or(wish.aim.as_ref())?;
    let allowed = journal.allowed(wish.publication.as_ref());
    allowed.contains(&wanted).then_some(wanted)
}

/// What the node says of itself.
pub fn report(journal: &Journal, facts: &Facts) -> Report {
    Report {
        schema: Report::SCHEMA,
        boot: facts.boot.clone(),
        running: facts.running.clone(),
        default: facts.default.clone().ok(),
        staged: facts.staged.clone(),
        activity: journal.current.as_ref().map(|t| Activity {
            ticket: t.ticket,
            phase: t.phase,
            since: t.since,
            started_minor: t.started_minor,
            unheard: t.unheard,
            message: t.message.clone(),
        }),
        // What comes of secrets is beside the journal: its keeper adds it.
        recipient: None,
        secrets: None,
        retired: false,
    }
}

struct Agent<'a> {
    journal: &'a Journal,
    facts: &'a Facts,
    wish: &'a Wish,
}

impl<'a> Agent<'a> {
    /// An order that was not obeyed yet, and is not the one that ended for want of a publication.
    fn new_order(&self) -> Option<&'a Order> {
        let current = self.journal.current.as_ref().map(|t| t.ticket);
        let order = self.wish.order.as_ref();
        order.filter(|o| o.ticket > self.journal.ticket && Some(o.ticket) != current)
    }

    /// Whether a new order may take the place of this one.
    fn gives_way(&self, current: &Try, order: &Order) -> bool {
        match current.phase {
            Phase::Accepted | Phase::Kept | Phase::WentBack | Phase::Failed => true,
            Phase::Trying => {
                !current.keep && !self.may_go_back(current) && self.is_allowed(&order.system)
            }
            Phase::Applying | Phase::GoingBack => false,
        }
    }

    fn accept(&self, order: &Order) -> Do {
        let Facts {
            running, default, ..
        } = self.facts;
        let (runs_it, stuck) = (*running == order.system, self.is_stuck());
        let accepted = Try {
            stuck: stuck && !runs_it,
            started_minor: runs_it && (order.minor || stuck),
            ..Try::of(order, self.facts)
        };
        let tries = order.action == Action::Try && !runs_it;
        let late = order.not_after.is_some_and(|until| self.facts.now > until);
        let refused = match default {
            _ if tries && late => Some("the order to try it came too late".to_owned()),
            // S9: to go back to it would make it the default in the end, and it was never said to be well.
            Ok(default) if running != default && !runs_it && !stuck => Some(format!(
                "it runs {running} and would boot {default}: somebody has changed the one without the other, or a try \
                 has ended half-way. Reboot it, or make what runs its default (nixos-rebuild boot --no-reexec \
                 --store-path {running})"
            )),
            Err(why) if order.needs == Needs::Reboot => Some(format!(
                "what it would boot can't be told, so it could not be gone back to: {why}"
            )),
            Ok(_) | Err(_) => None,
        };
        match refused {
            Some(why) => self.lapse(&accepted, Phase::WentBack, &why),
            None => self.write(accepted),
        }
    }

    fn boots(&self, system: &StorePath) -> bool {
        self.facts.default.as_ref() == Ok(system)
    }

    /// A server runs what it can't be taken back from, and nobody has said `Keep`: only another order helps it.
    fn is_stuck(&self) -> bool {
        let running = &self.facts.running;
        let last = self.journal.current.as_ref();
        let last = last.filter(|t| self.journal.is_server() && t.phase != Phase::Kept);
        last.is_some_and(|t| match (*running == t.system, *running == t.from) {
            (true, _) => t.started_minor || t.stuck,
            (_, true) => t.stuck,
            _ => false,
        })
    }

    fn go_on(&self, current: &Try, replaced: bool) -> Do {
        match current.phase {
            Phase::Accepted => self.accepted(current),
            Phase::Applying => self.applying(current),
            Phase::Trying => self.trying(current, replaced),
            Phase::GoingBack => self.going_back(current),
            Phase::Kept | Phase::WentBack | Phase::Failed => Do::Wait(None),
        }
    }

    /// What the leader says about `current` at this moment.
    fn action(&self, current: &Try) -> Option<Action> {
        let order = self.wish.order.as_ref();
        let order = order.filter(|o| o.ticket == current.ticket && o.system == current.system);
        order.map(|o| o.action)
    }

    /// Nothing has happened yet, so whatever is in the way ends it.
    fn accepted(&self, current: &Try) -> Do {
        let (facts, system) = (self.facts, &current.system);
        let back = |why: &str| self.enter(current, Phase::WentBack, why);
        let runs_already =
            facts.running == *system && (facts.booted == *system || current.needs < Needs::Reboot);
        if runs_already && self.is_allowed(&current.system) {
            return self.enter(current, Phase::Trying, "");
        }
        if runs_already {
            return self.wait_for_publication(current);
        }
        match self.action(current) {
            Some(Action::GoBack) => return back("as ordered, before it was tried"),
            Some(Action::Keep) => return back("it was never tried, so it can't be kept"),
            _ if facts.now >= current.deadline => {
                let why = "its time was over before the system was fetched";
                return self.lapse(current, Phase::WentBack, why);
            }
            // Without a word of the leader nothing is begun.
            None => return Do::Wait(Some(current.deadline)),
            Some(Action::Try) => {}
        }
        if !self.is_allowed(&current.system) {
            return self.wait_for_publication(current);
        }
        let as_before = |default: &StorePath| facts.default.is_err() || self.boots(default);
        if facts.running != current.from || !current.fallback().is_none_or(as_before) {
            let why = "what it runs or would boot has changed since the order came";
            return self.lapse(current, Phase::WentBack, why);
        }
        match facts.staged.as_ref().filter(|s| s.system == *system) {
            None => Do::Wait(Some(current.deadline)),
            Some(staged) if staged.needs > current.needs => {
                let why = "by now it takes more than it was prepared for";
                self.lapse(current, Phase::WentBack, why)
            }
            Some(_) => self.apply(&Try {
                boot: facts.boot.clone(),
                ..current.enter(Phase::Applying, facts.now, "")
            }),
        }
    }

    fn is_allowed(&self, system: &StorePath) -> bool {
        let allowed = self.journal.allowed(self.wish.publication.as_ref());
        allowed.contains(&system)
    }

    fn wait_for_publication(&self, current: &Try) -> Do {
        let until = current.since + SignedDuration::from_secs(UNPUBLISHED_SECS);
        let until = until.min(current.deadline);
        if self.facts.now < until {
            return Do::Wait(Some(until));
        }
        let why = "the newest publication does not have the system";
        if self.facts.running == current.system {
            self.leave(current, why)
        } else {
            self.lapse(current, Phase::WentBack, why)
        }
    }

    fn apply(&self, current: &Try) -> Do {
        let (to, from) = (current.system.clone(), current.from.clone());
        let command = match current.needs {
            Needs::Reboot => Command::BootOnce {
                from,
                to,
                deadline: Some(current.deadline),
            },
            Needs::Nothing | Needs::Switch | Needs::Drain => Command::Switch {
                to,
                deadline: current.deadline,
            },
        };
        let noted = Try {
            started_minor: current.started_minor || current.minor,
            ..current.clone()
        };
        self.run(&noted, command)
    }

    fn applying(&self, current: &Try) -> Do {
        let facts = self.facts;
        let rebooted = facts.boot != current.boot;
        if rebooted {
            return if facts.running == current.system {
                self.enter(current, Phase::Trying, "")
            } else if facts.running == current.from {
                self.came_up_on_old(current)
            } else {
                self.astray(current)
            };
        }
        match self.outcome(current) {
            Some(Ok(())) if current.needs == Needs::Reboot => {
                self.leave(current, "the machine did not go down for its reboot")
            }
            Some(Ok(())) if facts.running == current.system => {
                self.enter(current, Phase::Trying, "")
            }
            Some(Ok(())) => self.leave(current, "it was activated, and another system runs"),
            Some(Err(why)) if self.nothing_ran(current) => {
                self.lapse(current, Phase::GoingBack, why)
            }
            Some(Err(why)) => self.leave(current, why),
            // Begun by an agent that did not see its end.
            None if facts.now >= current.deadline => {
                self.leave(current, "its time was over before it was activated")
            }
            None if current.attempts >= MAX_ATTEMPTS => self.leave(
                current,
                "its activation was begun again and again and did not end",
            ),
            // Nor is it begun again without a word of the leader.
            None => match self.action(current) {
                Some(Action::Try) => self.apply(current),
                Some(Action::GoBack) => self.leave(current, "as ordered"),
                Some(Action::Keep) | None => Do::Wait(Some(current.deadline)),
            },
        }
    }

    /// Of the activation that was begun, whose outcome is there. What takes a reboot has not run before one.
    fn nothing_ran(&self, current: &Try) -> bool {
        let last = self.facts.last.as_ref();
        let first = current.attempts == 1 || current.needs == Needs::Reboot;
        let is_on_old = self.facts.running == current.from;
        first && is_on_old && last.is_some_and(|last| last.nothing_ran)
    }

    fn trying(&self, current: &Try, replaced: bool) -> Do {
        let facts = self.facts;
        if facts.running == current.from && facts.running != current.system {
            return self.came_up_on_old(current);
        }
        if facts.running != current.system {
            return self.astray(current);
        }
        let action = self.action(current);
        if current.keep || action == Some(Action::Keep) {
            return self.keep(current);
        }
        let leave = match action {
            Some(Action::GoBack) => Some("as ordered"),
            _ if replaced => Some("another order has come"),
            _ if facts.now >= current.deadline => Some(UNHEARD),
            _ => None,
        };
        match leave {
            None => Do::Wait(Some(current.deadline)),
            Some(UNHEARD) if self.may_go_back(current) => {
                self.lapse(current, Phase::GoingBack, UNHEARD)
            }
            Some(why) if self.may_go_back(current) => self.enter(current, Phase::GoingBack, why),
            Some(_) if !current.message.is_empty() => Do::Wait(None),
            Some(why) => self.write(Try {
                message: format!("{why}; but {BOUND}"),
                ..current.clone()
            }),
        }
    }

    fn keep(&self, current: &Try) -> Do {
        let begun = Try {
            attempts: if current.keep { current.attempts } else { 0 },
            keep: true,
            ..current.clone()
        };
        let command = Command::MakeDefault {
            system: current.system.clone(),
            booted: current.needs == Needs::Reboot,
        };
        if !current.keep {
            return self.run(&begun, command);
        }
        match self.outcome(current) {
            Some(Ok(())) if self.boots(&current.system) => self.enter(current, Phase::Kept, ""),
            other if current.attempts >= MAX_ATTEMPTS => {
                let why: &str = match (other, &self.facts.default) {
                    (Some(Err(why)), _) => why,
                    (None, _) => "it was begun again and again and did not end",
                    (Some(Ok(())), Err(why)) => why,
                    (Some(Ok(())), Ok(_)) => "another system is still the default",
                };
                let told = format!("it can't be made the default: {why}");
                self.enter(current, Phase::Failed, told)
            }
            _ => self.run(&begun, command),
        }
    }

    fn going_back(&self, current: &Try) -> Do {
        let facts = self.facts;
        let on_old = facts.running == current.from;
        let outcome = self.outcome(current);
        // It was, when this began; an activation that was not at its end has gone on.
        if !self.may_go_back(current) {
            let told = format!("{}; but {BOUND}", current.message);
            return self.enter(current, Phase::Failed, told);
        }
        let fallback = current.fallback();
        let as_before = fallback.is_none_or(|default| self.boots(default));
        if on_old && as_before && outcome == Some(Ok(())) {
            let back = current.enter(Phase::WentBack, facts.now, current.message.clone());
            return self.write(Try {
                // It was about to, and has not.
                started_minor: current.started_minor && current.ran,
                ..back
            });
        }
        if current.attempts >= MAX_ATTEMPTS_BACK {
            let why: &str = match (outcome, &facts.default) {
                (Some(Err(why)), _) => why,
                _ if !on_old => "the old system does not come up",
                (_, Err(why)) => why,
                (_, Ok(_)) => "the default is not what it was",
            };
            let told = format!("{}; it can't go back: {why}", current.message);
            return self.enter(current, Phase::Failed, told);
        }
        let (old, new) = (current.from.clone(), current.system.clone());
        // It may have been stopped half-way: units are as the old system has them when that has said so, or has booted.
        let booted = current.needs == Needs::Reboot || facts.boot != current.boot;
        let command = match fallback.cloned() {
            Some(keep) if on_old && (booted || outcome == Some(Ok(()))) => {
                Command::TidyUp { keep, drop: new }
            }
            _ if current.needs == Needs::Reboot => Command::RebootBack { to: old, from: new },
            _ => Command::SwitchBack { to: old },
        };
        self.run(current, command)
    }

    /// Gives it up, where that is allowed.
    fn leave(&self, current: &Try, why: &str) -> Do {
        if self.may_go_back(current) {
            self.enter(current, Phase::GoingBack, why)
        } else {
            self.enter(current, Phase::Failed, format!("{why}; but {BOUND}"))
        }
    }

    /// A reboot has put the old system back. The boot loader asks nobody whether it may (S4).
    fn came_up_on_old(&self, current: &Try) -> Do {
        let bound = self.journal.is_server() && current.started_minor;
        // An activation starts the new k3s before it ends; of a boot that failed nothing was seen.
        if bound && (current.ran || current.needs != Needs::Reboot) {
            let has_run = if current.ran {
                "had run"
            } else {
                "may have run"
            };
            let told = format!(
                "the machine came up on the old k3s after the newer one {has_run}, whose data it has: nothing was gone \
                 back from. Order the newer system again, or restore the snapshot from before it"
            );
            return self.enter(current, Phase::Failed, told);
        }
        let why = "the machine came up on the old system";
        self.enter(current, Phase::GoingBack, why)
    }

    /// S4: a server's data are the newer minor's once that has started. What has not replaced the old system has not
    /// started anything.
    fn may_go_back(&self, current: &Try) -> bool {
        let started = self.journal.is_server() && current.started_minor;
        !started || self.facts.running == current.from
    }

    /// Somebody else has put another system there: whose it is, only a person knows.
    fn astray(&self, current: &Try) -> Do {
        let told = format!("it runs {}, which nobody ordered", self.facts.running);
        self.enter(current, Phase::Failed, told)
    }

    fn outcome(&self, current: &Try) -> Option<Result<(), &'a str>> {
        let last = self.facts.last.as_ref()?;
        let same = last.ticket == current.ticket
            && last.phase == current.phase
            && last.attempt == current.attempts;
        same.then(|| last.result.as_ref().map(|&()| ()).map_err(String::as_str))
    }

    fn run(&self, current: &Try, command: Command) -> Do {
        let now = self.facts.now;
        if let Some(until) = self.pause(current) {
            return Do::Wait(Some(until));
        }
        let begun = Try {
            attempts: current.attempts + 1,
            begun: Some(now),
            ..current.clone()
        };
        Do::Run(self.noted(begun), command)
    }

    /// Until when the next attempt has to wait, if it has to.
    fn pause(&self, current: &Try) -> Option<Timestamp> {
        let now = self.facts.now;
        let doublings = current.attempts.checked_sub(1)?;
        // What has ended well is followed by the next step at once, and a clock that was put back says nothing.
        let begun = current.begun.filter(|begun| *begun <= now)?;
        let length = FIRST_PAUSE * 2_i32.saturating_pow(doublings);
        let until = begun.saturating_add(length).unwrap_or(Timestamp::MAX);
        (now < until && self.outcome(current) != Some(Ok(()))).then_some(until)
    }

    fn enter(&self, current: &Try, phase: Phase, message: impl Into<String>) -> Do {
        self.write(current.enter(phase, self.facts.now, message))
    }

    /// It ends, and that says nothing of the system.
    fn lapse(&self, current: &Try, phase: Phase, why: &str) -> Do {
        self.write(Try {
            unheard: true,
            ..current.enter(phase, self.facts.now, why)
        })
    }

    /// What nobody has published uses up no number: else one order with the highest there is would be the last.
    fn noted(&self, current: Try) -> Journal {
        let ticket = if self.is_allowed(&current.system) {
            self.journal.ticket.max(current.ticket)
        } else {
            self.journal.ticket
        };
        self.journal.with(ticket, current)
    }

    fn write(&self, current: Try) -> Do {
        Do::Write(self.noted(current))
    }
}
