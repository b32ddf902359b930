//! What must be true of a node that runs its new system before it may keep it.

use jiff::SignedDuration;

use super::Rollout;
use crate::ledger::Ticket;
use crate::observed::{Datastore, Node, Observed, Pod, PodKind, Role, Well};
use crate::quorum;
use crate::spec::{Check, K3sVersion, Update as Settings};
use crate::system::Update;

/// The first gate that is shut, in words that complete "it runs the new system; …". The cheapest come first.
pub fn missing(
    rollout: &Rollout<'_>,
    ticket: &Ticket,
    update: &Update,
    node: &Node,
) -> Option<String> {
    let settings = &rollout.desired.spec.update;
    lacks(settings, rollout.observed, ticket, update, node)
        .or_else(|| soak(rollout, ticket, update, node))
}

/// What it lacks at this moment.
pub fn lacks(
    settings: &Settings,
    observed: &Observed,
    ticket: &Ticket,
    update: &Update,
    node: &Node,
) -> Option<String> {
    if !node.ready {
        return Some("its Node is not Ready".to_owned());
    }
    let runs = K3sVersion::of_kubelet(&node.kubelet_version);
    let same =
        |v: K3sVersion| (v.minor, v.patch) == (update.kubernetes.minor, update.kubernetes.patch);
    if !runs.is_some_and(same) {
        return Some(format!(
            "its kubelet is {} and not {}",
            node.kubelet_version, update.kubernetes
        ));
    }
    let Some(system) = observed.systems.get(&ticket.node) else {
        return Some("it has not reported".to_owned());
    };
    let Some(pods) = observed.pods.get(&ticket.node) else {
        return Some("its pods can't be read".to_owned());
    };
    if let Some(pod) = system.unready_daemons.first() {
        let others = system.unready_daemons.len() - 1;
        let more = if others > 0 {
            format!(" and {others} more")
        } else {
            String::new()
        };
        return Some(format!("DaemonSet pod {pod}{more} is not ready on it"));
    }
    let mut members = observed.ledger.members.values();
    let member = members.find(|m| m.name == ticket.node);
    if member.is_none_or(|m| m.role == Role::Server) {
        match &observed.datastore {
            Datastore::Unread => return Some("etcd was not read".to_owned()),
            Datastore::Other => {}
            Datastore::Etcd(etcd) => {
                if let Err(lacks) = quorum::is_back(&ticket.node, &etcd.members) {
                    return Some(lacks);
                }
            }
        }
    }
    let mut checks = settings.checks.iter();
    checks.find_map(|(name, check)| {
        let fails = fails(check, pods, observed.ready_pods.get(name).copied())?;
        Some(format!("check {name}: {fails}"))
    })
}

/// Why a check of the user's does not hold. `ready` counts its pods wherever they are, `pods` are the node's.
fn fails(check: &Check, pods: &[Pod], ready: Option<u32>) -> Option<String> {
    match (check.ready, ready) {
        (None, _) => {
            let of_check = |p: &&Pod| p.kind != PodKind::Finished && check.pods.names(p);
            let unready = pods.iter().filter(of_check).find(|p| !p.ready)?;
            let (namespace, name) = (&unready.namespace, &unready.name);
            Some(format!("pod {namespace}/{name} is not ready on it"))
        }
        (Some(_), None) => Some("its pods can't be read".to_owned()),
        (Some(wanted), Some(ready)) => {
            (ready < wanted).then(|| format!("{wanted} of its pods must be ready; so far: {ready}"))
        }
    }
}

/// Well for a moment is not well, and Ready is what a node was when it was last heard of: both have to be true of the time
/// since it tries.
fn soak(rollout: &Rollout<'_>, ticket: &Ticket, update: &Update, node: &Node) -> Option<String> {
    let system = rollout.observed.systems.get(&ticket.node)?;
    let Some(report) = &system.report else {
        return Some("it has not reported".to_owned());
    };
    let of_now = |w: &&Well| w.running == report.running && w.boot == report.boot;
    let well_since = system.well.as_ref().filter(of_now).map(|w| w.since);
    let soak =
        SignedDuration::try_from(rollout.desired.spec.update.soak).unwrap_or(SignedDuration::MAX);
    let well = well_since.map_or(SignedDuration::ZERO, |since| {
        rollout.now.duration_since(since)
    });
    if well < soak {
        // No figure that grows: what is said anew each time is told anew each time.
        let so_far = well_since.map_or(String::new(), |since| {
            let since = since.round(jiff::Unit::Second).unwrap_or(since);
            format!(", and has been since {since}")
        });
        return Some(format!("it has to be well for {soak:#}{so_far}"));
    }
    let activity = report.activity.as_ref();
    let activity = activity.filter(|a| a.ticket == update.number);
    // Both by the node's own clock. Where that jumped back, a renewal of before looks later than the try: what was there
    // when the leader first saw the node well is none since.
    let heard = node.heard.zip(activity);
    let heard = heard.is_some_and(|(at, tries)| at.duration_since(tries.since) >= soak);
    let renewed = system.well.as_ref().is_some_and(|w| w.heard != node.heard);
    (!heard || !renewed).then(|| "its kubelet has to renew its Lease".to_owned())
}
