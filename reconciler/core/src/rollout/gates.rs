//! What must be true of a node that runs its new system before it may keep it.

use jiff::SignedDuration;

use super::Rollout;
use crate::ledger::Ticket;
use crate::observed::{Datastore, Node, NodeSystem, Role, Well};
use crate::quorum;
use crate::spec::K3sVersion;
use crate::system::Update;

/// The first gate that is shut, in words that complete "it runs the new system; …". The cheapest come first.
pub fn missing(
    rollout: &Rollout<'_>,
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
    let Some(system) = rollout.observed.systems.get(&ticket.node) else {
        return Some("it has not reported".to_owned());
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
    let mut members = rollout.observed.ledger.members.values();
    let member = members.find(|m| m.name == ticket.node);
    if member.is_none_or(|m| m.role == Role::Server) {
        match &rollout.observed.datastore {
            Datastore::Unread => return Some("etcd was not read".to_owned()),
            Datastore::Other => {}
            Datastore::Etcd(etcd) => {
                if let Err(lacks) = quorum::is_back(&ticket.node, &etcd.members) {
                    return Some(lacks);
                }
            }
        }
    }
    soak(rollout, update, node, system)
}

/// Well for a moment is not well, and Ready is what a node was when it was last heard of: both have to be true of the time
/// since it tries.
fn soak(
    rollout: &Rollout<'_>,
    update: &Update,
    node: &Node,
    system: &NodeSystem,
) -> Option<String> {
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
