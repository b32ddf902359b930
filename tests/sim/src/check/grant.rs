//! Who may get a ticket: S1 to S4 and S8, windows, pauses, canaries, rests, and who is held out.

use fabrik_core::desired::Desired;
use fabrik_core::id::NodeName;
use fabrik_core::ledger::{Member, Ticket};
use fabrik_core::observed::{Observed, Role};
use fabrik_core::system::Update;
use fabrik_core::window::{Opening, opening};
use jiff::Timestamp;

use super::{Book, Broken, broken, ladder, members_of, minor, running};

fn is_down(member: &Member, view: &Observed) -> bool {
    let node = view.nodes.get(&member.name);
    node.is_none_or(|n| !n.ready || n.unschedulable || n.uid != member.uid)
}

pub fn grant(
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
    let report = view.systems.get(name).and_then(|s| s.report.as_ref());
    if report.is_some_and(|r| r.running == update.system && r.boots(&update.system)) {
        return broken("S8", format!("{name} is to try what it keeps"));
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
        && !has_tried(view, name, update)
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

/// Whether it went back only because nobody spoke: then it is not the canary's to go first.
fn has_tried(view: &Observed, name: &NodeName, update: &Update) -> bool {
    let lapses = view.ledger.lapses.get(&update.system);
    lapses.is_some_and(|l| l.node == *name)
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
