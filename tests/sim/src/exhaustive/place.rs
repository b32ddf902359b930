//! One node, as both sides have it: its machine, and what the cluster and the ledger say of it.

mod cluster;
mod machine;

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;

use fabrik_core::effect::Effect;
use fabrik_core::id::{BootId, IntentId};
use fabrik_core::ledger::{Member, Ticket};
use fabrik_core::observed::{Node, NodeSystem};
use fabrik_core::system::Update;

use crate::machine::Machine;
use crate::world::World;

/// A step more than the longest that somebody asks how old a phase is: an order whose publication has not come.
const PHASE_SECS: i64 = 80;

pub struct Place<'a> {
    world: &'a World,
    id: &'a IntentId,
    member: &'a Member,
    machine: Option<&'a Machine>,
    node: Option<&'a Node>,
    system: Option<&'a NodeSystem>,
    ticket: Option<&'a Ticket>,
    numbers: Vec<u64>,
    boots: Vec<&'a BootId>,
}

impl<'a> Place<'a> {
    pub fn new(
        world: &'a World,
        id: &'a IntentId,
        member: &'a Member,
        machine: Option<&'a Machine>,
    ) -> Self {
        let mut place = Self {
            world,
            id,
            member,
            machine,
            node: world.observed.nodes.get(&member.name),
            system: world.observed.systems.get(&member.name),
            ticket: world.observed.ledger.tickets.get(id),
            numbers: Vec::new(),
            boots: Vec::new(),
        };
        place.numbers = place.all_numbers();
        place.boots = place.all_boots();
        place
    }

    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let into = &mut hasher;
        self.cluster(into);
        self.ticket(into);
        if let Some(machine) = self.machine {
            self.machine(machine, into);
        }
        let flights = self.world.flights.iter();
        for flight in flights.filter(|f| self.concerns(&f.effect)) {
            self.flight(flight, into);
        }
        self.tries(into);
        hasher.finish()
    }
}

/// What is compared of a node and its ticket. Only the order of its own numbers and boots counts.
impl<'a> Place<'a> {
    fn all_numbers(&self) -> Vec<u64> {
        let mut numbers = Vec::new();
        numbers.extend(self.update().map(|u| u.number));
        if let Some(system) = self.system {
            numbers.extend(system.order.as_ref().map(|o| o.ticket));
        }
        if let Some(machine) = self.machine {
            numbers.push(machine.journal.ticket);
            numbers.extend(machine.journal.current.as_ref().map(|t| t.ticket));
            numbers.extend(machine.wish.order.as_ref().map(|o| o.ticket));
            numbers.extend(machine.command.as_ref().map(|c| c.ticket));
            numbers.extend(machine.last.as_ref().map(|l| l.ticket));
        }
        let flights = self.world.flights.iter();
        numbers.extend(flights.filter_map(|flight| match &flight.effect {
            Effect::Order { node, order } if node.name == self.member.name => Some(order.ticket),
            _ => None,
        }));
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn all_boots(&self) -> Vec<&'a BootId> {
        let mut boots = Vec::new();
        boots.extend(self.ticket.and_then(Ticket::update).map(|u| &u.boot));
        if let Some(system) = self.system {
            boots.extend(system.report.as_ref().map(|r| &r.boot));
            boots.extend(system.well.as_ref().map(|w| &w.boot));
        }
        if let Some(machine) = self.machine {
            boots.push(&machine.boot);
            let current = machine.journal.current.as_ref();
            boots.extend(current.filter(|t| !t.is_over()).map(|t| &t.boot));
        }
        boots.sort_unstable();
        boots.dedup();
        boots
    }

    fn update(&self) -> Option<&Update> {
        self.ticket.and_then(Ticket::update)
    }

    fn number(&self, number: u64) -> Option<usize> {
        self.numbers.binary_search(&number).ok()
    }

    fn boot(&self, boot: &BootId) -> Option<usize> {
        self.boots.binary_search(&boot).ok()
    }

    /// Whose mark it is: of this ticket, of an earlier one, or of nobody that is known.
    fn mark(&self, mark: &str) -> Option<bool> {
        let number: u64 = mark
            .strip_prefix(self.id.as_str())?
            .strip_prefix('.')?
            .parse()
            .ok()?;
        Some(self.update().is_some_and(|u| u.number == number))
    }

    fn concerns(&self, effect: &Effect) -> bool {
        let name = &self.member.name;
        match effect {
            Effect::Cordon { node, .. }
            | Effect::Uncordon { node, .. }
            | Effect::Aim { node, .. }
            | Effect::Order { node, .. }
            | Effect::Withdraw { node }
            | Effect::MoveEtcdLeader { from: node, .. }
            | Effect::SnapshotEtcd { node, .. }
            | Effect::LabelNode { node, .. }
            | Effect::DeleteNode { node } => node.name == *name,
            Effect::Evict { node, .. } | Effect::ForcePod { node, .. } => node == name,
            _ => false,
        }
    }
}
