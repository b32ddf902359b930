//! What `fabrik agent` and a boot loader do, in memory.

use fabrik_core::id::BootId;
use fabrik_core::observed::NodeSystem;
use fabrik_core::system::{Action, Activity, Needs, Order, Phase, Report, Staged};
use jiff::{SignedDuration, Timestamp};

use super::world::{APPLY_TICKS, Fate, path};

#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one thing that can be true of a machine"
)]
pub struct Machine {
    pub running: String,
    pub default: String,
    pub boot: u32,
    /// The order it obeyed last, and what it does for it.
    pub seen: u64,
    pub phase: Option<(u64, Phase)>,
    pub busy: u32,
    pub started_minor: bool,
    /// When it goes back by itself.
    pub until: Timestamp,
    pub hangs: bool,
    /// The old system, while it tries a new one.
    pub from: String,
    /// It went back because its time was over.
    pub unheard: bool,
    /// It runs one system and would boot another: its agent obeys no order.
    pub refuses: bool,
    pub since: Timestamp,
}

impl Machine {
    /// What the agent does in a tick: it obeys an order once, and goes back by itself when its time is over.
    pub fn go_on(&mut self, order: &Order, system: &str, fate: Fate, needs: Needs, now: Timestamp) {
        if self.hangs {
            return;
        }
        if self.busy > 0 {
            self.busy -= 1;
            return;
        }
        if self.seen < order.ticket {
            self.seen = order.ticket;
            self.until = now + SignedDuration::from_secs(order.seconds.into());
            self.from = self.running.clone();
            self.unheard = self.refuses;
            if self.refuses {
                return self.enter(order.ticket, Phase::WentBack, now);
            }
            self.enter(order.ticket, Phase::Applying, now);
            self.apply(system, fate, needs);
            return;
        }
        let Some((ticket, phase)) = self.phase else {
            return;
        };
        match (phase, order.action) {
            // The order was tried and something else runs: the boot loader came back to the default.
            (Phase::Applying, _) if self.running != system => {
                self.enter(ticket, Phase::WentBack, now);
            }
            (Phase::Applying, _) => self.enter(ticket, Phase::Trying, now),
            (Phase::Trying, Action::Keep) => {
                system.clone_into(&mut self.default);
                self.enter(ticket, Phase::Kept, now);
            }
            (Phase::Trying, Action::GoBack) => self.go_back(ticket, now),
            (Phase::Trying, Action::Try) if now > self.until && !self.started_minor => {
                self.go_back(ticket, now);
                self.unheard = true;
            }
            _ => {}
        }
    }

    fn enter(&mut self, ticket: u64, phase: Phase, now: Timestamp) {
        self.phase = Some((ticket, phase));
        self.since = now;
    }

    fn apply(&mut self, system: &str, fate: Fate, needs: Needs) {
        self.busy = APPLY_TICKS;
        if needs == Needs::Reboot {
            self.boot += 1;
        }
        match fate {
            Fate::Panics => self.boot += 1,
            Fate::Hangs => self.hangs = true,
            Fate::Well | Fate::Sick => system.clone_into(&mut self.running),
        }
    }

    /// It comes up on its default, and its agent says that it is back.
    pub fn loses_its_power(&mut self, now: Timestamp) {
        self.running = self.default.clone();
        self.boot += 1;
        self.busy = APPLY_TICKS;
        if let Some((ticket, _)) = self.phase {
            self.enter(ticket, Phase::WentBack, now);
        }
    }

    fn go_back(&mut self, ticket: u64, now: Timestamp) {
        self.running = self.from.clone();
        self.boot += 1;
        self.busy = APPLY_TICKS;
        self.enter(ticket, Phase::WentBack, now);
    }

    pub fn report(&self, seen: &NodeSystem, needs: Needs) -> Report {
        let running = path(&self.running);
        let staged = seen.aim.clone().map(|system| Staged {
            needs: if system == running {
                Needs::Nothing
            } else {
                needs
            },
            system,
        });
        Report {
            schema: Report::SCHEMA,
            boot: boot_id(self.boot),
            running,
            default: Some(path(&self.default)),
            staged,
            activity: self.phase.map(|(ticket, phase)| Activity {
                ticket,
                phase,
                since: self.since,
                started_minor: self.started_minor,
                unheard: self.unheard,
                message: "as the test wants it, ".repeat(100),
            }),
            recipient: None,
            secrets: None,
            retired: false,
        }
    }
}

fn boot_id(number: u32) -> BootId {
    format!("00000000-0000-4000-8000-{number:012}")
        .parse()
        .unwrap()
}
