//! The way into the control plane of a machine of the user's own, which `[servers.machines]` names. A person installs it and
//! gives it a nonce; whether it may come now is decided here, by what holds for a server at Hetzner too. It is neither powered
//! off nor deleted: nobody but a person can do that.

use core::net::IpAddr;

use jiff::Timestamp;

use super::join::{Arrival, all_are_well};
use super::{coming, known_members, members};
use crate::adopt;
use crate::desired::Desired;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, MachineName, NodeName, PoolName, ServerId};
use crate::join::Asked;
use crate::ledger::{Change, Intent};
use crate::observed::Observed;
use crate::spec::{K3sRelease, Machine, Spec};
use crate::step::Step;

/// Those that a specification names, each with its Node's name.
pub fn all(spec: &Spec) -> impl Iterator<Item = (NodeName, &MachineName, &Machine)> {
    spec.own_servers.iter().map(|(name, machine)| {
        let node = NodeName::of_machine(&spec.name, &PoolName::servers(), name);
        (node, name, machine)
    })
}

/// Who comes, and whom a person asks for.
pub fn step(desired: &Desired, observed: &Observed, now: Timestamp) -> Step {
    let mut step = Step::default();
    for (id, intent) in coming(&observed.ledger) {
        if let Some(server) = intent.server.filter(|server| server.is_own()) {
            let arrival = Arrival::new(id, intent, server, observed);
            step.extend(arrive(&arrival, desired, now));
        }
    }
    let asked = observed.asked.as_ref().filter(|asked| asked.counts(now));
    if let Some(asked) = asked.filter(|asked| !is_member(&asked.node, observed)) {
        step.extend(match may_join(&desired.spec, &asked.node, observed) {
            Ok(address) => invite(asked, address, observed),
            Err(hold) => Step::hold(hold),
        });
    }
    step
}

/// Whether the machine may be given its keys now, or is on its way by them. Returns its address among nodes.
///
/// # Errors
/// What it waits for.
pub fn may_join(spec: &Spec, node: &NodeName, observed: &Observed) -> Result<IpAddr, Hold> {
    let waits = |reason, message: String| Hold {
        about: format!("node {node}"),
        reason,
        message: format!("may not become a server now: {message}"),
    };
    let named = all(spec).find(|(name, ..)| name == node);
    let (_, _, machine) = named.ok_or_else(|| {
        let message = "[servers.machines] of the commit in force does not name it";
        waits(HoldReason::Unexplained, message.to_owned())
    })?;
    let address = IpAddr::from(machine.node_ip);
    if let Some(why) = &observed.paused {
        return Err(waits(HoldReason::Paused, format!("paused: {why}")));
    }
    if let Some((id, intent)) = coming(&observed.ledger).find(|(_, i)| i.name == *node) {
        let is_wanted = intent.cancelled.is_none();
        return is_wanted
            .then_some(address)
            .ok_or_else(|| refused(id, intent, observed));
    }
    if observed.nodes.contains_key(node) {
        let message = format!(
            "there is a Node of that name. If its machine has lost what it had, power it off, `kubectl delete node {node}`, and \
             install it anew"
        );
        return Err(waits(HoldReason::Unexplained, message));
    }
    let lost = lost(node, observed);
    let minor = all_are_well(observed, lost).map_err(|(reason, message)| waits(reason, message))?;
    let wanted = spec.kubernetes.version.parse().map(K3sRelease::minor);
    if wanted != Ok(minor) {
        let version = &spec.kubernetes.version;
        let message = format!(
            "the servers run k3s 1.{minor} and the commit in force has {version}: wait until all run it"
        );
        return Err(waits(HoldReason::VersionSkew, message));
    }
    Ok(address)
}

/// Whether it is one of the servers, and is there.
pub fn is_member(node: &NodeName, observed: &Observed) -> bool {
    let uid = observed.nodes.get(node).map(|node| &node.uid);
    let mut members = members(&observed.ledger);
    members.any(|(_, m)| m.name == *node && Some(&m.uid) == uid)
}

