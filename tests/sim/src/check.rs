//! The rules, written a second time and without a line of the product's deciding code. They are asked at each decision
//! (against what the leader could see), at each command of a machine, and after each step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fabrik_core::agent::Command;
use fabrik_core::desired::Desired;
use fabrik_core::effect::Effect;
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::{NodeName, ServerId, StorePath, Uid};
use fabrik_core::ledger::{Change, Ending, Member, Ticket};
use fabrik_core::observed::{Datastore, Node, Observed, Pod, PodKind, Role};
use fabrik_core::spec::K3sVersion;
use fabrik_core::step::Step;
use fabrik_core::system::{Action, Needs, Update};
use fabrik_core::window::{Opening, opening};
use jiff::{SignedDuration, Timestamp};

use crate::machine::{Did, Machine};
use crate::systems::{Fate, Systems};
use crate::world::World;

/// A rule and how it was broken.
pub type Broken = Option<(&'static str, String)>;

/// How often a node may be told to try the same system under one commit: once more where nobody spoke.
const MAX_TRIES: u32 = 2;

/// What the checker remembers.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub broken: Broken,
    commits: u32,
    tries: BTreeMap<(u32, NodeName, StorePath), u32>,
    tried_bad: BTreeMap<(u32, StorePath), BTreeSet<NodeName>>,
    highest_number: u64,
    pub released: BTreeSet<u64>,
    /// A snapshot of data that no newer minor had touched, by the minor of the data.
    snapshots: BTreeSet<u32>,
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
            Change::Ordered { id, .. } => view
                .ledger
                .tickets
                .get(id)
                .and_then(|ticket| ordered(desired, view, ticket, systems, now, book)),
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
        if found.is_some() {
            return found;
        }
    }
    None
}

fn is_down(member: &Member, view: &Observed) -> bool {
    let node = view.nodes.get(&member.name);
    node.is_none_or(|n| !n.ready || n.unschedulable || n.uid != member.uid)
}

fn grant(
    desired: &Desired,
    view: &Observed,
    ticket: &Ticket,
    granted: &[&Ticket],
    now: Timestamp,
    book: &Book,
) -> Broken {
    let name = &ticket.node;
    if view.paused.is_some() {
        return broken("pause", format!("{name} gets a ticket while all is paused"));
    }
    let member = view.ledger.members.values().find(|m| m.name == *name);
    let Some(member) = member.filter(|m| m.uid == ticket.uid && m.server == ticket.server) else {
        return broken("S1", format!("{name} is no member as its ticket has it"));
    };
    let in_pool = |t: &&&Ticket| t.pool == ticket.pool;
    let others = view.ledger.tickets.values().collect::<Vec<_>>();
    let others = others.iter().chain(granted).filter(in_pool).count();
    let server = member.role == Role::Server;
    if server && others > 0 {
        return broken("S3", format!("{name} and another server have tickets"));
    }
    let max = match desired.spec.pools.get(&ticket.pool) {
        Some(pool) if !server => pool.max_unavailable as usize,
        _ => 1,
    };
    let has_ticket = |m: &Member| {
        let held = view.ledger.tickets.values().chain(granted.iter().copied());
        held.into_iter().any(|t| t.node == m.name)
    };
    let mut unavailable = 0;
    for other in view
        .ledger
        .members
        .values()
        .filter(|m| m.pool == ticket.pool)
    {
        let held_out = desired.spec.update.held.contains_key(&other.name);
        let ticketed = has_ticket(other) || other.name == *name;
        let counts = ticketed || !held_out;
        unavailable += usize::from(counts && (ticketed || is_down(other, view)));
    }
    let one_more_sick = is_down(member, view) && others == 0;
    if unavailable > max && !one_more_sick {
        let what = format!(
            "{name}: {unavailable} of {} would be down, of {max}",
            ticket.pool
        );
        return broken("S2", what);
    }
    let update = ticket.update()?;
    grant_update(desired, view, ticket, member, update, now, book)
}

