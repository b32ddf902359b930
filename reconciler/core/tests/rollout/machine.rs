//! What `fabrik agent` and a boot loader do, in memory.

use fabrik_core::id::BootId;
use fabrik_core::observed::NodeSystem;
use fabrik_core::system::{Action, Activity, Needs, Order, Phase, Report, Staged};
use jiff::{SignedDuration, Timestamp};

use super::world::{APPLY_TICKS, Fate, path};

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
            self.apply(order.ticket, system, fate, needs);
            return;
        }
        let Some((ticket, phase)) = self.phase else {
            return;
        };
        match (phase, order.action) {
            // The order was tried and something else runs: the boot loader came back to the default.
            (Phase::Applying, _) if self.running != system => {
                self.phase = Some((ticket, Phase::WentBack));
            }
            (Phase::Applying, _) => self.phase = Some((ticket, Phase::Trying)),
            (Phase::Trying, Action::Keep) => {
                system.clone_into(&mut self.default);
                self.phase = Some((ticket, Phase::Kept));
            }
            (Phase::Trying, Action::GoBack) => self.go_back(ticket),
            (Phase::Trying, Action::Try) if now > self.until && !self.started_minor => {
                self.go_back(ticket);
            }
            _ => {}
        }
    }

    fn apply(&mut self, ticket: u64, system: &str, fate: Fate, needs: Needs) {
        self.phase = Some((ticket, Phase::Applying));
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

    fn go_back(&mut self, ticket: u64) {
        self.running = self.from.clone();
        self.boot += 1;
        self.busy = APPLY_TICKS;
        self.phase = Some((ticket, Phase::WentBack));
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
            boot: boot_id(self.boot),
            running,
            default: path(&self.default),
            staged,
            activity: self.phase.map(|(ticket, phase)| Activity {
                ticket,
                phase,
                since: Timestamp::UNIX_EPOCH,
                started_minor: self.started_minor,
                message: "as the test wants it".to_owned(),
            }),
        }
    }
}

fn boot_id(number: u32) -> BootId {
    format!("00000000-0000-4000-8000-{number:012}")
        .parse()
        .unwrap()
}
