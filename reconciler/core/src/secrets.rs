//! Which secrets of the repository a node is to have, and whom they are encrypted to. No value of one gets here.
//!
//! A node has an age identity of its own and says whom it is for. That is believed once, when its machine has just
//! joined, and is in the ledger from then on: who takes a node over later, or its name, reads nothing by saying another.

use sha2::{Digest as _, Sha256};

use crate::desired::Desired;
use crate::effect::Effect;
use crate::hold::{Hold, HoldReason};
use crate::id::{AgeRecipient, IntentId, NodeName, SecretName, SecretsDigest};
use crate::ledger::{Change, Ledger, Member};
use crate::names::{ACCEPT_RECIPIENT_ANNOTATION, SERVERS_POOL};
use crate::observed::{NodeSystem, Observed};
use crate::rollout::node_ref;
use crate::spec::NodeSecret;
use crate::step::Step;

/// How much of an agent's words is told.
const MAX_SAYS: usize = 300;
/// Begins what is digested: a digest of another layout of this is another digest.
const LAYOUT: &str = "fabrik-node-secrets-1";

/// Records keys, and hands out what is not there yet.
pub fn step(desired: &Desired, observed: &Observed) -> Step {
    let mut step = Step::default();
    for (id, member) in &observed.ledger.members {
        let joined = observed.nodes.get(&member.name);
        let joined = joined.filter(|n| n.uid == member.uid && !n.deleting);
        let joined = joined.filter(|_| is_wanted(desired, member));
        let system = observed.systems.get(&member.name);
        if let (Some(_), Some(system)) = (joined, system) {
            step.extend(of_member(desired, observed, id, member, system));
        }
    }
    step
}

/// Whether a node waits for secrets that the units of its next system need, or can't be given any. One whose agent knows
/// of no secrets waits for none: the next system may bring the agent that does.
pub fn lacks(desired: &Desired, observed: &Observed, id: &IntentId, member: &Member) -> bool {
    let system = observed.systems.get(&member.name);
    let says = system.and_then(|s| s.report.as_ref()?.recipient.as_ref());
    let recorded = observed.ledger.recipients.get(id);
    says.is_some_and(|says| {
        let is_other = recorded.is_some_and(|recorded| recorded != says);
        is_other || is_behind(desired, observed, id, member)
    })
}

/// Whether a node that is Ready has not placed its secrets, has some that it is to give back, or can't be given any.
pub fn are_under_way(desired: &Desired, observed: &Observed) -> bool {
    let mut members = observed.ledger.members.iter();
    members.any(|(id, member)| {
        let node = observed.nodes.get(&member.name);
        let has_key = observed.ledger.recipients.contains_key(id);
        node.is_some_and(|n| n.ready)
            && (lacks(desired, observed, id, member)
                || has_key && is_behind(desired, observed, id, member))
    })
}

/// Whether what a node has placed is not what it is to have.
fn is_behind(desired: &Desired, observed: &Observed, id: &IntentId, member: &Member) -> bool {
    let deliveries = observed.deliveries.as_ref();
    let was_given = deliveries.is_some_and(|d| d.contains_key(&member.name));
    if !is_wanted(desired, member) || wanted(desired, member).is_empty() && !was_given {
        return false;
    }
    let system = observed.systems.get(&member.name);
    let placed = system.and_then(|s| s.report.as_ref()?.secrets.as_ref());
    let recorded = observed.ledger.recipients.get(id);
    let digest = recorded.map(|recorded| digest(desired, &observed.ledger, member, recorded));
    placed.is_none() || placed != digest.as_ref()
}

/// A node whose pool is wanted no more keeps what it has until it leaves: its pods run for a while yet.
fn is_wanted(desired: &Desired, member: &Member) -> bool {
    member.pool.as_str() == SERVERS_POOL || desired.spec.pools.contains_key(&member.pool)
}

fn of_member(
    desired: &Desired,
    observed: &Observed,
    id: &IntentId,
    member: &Member,
    system: &NodeSystem,
) -> Step {
    let says = system.report.as_ref().and_then(|r| r.recipient.as_ref());
    let recorded = observed.ledger.recipients.get(id);
    let of_other = says.filter(|says| recorded != Some(says));
    let of_other = of_other.and_then(|says| observed.ledger.other_with(id, says));
    if let Some(other) = of_other {
        return Step::hold(held(member, HoldReason::OtherKey, &shared(other)));
    }
    match (recorded, says) {
        (None, Some(says)) => Step::change(Change::RecordRecipient {
            id: id.clone(),
            recipient: says.clone(),
        }),
        (Some(recorded), Some(says)) if recorded != says => {
            if system.accepts.as_ref() == Some(says) {
                return Step::change(Change::ReplaceRecipient {
                    id: id.clone(),
                    recipient: says.clone(),
                });
            }
            Step::hold(held(
                member,
                HoldReason::OtherKey,
                &other_key(member, recorded, says),
            ))
        }
        (Some(recorded), _) => deliver(desired, observed, id, member, recorded),
        (None, None) if !wanted(desired, member).is_empty() => {
            let why = "gets no secrets yet: its `fabrik agent` has not said whom they have to be encrypted to";
            Step::hold(held(member, HoldReason::Secrets, why))
        }
        (None, None) => Step::default(),
    }
}

