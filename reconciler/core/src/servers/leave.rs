//! A server's way out: cordoned, drained, its etcd leadership moved, its k3s ended for good, its member removed, powered
//! off, its Node deleted, its server deleted.
//!
//! Where it stands is read off the world each time; that there is no way back is in its ticket. A removed member that
//! starts again could found a cluster of its own (k3s #13623), so its k3s ends first, or its machine does.

mod words;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

pub use self::words::remaining;
pub(super) use self::words::words;
use super::{coming, held, is_servers, known_members};
use crate::departure::{self, Leaver};
use crate::drain::Left;
use crate::effect::Effect;
use crate::guard;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, NodeName};
use crate::ledger::{Change, Member, Reason, Ticket};
use crate::observed::{Datastore, Node, NodeSystem, Observed, Power};
use crate::quorum;
use crate::step::Step;
use crate::system::Retirement;

/// How long a server may take to end its k3s; then its machine is powered off instead. Its Node is called not Ready 40 s
/// after its kubelet was heard of last.
const STOP_DEADLINE_SECS: i64 = 180;
/// How long a server may obey the word to end its k3s. To hear it, to say so and to stop takes a few seconds; another server
/// that is lost meanwhile may take the quorum along.
const HEARD_SECS: i64 = 30;
/// For how long its kubelet has not been heard of where k3s has ended.
const SILENT_SECS: i64 = 30;

/// What comes next for a server that holds a ticket to leave.
#[derive(Debug, PartialEq, Eq)]
pub enum Stage<'a> {
    /// It takes new pods still.
    Cordon,
    /// It is not empty, or was not looked at yet.
    Drain(Left<'a>),
    /// It is empty, and its etcd member leads.
    HandOver { to: String },
    /// All that can be taken back is done.
    Retire,
    /// Its k3s is to end; `told` once it was told so.
    Stop { told: bool, at_once: bool },
    /// Another server that is gone is a member still, and without it this one could not be stopped: that one's goes first.
    RemoveGone(&'a Member, &'a quorum::Member),
    /// Its k3s has ended, or its machine has, and etcd has it as a member.
    RemoveMember(&'a quorum::Member),
    /// No member has it in its list any more, or its agent does not answer; its machine runs.
    PowerOff,
    /// Its machine is between on and off.
    Stopping,
    /// Its machine is off or gone, and it is no member of etcd's; its Node is there.
    DeleteNode,
    /// Its Node is gone as well; its server is there, off.
    DeleteServer,
    /// Nothing of it is left.
    Gone,
    /// What is in the way.
    Held(Hold),
    /// Hetzner neither lists its server nor says that it is gone.
    Unseen,
}

/// S3 and S5: whether a server may leave. Asked when it gets its ticket, and again before there is no way back.
///
/// # Errors
/// What is in the way.
pub fn may_leave(member: &Member, reason: Reason, observed: &Observed) -> Result<(), Hold> {
    let ledger = &observed.ledger;
    let name = &member.name;
    let waits = |reason, message: String| Err(held(name, reason, format!("waits: {message}")));
    let mut others = ledger.tickets.values().filter(|t| is_servers(&t.pool));
    if let Some(other) = others.find(|t| t.node != *name) {
        let message = format!(
            "one server at a time, and server {} holds a ticket",
            other.node
        );
        return waits(HoldReason::Turn, message);
    }
    if let Some((_, intent)) = coming(ledger).next() {
        let message = format!("one server at a time, and {} is on its way in", intent.name);
        return waits(HoldReason::Turn, message);
    }
    let all = match known_members(observed) {
        Ok(all) => all,
        Err(message) => return waits(HoldReason::Quorum, message),
    };
    let own = quorum::of(name, all);
    let allowed = match (reason, own) {
        // Nobody's vote goes with it.
        (Reason::Dead | Reason::NodeDeleted, None) => Ok(()),
        (Reason::Dead, Some(own)) => quorum::may_be_removed(own, all).map_err(|message| {
            format!(
                "its machine is gone for good, and its etcd member can't be removed: {message}. docs/restore.md, \
                 \"fabrik restore\", says what can be done"
            )
        }),
        _ if observed.datastore == Datastore::Other => {
            Err("the cluster keeps its data elsewhere than in k3s' etcd: take the server away by hand".to_owned())
        }
        (Reason::ScaleDown | Reason::NodeDeleted | Reason::Alarmed | Reason::Unknown, _) => {
            let etcd = observed.datastore.etcd().map(|e| &e.members);
            quorum::may_leave(name, etcd.unwrap_or(&None), &unavailable(name, observed))
        }
    };
    allowed.or_else(|message| waits(HoldReason::Quorum, message))
}

/// Servers other than `node` that are down or about to be, whoever did it.
fn unavailable(node: &NodeName, observed: &Observed) -> BTreeSet<NodeName> {
    let ticketed = observed.ledger.tickets.values().map(|t| &t.node);
    let nodes = observed.nodes.values().filter(|n| n.control_plane);
    let down = nodes
        .filter(|n| n.unschedulable || !n.ready)
        .map(|n| &n.name);
    ticketed
        .chain(down)
        .filter(|n| *n != node)
        .cloned()
        .collect()
}

/// Whether it can still stay.
pub(super) fn is_reversible(id: &IntentId, ticket: &Ticket, observed: &Observed) -> bool {
    let stage = stage(id, ticket, observed);
    ticket.retiring().is_none()
        && matches!(
            stage,
            Stage::Cordon | Stage::Drain(_) | Stage::HandOver { .. } | Stage::Retire
        )
}

/// Where the holder of `ticket` stands.
pub fn stage<'a>(id: &IntentId, ticket: &Ticket, observed: &'a Observed) -> Stage<'a> {
    let name = &ticket.node;
    if let Err(hold) = guard::is_the_node_that_joined(name, &ticket.uid, observed) {
        return Stage::Held(hold);
    }
    let power = match observed.hetzner.servers.get(&ticket.server) {
        Some(server) => Some(server.power),
        None if observed.hetzner.gone.contains(&ticket.server) => None,
        None => return Stage::Unseen,
    };
    let node = observed.nodes.get(name);
    if ticket.retiring().is_none()
        && power == Some(Power::Running)
        && let Some(node) = node
    {
        return before(id, ticket, node, observed);
    }
    let all = match known_members(observed) {
        Ok(all) => all,
        Err(message) => {
            let message = format!("waits: {message}");
            return Stage::Held(held(name, HoldReason::Quorum, message));
        }
    };
    match (quorum::of(name, all), power) {
        (_, Some(Power::Changing)) => Stage::Stopping,
        (Some(own), Some(Power::Running)) => ending(ticket, own, all, observed),
        (Some(own), None | Some(Power::Off)) => removable(name, own, all),
        (None, Some(Power::Running)) if ticket.retiring().is_none() => Stage::Retire,
        (None, Some(Power::Running)) => Stage::PowerOff,
        (None, None | Some(Power::Off)) if node.is_some() => Stage::DeleteNode,
        (None, Some(Power::Off)) => Stage::DeleteServer,
        (None, None) => Stage::Gone,
    }
}

