//! What a pass sees of the nodes' systems and of etcd, and what the leader remembers of it from pass to pass.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fabrik_core::id::{IntentId, NodeName, PoolName, SecretsDigest};
use fabrik_core::ledger::Member;
use fabrik_core::observed::{Datastore, Etcd, Observed};
use fabrik_core::rollout;
use fabrik_core::spec::Update as Settings;
use fabrik_core::system::SignedPublication;
use tracing::warn;

use crate::cluster::nodes::{self, NodesSeen, SystemsSeen};
use crate::reconcile::leader::Leader;

/// k3s sets it on servers whose etcd is its own.
const ETCD_LABEL: &str = "node-role.kubernetes.io/etcd";
/// How often it is looked for pods that would not be evicted.
const BLOCKERS_PERIOD: Duration = Duration::from_secs(15);
/// They are for people alone: no decision waits for them for longer.
const BLOCKERS_LIMIT: Duration = Duration::from_secs(3);

/// What etcd says, where the configuration says how to ask it; `None` where the cluster's data are in something else.
pub async fn read_etcd(leader: &Leader, seen: &NodesSeen) -> Option<Result<Etcd, String>> {
    match &leader.etcd {
        Some(etcd) => Some(etcd.observe(&seen.hosts).await.map_err(|e| e.to_string())),
        None if no_server_has_etcd(seen) => None,
        None => Some(Err(
            "the configuration has no [etcd], and servers keep the cluster's data in it".to_owned(),
        )),
    }
}

/// etcd, as far as it could be read. Where it is not known to be something else, nothing read is no leave to go on.
pub fn datastore(leader: &mut Leader, read: Option<Result<Etcd, String>>) -> Datastore {
    let Some(read) = read else {
        return Datastore::Other;
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

fn no_server_has_etcd(seen: &NodesSeen) -> bool {
    let mut servers = seen.nodes.values().filter(|n| n.control_plane).peekable();
    servers.peek().is_some() && servers.all(|server| !server.labels.contains_key(ETCD_LABEL))
}

/// An aim beside which another statement stands than ours is given again: a node does not fetch what its publication does
/// not name, or what is older than the one before. So it is where servers came or went since: a node that knows none of
/// those that are left could fetch nothing any more. With no caches at all it is one that an older fabrik gave.
pub fn forget_spoiled_aims(
    publications: &BTreeMap<PoolName, SignedPublication>,
    caches: &[String],
    members: &BTreeMap<IntentId, Member>,
    seen: &mut SystemsSeen,
) {
    for member in members.values() {
        let ours = publications.get(&member.pool);
        let elsewhere = seen.caches.get(&member.name).is_some_and(|c| c != caches);
        if let Some(system) = seen.systems.get_mut(&member.name)
            && ours
                .is_some_and(|ours| elsewhere || seen.publications.get(&member.name) != Some(ours))
        {
            system.aim = None;
        }
    }
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

/// Which secrets lie ready for nodes. Where that can't be read none are handed out, and all else goes on.
pub async fn deliveries(
    leader: &mut Leader,
    told: &SystemsSeen,
) -> Option<BTreeMap<NodeName, SecretsDigest>> {
    if told.noted.is_empty() {
        // Nobody was told of any: nobody has to be asked.
        return Some(BTreeMap::new());
    }
    let applier = &leader.replica.clients.applier_once;
    let (deliveries, trouble) = match nodes::observe_deliveries(applier, &told.noted).await {
        Ok(deliveries) => (Some(deliveries), None),
        Err(error) => (None, Some(error.to_string())),
    };
    if let Some(trouble) = trouble
        .as_ref()
        .filter(|t| leader.deliveries_trouble.as_ref() != Some(*t))
    {
        warn!(trouble, "no node is given secrets meanwhile");
    }
    leader.deliveries_trouble = trouble;
    deliveries
}

/// Which pods would not be evicted, now and then: nothing is decided by it, so what can't be read is not told.
pub async fn look_for_blockers(leader: &mut Leader) {
    let (at, _) = &leader.blockers;
    if at.is_some_and(|at| at.elapsed() < BLOCKERS_PERIOD) {
        return;
    }
    let blockers = nodes::observe_blockers(&leader.replica.clients.leader);
    let blockers = tokio::time::timeout(BLOCKERS_LIMIT, blockers).await;
    leader.blockers.0 = Some(Instant::now());
    match blockers {
        Ok(Ok(blockers)) => leader.blockers.1 = blockers,
        Ok(Err(error)) => warn!(%error, "a plan names the pods that blocked before"),
        Err(_) => warn!("a plan names the pods that blocked before: reading them takes too long"),
    }
}

/// Since when each node that is being updated is well: a leader that comes after counts from anew.
pub fn remember_well(leader: &mut Leader, settings: &Settings, observed: &mut Observed) {
    let before = std::mem::take(&mut leader.well);
    let updating = observed.ledger.tickets.values();
    let updating = updating.filter_map(|ticket| Some((ticket, ticket.update()?)));
    let well = updating.filter_map(|(ticket, update)| {
        let node = observed.nodes.get(&ticket.node);
        let node = node.filter(|n| n.uid == ticket.uid)?;
        let lacks = rollout::lacks(settings, observed, ticket, update, node);
        lacks.is_none().then(|| (ticket.node.clone(), node.heard))
    });
    let well: Vec<_> = well.collect();
    for (node, heard) in well {
        let Some(system) = observed.systems.get_mut(&node) else {
            continue;
        };
        system.well = before.get(&node).cloned();
        system.well = system.well_now(heard, observed.at);
        let well = system.well.clone();
        leader.well.extend(well.map(|well| (node, well)));
    }
}

#[cfg(test)]
mod tests {
    use fabrik_core::observed::NodeSystem;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_aim_is_given_again_where_our_statement_is_not_beside_it() {
        let member = json!({"pool": "workers", "name": "w-1", "server": 1, "uid": "u-1"});
        let members = serde_json::from_value(json!({"abc234": member})).unwrap();
        let statement = |text: &str| SignedPublication {
            statement: text.to_owned(),
            signature: "demo-1:x".to_owned(),
        };
        let workers: PoolName = "workers".parse().unwrap();
        let server = |n: u8| vec![format!("https://10.0.1.{n}:9642")];
        let after = |ours: Option<&str>, beside: Option<&str>, caches: Option<Vec<String>>| {
            let publications = ours.map(|text| (workers.clone(), statement(text)));
            let aim = Some(format!("/nix/store/{}-x", "0".repeat(32)).parse().unwrap());
            let system = NodeSystem {
                aim,
                ..NodeSystem::default()
            };
            let node = || "w-1".parse().unwrap();
            let mut seen = SystemsSeen {
                systems: [(node(), system)].into(),
                publications: beside
                    .map(|text| (node(), statement(text)))
                    .into_iter()
                    .collect(),
                caches: caches.map(|c| (node(), c)).into_iter().collect(),
                ..SystemsSeen::default()
            };
            let publications = publications.into_iter().collect();
            forget_spoiled_aims(&publications, &server(2), &members, &mut seen);
            seen.systems[&node()].aim.is_some()
        };
        assert!(after(Some("2"), Some("2"), Some(server(2))));
        assert!(after(Some("2"), Some("2"), None), "an older fabrik's");
        assert!(
            !after(Some("2"), Some("2"), Some(server(1))),
            "its server is gone"
        );
        assert!(!after(Some("2"), Some("1"), Some(server(2))));
        assert!(!after(Some("2"), None, None));
        assert!(
            after(None, Some("1"), Some(server(1))),
            "nothing is signed yet"
        );
    }
}
