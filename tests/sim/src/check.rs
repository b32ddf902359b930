//! The rules, written a second time and without a line of the product's deciding code. They are asked at each decision
//! (against what the leader could see), at each command of a machine, and after each step.

mod deeds;
mod down;
mod grant;
mod servers;

use std::collections::{BTreeMap, BTreeSet};

use fabrik_core::desired::Desired;
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::{NodeName, StorePath};
use fabrik_core::ledger::{Change, Ending, Member, Ticket};
use fabrik_core::observed::{Node, Observed, Role};
use fabrik_core::spec::K3sVersion;
use fabrik_core::step::Step;
use fabrik_core::system::Update;
use jiff::Timestamp;

pub use self::deeds::uncordoned_under;
pub use self::down::sent;
use self::down::{ordered, unordered};
use self::grant::grant;
use crate::machine::Machine;
use crate::systems::Systems;

/// A rule and how it was broken.
pub type Broken = Option<(&'static str, String)>;

/// What the checker remembers.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub broken: Broken,
    pub(crate) commits: u32,
    pub(crate) tries: BTreeMap<(u32, NodeName, StorePath), u32>,
    pub(crate) tried_bad: BTreeMap<(u32, StorePath), BTreeSet<NodeName>>,
    pub(crate) highest_number: u64,
    pub released: BTreeSet<u64>,
    /// A snapshot of data that no newer minor had touched, by the minor of the data.
    pub(crate) snapshots: BTreeSet<u32>,
    pub stuck: bool,
    pub held: Vec<Hold>,
}

impl Book {
    pub fn pushed(&mut self) {
        self.commits += 1;
    }

    pub fn blame(&mut self, broken: Broken) {
        if self.broken.is_none() {
            self.broken = broken;
        }
    }

    pub fn holds(&mut self, step: &Step) {
        let stuck = |h: &Hold| h.reason == HoldReason::Stuck;
        self.stuck = step.holds.iter().any(stuck);
        self.held.clone_from(&step.holds);
    }

    pub fn snapshot(&mut self, machines: &[Machine], systems: &Systems) {
        let servers = machines.iter().filter(|m| m.role == Role::Server);
        let newest = servers
            .map(|m| m.data_minor.max(systems.minor(m.running)))
            .max();
        self.snapshots.extend(newest);
    }
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "what is found is returned as it is"
)]
fn broken(rule: &'static str, what: impl Into<String>) -> Broken {
    Some((rule, what.into()))
}

fn minor(node: &Node) -> Option<u32> {
    K3sVersion::of_kubelet(&node.kubelet_version).map(|v| v.minor)
}

fn members_of(view: &Observed, role: Role) -> impl Iterator<Item = &Member> {
    let members = view.ledger.members.values();
    members.filter(move |m| m.role == role)
}

/// What is about to be written down, by what was seen.
pub fn changes(
    desired: &Desired,
    view: &Observed,
    step: &Step,
    systems: &Systems,
    now: Timestamp,
    book: &mut Book,
) -> Broken {
    let mut granted: Vec<&Ticket> = Vec::new();
    for change in &step.changes {
        let found = match change {
            Change::Grant { id, ticket } => {
                let found = if view.ledger.tickets.contains_key(id) {
                    broken("S1", format!("{} gets a second ticket", ticket.node))
                } else {
                    grant(desired, view, ticket, &granted, now, book)
                };
                granted.push(ticket);
                found
            }
            Change::Ordered { id, .. } => view.ledger.tickets.get(id).and_then(|ticket| {
                beside_a_stuck_one(view, step, ticket)
                    .or_else(|| ordered(desired, view, ticket, systems, now, book))
            }),
            Change::Unordered { id } => {
                let ticket = view.ledger.tickets.get(id);
                ticket.and_then(|ticket| unordered(view, ticket, book))
            }
            Change::EndUpdate { id, ending } => {
                let ticket = view.ledger.tickets.get(id);
                ticket.and_then(|ticket| ended(view, ticket, ending, book))
            }
            _ => None,
        };
        let found = found.or_else(|| servers::written(desired, view, change));
        if found.is_some() {
            return found;
        }
    }
    None
}

/// S8: nobody is told to try while it is said of another that has tried that only a person can help.
fn beside_a_stuck_one(view: &Observed, step: &Step, ticket: &Ticket) -> Broken {
    let tickets = view.ledger.tickets.values();
    let others: Vec<String> = tickets
        .filter(|t| t.node != ticket.node)
        .map(|t| format!("node {}", t.node))
        .collect();
    let is_stuck = |h: &&Hold| h.reason == HoldReason::Stuck && others.contains(&h.about);
    let stuck = step.holds.iter().find(is_stuck)?;
    broken(
        "S8",
        format!("{} is told to try beside: {stuck}", ticket.node),
    )
}

fn running<'a>(view: &'a Observed, name: &NodeName) -> Option<&'a StorePath> {
    Some(&view.systems.get(name)?.report.as_ref()?.running)
}

fn ladder(view: &Observed, member: &Member, update: &Update) -> Broken {
    let to = update.kubernetes.minor;
    let own = view.nodes.get(&member.name).and_then(minor)?;
    if own > to || own + 1 < to && member.role == Role::Server {
        return broken("S4", format!("{} goes from 1.{own} to 1.{to}", member.name));
    }
    for server in members_of(view, Role::Server) {
        let runs = view.nodes.get(&server.name).and_then(minor)?;
        let agent_is_newer = member.role == Role::Agent && runs < to;
        let apart =
            member.role == Role::Server && server.name != member.name && runs.abs_diff(to) > 1;
        if agent_is_newer || apart {
            let what = format!(
                "{} goes to 1.{to}, {} runs 1.{runs}",
                member.name, server.name
            );
            return broken("S4", what);
        }
    }
    None
}

fn ended(view: &Observed, ticket: &Ticket, ending: &Ending, book: &Book) -> Broken {
    let update = ticket.update()?;
    let name = &ticket.node;
    let node = view.nodes.get(name).filter(|n| n.uid == ticket.uid);
    // Who was not told to try is uncordoned afterwards, and is counted as cordoned until then.
    let untold = matches!(ending, Ending::Withdrawn | Ending::Postponed { .. });
    let ours = |n: &Node| n.cordoned_under.is_some();
    if node.is_some_and(ours) && !untold {
        return broken(
            "L2",
            format!("{name} gives its ticket back, cordoned by us"),
        );
    }
    let report = view.systems.get(name).and_then(|s| s.report.as_ref());
    let on = |path: &StorePath| report.is_some_and(|r| r.running == *path && r.boots(path));
    match ending {
        Ending::Kept if !on(&update.system) => {
            broken("S1", format!("{name} is done and does not run it"))
        }
        Ending::WentBack if !on(&update.from) => {
            broken("S1", format!("{name} is said to be back and is not"))
        }
        Ending::Withdrawn | Ending::Postponed { .. } if update.ordered.is_some() => {
            broken("S1", format!("{name} was told to try and loses its ticket"))
        }
        Ending::Lost if node.is_some() && !view.hetzner.gone.contains(&ticket.server) => {
            broken("S1", format!("{name} is there and given up for lost"))
        }
        Ending::Released if !book.released.contains(&update.number) => {
            broken("S1", format!("nobody released {name}"))
        }
        _ => None,
    }
}
