//! What becomes a Kubernetes Event: what happens in a rollout, and what waits for more than somebody's next step.

use fabrik_core::effect::Effect;
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::{IntentId, NodeName};
use fabrik_core::ledger::{Change, Ending, Ledger};
use fabrik_core::system::Action;

use crate::cluster::events::{Events, POD_FORCED, Weight};

/// A change of the ledger; `ledger` has it in it.
pub fn change(events: &Events, change: &Change, ledger: &Ledger) {
    match change {
        Change::Grant { ticket, .. } => {
            if let Some(update) = ticket.update() {
                let note = format!("node {} may try {}", ticket.node, update.system.short());
                let reason = "UpdateGranted";
                events.of_node(&ticket.node, Weight::Normal, reason, &note);
            }
        }
        Change::EndUpdate { id, ending } => ended(events, id, ending, ledger),
        Change::Deny {
            system, node, why, ..
        } => {
            let note = format!("node {node} leaves {}: {why}", system.short());
            let reason = "UpdateFailed";
            events.of_node(node, Weight::Warning, reason, &note);
        }
        _ => {}
    }
}

fn ended(events: &Events, id: &IntentId, ending: &Ending, ledger: &Ledger) {
    let told = match ending {
        Ending::Kept => "runs its new system".to_owned(),
        Ending::Postponed { why, .. } => format!("is updated later: {why}"),
        Ending::Withdrawn => "gives its ticket back: by now it would not get one".to_owned(),
        Ending::WentBack => "runs its old system again".to_owned(),
        Ending::Released => "is let go: a person took its ticket away".to_owned(),
        // Its Node is gone, and so is the object that this would be about.
        Ending::Lost => return,
    };
    let Some(member) = ledger.members.get(id) else {
        return;
    };
    let note = format!("node {} {told}", member.name);
    events.of_node(&member.name, Weight::Normal, "UpdateEnded", &note);
}

/// Holds that came, and holds that went.
pub fn holds(events: &Events, come: &[Hold], gone: &[Hold]) {
    for hold in come {
        if let Some((weight, reason)) = event_of(hold) {
            let note = hold.to_string();
            match hold.about.strip_prefix("node ").map(str::parse::<NodeName>) {
                Some(Ok(node)) => events.of_node(&node, weight, reason, &note),
                _ => events.of_cluster(weight, reason, "update", &note),
            }
        }
    }
    let paused = |holds: &[Hold]| {
        let mut holds = holds.iter();
        holds.any(|h| h.reason == HoldReason::Paused && h.about == "everything")
    };
    if paused(gone) && !paused(come) {
        events.normal("Resumed", "update", "effects go on");
    }
}

/// What ends with somebody's next step is no news.
fn event_of(hold: &Hold) -> Option<(Weight, &'static str)> {
    match hold.reason {
        HoldReason::Stuck => Some((Weight::Warning, "UpdateStuck")),
        HoldReason::OtherKey => Some((Weight::Warning, "SecretsWithheld")),
        HoldReason::Denied => Some((Weight::Warning, "UpdateStandsStill")),
        HoldReason::Paused => Some((Weight::Warning, "Paused")),
        HoldReason::Window
        | HoldReason::HeldOut
        | HoldReason::Quorum
        | HoldReason::Canary
        | HoldReason::Turn
        | HoldReason::ServersFirst
        | HoldReason::VersionSkew
        | HoldReason::Resting => Some((Weight::Normal, "UpdateWaits")),
        _ => None,
    }
}

/// An effect that was carried out.
pub fn effect(events: &Events, effect: &Effect) {
    let verb = effect.verb();
    let (node, words) = in_words(effect);
    let (weight, reason) = match effect {
        Effect::ForcePod { .. } => (Weight::Warning, POD_FORCED.to_owned()),
        _ => (Weight::Normal, event_reason(verb)),
    };
    match node {
        Some(node) => events.of_node(node, weight, &reason, &words),
        None => events.of_cluster(weight, &reason, verb, &words),
    }
}

/// The node whose way an effect is a part of, and the effect in words.
fn in_words(effect: &Effect) -> (Option<&NodeName>, String) {
    let (verb, target) = (effect.verb(), effect.target());
    let words = format!("{verb} {target}");
    match effect {
        Effect::Order { node, order } => {
            let told = match order.action {
                Action::Try => "try",
                Action::Keep => "keep",
                Action::GoBack => "go back from",
            };
            let system = order.system.short();
            let words = format!("node {target} is told to {told} {system}");
            (Some(&node.name), words)
        }
        Effect::Evict { node, .. } => (Some(node), format!("evict {target} from node {node}")),
        Effect::ForcePod { node, .. } => {
            let words = format!(
                "{node}: {target} was deleted in spite of its PodDisruptionBudget: the drain is out of time, and \
                 [update] force lists it"
            );
            (Some(node), words)
        }
        Effect::Cordon { node, .. }
        | Effect::Uncordon { node, .. }
        | Effect::Withdraw { node }
        | Effect::DeliverSecrets { node, .. }
        | Effect::MoveEtcdLeader { from: node, .. }
        | Effect::SnapshotEtcd { node, .. }
        | Effect::StopK3s { node, .. } => (Some(&node.name), words),
        Effect::RemoveEtcdMember { server, .. } => (Some(server), words),
        Effect::Reset { server } => (Some(&server.name), words),
        _ => (None, words),
    }
}

/// `create-server` → `CreateServer`, as Events name things.
fn event_reason(verb: &str) -> String {
    verb.split('-')
        .map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map(|first| first.to_ascii_uppercase())
                .into_iter()
                .chain(letters)
                .collect::<String>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_s_reason_is_the_verb_in_camel_case() {
        assert_eq!(event_reason("create-server"), "CreateServer");
        assert_eq!(event_reason("evict"), "Evict");
    }
}
