//! Commands, in units that outlive the agent that began them.

use fabrik_core::agent::{Command, Outcome};
use fabrik_core::system::Phase;
use jiff::{SignedDuration, Timestamp};

use super::{Did, Machine, Power};
use crate::systems::{Fate, Systems};

const SWITCH_SECS: i64 = 15;

#[derive(Debug, Clone)]
pub struct Begun {
    pub command: Command,
    pub ticket: u64,
    pub phase: Phase,
    pub attempt: u32,
    pub ends: Timestamp,
    /// Its agent is still there.
    pub watched: bool,
}

impl Machine {
    /// A unit of the same name that runs on is waited for, and not begun twice.
    pub(super) fn begin(&mut self, command: Command, now: Timestamp) -> Option<Did> {
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

    pub(super) fn end_command(&mut self, systems: &Systems, now: Timestamp) {
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
}
