//! A server's way in: asked for, created, a learner in etcd, a voter, a member.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::{coming, etcd_members, known_members, members, ticketed};
use crate::effect::{Effect, ServerRef};
use crate::guard;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, PoolName, ServerId};
use crate::image;
use crate::ledger::{Change, Intent};
use crate::names::SERVERS_POOL;
use crate::observed::{Datastore, Node, Observed, Power, Role, Server};
use crate::quorum;
use crate::spec::{K3sVersion, Pool};
use crate::step::Step;

/// After this a server that has not joined is reported: what it joins by lives for minutes.
const JOIN_DEADLINE_SECS: i64 = 1200;
/// For how long a power-off that was written down is asked for, until it is written down anew.
const CUT_OFF_SECS: i64 = 15;
/// How much later one may still land: longer than any request of ours lives.
const SETTLE_SECS: i64 = 45;

const CUT_OFF: &str = "is not wanted any more, and has joined while its power-off could still be on its way: that is awaited \
                       for a minute. If it does not come, it is let in, drained, and leaves";

/// Whether one more server may be asked for.
///
/// # Errors
/// What it waits for.
pub fn may_join(pool: &Pool, observed: &Observed) -> Result<(), Hold> {
    all_are_well(observed, None).map_err(|(reason, message)| Hold {
        about: format!("pool {SERVERS_POOL}"),
        reason,
        message: format!("the next server waits: {message}"),
    })?;
    // An intent that can't be carried out would keep all others waiting.
    image::of(&PoolName::servers(), pool, observed).map(drop)
}

/// Whether there is room for one more: those that there are have to be well, for a member that joins counts in the quorum
/// before anybody knows whether it stays. `lost` is one whose place is to be filled. Returns the minor of k3s that they run.
///
/// # Errors
/// What it waits for.
pub(super) fn all_are_well(
    observed: &Observed,
    lost: Option<&IntentId>,
) -> Result<u32, (HoldReason, String)> {
    let ledger = &observed.ledger;
    let waits = |reason, message: String| Err((reason, message));
    if let Some((_, intent)) = coming(ledger).next() {
        let name = &intent.name;
        return waits(
            HoldReason::Turn,
            format!("one at a time, and {name} is on its way"),
        );
    }
    if let Some(node) = ticketed(ledger) {
        let message = format!("one at a time, and server {node} holds a ticket");
        return waits(HoldReason::Turn, message);
    }
    if let Some(stranger) = unadopted(observed) {
        let name = &stranger.name;
        let message =
            format!("server {name} is no member: no machine of this cluster stands for it");
        return waits(HoldReason::Unexplained, message);
    }
    let mut servers = members(ledger).filter(|(id, _)| Some(*id) != lost);
    if let Some((_, sick)) = servers.find(|(id, m)| !guard::is_available(id, m, observed)) {
        let message = format!("server {} is not Ready, or is cordoned", sick.name);
        return waits(HoldReason::Quorum, message);
    }
    let etcd = match &observed.datastore {
        Datastore::Unread => Err("etcd was not read".to_owned()),
        Datastore::Other => {
            Err("the cluster keeps its data elsewhere than in k3s' etcd".to_owned())
        }
        Datastore::Etcd(etcd) => quorum::may_grow(&etcd.members),
    };
    if let Err(message) = etcd {
        return waits(HoldReason::Quorum, message);
    }
    one_minor(observed).map_err(|message| (HoldReason::VersionSkew, message))
}

/// S4: while a minor goes through the servers nobody knows which one the next server would have to have.
fn one_minor(observed: &Observed) -> Result<u32, String> {
    let nodes = observed.nodes.values().filter(|n| n.control_plane);
    let minor = |n: &Node| K3sVersion::of_kubelet(&n.kubelet_version).map(|v| v.minor);
    let minors: BTreeSet<Option<u32>> = nodes.map(minor).collect();
    match minors.iter().collect::<Vec<_>>().as_slice() {
        [Some(minor)] => Ok(*minor),
        [Some(old), .., Some(new)] => Err(format!(
            "the servers go from k3s 1.{old} to 1.{new}, and one that joins has to be of one minor with all"
        )),
        _ => Err("what k3s the servers run is not known".to_owned()),
    }
}

/// A control-plane Node that no member and no intent stands for.
fn unadopted(observed: &Observed) -> Option<&Node> {
    let ledger = &observed.ledger;
    let known = |node: &Node| {
        let mut members = ledger.members.values();
        members.any(|m| m.role == Role::Server && m.name == node.name && m.uid == node.uid)
            || coming(ledger).any(|(_, intent)| intent.name == node.name)
    };
    let mut servers = observed.nodes.values().filter(|n| n.control_plane);
    servers.find(|node| !known(node))
}

