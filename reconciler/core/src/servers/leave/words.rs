//! What people are told of a server's way out. Nothing is decided here.

use super::{Stage, stage};
use crate::id::IntentId;
use crate::ledger::{Reason, Ticket};
use crate::observed::{Observed, Power};
use crate::quorum;
use crate::servers::etcd_members;

/// Verbs that are still to come for the holder of `ticket`, in order: what a plan shows.
pub fn remaining(id: &IntentId, ticket: &Ticket, observed: &Observed) -> Vec<&'static str> {
    const ALL: [&str; 7] = [
        "cordon",
        "move-etcd-leader",
        "stop-k3s",
        "remove-etcd-member",
        "power-off",
        "delete-node",
        "delete-server",
    ];
    let from = match stage(id, ticket, observed) {
        Stage::Cordon => 0,
        Stage::Drain(_) | Stage::HandOver { .. } => 1,
        Stage::Retire | Stage::Stop { .. } | Stage::RemoveGone(..) => 2,
        Stage::RemoveMember(_) => 3,
        Stage::PowerOff => 4,
        Stage::Stopping | Stage::DeleteNode => 5,
        Stage::DeleteServer => 6,
        Stage::Gone | Stage::Held(_) | Stage::Unseen => return Vec::new(),
    };
    let member = etcd_members(observed).and_then(|all| quorum::of(&ticket.node, all));
    let runs = observed.hetzner.servers.get(&ticket.server);
    let runs_still = runs.is_some_and(|s| s.power == Power::Running);
    let comes = |verb: &&&str| match **verb {
        "move-etcd-leader" => member.is_some_and(|m| m.leader),
        "stop-k3s" => member.is_some() && runs_still,
        "remove-etcd-member" => member.is_some(),
        "power-off" => runs_still,
        "delete-node" => observed.nodes.contains_key(&ticket.node),
        "delete-server" => runs.is_some(),
        _ => true,
    };
    ALL.iter().skip(from).filter(comes).copied().collect()
}

/// In words, where it stands.
pub(in crate::servers) fn words(id: &IntentId, ticket: &Ticket, observed: &Observed) -> String {
    let stage = stage(id, ticket, observed);
    let now = match &stage {
        Stage::Cordon | Stage::Drain(_) => "is drained",
        Stage::HandOver { .. } => "its etcd leadership is moved",
        Stage::Retire | Stage::Stop { .. } => "its k3s is stopped",
        Stage::RemoveGone(..) => "a server that is gone leaves etcd first",
        Stage::RemoveMember(_) => "its etcd member is removed",
        Stage::PowerOff | Stage::Stopping => "is powered off",
        Stage::DeleteNode => "its Node is deleted",
        Stage::DeleteServer | Stage::Gone => "its server is deleted",
        Stage::Held(hold) => return hold.message.clone(),
        Stage::Unseen => "its server is looked for",
    };
    let why = ticket.leave().map_or("", Reason::words);
    format!("{now}; {why}")
}