/// While it can stay.
fn before<'a>(id: &IntentId, ticket: &Ticket, node: &Node, observed: &'a Observed) -> Stage<'a> {
    if departure::takes_cordon(id, ticket, node) {
        return Stage::Cordon;
    }
    if let Some(left) = Left::on(node, observed) {
        return Stage::Drain(left);
    }
    let etcd = observed.datastore.etcd();
    let next = etcd.and_then(|etcd| quorum::successor(&ticket.node, &etcd.members));
    match next {
        Some(next) => Stage::HandOver {
            to: next.name.clone(),
        },
        None => Stage::Retire,
    }
}

/// Its machine runs, etcd has it as a member, and there is no way back.
fn ending<'a>(
    ticket: &Ticket,
    own: &'a quorum::Member,
    all: &'a [quorum::Member],
    observed: &'a Observed,
) -> Stage<'a> {
    let name = &ticket.node;
    let Some(since) = ticket.retiring() else {
        return Stage::Retire;
    };
    let system = observed.systems.get(name);
    let report = system.and_then(|s| s.report.as_ref());
    let retired = report.is_some_and(|r| r.retired);
    let node = observed.nodes.get(name);
    let silent = node.is_none_or(|n| n.is_silent(observed.at, SILENT_SECS));
    let at_once = all.iter().filter(|m| !m.learner).count() > 2;
    let has_ended = retired && !own.healthy && silent;
    if has_ended || retired && !at_once {
        return removable(name, own, all);
    }
    let told = system.is_some_and(|s| is_told(s, at_once, observed.at));
    let etcd = observed.datastore.etcd().map(|e| &e.members);
    let spared = quorum::may_leave(name, etcd.unwrap_or(&None), &unavailable(name, observed));
    let late = observed.at.duration_since(since) > SignedDuration::from_secs(STOP_DEADLINE_SECS);
    if let Err(message) = spared
        && (late || !told)
    {
        if let Some((gone, member)) = gone(own, all, observed) {
            return Stage::RemoveGone(gone, member);
        }
        let message = format!("waits: {message}");
        return Stage::Held(held(name, HoldReason::Quorum, message));
    }
    match (late, at_once) {
        (true, true) => Stage::PowerOff,
        // Its agent may be back.
        (true, false) if told || report.is_none() => Stage::Held(held(
            name,
            HoldReason::Quorum,
            "its agent does not answer, and of two etcd members neither can be stopped before it is removed. Look at \
             `fabrik-agent` there, or remove its member (`etcdctl member remove`): it goes on then"
                .to_owned(),
        )),
        (false, _) | (true, false) => Stage::Stop { told, at_once },
    }
}

