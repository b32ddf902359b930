//! Servers that are machines of the user's own, as `[servers.machines]` names them: a person installs and ends them, and nobody
//! else says whether they are there.

use crate::desired::Desired;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, NodeName, ServerId};
use crate::ledger::{Change, Member, Reason};
use crate::observed::{Datastore, Node, Observed, Role};
use crate::servers::{self, coming, own};

/// What their Nodes are called.
pub fn named(desired: &Desired) -> impl Iterator<Item = NodeName> + '_ {
    own::all(&desired.spec).map(|(node, ..)| node)
}

/// Whether a Node with the provider id of `id` is that of the machine whose Node is called `name`.
pub fn is(name: &NodeName, node: &Node, id: ServerId, observed: &Observed) -> bool {
    node.name == *name && ServerId::of_machine(&observed.ledger.cluster, name) == id
}

/// One that nobody names any more, and whose Node a person has deleted: that is the word that it is gone.
pub fn forgotten(
    id: &IntentId,
    member: &Member,
    desired: &Desired,
    observed: &Observed,
) -> Option<Change> {
    let is_named = named(desired).any(|name| name == member.name);
    let has_node = observed.nodes.contains_key(&member.name);
    let has_ticket = observed.ledger.tickets.contains_key(id);
    (!is_named && !has_node && !has_ticket).then(|| Change::Depart { id: id.clone() })
}

/// Machines that are named, and are neither servers nor on their way.
pub fn missing<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
) -> impl Iterator<Item = Hold> + 'a {
    let is_there = |node: &NodeName| observed.nodes.get(node).is_some_and(|n| n.control_plane);
    let comes = |node: &NodeName| coming(&observed.ledger).any(|(_, i)| i.name == *node);
    let missing = own::all(&desired.spec).filter(move |(node, ..)| !is_there(node) && !comes(node));
    missing.map(|(node, name, _)| Hold {
        about: format!("node {node}"),
        reason: HoldReason::NotJoined,
        message: format!(
            "is named in [servers.machines] and is no server of the cluster yet: run `fabrik install {name}` where you reach it \
             by SSH"
        ),
    })
}

/// Members that are named no more, and are servers still; and all whose Nodes are being deleted. Whether etcd can do without
/// them is told before a person ends what nobody can bring back.
pub fn left_over<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
) -> impl Iterator<Item = Hold> + 'a {
    let is_server = |m: &&Member| m.role == Role::Server && m.server.is_own();
    let members = observed.ledger.members.values().filter(is_server);
    members.filter_map(|member| {
        let node = observed.nodes.get(&member.name)?;
        if node.deleting {
            return Some(being_deleted(member, node, observed));
        }
        let is_named = named(desired).any(|name| name == member.name);
        (!is_named).then(|| to_be_ended(member, node, observed))
    })
}

fn to_be_ended(member: &Member, node: &Node, observed: &Observed) -> Hold {
    let name = &member.name;
    let (reason, message) = match may_go(member, node, observed) {
        Err(hold) => (
            hold.reason,
            format!(
                "Leave it on, and its Node alone, for now: by that Node's end it leaves etcd. It {}",
                hold.message
            ),
        ),
        Ok(()) if node.ready => (
            HoldReason::ByHand,
            format!(
                "The other servers can do without it now: power it off, and when you have seen that it is off, `kubectl delete \
                 node {name}`. By that it leaves etcd"
            ),
        ),
        Ok(()) => (
            HoldReason::ByHand,
            format!(
                "It is not heard of, and the other servers can do without it: when you have seen that it is off, `kubectl \
                 delete node {name}`. By that it leaves etcd"
            ),
        ),
    };
    Hold {
        about: format!("node {name}"),
        reason,
        message: format!(
            "is named in [servers.machines] no more, and is a server still. fabrik takes no machine of yours away. {message}"
        ),
    }
}

/// k3s removes the member before the Node goes, and etcd removes none without which it would have no quorum of those that it
/// hears of (etcd, server/etcdserver/server.go, `mayRemoveMember`).
fn being_deleted(member: &Member, node: &Node, observed: &Observed) -> Hold {
    let waits = match may_go(member, node, observed) {
        Ok(()) => String::new(),
        Err(hold) => format!(
            ". That is no good time, and can't be taken back. It {}. See that the other servers are well",
            hold.message
        ),
    };
    Hold {
        about: format!("node {}", member.name),
        reason: HoldReason::Quorum,
        message: format!(
            "is being deleted, and by that it leaves etcd, whatever its machine does{waits}. Power that off: its k3s has \
             no cluster any more, or joins anew"
        ),
    }
}

/// The leader's own question, of a machine that runs or does not any more.
fn may_go(member: &Member, node: &Node, observed: &Observed) -> Result<(), Hold> {
    if observed.datastore == Datastore::Other {
        return Ok(());
    }
    let reason = if node.ready {
        Reason::ScaleDown
    } else {
        Reason::Dead
    };
    servers::may_leave(member, reason, observed)
}
