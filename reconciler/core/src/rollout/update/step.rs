//! What is done about a node at each stage.

use jiff::SignedDuration;

use super::{REST_SECS, Stage, is_told, signed, stage, starts_minor, time_left};
use crate::departure;
use crate::effect::{Effect, NodeRef, ServerRef};
use crate::hold::{Hold, HoldReason};
use crate::id::IntentId;
use crate::ledger::{Change, Ending, Ticket};
use crate::names::RELEASE_TICKET_ANNOTATION;
use crate::rollout::Rollout;
use crate::step::Step;
use crate::system::{Action, Order, Update};

/// The next step of the holder of `ticket`. `next_number` is that of the next ticket.
pub(in crate::rollout) fn step(
    rollout: &Rollout<'_>,
    id: &IntentId,
    ticket: &Ticket,
    update: &Update,
    next_number: &mut u64,
) -> Step {
    let node = || NodeRef {
        name: ticket.node.clone(),
        uid: ticket.uid.clone(),
    };
    let act = |effect| Step::effect(effect);
    let wait = |reason, message: String| {
        Step::hold(Hold {
            about: format!("node {}", ticket.node),
            reason,
            message,
        })
    };
    let order = |action| order(rollout, update, action, node());
    if starts_minor(rollout, ticket, update) {
        return Step::change(Change::StartedMinor { id: id.clone() });
    }
    match stage(rollout, id, ticket, update) {
        // Where it was lost while it tried, the next node is not to follow it.
        Stage::Lost if is_told(rollout, ticket, update) && !is_denied(rollout, update) => {
            deny(ticket, update, "it was lost while it tried".to_owned())
        }
        Stage::Lost => leave(rollout, id, ticket, Ending::Lost),
        // At once, with its cordon: what is against it may be over in the next pass, and a node that is then cordoned again
        // under the same mark would lose that to a request to uncordon that is late (S7).
        Stage::Withdrawn(_) => end(id, Ending::Withdrawn),
        Stage::OutOfTime(why) => {
            let rest_until = rollout.now + SignedDuration::from_secs(REST_SECS);
            end(id, Ending::Postponed { rest_until, why })
        }
        Stage::Cordon => act(departure::cordon(id, ticket, rollout.observed)),
        Stage::Drain(left, policy) => left.drain(ticket, policy),
        Stage::Force(left, policy) => left.force(ticket, policy),
        Stage::HandOver { to } => act(Effect::MoveEtcdLeader { from: node(), to }),
        Stage::Snapshot { name } => act(Effect::SnapshotEtcd { node: node(), name }),
        Stage::Try => order_once(rollout, id, update, order(Action::Try)),
        Stage::Unsent(why) => wait(
            HoldReason::Postponed,
            format!("is not told to try now: {why}"),
        ),
        Stage::Unordered => Step::change(Change::Unordered { id: id.clone() }),
        Stage::Applying | Stage::Keeping | Stage::GoingBack => Step::default(),
        Stage::Reset if !is_denied(rollout, update) => {
            deny(ticket, update, "it did not come up in time".to_owned())
        }
        Stage::Reset => reset(rollout, id, ticket, update),
        Stage::Verifying(missing) => wait(
            HoldReason::Verifying,
            format!("runs the new system; {missing}"),
        ),
        Stage::Keep => act(order(Action::Keep)),
        // S8: known to be bad from here on, not only when it is back.
        Stage::GoBack(why) if !is_denied(rollout, update) => deny(ticket, update, why),
        Stage::GoBack(_) => act(order(Action::GoBack)),
        Stage::Done => leave(rollout, id, ticket, Ending::Kept),
        Stage::WentBack(why) if !is_denied(rollout, update) => deny(ticket, update, why),
        Stage::WentBack(_) => leave(rollout, id, ticket, Ending::WentBack),
        Stage::TryAgain => {
            let number = std::mem::replace(next_number, *next_number + 1);
            try_again(rollout, id, ticket, update, number)
        }
        // What it tried is not tried again, unless it runs by now.
        Stage::Released if !is_denied(rollout, update) && !keeps(rollout, ticket, update) => {
            deny(ticket, update, "a person took its ticket away".to_owned())
        }
        Stage::Released => leave(rollout, id, ticket, Ending::Released),
        Stage::Stuck(why) => wait(
            HoldReason::Stuck,
            format!(
                "{why}. It keeps its ticket, and no other node is touched before a person has mended it, or takes the \
                 ticket away: kubectl annotate --overwrite fabriknode {} {RELEASE_TICKET_ANNOTATION}={}",
                ticket.node, update.number
            ),
        ),
    }
}