/// The next step of a server that was made for an intent.
pub fn arrive(
    id: &IntentId,
    intent: &Intent,
    server: ServerId,
    pool: &Pool,
    observed: &Observed,
    now: Timestamp,
) -> Step {
    let arrival = Arrival::new(id, intent, server, observed);
    let own = arrival.node;
    if observed.hetzner.gone.contains(&server) {
        return arrival.clear_up(None);
    }
    let Some(machine) = observed.hetzner.servers.get(&server) else {
        let about = format!("server {}", intent.name);
        let seen = guard::server_is_seen(id, &intent.pool, about, server, observed);
        return Step::holds(seen.err());
    };
    if machine.address.is_some() && machine.address != intent.address {
        return Step::change(Change::Bind {
            id: id.clone(),
            server,
            address: machine.address,
        });
    }
    let lacks = arrival.lacks();
    match (&lacks, own) {
        // What lands late would take a member down that was not drained.
        (Ok(()), Some(_)) if arrival.may_be_powered_off(now) => {
            Step::hold(arrival.held(HoldReason::Settling, CUT_OFF))
        }
        (Ok(()), Some(node)) => Step::change(Change::Join {
            id: id.clone(),
            uid: node.uid.clone(),
        }),
        _ if intent.cancelled.is_some() => {
            match guard::keeps_local_data(&intent.name, observed, pool) {
                Ok(()) => arrival.call_off(machine, now),
                Err(hold) => Step::hold(hold),
            }
        }
        _ => arrival.wait(machine, lacks.err(), now),
    }
}

/// One server that is to join, as it is seen.
pub(super) struct Arrival<'a> {
    pub id: &'a IntentId,
    pub intent: &'a Intent,
    server: ServerId,
    /// The Node that says that it is this machine's.
    pub node: Option<&'a Node>,
    pub observed: &'a Observed,
}

impl<'a> Arrival<'a> {
    pub fn new(
        id: &'a IntentId,
        intent: &'a Intent,
        server: ServerId,
        observed: &'a Observed,
    ) -> Self {
        let node = observed.nodes.get(&intent.name);
        Self {
            id,
            intent,
            server,
            node: node.filter(|n| n.provider_id == Some(server.provider_id())),
            observed,
        }
    }

    /// What it lacks to be a member: an API server that is Ready, and a vote in etcd.
    pub fn lacks(&self) -> Result<(), String> {
        let Some(node) = self.node.filter(|n| !n.deleting && n.control_plane) else {
            return Err("its Node has not joined".to_owned());
        };
        if !node.ready {
            return Err("its Node is not Ready".to_owned());
        }
        match &self.observed.datastore {
            Datastore::Unread => Err("etcd was not read".to_owned()),
            Datastore::Other => Ok(()),
            Datastore::Etcd(etcd) => quorum::is_back(&node.name, &etcd.members),
        }
    }

