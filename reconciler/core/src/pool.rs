//! How many servers a pool has and should have, and which ones come or go.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::departure::{self, Departure};
use crate::desired::Desired;
use crate::guard;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, NodeName, PoolName};
use crate::ledger::{Member, Purpose, Reason, Ticket};
use crate::observed::{Observed, Role};
use crate::spec::{DrainPolicy, LocalData, PlacementStrategy, Pool, Spec};
use crate::{machines, servers};

/// What it takes to bring a pool to its count. Brakes are not in it: they decide when, not what.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resize {
    /// How many servers to ask for.
    pub create: u32,
    /// Servers on their way that are no longer wanted.
    pub cancel: Vec<IntentId>,
    /// Members to take down, and why, the first one first.
    pub remove: Vec<(IntentId, Reason)>,
    /// Members on their way out that are wanted again and can still stay.
    pub take_back: Vec<IntentId>,
    /// Why some member that should go may not.
    pub holds: Vec<Hold>,
}

/// All pools that the spec names or that still have servers.
pub fn all<'a>(desired: &'a Desired, observed: &'a Observed) -> BTreeMap<&'a PoolName, Pool> {
    let ledger = &observed.ledger;
    // Servers are a pool of their own.
    let members = ledger.members.values().map(|m| &m.pool);
    let left_over = ledger.intents.values().map(|i| &i.pool).chain(members);
    let left_over = left_over.filter(|name| !servers::is_servers(name));
    let mut pools: BTreeMap<&PoolName, Pool> =
        left_over.map(|name| (name, removed_pool())).collect();
    pools.extend(
        desired
            .spec
            .pools
            .iter()
            .map(|(name, pool)| (name, pool.clone())),
    );
    pools
}

/// The change that brings pool `name` to its count of servers at Hetzner, and to its machines.
pub fn resize(
    spec: &Spec,
    name: &PoolName,
    pool: &Pool,
    observed: &Observed,
    now: Timestamp,
) -> Resize {
    let mut resize = at_hetzner(name, pool, observed, now);
    machines::resize(spec, name, pool, observed, now, &mut resize);
    resize
}

fn at_hetzner(name: &PoolName, pool: &Pool, observed: &Observed, now: Timestamp) -> Resize {
    let ledger = &observed.ledger;
    let mut resize = Resize::default();

    let coming: Vec<&IntentId> = ledger
        .intents
        .iter()
        .filter(|(_, i)| i.pool == *name && i.cancelled.is_none() && !i.is_own())
        .map(|(id, _)| id)
        .collect();
    let mut staying = Vec::new();
    let mut updating = 0;
    let of_pool = |m: &Member| m.pool == *name && !m.server.is_own();
    for (id, member) in ledger.members.iter().filter(|(_, m)| of_pool(m)) {
        match ledger.tickets.get(id).map(|t| &t.purpose) {
            None => {}
            Some(Purpose::Leave { .. }) => continue,
            // It stays, and goes for no other reason before its update has ended.
            Some(Purpose::Update(_)) => {
                updating += 1;
                continue;
            }
        }
        let Some(reason) = loss(member, observed) else {
            // Those that the lists lack are told of together.
            if !observed.hetzner.missing.contains(&member.server) {
                resize.holds.extend(is_known(id, member, observed).err());
            }
            staying.push((id, member));
            continue;
        };
        // A machine without a Node still has its disk; one that is gone has none.
        match guard::keeps_local_data(&member.name, observed, pool) {
            Err(hold) if reason == Reason::NodeDeleted => resize.holds.push(hold),
            _ => resize.remove.push((id.clone(), reason)),
        }
    }

    let wanted = pool.count as usize;
    let size = coming.len() + staying.len() + updating;
    if size < wanted {
        let short = wanted - size;
        let can_stay = |id: &IntentId, ticket: &Ticket| {
            let stage = departure::stage(id, ticket, observed);
            !ticket.server.is_own() && matches!(stage, Departure::Cordon | Departure::Drain(_))
        };
        let back = reversible(name, observed, can_stay);
        resize.take_back = back.into_iter().take(short).collect();
        resize.create = u32::try_from(short - resize.take_back.len()).unwrap_or(u32::MAX);
    } else {
        let surplus = size - wanted;
        resize.cancel = youngest_first(&coming, observed)
            .into_iter()
            .take(surplus)
            .collect();
        staying.sort_by_key(|(id, member)| {
            let available = guard::is_available(id, member, observed);
            (available, Reverse(member.server))
        });
        let victims = choose_victims(&staying, surplus - resize.cancel.len(), pool, observed, now);
        resize
            .remove
            .extend(victims.chosen.into_iter().map(|id| (id, Reason::ScaleDown)));
        for hold in victims.holds {
            if !resize.holds.contains(&hold) {
                resize.holds.push(hold);
            }
        }
    }
    resize
}

