//! What the first server stands on: made as the leader makes it, so that it finds it as its own.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::desired::Desired;
use crate::effect::Effect;
use crate::id::{ClusterId, CommitId, IntentId, PoolName};
use crate::infrastructure::{self, Placement};
use crate::ledger::Ledger;
use crate::observed::{Datastore, Hetzner, Observed};
use crate::pool::removed_pool;
use crate::spec::{Pool, Servers, Spec};

/// The number of the intent that the first server comes from: founding begins to count after it.
pub const FIRST_SEQUENCE: u64 = 0;

/// What is there for the first server to stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ground {
    /// Somebody else has a name that this cluster needs.
    Taken {
        name: String,
        holder: String,
    },
    /// The next thing to make, or to set right.
    Missing(Effect),
    Ready(Placement),
}

/// The intent of the first server.
pub fn first_intent(cluster: &ClusterId) -> IntentId {
    IntentId::derive(cluster, FIRST_SEQUENCE)
}

/// Asks the leader's own decision about networks, firewalls, keys and groups. `None` where the spec has no servers.
pub fn ground(
    spec: &Spec,
    commit: &CommitId,
    cluster: &ClusterId,
    there: &Hetzner,
    now: Timestamp,
) -> Option<Ground> {
    let pool = as_pool(spec.servers.as_ref()?);
    if let Some((name, holder)) = there.taken.iter().next() {
        return Some(Ground::Taken {
            name: name.clone(),
            holder: holder.clone(),
        });
    }
    let desired = Desired {
        commit: commit.clone(),
        spec: spec.clone(),
        units: BTreeMap::new(),
        targets: BTreeMap::new(),
        sources: BTreeMap::new(),
    };
    let observed = before_founding(cluster, there, now);
    if let Some(effect) = infrastructure::step(&desired, &observed)
        .effects
        .into_iter()
        .next()
    {
        return Some(Ground::Missing(effect));
    }
    let mut ground = infrastructure::Ground::new(&desired, &observed);
    match ground.for_server(&PoolName::servers(), &pool) {
        Some(placement) => Some(Ground::Ready(placement)),
        None => ground.missing_groups().next().map(Ground::Missing),
    }
}

/// A cluster that is not founded yet: there is nothing but what Hetzner shows.
fn before_founding(cluster: &ClusterId, there: &Hetzner, now: Timestamp) -> Observed {
    Observed {
        at: now,
        hetzner: there.clone(),
        nodes: BTreeMap::new(),
        pods: BTreeMap::new(),
        attached: BTreeMap::new(),
        ready_pods: BTreeMap::new(),
        pinned: BTreeSet::new(),
        tokens: BTreeSet::new(),
        units: BTreeMap::new(),
        ledger: Ledger::new(cluster.clone()),
        systems: BTreeMap::new(),
        deliveries: None,
        datastore: Datastore::Unread,
        leader: None,
        released: BTreeSet::new(),
        asked: None,
        blockers: Vec::new(),
        paused: None,
    }
}

/// Servers where a pool is asked for; only where they go counts.
fn as_pool(servers: &Servers) -> Pool {
    Pool {
        count: servers.count,
        server_types: servers.server_types.clone(),
        locations: servers.locations.clone(),
        placement: servers.placement,
        ..removed_pool()
    }
}