/// It was a member, and a person has deleted its Node.
fn lost<'a>(node: &NodeName, observed: &'a Observed) -> Option<&'a IntentId> {
    let mut members = members(&observed.ledger);
    let (id, _) = members.find(|(_, m)| m.name == *node)?;
    let is_gone = !observed.nodes.contains_key(node) && !observed.ledger.tickets.contains_key(id);
    is_gone.then_some(id)
}

/// From then on nobody else comes or goes. Where it is on its way, only its nonce is another one.
fn invite(asked: &Asked, address: IpAddr, observed: &Observed) -> Step {
    let ledger = &observed.ledger;
    let mut step = Step::default();
    let on_its_way = coming(ledger).find(|(_, intent)| intent.name == asked.node);
    let id = if let Some((id, _)) = on_its_way {
        if ledger.nonces.get(id).is_some_and(|n| n.hash == asked.hash) {
            return step;
        }
        id.clone()
    } else {
        let server = ServerId::of_machine(&ledger.cluster, &asked.node);
        let id = adopt::own_id(server, observed, &step);
        let lost = lost(&asked.node, observed).cloned();
        step.changes.extend(lost.map(|id| Change::Depart { id }));
        step.changes.push(Change::Expect {
            id: id.clone(),
            pool: PoolName::servers(),
            name: asked.node.clone(),
            server,
        });
        step.changes.push(Change::Bind {
            id: id.clone(),
            server,
            address: Some(address),
        });
        id
    };
    step.changes.push(Change::Invite {
        id,
        hash: asked.hash.clone(),
        until: asked.until,
    });
    step
}

/// The next step of one that is on its way.
fn arrive(arrival: &Arrival<'_>, desired: &Desired, now: Timestamp) -> Step {
    let (id, intent, observed) = (arrival.id, arrival.intent, arrival.observed);
    let is_alarmed = observed.ledger.alarmed.contains(id);
    let lacks = match (arrival.lacks(), arrival.node) {
        (Ok(()), Some(node)) if !is_alarmed => {
            return Step::change(Change::Join {
                id: id.clone(),
                uid: node.uid.clone(),
            });
        }
        (lacks, _) => lacks.err(),
    };
    let is_named = all(&desired.spec).any(|(node, ..)| node == intent.name);
    if !is_named && intent.cancelled.is_none() {
        return Step::change(Change::Cancel { id: id.clone() });
    }
    let asked = observed.asked.as_ref();
    let is_asked = asked.is_some_and(|asked| asked.node == intent.name && asked.counts(now));
    let nonce = observed.ledger.nonces.get(id);
    let is_invited = is_asked || nonce.is_some_and(|nonce| now < nonce.until);
    let has_member = known_members(observed).map(|all| arrival.member(all).is_some());
    let is_there = observed.nodes.contains_key(&intent.name) || has_member != Ok(false);
    if !is_invited && !is_there {
        return Step::change(Change::Forget { id: id.clone() });
    }
    let node = &intent.name;
    Step::hold(match lacks.filter(|_| intent.cancelled.is_none()) {
        None => refused(id, intent, observed),
        Some(lacks) if is_invited => held(node, format!("is on its way in: {lacks}")),
        Some(lacks) => held(
            node,
            format!(
                "is on its way in for longer than it should: {lacks}. Until it is a server nobody else comes or goes. Look at \
                 `journalctl -u fabrik-identity -u k3s` there, and run `fabrik install` once more. If it is to come no more, power \
                 it off and `kubectl delete node {node}`; where it has none, `etcdctl member remove`"
            ),
        ),
    })
}

/// One that is not let in any more, and may have been given its keys.
fn refused(id: &IntentId, intent: &Intent, observed: &Observed) -> Hold {
    let node = &intent.name;
    let why = if observed.ledger.alarmed.contains(id) {
        "two machines have shown its nonce, and what a server has may have gone to the wrong one (docs/security.md)"
    } else {
        "it was taken out of [servers.machines] on its way in"
    };
    let message = format!(
        "is not let in: {why}. Power it off; if it has joined, `kubectl delete node {node}`, or `etcdctl member remove` where it \
         has no Node"
    );
    held(node, message)
}

fn held(node: &NodeName, message: String) -> Hold {
    super::held(node, HoldReason::NotJoined, message)
}