/// A server to ask for, and the number of the intent that it comes from.
#[derive(Debug, PartialEq, Eq)]
pub struct NextServer {
    pub sequence: u64,
    pub id: IntentId,
    pub name: NodeName,
}

/// The next `count` servers of a pool, from intent number `first` on. A number whose id is in use (that of the first server
/// is, which `fabrik seed` made), or was given out before (`given`), is passed over. That of a worker of this pool which only
/// the ledger does not know (it was restored from an older snapshot) comes again, so that the worker is found and not made twice.
pub fn next_servers(
    first: u64,
    count: u32,
    pool: &PoolName,
    spec: &Spec,
    observed: &Observed,
    given: &mut BTreeSet<IntentId>,
) -> Vec<NextServer> {
    let machines = observed.hetzner.servers.values();
    let others = machines.filter(|m| m.role == Role::Server || m.pool.as_ref() != Some(pool));
    let borne: BTreeSet<&IntentId> = others.filter_map(|m| m.intent.as_ref()).collect();
    let ledger = &observed.ledger;
    let in_use = |id: &IntentId| {
        ledger.intents.contains_key(id) || ledger.members.contains_key(id) || borne.contains(id)
    };
    (first..)
        .map(|sequence| (sequence, IntentId::derive(&ledger.cluster, sequence)))
        .filter(|(_, id)| !in_use(id) && given.insert(id.clone()))
        .map(|(sequence, id)| {
            let name = NodeName::of(&spec.name, pool, &id);
            NextServer { sequence, id, name }
        })
        .take(count as usize)
        .collect()
}

/// Workers of all pools whose Nodes somebody deleted, those that hold a ticket for it among them.
pub fn without_node(observed: &Observed) -> Vec<&NodeName> {
    let ledger = &observed.ledger;
    let deleted = |id: &IntentId, member: &Member| match ledger.tickets.get(id) {
        Some(ticket) => ticket.leave() == Some(Reason::NodeDeleted),
        None => loss(member, observed) == Some(Reason::NodeDeleted),
    };
    ledger
        .members
        .iter()
        .filter(|(_, member)| member.role == Role::Agent)
        .filter(|(id, member)| deleted(id, member))
        .map(|(_, member)| &member.name)
        .collect()
}

/// Why a member is lost without anybody's wish, if it is.
fn loss(member: &Member, observed: &Observed) -> Option<Reason> {
    let there = &observed.hetzner;
    if member.server.is_own() {
        let is_there = observed.nodes.contains_key(&member.name);
        (!is_there).then_some(Reason::NodeDeleted)
    } else if there.gone.contains(&member.server) {
        Some(Reason::Dead)
    } else if !there.servers.contains_key(&member.server) {
        // Nothing is known of it, so nothing is concluded.
        None
    } else if !observed.nodes.contains_key(&member.name) {
        Some(Reason::NodeDeleted)
    } else {
        None
    }
}

