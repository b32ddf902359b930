//! Who may go down: when that is written down, and once more when it is told to. S3, S4, S7 and S8.

use std::time::Duration;

use fabrik_core::desired::Desired;
use fabrik_core::effect::Effect;
use fabrik_core::id::{NodeName, Uid};
use fabrik_core::ledger::Ticket;
use fabrik_core::observed::{Datastore, Node, Observed, Pod, PodKind, Role};
use fabrik_core::step::Step;
use fabrik_core::system::{Action, Needs, Update};
use fabrik_core::window::{Opening, opening};
use jiff::{SignedDuration, Timestamp};

use super::servers;
use super::{Book, Broken, broken, ladder, minor};
use crate::systems::{Fate, Systems};

/// How often a node may be told to try the same system under one commit: once more where nobody spoke.
const MAX_TRIES: u32 = 2;

/// Who is about to be told to go down, or is reset: all must be true then that was when it was written down.
pub fn sent(
    desired: &Desired,
    view: &Observed,
    step: &Step,
    now: Timestamp,
    book: &Book,
) -> Broken {
    let told = step.effects.iter().find_map(|effect| {
        let (node, order) = match effect {
            Effect::Order { node, order } => (node, order),
            Effect::Reset { server } => return reset(desired, view, &server.name),
            Effect::ForcePod { node, uid, .. } => return forced(desired, view, node, uid, now),
            other => return servers::sent(view, other),
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
    });
    told.or_else(|| noted_resets(view, step, now))
}

/// Who is noted as reset, and still hangs, is reset: nobody does it later (L4). A leader's clock may show the same moment twice.
fn noted_resets(view: &Observed, step: &Step, now: Timestamp) -> Broken {
    let tickets = view.ledger.tickets.values();
    let noted = |t: &&Ticket| t.update().is_some_and(|u| u.reset == Some(now));
    let mut noted = tickets.filter(noted);
    let is_reset = |ticket: &Ticket| {
        let of = |e: &Effect| matches!(e, Effect::Reset { server } if server.id == ticket.server);
        step.effects.iter().any(of)
    };
    let hangs = |ticket: &Ticket| view.nodes.get(&ticket.node).is_some_and(|n| !n.ready);
    let left = noted.find(|ticket| hangs(ticket) && !is_reset(ticket))?;
    broken(
        "L4",
        format!("{} hangs, is noted as reset, and is not", left.node),
    )
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
fn reset(desired: &Desired, view: &Observed, name: &NodeName) -> Broken {
    let node = view.nodes.get(name)?;
    let silent = |at: Timestamp| view.at.duration_since(at).as_secs() > 60;
    if node.ready || !node.heard.is_none_or(silent) {
        return broken("S7", format!("{name} is reset, and its kubelet lives"));
    }
    if node.control_plane {
        // A machine that hangs can't hand its leadership over.
        return quorum(desired, view, name, false);
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
        let found = quorum(desired, view, name, true);
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
pub fn ordered(
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
        // Who left it only because nobody spoke, and was held out or left the cluster since, can't try it first once more.
        let held = &desired.spec.update.held;
        let is_there = |n: &&NodeName| view.ledger.members.values().any(|m| m.name == **n);
        let tried = tried
            .iter()
            .filter(|n| !held.contains_key(n))
            .filter(is_there);
        if tried.clone().count() > max {
            let tried: Vec<_> = tried.collect();
            return broken("S8", format!("a bad system is tried by {tried:?}"));
        }
    }
    None
}

/// It was not told after all: that was no try.
pub fn unordered(view: &Observed, ticket: &Ticket, book: &mut Book) -> Broken {
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

fn quorum(desired: &Desired, view: &Observed, name: &NodeName, hands_over: bool) -> Broken {
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
    // The user's word for one or two, where the other one is well.
    let few = desired.spec.update.allow_control_plane_downtime && members.len() <= 2;
    let enough = left > members.len() / 2 || few && left + 1 == members.len();
    if !enough {
        return broken(
            "S3",
            format!("{name} goes down and leaves {left} of {}", members.len()),
        );
    }
    let leads = members
        .iter()
        .any(|m| m.leader && m.node.as_ref() == Some(name));
    if leads && hands_over && members.len() > 1 {
        return broken("S3", format!("{name} goes down and leads etcd"));
    }
    None
}