/// Under a number of its own, for a node obeys no number twice.
fn try_again(
    rollout: &Rollout<'_>,
    id: &IntentId,
    ticket: &Ticket,
    update: &Update,
    number: u64,
) -> Step {
    let system = rollout.observed.systems.get(&ticket.node);
    let report = system.and_then(|s| s.report.as_ref());
    let boot = report.map_or(&update.boot, |r| &r.boot);
    // Where it lapsed because more is needed than it was told, it must not again.
    let staged = report.and_then(|r| r.staged.as_ref());
    let staged = staged.filter(|s| s.system == update.system);
    Step::change(Change::TryAgain {
        id: id.clone(),
        number,
        boot: boot.clone(),
        needs: staged.map_or(update.needs, |s| s.needs.max(update.needs)),
    })
}

fn keeps(rollout: &Rollout<'_>, ticket: &Ticket, update: &Update) -> bool {
    let system = rollout.observed.systems.get(&ticket.node);
    let report = system.and_then(|s| s.report.as_ref());
    report.is_some_and(|r| r.running == update.system && r.boots(&update.system))
}

fn is_denied(rollout: &Rollout<'_>, update: &Update) -> bool {
    rollout.observed.ledger.denied.contains_key(&update.system)
}

fn deny(ticket: &Ticket, update: &Update, why: String) -> Step {
    Step::change(Change::Deny {
        system: update.system.clone(),
        pool: ticket.pool.clone(),
        node: ticket.node.clone(),
        why,
    })
}

fn order(rollout: &Rollout<'_>, update: &Update, action: Action, node: NodeRef) -> Effect {
    // Both have the same time in mind: who tries for longer than the leader waits is taken for sick.
    let seconds = match action {
        Action::Try => time_left(rollout, update).as_secs(),
        Action::Keep | Action::GoBack => rollout.desired.spec.update.try_deadline.as_secs(),
    };
    let order = Order {
        ticket: update.number,
        system: update.system.clone(),
        needs: update.needs,
        minor: update.minor,
        action,
        seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        not_after: update.deadline,
    };
    Effect::Order { node, order }
}

/// The time of the order is written down first, so that a leader that comes after gives the node no longer.
fn order_once(rollout: &Rollout<'_>, id: &IntentId, update: &Update, order: Effect) -> Step {
    match update.ordered {
        None => Step::change(Change::Ordered {
            id: id.clone(),
            at: rollout.now,
            deadline: rollout.now + signed(rollout.desired.spec.update.try_deadline),
        }),
        Some(_) => Step::effect(order),
    }
}

/// The reset is written down first: a machine is reset once, and then left to a person.
fn reset(rollout: &Rollout<'_>, id: &IntentId, ticket: &Ticket, update: &Update) -> Step {
    if update.reset.is_none() {
        return Step::change(Change::Reset {
            id: id.clone(),
            at: rollout.now,
        });
    }
    let server = ServerRef {
        id: ticket.server,
        name: ticket.node.clone(),
        intent: id.clone(),
    };
    Step::effect(Effect::Reset { server })
}

/// Uncordons, if the cordon is ours (S6), and then gives the ticket back.
fn leave(rollout: &Rollout<'_>, id: &IntentId, ticket: &Ticket, ending: Ending) -> Step {
    // Our mark goes too where somebody else has uncordoned: a later cordon of theirs is not ours.
    let node = rollout.observed.nodes.get(&ticket.node);
    let there = node.is_some_and(|n| n.uid == ticket.uid);
    let uncordon = departure::uncordon(id, ticket, rollout.observed).filter(|_| there);
    uncordon.map_or_else(|| end(id, ending), Step::effect)
}

fn end(id: &IntentId, ending: Ending) -> Step {
    Step::change(Change::EndUpdate {
        id: id.clone(),
        ending,
    })
}