/// Lays ready what is not. Who has some and is to have none any more is told so: what it has goes by a word of the
/// leader's, and not because something was not found.
fn deliver(
    desired: &Desired,
    observed: &Observed,
    id: &IntentId,
    member: &Member,
    recipient: &AgeRecipient,
) -> Step {
    let Some(deliveries) = &observed.deliveries else {
        return Step::default();
    };
    let secrets: Vec<SecretName> = wanted(desired, member)
        .into_iter()
        .map(|(n, _)| n.clone())
        .collect();
    let digest = digest(desired, &observed.ledger, member, recipient);
    match deliveries.get(&member.name) {
        None if secrets.is_empty() => Step::default(),
        Some(there) if *there == digest => {
            let node = observed.nodes.get(&member.name);
            let waits = node.is_some_and(|n| n.ready) && is_behind(desired, observed, id, member);
            let why = || not_placed(observed, member);
            Step::holds(waits.then(|| held(member, HoldReason::Secrets, &why())))
        }
        _ => Step::effect(Effect::DeliverSecrets {
            node: node_ref(member),
            recipient: recipient.clone(),
            digest,
            sequence: observed.ledger.sequence,
            secrets,
        }),
    }
}

/// What the nodes of a member's pool are to have.
fn wanted<'a>(desired: &'a Desired, member: &Member) -> Vec<(&'a SecretName, &'a NodeSecret)> {
    let secrets = desired.spec.secrets.iter();
    secrets
        .filter(|(_, s)| s.pools.contains(&member.pool))
        .collect()
}

/// Of all that says which secrets a node gets and for whom. The values are not in it, but the blobs of git that they are
/// encrypted in: a digest of a short value would tell it to who can guess.
fn digest(
    desired: &Desired,
    ledger: &Ledger,
    member: &Member,
    recipient: &AgeRecipient,
) -> SecretsDigest {
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    };
    for part in [
        LAYOUT,
        ledger.cluster.as_str(),
        member.name.as_str(),
        recipient.as_str(),
    ] {
        add(part);
    }
    for (name, secret) in wanted(desired, member) {
        let blob = desired.sources.get(name).map_or("", String::as_str);
        let (key, mode) = (&secret.source.key, secret.mode.to_string());
        for part in [
            name.as_str(),
            blob,
            key,
            &mode,
            &secret.owner,
            &secret.group,
        ] {
            add(part);
        }
    }
    let hex = crate::hex(&hash.finalize());
    hex.parse().expect("a SHA-256 has 64 digits")
}

/// A key that two machines have was in the image that both were made from.
fn shared(other: &NodeName) -> String {
    format!(
        "gets no secrets: its key is that of node {other}. Where both come from one image, make that without the agent's \
         state (/var/lib/fabrik-agent), and replace the node"
    )
}

fn other_key(member: &Member, recorded: &AgeRecipient, says: &AgeRecipient) -> String {
    let node = &member.name;
    format!(
        "gets no new secrets: it says that its key is {says}, and {recorded} was recorded when it joined. Somebody has its \
         identity, or it has lost its disk: replace it. Only if you know why it has another key: `kubectl annotate \
         fabriknode {node} {ACCEPT_RECIPIENT_ANNOTATION}={says}`"
    )
}

/// With the words of its agent, which may know why.
fn not_placed(observed: &Observed, member: &Member) -> String {
    let system = observed.systems.get(&member.name);
    let report = system.and_then(|s| s.report.as_ref());
    let says_no_key = report.is_some_and(|r| r.recipient.is_none());
    let why = if says_no_key {
        "does not say its key any more: it went back to an agent that knows of no secrets, or can't read age.key"
    } else {
        "has not placed them yet"
    };
    let says = system.and_then(|s| s.says.as_deref());
    let says: String = says
        .into_iter()
        .flat_map(|s| s.chars().take(MAX_SAYS))
        .collect();
    let says = if says.is_empty() {
        says
    } else {
        format!(" ({says})")
    };
    format!("its secrets lie ready, and its `fabrik agent` {why}{says}")
}

fn held(member: &Member, reason: HoldReason, message: &str) -> Hold {
    Hold {
        about: format!("node {}", member.name),
        reason,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