/// A member of etcd's whose server was deleted at Hetzner. Its own ticket has to wait for this one's.
fn gone<'a>(
    own: &quorum::Member,
    all: &'a [quorum::Member],
    observed: &'a Observed,
) -> Option<(&'a Member, &'a quorum::Member)> {
    let is_gone = |m: &&Member| observed.hetzner.gone.contains(&m.server);
    let mut lost = super::members(&observed.ledger)
        .map(|(_, member)| member)
        .filter(is_gone)
        .filter_map(|m| Some((m, quorum::of(&m.name, all)?)));
    lost.find(|(_, m)| m.id != own.id && quorum::may_be_removed(m, all).is_ok())
}

/// What it is too late to obey was not told.
fn is_told(system: &NodeSystem, at_once: bool, now: Timestamp) -> bool {
    let boot = system.report.as_ref().map(|r| &r.boot);
    let told = system.retirement.as_ref();
    told.is_some_and(|told| Some(&told.boot) == boot && told.stops == at_once && !told.is_late(now))
}

fn removable<'a>(name: &NodeName, own: &'a quorum::Member, all: &'a [quorum::Member]) -> Stage<'a> {
    match quorum::may_be_removed(own, all) {
        Ok(()) => Stage::RemoveMember(own),
        Err(message) => {
            let message = format!("its etcd member stays: {message}");
            Stage::Held(held(name, HoldReason::Quorum, message))
        }
    }
}

/// The next step of a server on its way out.
pub fn step(leaver: &Leaver<'_>) -> Step {
    let Leaver {
        id,
        ticket,
        pool,
        observed,
        now,
        ..
    } = *leaver;
    let name = &ticket.node;
    match stage(id, ticket, observed) {
        Stage::Cordon => leaver.empty(None),
        Stage::Drain(left) => leaver.empty(Some(&left)),
        Stage::HandOver { .. } | Stage::Retire if leaver.wanted_again => {
            departure::take_back(id, None)
        }
        Stage::HandOver { to } => Step::effect(Effect::MoveEtcdLeader {
            from: departure::node_ref(ticket),
            to,
        }),
        Stage::Retire => retire(leaver),
        Stage::Stop { told: true, .. } => Step::default(),
        Stage::Stop { at_once, .. } => Step {
            effects: stop(ticket, at_once, observed).into_iter().collect(),
            ..Step::default()
        },
        Stage::RemoveGone(gone, member) => Step::effect(Effect::RemoveEtcdMember {
            server: gone.name.clone(),
            member: member.id,
            address: member.address,
        }),
        Stage::RemoveMember(member) => Step::effect(Effect::RemoveEtcdMember {
            server: name.clone(),
            member: member.id,
            address: member.address,
        }),
        Stage::PowerOff => Step::effect(Effect::PowerOff {
            server: leaver.server(),
        }),
        Stage::Stopping => {
            let about = format!("node {name}");
            let since = ticket.retiring().unwrap_or(ticket.at);
            Step::holds(guard::stops_in_time(about, ticket.server, since, now).err())
        }
        Stage::DeleteNode => Step::effect(Effect::DeleteNode {
            node: departure::node_ref(ticket),
        }),
        // S5: a volume may have come since.
        Stage::DeleteServer => match guard::keeps_local_data(name, observed, pool) {
            Ok(()) => Step::effect(Effect::DeleteServer {
                server: leaver.server(),
            }),
            Err(hold) => Step::hold(hold),
        },
        Stage::Gone => Step::change(Change::Depart { id: id.clone() }),
        Stage::Held(hold) => Step::hold(hold),
        Stage::Unseen => {
            let about = format!("node {name}");
            let seen = guard::server_is_seen(id, &ticket.pool, about, ticket.server, observed);
            Step::holds(seen.err())
        }
    }
}

/// All is asked again: what was true when it got its ticket may be long ago.
fn retire(leaver: &Leaver<'_>) -> Step {
    let Leaver {
        id,
        ticket,
        pool,
        observed,
        ..
    } = *leaver;
    let Some(member) = observed.ledger.members.get(id) else {
        return Step::change(Change::Depart { id: id.clone() });
    };
    if guard::keeps_local_data(&ticket.node, observed, pool).is_err() {
        return departure::take_back(id, None);
    }
    let reason = ticket.leave().unwrap_or(Reason::ScaleDown);
    match may_leave(member, reason, observed) {
        Ok(()) => Step::change(Change::Retire { id: id.clone() }),
        // Another server may need the ticket to mend what is in the way.
        Err(_) if observed.datastore != Datastore::Unread => departure::take_back(id, None),
        Err(hold) => Step::hold(hold),
    }
}

/// `None` where its agent says nothing: it can't be told.
fn stop(ticket: &Ticket, at_once: bool, observed: &Observed) -> Option<Effect> {
    let report = observed.systems.get(&ticket.node)?.report.as_ref()?;
    Some(Effect::StopK3s {
        node: departure::node_ref(ticket),
        retirement: Retirement {
            schema: Retirement::SCHEMA,
            cluster: observed.ledger.cluster.clone(),
            node: ticket.node.clone(),
            boot: report.boot.clone(),
            stops: at_once,
            // One that goes on until it is removed takes nothing along, however late it hears.
            not_after: at_once.then(|| observed.at + SignedDuration::from_secs(HEARD_SECS)),
        },
    })
}
