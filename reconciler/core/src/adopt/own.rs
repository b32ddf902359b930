//! Servers that are machines of the user's own, as `[servers.machines]` names them: a person installs and ends them, and nobody
//! else says whether they are there.

use crate::desired::Desired;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, NodeName, PoolName, ServerId};
use crate::ledger::{Change, Member};
use crate::observed::{Node, Observed, Role};

/// What their Nodes are called.
pub fn named(desired: &Desired) -> impl Iterator<Item = NodeName> + '_ {
    let spec = &desired.spec;
    let name = |machine| NodeName::of_machine(&spec.name, &PoolName::servers(), machine);
    spec.own_servers.keys().map(name)
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

/// Machines that are named and are no servers.
pub fn missing<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
) -> impl Iterator<Item = Hold> + 'a {
    let is_there = |name: &NodeName| observed.nodes.get(name).is_some_and(|n| n.control_plane);
    let missing = named(desired).filter(move |name| !is_there(name));
    missing.map(|name| Hold {
        about: format!("node {name}"),
        reason: HoldReason::NotJoined,
        message: "is named in [servers.machines] and is no server of the cluster. fabrik makes no machine of yours one by \
                  itself: docs/own-servers.md says how"
            .to_owned(),
    })
}

/// Members that are named no more, and are servers still.
pub fn left_over<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
) -> impl Iterator<Item = Hold> + 'a {
    let is_server = |m: &&Member| m.role == Role::Server && m.server.is_own();
    let is_there = |m: &&Member| observed.nodes.contains_key(&m.name);
    let is_named = move |m: &&Member| named(desired).any(|name| name == m.name);
    let members = observed.ledger.members.values().filter(is_server);
    let left_over = members.filter(move |m| is_there(m) && !is_named(m));
    left_over.map(|member| Hold {
        about: format!("node {}", member.name),
        reason: HoldReason::ByHand,
        message: format!(
            "is named in [servers.machines] no more, and is a server still. fabrik takes no machine of yours away: when all other \
             servers are Ready, power it off, and when you have seen that it is off, `kubectl delete node {}`. By that it \
             leaves etcd",
            member.name
        ),
    })
}