    /// Its etcd member, by its name or by its address: one that has not started has no name.
    pub fn member(&self, all: &'a [quorum::Member]) -> Option<&'a quorum::Member> {
        let address = self.intent.address;
        let here = |m: &&quorum::Member| {
            let free = m.node.as_ref().is_none_or(|n| *n == self.intent.name);
            free && address.is_some() && m.address == address
        };
        quorum::of(&self.intent.name, all).or_else(|| all.iter().find(here))
    }

    fn wait(&self, machine: &Server, lacks: Option<String>, now: Timestamp) -> Step {
        let waited = now.duration_since(machine.created);
        let Some(lacks) = lacks.filter(|_| waited > SignedDuration::from_secs(JOIN_DEADLINE_SECS))
        else {
            return Step::default();
        };
        Step::hold(Hold {
            about: format!("server {}", self.intent.name),
            reason: HoldReason::NotJoined,
            message: format!(
                "(id {}) was created {} minutes ago and is no server of the cluster yet: {lacks}. Look at its console, then \
                 delete it at Hetzner: what it left in etcd is removed, and it is replaced",
                machine.id,
                waited.as_mins()
            ),
        })
    }

    /// It is not wanted any more, and has not joined: it goes without a drain. Its member goes when its machine is off.
    fn call_off(&self, machine: &Server, now: Timestamp) -> Step {
        match machine.power {
            Power::Off => self.clear_up(Some(machine)),
            Power::Changing => {
                let about = format!("server {}", self.intent.name);
                let since = self.intent.cancelled.unwrap_or(now);
                Step::holds(guard::stops_in_time(about, machine.id, since, now).err())
            }
            Power::Running => match self.may_be_cut_off(machine, now) {
                Ok(()) if !self.is_cut_off(CUT_OFF_SECS, now) => Step::change(Change::CutOff {
                    id: self.id.clone(),
                    at: now,
                }),
                Ok(()) => Step::effect(Effect::PowerOff {
                    server: self.server_ref(),
                }),
                Err(message) => Step::hold(self.held(HoldReason::Settling, &message)),
            },
        }
    }

    /// A power-off of it may still be on its way.
    fn may_be_powered_off(&self, now: Timestamp) -> bool {
        self.is_cut_off(CUT_OFF_SECS + SETTLE_SECS, now)
    }

    fn is_cut_off(&self, for_secs: i64, now: Timestamp) -> bool {
        let since = self.intent.cut_off.map(|at| now.duration_since(at));
        since.is_some_and(|since| since <= SignedDuration::from_secs(for_secs))
    }

    /// A learner votes from one moment to the next, k3s sees to that: with one other voter it would take the quorum along.
    fn may_be_cut_off(&self, machine: &Server, now: Timestamp) -> Result<(), String> {
        if self.observed.datastore == Datastore::Other {
            return Ok(());
        }
        let all = known_members(self.observed)?;
        let own = self.member(all);
        let is_own = |m: &quorum::Member| own.is_some_and(|own| own.id == m.id);
        let others = all.iter().filter(|m| !m.learner && !is_own(m));
        let healthy = others.clone().filter(|m| m.healthy).count();
        // As if it voted already.
        let voters = others.count() + 1;
        let quorum = voters / 2 + 1;
        let late =
            now.duration_since(machine.created) > SignedDuration::from_secs(JOIN_DEADLINE_SECS);
        let never_joins = own.is_none() && self.node.is_none() && late;
        if healthy >= quorum || never_joins {
            return Ok(());
        }
        Err(
            "is not wanted any more, and could become a voter of etcd's that the others can't do without: it is let in \
             first, and leaves then. If it never joins, remove its member (`etcdctl member remove`) and delete it at Hetzner"
                .to_owned(),
        )
    }

    /// Its machine is off, or gone: what it left goes, its member first.
    fn clear_up(&self, machine: Option<&Server>) -> Step {
        let all = match known_members(self.observed) {
            Ok(all) => all,
            Err(message) => {
                return Step::hold(self.held(HoldReason::Quorum, &format!("waits: {message}")));
            }
        };
        if let Some(member) = self.member(all) {
            return match quorum::may_be_removed(member, all) {
                Ok(()) => Step::effect(Effect::RemoveEtcdMember {
                    server: self.intent.name.clone(),
                    member: member.id,
                    address: self.intent.address,
                }),
                Err(message) => {
                    let message = format!("its etcd member stays: {message}");
                    Step::hold(self.held(HoldReason::Quorum, &message))
                }
            };
        }
        match (self.node, machine) {
            (Some(node), _) => Step::effect(Effect::DeleteNode { node: node.into() }),
            (None, Some(_)) => Step::effect(Effect::DeleteServer {
                server: self.server_ref(),
            }),
            (None, None) => Step::change(Change::Forget {
                id: self.id.clone(),
            }),
        }
    }

    fn server_ref(&self) -> ServerRef {
        ServerRef {
            id: self.server,
            name: self.intent.name.clone(),
            intent: self.id.clone(),
        }
    }

    fn held(&self, reason: HoldReason, message: &str) -> Hold {
        Hold {
            about: format!("server {}", self.intent.name),
            reason,
            message: message.to_owned(),
        }
    }
}

/// In words, where a server on its way in stands.
pub(super) fn words(id: &IntentId, intent: &Intent, observed: &Observed) -> String {
    let (Some(server), None) = (intent.server, intent.cancelled) else {
        return match intent.cancelled {
            Some(_) => "is not wanted any more, and goes".to_owned(),
            None => "is about to be created".to_owned(),
        };
    };
    let arrival = Arrival::new(id, intent, server, observed);
    let learner = etcd_members(observed)
        .and_then(|all| arrival.member(all))
        .is_some_and(|m| m.learner);
    if learner {
        return "joins: it is an etcd learner".to_owned();
    }
    match arrival.lacks() {
        Ok(()) => "joins".to_owned(),
        Err(lacks) => format!("joins: {lacks}"),
    }
}
