//! What machines and executors do, and what holds after each step: by what is true, whoever was told of it.

use fabrik_core::agent::Command;
use fabrik_core::effect::Effect;
use fabrik_core::id::ServerId;
use fabrik_core::ledger::{Member, Ticket};
use fabrik_core::observed::Role;
use fabrik_core::system::{Action, Needs};
use jiff::SignedDuration;

use super::members_of;
use crate::machine::{Did, Machine};
use crate::systems::Fate;
use crate::world::{Truth, World};

/// By how much a leader's clock differs from ours at most.
const MAX_SKEW_SECS: i64 = 60;

/// Whether a person has uncordoned the node since it holds this ticket.
pub fn uncordoned_under(truth: &Truth, ticket: &Ticket) -> bool {
    truth.uncordoned_at >= ticket.at - SignedDuration::from_secs(MAX_SKEW_SECS)
}

impl World {
    fn blame(&mut self, rule: &'static str, what: String) {
        self.book.blame(Some((rule, what)));
    }

    /// A machine does something that can't be taken back.
    pub fn check_command(&mut self, index: usize, did: &Did) {
        let machine = &self.machines[index];
        let name = machine.name.clone();
        let ticket = self
            .observed
            .ledger
            .tickets
            .values()
            .find(|t| t.node == name);
        let update = ticket.and_then(Ticket::update);
        let current = update.is_some_and(|u| u.number == did.ticket && u.ordered.is_some());
        let released = self.book.released.contains(&did.ticket);
        let node = self.observed.nodes.get(&name);
        let gone = node.is_none();
        match &did.command {
            Command::Switch { .. } | Command::BootOnce { .. } if !current && !released && !gone => {
                self.blame("S1", format!("{name} goes down without a ticket"));
            }
            Command::Switch { .. } | Command::BootOnce { .. } => {
                let drained = update.is_some_and(|u| u.needs >= Needs::Drain);
                let truth = self.truths.get(&name).zip(ticket);
                let by_person = truth.is_some_and(|(truth, t)| uncordoned_under(truth, t));
                let open = node.is_some_and(|n| !n.unschedulable);
                if drained && current && open && !by_person {
                    self.blame("S7", format!("{name} goes down and takes pods"));
                }
            }
            Command::MakeDefault { system, .. } => {
                let sys = self.systems.find(system);
                let ordered = self
                    .observed
                    .systems
                    .get(&name)
                    .and_then(|s| s.order.as_ref());
                let told =
                    ordered.is_none_or(|o| o.ticket != did.ticket || o.action == Action::Keep);
                if self.systems.fate(sys) != Fate::Well {
                    self.blame("S9", format!("{name} keeps a system that is not well"));
                } else if !told {
                    self.blame("S9", format!("{name} keeps what it was not told to"));
                }
            }
            Command::SwitchBack { to } | Command::RebootBack { to, .. } => {
                let minor = self.systems.minor(self.systems.find(to));
                if machine.role == Role::Server && machine.data_minor > minor {
                    self.blame("S4", format!("{name} is taken back to 1.{minor}"));
                }
            }
            Command::TidyUp { .. } => {}
        }
    }