fn grant_update(
    desired: &Desired,
    view: &Observed,
    ticket: &Ticket,
    member: &Member,
    update: &Update,
    now: Timestamp,
    book: &Book,
) -> Broken {
    let name = &ticket.node;
    let settings = &desired.spec.update;
    if update.number <= book.highest_number {
        return broken("S1", format!("number {} was given before", update.number));
    }
    if opening(&settings.windows, settings.try_deadline, now) != Opening::Open {
        return broken(
            "window",
            format!("{name} begins what can't end in its window"),
        );
    }
    if view.ledger.denied.contains_key(&update.system) {
        return broken("S8", format!("{name} is to try what was denied"));
    }
    if settings.held.contains_key(name) {
        return broken("held", format!("{name} is held out and gets a ticket"));
    }
    if let Some(id) = view.ledger.members.iter().find(|(_, m)| m.name == *name)
        && view
            .ledger
            .resting
            .get(id.0)
            .is_some_and(|until| *until > now)
    {
        return broken("rest", format!("{name} does not rest"));
    }
    if let Some(canary) = &settings.canary
        && let Some(first) = view.ledger.members.values().find(|m| m.name == *canary)
        && first.role == member.role
        && first.name != *name
        && !settings.held.contains_key(canary)
        && !has_gone_before(desired, view, first, update)
        && !(is_down(member, view) && took_the_first(desired, view, first))
    {
        return broken("canary", format!("{name} goes before its canary"));
    }
    let target = desired.targets.get(&ticket.pool)?;
    if member.role == Role::Agent {
        let stays = view.nodes.get(name).and_then(minor) == Some(update.kubernetes.minor);
        for server in members_of(view, Role::Server) {
            let wanted = desired.targets.get(&server.pool).map(|t| &t.system.output);
            let there = wanted.is_some() && running(view, &server.name) == wanted;
            let ticketed = view.ledger.tickets.values().any(|t| t.node == server.name);
            let left_out = stays && settings.held.contains_key(&server.name);
            if !there && !left_out || ticketed {
                return broken("S4", format!("{name} goes before server {}", server.name));
            }
        }
    } else if let Some(first) = &target.first
        && update.system == target.system.output
    {
        // Who runs a newer minor already can't take the first step.
        let beyond = |m: &Member| {
            let runs = view.nodes.get(&m.name).and_then(minor);
            runs > Some(first.kubernetes.minor)
        };
        let behind = members_of(view, Role::Server).filter(|m| !beyond(m) && !beyond(member));
        for server in behind {
            let runs = running(view, &server.name);
            if runs != Some(&first.output) && runs != Some(&update.system) {
                let what = format!(
                    "{name} takes the second step before {}'s first",
                    server.name
                );
                return broken("S4", what);
            }
        }
    }
    ladder(view, member, update)
}

fn took_the_first(desired: &Desired, view: &Observed, canary: &Member) -> bool {
    let target = desired.targets.get(&canary.pool);
    let first = target.and_then(|t| t.first.as_ref());
    first.is_some_and(|first| running(view, &canary.name) == Some(&first.output))
}

