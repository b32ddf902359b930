//! The control plane by `[servers]`: how many servers there should be, which one comes next and which one goes.
//!
//! Who comes or goes changes who votes in etcd, so both draw on the one ticket of the servers: one at a time, whatever for
//! (S3). Where the specification has no `[servers]` none is made and none is taken away; what was begun goes to its end.

mod join;
mod leave;
pub mod own;
mod standing;

use std::cmp::Reverse;

use jiff::Timestamp;

pub use self::join::{arrive, may_join};
pub use self::leave::{Stage, may_leave, remaining, stage, step};
pub use self::standing::{Standing, standings};
use crate::desired::Desired;
use crate::guard;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, NodeName, PoolName};
use crate::ledger::{Ledger, Member, Purpose, Reason};
use crate::names::SERVERS_POOL;
use crate::observed::{Datastore, Observed, Role};
use crate::pool::{self, Resize};
use crate::quorum;
use crate::spec::{Pool, Servers, Spec};

/// The servers as a pool; `None` where nobody asks for any and nothing was begun.
pub fn pool(spec: &Spec, ledger: &Ledger) -> Option<Pool> {
    let bare = pool::removed_pool();
    if let Some(servers) = &spec.servers {
        return Some(Pool {
            count: servers.count,
            server_types: servers.server_types.clone(),
            locations: servers.locations.clone(),
            placement: servers.placement,
            ..bare
        });
    }
    let leaves = ledger
        .tickets
        .values()
        .any(|t| is_servers(&t.pool) && t.leave().is_some());
    let begun = leaves || coming(ledger).next().is_some();
    begun.then(|| Pool {
        count: as_it_is(ledger),
        ..bare
    })
}

/// What it takes to bring the servers to their count, whenever that may be done.
pub fn resize(desired: &Desired, pool: &Pool, observed: &Observed, now: Timestamp) -> Resize {
    let ledger = &observed.ledger;
    let mut resize = Resize::default();
    let wanted_intents: Vec<&IntentId> = coming(ledger)
        .filter(|(_, intent)| intent.cancelled.is_none())
        .map(|(id, _)| id)
        .collect();
    let (mut staying, mut updating) = (Vec::new(), 0);
    for (id, member) in members(ledger) {
        match ledger.tickets.get(id).map(|t| &t.purpose) {
            Some(Purpose::Leave { .. }) => continue,
            Some(Purpose::Update(_)) => {
                updating += 1;
                continue;
            }
            None => {}
        }
        match loss(id, member, observed).filter(|_| desired.spec.servers.is_some()) {
            Some(reason) => resize.remove.push((id.clone(), reason)),
            None => staying.push((id, member)),
        }
    }
    let wanted = pool.count as usize;
    let size = wanted_intents.len() + staying.len() + updating;
    if size < wanted {
        let short = wanted - size;
        let back = pool::reversible(&PoolName::servers(), observed, |id, ticket| {
            leave::is_reversible(id, ticket, observed)
        });
        resize.take_back = back.into_iter().take(short).collect();
        resize.create = u32::try_from(short - resize.take_back.len()).unwrap_or(u32::MAX);
        return resize;
    }
    let surplus = size - wanted;
    resize.cancel = pool::youngest_first(&wanted_intents, observed)
        .into_iter()
        .take(surplus)
        .collect();
    let surplus = surplus - resize.cancel.len();
    let servers = desired.spec.servers.as_ref();
    match servers.filter(|_| surplus > 0) {
        Some(servers) if !servers.may_shrink => resize.holds.push(stay(servers, size)),
        Some(_) => {
            // A machine of the user's own is theirs to take away.
            staying.retain(|(_, member)| !member.server.is_own());
            staying.sort_by_key(|(id, member)| order_of_leaving(id, member, observed));
            let victims = pool::choose_victims(&staying, surplus, pool, observed, now);
            let leave = |id| (id, Reason::ScaleDown);
            resize.remove.extend(victims.chosen.into_iter().map(leave));
            resize.holds.extend(victims.holds);
        }
        None => {}
    }
    resize
}

