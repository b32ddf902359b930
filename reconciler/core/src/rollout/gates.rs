//! What must be true of a node that runs its new system before it may keep it.

use jiff::SignedDuration;

use super::Rollout;
use crate::ledger::Ticket;
use crate::observed::{Node, NodeSystem, Role, Well};
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
        let Some(etcd) = &rollout.observed.etcd else {
            return Some("etcd was not read".to_owned());
        };
        if let Err(lacks) = quorum::is_back(&ticket.node, &etcd.members) {
            return Some(lacks);
        }
    }
    soak(rollout, system)
}

/// Well for a moment is not well.
fn soak(rollout: &Rollout<'_>, system: &NodeSystem) -> Option<String> {
    let report = system.report.as_ref()?;
    let of_now = |w: &&Well| w.running == report.running && w.boot == report.boot;
    let well_since = system.well.as_ref().filter(of_now).map(|w| w.since);
    let soak =
        SignedDuration::try_from(rollout.desired.spec.update.soak).unwrap_or(SignedDuration::MAX);
    let well = well_since.map_or(SignedDuration::ZERO, |since| {
        rollout.now.duration_since(since)
    });
    (well < soak).then(|| format!("it has to be well for {soak:#}, and has been for {well:#}"))
}