/// Whether the canary runs what another node of its pool is to try, or the second step of a commit that has two.
fn has_gone_before(desired: &Desired, view: &Observed, canary: &Member, update: &Update) -> bool {
    let target = desired.targets.get(&canary.pool);
    let runs = running(view, &canary.name);
    runs == Some(&update.system) || runs == target.map(|t| &t.system.output)
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

/// Who is about to be told to go down, or is reset: all must be true then that was when it was written down.
pub fn sent(
    desired: &Desired,
    view: &Observed,
    step: &Step,
    now: Timestamp,
    book: &Book,
) -> Broken {
    step.effects.iter().find_map(|effect| {
        let (node, order) = match effect {
            Effect::Order { node, order } => (node, order),
            Effect::Reset { server } => return reset(view, &server.name),
            Effect::ForcePod { node, uid, .. } => return forced(desired, view, node, uid, now),
            _ => return None,
        };
        let mut tickets = view.ledger.tickets.values();
        let ticket = tickets.find(|t| t.node == node.name && order.action == Action::Try)?;
        let update = ticket.update()?;
        if view.paused.is_some() {
            return broken(
                "pause",
                format!("{} is told to try under a pause", node.name),
            );
        }
        let left = update.deadline?.duration_since(now);
        let Ok(left) = Duration::try_from(left) else {
            return broken("S7", format!("{} is told to try too late", node.name));
        };
        goes_down(desired, view, ticket, update, left, now, book)
    })
}

/// Only pods on the user's list (they begin with `shop-1` here) go by force, and only late and in vain asked to go.
fn forced(
    desired: &Desired,
    view: &Observed,
    node: &NodeName,
    uid: &Uid,
    now: Timestamp,
) -> Broken {
    let pod = view.pods.get(node)?.iter().find(|p| p.uid == *uid)?;
    let mut tickets = view.ledger.tickets.values();
    let ticket = tickets.find(|t| t.node == *node);
    let late = ticket.is_some_and(|t| {
        let deadline = SignedDuration::try_from(desired.drain_deadline(&t.pool));
        deadline.is_ok_and(|deadline| now.duration_since(t.at) > deadline)
    });
    let listed = pod.name.starts_with("shop-1") && pod.blocked.is_some();
    if late && listed {
        return None;
    }
    broken(
        "force",
        format!("{} on {node} is deleted by force", pod.name),
    )
}

/// Only what hangs is reset, and no server that etcd needs.
fn reset(view: &Observed, name: &NodeName) -> Broken {
    let node = view.nodes.get(name)?;
    let silent = |at: Timestamp| view.at.duration_since(at).as_secs() > 60;
    if node.ready || !node.heard.is_none_or(silent) {
        return broken("S7", format!("{name} is reset, and its kubelet lives"));
    }
    if node.control_plane {
        return quorum(view, name);
    }
    None
}

/// What is needed of a node that is told to go down.
fn goes_down(
    desired: &Desired,
    view: &Observed,
    ticket: &Ticket,
    update: &Update,
    takes: Duration,
    now: Timestamp,
    book: &Book,
) -> Broken {
    let name = &ticket.node;
    if view.ledger.denied.contains_key(&update.system) {
        return broken("S8", format!("{name} is told to try what was denied"));
    }
    if opening(&desired.spec.update.windows, takes, now) != Opening::Open {
        return broken(
            "window",
            format!("{name} begins what can't end in its window"),
        );
    }
    let node = view.nodes.get(name);
    let Some(node) = node.filter(|n| n.uid == ticket.uid) else {
        return broken("S1", format!("{name} is another Node than its ticket's"));
    };
    if update.needs >= Needs::Drain {
        let moves = |p: &&Pod| p.kind == PodKind::Ordinary && (!p.terminating || node.ready);
        let left = view
            .pods
            .get(name)
            .map(|pods| pods.iter().filter(moves).count());
        if !node.unschedulable || left != Some(0) {
            return broken(
                "S7",
                format!("{name} is told to try with {left:?} pods on it"),
            );
        }
    }
    let member = view.ledger.members.values().find(|m| m.name == *name)?;
    if member.role == Role::Server {
        let found = quorum(view, name);
        if found.is_some() {
            return found;
        }
        let newer = |n: &Node| n.control_plane && minor(n) >= Some(update.kubernetes.minor);
        let first = update.minor && !view.nodes.values().any(newer);
        if first && !book.snapshots.contains(&(update.kubernetes.minor - 1)) {
            return broken("S4", format!("{name} starts a minor without a snapshot"));
        }
    }
    ladder(view, member, update)
}

/// The last moment before a node may go down.
fn ordered(
    desired: &Desired,
    view: &Observed,
    ticket: &Ticket,
    systems: &Systems,
    now: Timestamp,
    book: &mut Book,
) -> Broken {
    let name = &ticket.node;
    let update = ticket.update()?;
    book.highest_number = book.highest_number.max(update.number);
    let takes = desired.spec.update.try_deadline;
    let found = goes_down(desired, view, ticket, update, takes, now, book);
    if found.is_some() {
        return found;
    }
    let key = (book.commits, name.clone(), update.system.clone());
    let tries = book.tries.entry(key).or_default();
    *tries += 1;
    if *tries > MAX_TRIES {
        return broken("S8", format!("{name} tries the same for the {tries}. time"));
    }
    if systems.fate(systems.find(&update.system)) != Fate::Well {
        let tried = book.tried_bad.entry((book.commits, update.system.clone()));
        let tried = tried.or_default();
        tried.insert(name.clone());
        let pool = desired.spec.pools.get(&ticket.pool);
        let max = pool.map_or(1, |p| p.max_unavailable as usize);
        // Who left it only because nobody spoke, and was held out since, can't try it first once more.
        let held = &desired.spec.update.held;
        if tried.iter().filter(|n| !held.contains_key(n)).count() > max {
            return broken("S8", format!("a bad system is tried by {tried:?}"));
        }
    }
    None
}

/// It was not told after all: that was no try.
fn unordered(view: &Observed, ticket: &Ticket, book: &mut Book) -> Broken {
    let name = &ticket.node;
    let update = ticket.update()?;
    let order = view.systems.get(name).and_then(|s| s.order.as_ref());
    if order.is_some_and(|o| o.ticket == update.number) {
        return broken(
            "S1",
            format!("{name} has its order and is taken for untold"),
        );
    }
    let key = (book.commits, name.clone(), update.system.clone());
    let tries = book.tries.entry(key).or_default();
    *tries = tries.saturating_sub(1);
    if *tries == 0 {
        let key = (book.commits, update.system.clone());
        book.tried_bad.entry(key).or_default().remove(name);
    }
    None
}

fn quorum(view: &Observed, name: &NodeName) -> Broken {
    let members = match &view.datastore {
        Datastore::Etcd(etcd) => etcd.members.as_ref(),
        _ => None,
    };
    let Some(members) = members else {
        return broken("S3", format!("{name} goes down and etcd was not read"));
    };
    let ticketed = |n: &NodeName| view.ledger.tickets.values().any(|t| t.node == *n);
    let usable = |n: &NodeName| {
        view.nodes
            .get(n)
            .is_some_and(|n| n.ready && !n.unschedulable)
    };
    let left = members.iter().filter(|m| {
        let stays = |n: &NodeName| n != name && usable(n) && !ticketed(n);
        m.healthy && !m.learner && m.alarms.is_empty() && m.node.as_ref().is_some_and(stays)
    });
    let left = left.count();
    if left < members.len() / 2 + 1 {
        return broken(
            "S3",
            format!("{name} goes down and leaves {left} of {}", members.len()),
        );
    }
    let leads = members
        .iter()
        .any(|m| m.leader && m.node.as_ref() == Some(name));
    if leads {
        return broken("S3", format!("{name} goes down and leads etcd"));
    }
    None
}

fn ended(view: &Observed, ticket: &Ticket, ending: &Ending, book: &Book) -> Broken {
    let update = ticket.update()?;
    let name = &ticket.node;
    let node = view.nodes.get(name).filter(|n| n.uid == ticket.uid);
    let ours = |n: &Node| n.cordoned_under.is_some();
    if node.is_some_and(ours) {
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
                let truth = self.truths.get(&name);
                let since = ticket.map_or(self.now, |t| t.at);
                // Leaders' clocks differ from ours by as much as a schedule makes them.
                let since = since - SignedDuration::from_secs(300);
                let by_person = truth.is_some_and(|t| t.uncordoned_at >= since);
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
            }
            _ => {}
        }
    }

    fn check_departure(&mut self, server: ServerId, what: &str, with_pods: bool) {
        let Some(machine) = self.machines.iter().find(|m| m.server == server) else {
            return;
        };
        let name = machine.name.clone();
        if machine.role == Role::Server {
            self.blame("S5", format!("server {name} is {what}"));
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