/// Members of a pool that were to go, whose machine still runs: the youngest ticket first.
pub(crate) fn reversible(
    pool: &PoolName,
    observed: &Observed,
    can_stay: impl Fn(&IntentId, &Ticket) -> bool,
) -> Vec<IntentId> {
    let mut tickets: Vec<_> = observed
        .ledger
        .tickets
        .iter()
        .filter(|(_, t)| t.pool == *pool && t.leave() == Some(Reason::ScaleDown))
        .filter(|(id, t)| can_stay(id, t))
        .collect();
    tickets.sort_by_key(|(id, t)| (Reverse(t.at), (*id).clone()));
    tickets.into_iter().map(|(id, _)| id.clone()).collect()
}

pub(crate) fn youngest_first(intents: &[&IntentId], observed: &Observed) -> Vec<IntentId> {
    let bound_and_age = |id: &IntentId| {
        observed
            .ledger
            .intents
            .get(id)
            .map(|i| (i.server.is_some(), Reverse(i.at)))
    };
    let mut ids: Vec<IntentId> = intents.iter().map(|id| (*id).clone()).collect();
    ids.sort_by_key(|id| (bound_and_age(id), id.clone()));
    ids
}

#[derive(Default)]
pub(crate) struct Victims {
    pub chosen: Vec<IntentId>,
    pub holds: Vec<Hold>,
}

/// Of `candidates`, the first ones first. As a `ReplicaSet` would: the sick are the first, then the youngest. A healthy one
/// that may not leave yet is passed over; a sick one keeps its place and is waited for.
pub(crate) fn choose_victims(
    candidates: &[(&IntentId, &Member)],
    count: usize,
    pool: &Pool,
    observed: &Observed,
    now: Timestamp,
) -> Victims {
    let mut victims = Victims::default();
    let mut passed_over = Vec::new();
    let mut places = count;
    for (id, member) in candidates {
        if places == 0 {
            break;
        }
        match may_leave(id, member, pool, observed, now) {
            Ok(()) => victims.chosen.push((*id).clone()),
            // A healthy one in the place of a sick one would leave the pool with the sick.
            Err(hold) if !guard::is_available(id, member, observed) => victims.holds.push(hold),
            Err(hold) => {
                passed_over.push(hold);
                continue;
            }
        }
        places -= 1;
    }
    if places > 0 {
        victims.holds.extend(passed_over);
    }
    victims
}

/// Its server and its Node are those that the ledger knows.
fn is_known(id: &IntentId, member: &Member, observed: &Observed) -> Result<(), Hold> {
    let about = format!("node {}", member.name);
    if !member.server.is_own() {
        guard::server_is_seen(id, &member.pool, about, member.server, observed)?;
    }
    guard::is_the_node_that_joined(&member.name, &member.uid, observed)
}

pub(crate) fn may_leave(
    id: &IntentId,
    member: &Member,
    pool: &Pool,
    observed: &Observed,
    now: Timestamp,
) -> Result<(), Hold> {
    is_known(id, member, observed)?;
    guard::keeps_local_data(&member.name, observed, pool)?;
    match observed.ledger.resting.get(id) {
        Some(until) if *until > now => Err(Hold {
            about: format!("node {}", member.name),
            reason: HoldReason::Resting,
            message: format!(
                "its drain did not end in time and was taken back; the next try is not before {until}"
            ),
        }),
        _ => Ok(()),
    }
}

/// A pool that left the spec: nobody is wanted, and the brakes are at their tightest. It names nothing to create a
/// server from, and none is created: with a count of 0 each intent is cancelled by the same step that would create it,
/// and effects wait until a step has no changes.
pub(crate) fn removed_pool() -> Pool {
    Pool {
        count: 0,
        machines: BTreeMap::new(),
        system: None,
        server_types: Vec::new(),
        locations: Vec::new(),
        image: None,
        placement: PlacementStrategy::Anywhere,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        max_unavailable: 1,
        local_data: LocalData::Keep,
        drain_deadline: DEFAULT_DRAIN_DEADLINE,
        drain_policy: DrainPolicy::default(),
        may_be_off: false,
    }
}

/// What `drain-deadline` is where a pool does not say.
pub const DEFAULT_DRAIN_DEADLINE: std::time::Duration = std::time::Duration::from_secs(3600);