    /// What an executor is about to do.
    pub fn check_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Uncordon { node, mark } => {
                let there = self.observed.nodes.get(&node.name);
                let marked = there
                    .is_some_and(|n| n.uid == node.uid && n.cordoned_under.as_ref() == Some(mark));
                let by_person = self
                    .truths
                    .get(&node.name)
                    .is_some_and(|t| t.cordoned_by_person);
                if marked && by_person {
                    self.blame("S6", format!("{} was cordoned by a person", node.name));
                }
            }
            Effect::Cordon { node, .. } => {
                let ledger = &self.observed.ledger;
                let known = ledger.members.values().any(|m| m.name == node.name);
                if !known && self.observed.nodes.contains_key(&node.name) {
                    self.blame("S1", format!("{} is cordoned and no member", node.name));
                }
            }
            Effect::Reset { server } => {
                let ticket = self
                    .observed
                    .ledger
                    .tickets
                    .values()
                    .find(|t| t.server == server.id);
                let noted = ticket
                    .and_then(Ticket::update)
                    .is_some_and(|u| u.reset.is_some());
                let machine = self.machines.iter().find(|m| m.server == server.id);
                let back = machine.is_some_and(|m| {
                    m.role == Role::Server && m.data_minor > self.systems.minor(m.default)
                });
                if back {
                    self.blame("S4", format!("{} is reset to an older minor", server.name));
                } else if !noted && machine.is_some() {
                    self.blame("S1", format!("{} is reset without a ticket", server.name));
                }
            }
            Effect::PowerOff { server } => self.check_departure(server.id, "powered off", true),
            Effect::DeleteServer { server } => self.check_departure(server.id, "deleted", false),
            Effect::DeleteNode { node } => {
                let machine = self.machines.iter().find(|m| m.name == node.name);
                let runs = machine.is_some_and(|m| m.power != crate::machine::Power::Off);
                let there = self.observed.nodes.get(&node.name);
                if runs && there.is_some_and(|n| n.uid == node.uid) {
                    self.blame(
                        "S5",
                        format!("Node {} is deleted and its machine runs", node.name),
                    );
                }
                let name = node.name.clone();
                self.check_not_a_member(&name, "no Node any more");
            }
            Effect::RemoveEtcdMember { server, .. } => self.check_removal(server),
            _ => {}
        }
    }

    fn check_departure(&mut self, server: ServerId, what: &str, with_pods: bool) {
        let Some(machine) = self.machines.iter().find(|m| m.server == server) else {
            return;
        };
        let name = machine.name.clone();
        if machine.role == Role::Server {
            self.check_server_goes(server, !with_pods);
            return;
        }
        let ledger = &self.observed.ledger;
        let leaves = ledger
            .tickets
            .get(&machine.id)
            .is_some_and(|t| t.leave().is_some());
        let cancelled = ledger
            .intents
            .get(&machine.id)
            .is_some_and(|i| i.cancelled.is_some());
        if !leaves && !cancelled {
            self.blame("S5", format!("{name} is {what} and was not to leave"));
            return;
        }
        let well = machine.is_well(&self.systems, self.now);
        let pods = self.truths.get(&name).map_or(0, |t| t.pods.len());
        let cordoned = self
            .observed
            .nodes
            .get(&name)
            .is_some_and(|n| n.unschedulable);
        if with_pods && well && cordoned && pods > 0 {
            self.blame("S5", format!("{name} is {what} with {pods} pods on it"));
        }
    }

    /// What holds at each moment.
    pub fn check_step(&mut self) {
        self.check_servers();
        let ledger = &self.observed.ledger;
        let servers: Vec<&Member> = members_of(&self.observed, Role::Server).collect();
        let ticketed = ledger.tickets.values();
        let down = ticketed
            .filter(|t| servers.iter().any(|s| s.name == t.node))
            .count();
        if down > 1 {
            self.blame("S3", format!("{down} servers have tickets"));
            return;
        }
        let on = |m: &&Machine| m.is_on();
        let minors = |role: Role| {
            let machines = self.machines.iter().filter(move |m| m.role == role);
            machines.filter(on).map(|m| self.systems.minor(m.running))
        };
        let (Some(oldest), Some(newest)) = (minors(Role::Server).min(), minors(Role::Server).max())
        else {
            return;
        };
        let agent = minors(Role::Agent).max().unwrap_or(0);
        if newest > oldest + 1 {
            self.blame("S4", format!("servers run 1.{oldest} and 1.{newest}"));
        } else if agent > oldest {
            // A server that lost its power comes up on its old minor, with agents that follow the new one only where
            // all servers had kept it.
            self.blame(
                "S4",
                format!("an agent runs 1.{agent}, and a server 1.{oldest}"),
            );
        }
    }
}
