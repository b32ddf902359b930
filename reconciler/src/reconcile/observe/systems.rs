//! What a pass sees of the nodes' systems and of etcd, and what the leader remembers of it from pass to pass.

use fabrik_core::observed::{Datastore, Observed, Role};
use fabrik_core::quorum;
use tracing::warn;

use crate::cluster::nodes::{NodesSeen, SystemsSeen};
use crate::reconcile::leader::Leader;

/// k3s sets it on servers whose etcd is its own.
const ETCD_LABEL: &str = "node-role.kubernetes.io/etcd";

/// etcd, as far as it can be read. Where it is not known to be something else, nothing read is no leave to go on.
pub async fn datastore(leader: &mut Leader, seen: &NodesSeen) -> Datastore {
    let read = match &leader.etcd {
        Some(etcd) => etcd.observe(&seen.hosts).await.map_err(|e| e.to_string()),
        None if is_single_without_etcd(seen) => return Datastore::Other,
        None => Err("the configuration has no [etcd]".to_owned()),
    };
    match read {
        Ok(etcd) => {
            leader.etcd_trouble = None;
            Datastore::Etcd(etcd)
        }
        Err(trouble) => {
            if leader.etcd_trouble.as_ref() != Some(&trouble) {
                warn!(
                    trouble,
                    "etcd can't be read: no server is updated meanwhile"
                );
            }
            leader.etcd_trouble = Some(trouble);
            Datastore::Unread
        }
    }
}

fn is_single_without_etcd(seen: &NodesSeen) -> bool {
    let mut servers = seen.nodes.values().filter(|n| n.control_plane);
    let single = servers.next().zip(Some(servers.next().is_none()));
    single.is_some_and(|(server, alone)| alone && !server.labels.contains_key(ETCD_LABEL))
}

/// Says once what can't be read.
pub fn tell_unreadable(leader: &mut Leader, seen: &SystemsSeen) {
    if seen.unreadable == leader.unreadable {
        return;
    }
    for problem in &seen.unreadable {
        warn!(
            problem,
            "a FabrikNode can't be read and counts as saying nothing"
        );
    }
    leader.unreadable.clone_from(&seen.unreadable);
}

/// Since when each node that is being updated is well: a leader that comes after counts from anew.
pub fn remember_well(leader: &mut Leader, observed: &mut Observed) {
    let before = std::mem::take(&mut leader.well);
    for (id, ticket) in &observed.ledger.tickets {
        let member = observed.ledger.members.get(id);
        let (Some(member), Some(_)) = (member, ticket.update()) else {
            continue;
        };
        let node = observed.nodes.get(&ticket.node);
        let ready = node.is_some_and(|n| n.ready && n.uid == ticket.uid);
        let votes = match &observed.datastore {
            Datastore::Other => true,
            Datastore::Unread => false,
            Datastore::Etcd(etcd) => quorum::is_back(&ticket.node, &etcd.members).is_ok(),
        };
        let Some(system) = observed.systems.get_mut(&ticket.node) else {
            continue;
        };
        let lacks_nothing = system.unready_daemons.is_empty();
        if ready && lacks_nothing && (member.role != Role::Server || votes) {
            system.well = before.get(&ticket.node).cloned();
            system.well = system.well_now(node.and_then(|n| n.heard), observed.at);
            let well = system.well.clone();
            leader
                .well
                .extend(well.map(|well| (ticket.node.clone(), well)));
        }
    }
}