/// The sick first, then the youngest; who leads etcd, or whose fabrik leads, only where no other one may go.
fn order_of_leaving(
    id: &IntentId,
    member: &Member,
    observed: &Observed,
) -> (bool, bool, Reverse<u64>) {
    let leads_etcd = etcd_members(observed)
        .and_then(|members| quorum::of(&member.name, members))
        .is_some_and(|m| m.leader);
    let leads = leads_etcd || observed.leader.as_ref() == Some(&member.name);
    let available = guard::is_available(id, member, observed);
    (available, leads, Reverse(member.server.0))
}

/// Servers that were there before anybody asked for fewer.
fn stay(servers: &Servers, size: usize) -> Hold {
    Hold {
        about: format!("pool {SERVERS_POOL}"),
        reason: HoldReason::MayNotShrink,
        message: format!(
            "there are {size} servers and [servers] count is {}: they stay. Write `may-shrink = true` in [servers] to let \
             servers go, or `count = {size}`",
            servers.count
        ),
    }
}

/// Why a server has to be replaced without anybody's wish, if it has. One whose Node was deleted comes back with another one as
/// long as etcd has it as a member; k3s removes the member together with the Node.
fn loss(id: &IntentId, member: &Member, observed: &Observed) -> Option<Reason> {
    let there = &observed.hetzner;
    if there.gone.contains(&member.server) {
        return Some(Reason::Dead);
    }
    let runs = there.servers.contains_key(&member.server);
    let has_node = observed.nodes.contains_key(&member.name);
    let is_no_member =
        || etcd_members(observed).is_some_and(|all| quorum::of(&member.name, all).is_none());
    if runs && !has_node && is_no_member() {
        return Some(Reason::NodeDeleted);
    }
    let is_alarmed = observed.ledger.alarmed.contains(id);
    is_alarmed.then_some(Reason::Alarmed)
}

/// What etcd's members agree on; `None` where that is not known, or there is no etcd.
fn etcd_members(observed: &Observed) -> Option<&[quorum::Member]> {
    observed.datastore.etcd()?.members.as_deref()
}

/// The same, with the reason why nothing can be said. An empty list where the cluster's data are not in etcd.
fn known_members(observed: &Observed) -> Result<&[quorum::Member], String> {
    match &observed.datastore {
        Datastore::Unread => Err("etcd was not read".to_owned()),
        Datastore::Other => Ok(&[]),
        Datastore::Etcd(etcd) => etcd
            .members
            .as_deref()
            .ok_or_else(|| "the etcd members do not agree on who is a member".to_owned()),
    }
}

/// Intents of servers: one that is there draws on the servers' ticket.
pub fn coming(ledger: &Ledger) -> impl Iterator<Item = (&IntentId, &crate::ledger::Intent)> {
    let intents = ledger.intents.iter();
    intents.filter(|(_, intent)| is_servers(&intent.pool))
}

/// Whether no server comes, and none holds a ticket.
pub(crate) fn none_is_under_way(ledger: &Ledger) -> bool {
    coming(ledger).next().is_none() && ticketed(ledger).is_none()
}

fn members(ledger: &Ledger) -> impl Iterator<Item = (&IntentId, &Member)> {
    let members = ledger.members.iter();
    members.filter(|(_, member)| member.role == Role::Server)
}

/// A server that holds a ticket, whatever for.
fn ticketed(ledger: &Ledger) -> Option<&NodeName> {
    let mut tickets = ledger.tickets.values().filter(|t| is_servers(&t.pool));
    tickets.next().map(|t| &t.node)
}

pub(crate) fn is_servers(pool: &PoolName) -> bool {
    pool.as_str() == SERVERS_POOL
}

/// How many there would be if nothing more were begun, and what can be taken back were.
fn as_it_is(ledger: &Ledger) -> u32 {
    let gone_for_good = |id: &IntentId| {
        ledger
            .tickets
            .get(id)
            .is_some_and(|t| t.retiring().is_some())
    };
    let stay = members(ledger).filter(|(id, _)| !gone_for_good(id)).count();
    let made = coming(ledger).filter(|(_, i)| i.server.is_some() && i.cancelled.is_none());
    u32::try_from(stay + made.count()).unwrap_or(u32::MAX)
}

/// A hold about a server that waits.
fn held(node: &NodeName, reason: HoldReason, message: String) -> Hold {
    Hold {
        about: format!("node {node}"),
        reason,
        message,
    }
}
