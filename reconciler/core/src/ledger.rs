//! What can't be observed and must survive a crash: one object, changed by compare-and-swap *before* the effect that
//! a change is about.

mod ticket;

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::id::{
    AgeRecipient, BootId, ClusterId, CommitId, IntentId, NodeName, NonceHash, PoolName, ServerId,
    StorePath, Uid,
};
use crate::join::{Nonce, Use};
use crate::names::SERVERS_POOL;
use crate::observed::Role;
use crate::spec::{Foundation, K3sRelease};
use crate::system::{Denied, Lapses, Needs, Pace};

pub use self::ticket::{Ending, Purpose, Reason, Ticket};

/// The version of this layout; a ledger with a newer one is not touched. A field more changes none, for who does not know it leaves
/// it there, nor does a `Reason` more. Any other word more, where a field has one of a few, is another layout: all would be malformed.
pub const SCHEMA: u32 = 1;
/// How far back the history goes: the throttles count by the hour.
const HISTORY_SECS: i64 = 3600;
/// How many entries of each kind the history holds; the oldest go first. No cap on servers can be higher.
const MAX_HISTORY: usize = 1000;
/// How many characters of the reason for a denial are kept: nodes have a say in it.
const MAX_WHY: usize = 1000;
/// How many past intents are recognised when a late server turns up.
const REMEMBERED_INTENTS: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    pub schema: u32,
    pub cluster: ClusterId,
    /// Set by the first commit that was admitted; later ones must agree with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foundation: Option<Foundation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted: Option<Admitted>,
    /// The number of the next creation intent.
    #[serde(default)]
    pub next_intent: u64,
    /// Servers on their way: from the wish until their Node has joined.
    #[serde(default)]
    pub intents: BTreeMap<IntentId, Intent>,
    /// What lets those of them in that are for the control plane, once each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nonces: BTreeMap<IntentId, Nonce>,
    /// Servers whose nonce two machines have shown, on their way or joined all the same.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub alarmed: BTreeSet<IntentId>,
    /// Servers that have joined.
    #[serde(default)]
    pub members: BTreeMap<IntentId, Member>,
    /// Whom the secrets of a member are encrypted to: what its agent said first. It is not asked again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub recipients: BTreeMap<IntentId, AgeRecipient>,
    /// Nodes that may be taken down, each for one reason.
    #[serde(default)]
    pub tickets: BTreeMap<IntentId, Ticket>,
    /// Nodes whose drain did not end in time: not tried again before this.
    #[serde(default)]
    pub resting: BTreeMap<IntentId, Timestamp>,
    /// Grows with each commit that is admitted, and is in what the leader publishes for it.
    #[serde(default)]
    pub sequence: u64,
    /// The number of the next ticket for an update.
    #[serde(default)]
    pub next_ticket: u64,
    /// The newest k3s minor that a server was told to start: its data may be that one's from then on. None until a commit
    /// wants another minor than the one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun_minor: Option<u32>,
    /// Systems that a node tried and left.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub denied: BTreeMap<StorePath, Denied>,
    /// Systems that a node went back from because nobody had said what to do.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lapses: BTreeMap<StorePath, Lapses>,
    /// How long the updates of each pool took.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pace: BTreeMap<PoolName, Pace>,
    /// The last hour, oldest first.
    #[serde(default)]
    pub history: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    pub commit: CommitId,
    pub at: Timestamp,
    /// Its version of k3s, for when the commit itself can't be read any more. A ledger that is older has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub pool: PoolName,
    pub name: NodeName,
    pub at: Timestamp,
    /// The server that was made for it, once it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    /// Of a server of the control plane: where its etcd member is, whatever becomes of its machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Since when it is no longer wanted: it is not created, and what was created for it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<Timestamp>,
    /// Of a server of the control plane that is no longer wanted: when its power-off was written down last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_off: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `Server` or `Agent`.
    #[serde(default = "agent")]
    pub role: Role,
    pub pool: PoolName,
    pub name: NodeName,
    pub server: ServerId,
    pub uid: Uid,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub at: Timestamp,
    pub kind: EventKind,
    pub subject: String,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    Creation,
    Deletion,
    Prune,
}

/// A change of the ledger, written before what it is about is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Admit {
        commit: CommitId,
        foundation: Foundation,
        kubernetes: String,
    },
    /// A machine is awaited whose id is known: one of the user's own, or a server that is gone, was forgotten, and has left a Node.
    Expect {
        id: IntentId,
        pool: PoolName,
        name: NodeName,
        server: ServerId,
    },
    /// A server is wanted. Counts as a creation.
    Intend {
        sequence: u64,
        id: IntentId,
        pool: PoolName,
        name: NodeName,
    },
    /// The server of an intent was seen, or its address was; or its Node, and that it is gone itself.
    Bind {
        id: IntentId,
        server: ServerId,
        address: Option<IpAddr>,
    },
    /// An intent is no longer wanted. If it has a server, this counts as a deletion.
    Cancel { id: IntentId },
    /// The machine of a server that is no longer wanted is about to be powered off before it has joined.
    CutOff { id: IntentId, at: Timestamp },
    /// A server of the control plane is about to be made, and its user data to hold a nonce with this hash.
    Invite {
        id: IntentId,
        hash: NonceHash,
        until: Timestamp,
    },
    /// A machine has shown it, and is about to be answered.
    UseNonce { id: IntentId, by: Use },
    /// Another one has shown it as well: the intent is no longer wanted, and a member that comes of it leaves again. If it has a
    /// server, this counts as a deletion.
    Alarm { id: IntentId },
    /// A server of an intent that was forgotten turned up: a create that took longer than anyone waited.
    Readopt {
        id: IntentId,
        pool: PoolName,
        name: NodeName,
        server: ServerId,
    },
    /// Nothing is left of an intent that never joined.
    Forget { id: IntentId },
    /// The Node of an intent has joined.
    Join { id: IntentId, uid: Uid },
    /// A machine of the control plane is a member from now on, or its Node was made anew.
    Adopt {
        id: IntentId,
        name: NodeName,
        server: ServerId,
        uid: Uid,
    },
    /// Whom the secrets of a member are encrypted to, from now on; where that is known already, nothing changes.
    RecordRecipient {
        id: IntentId,
        recipient: AgeRecipient,
    },
    /// A person says that a member has another key by now.
    ReplaceRecipient {
        id: IntentId,
        recipient: AgeRecipient,
    },
    /// A member may be taken down. Counts as a deletion where it is to leave.
    Grant { id: IntentId, ticket: Ticket },
    /// A node is about to be told to try its new system: from then on its deadline runs.
    Ordered {
        id: IntentId,
        at: Timestamp,
        deadline: Timestamp,
    },
    /// It was not told in time, and is not told any more.
    Unordered { id: IntentId },
    /// A node went back only because nobody had spoken in time: it tries the same system once more.
    TryAgain {
        id: IntentId,
        number: u64,
        boot: BootId,
        needs: Needs,
    },
    /// A server was seen with the newer k3s minor that it tries.
    StartedMinor { id: IntentId },
    /// The machine of a node that is silent is about to be reset.
    Reset { id: IntentId, at: Timestamp },
    /// A node showed that this system is bad: it is tried nowhere any more.
    Deny {
        system: StorePath,
        pool: PoolName,
        node: NodeName,
        why: String,
    },
    /// An update has ended, and the node is as available as before.
    EndUpdate { id: IntentId, ending: Ending },
    /// Nobody wants these systems any more.
    ForgetDenials { systems: Vec<StorePath> },
    /// The drain did not end in time, or the node is wanted again: it is uncordoned and stays.
    Release {
        id: IntentId,
        rest_until: Option<Timestamp>,
    },
    /// All that can be taken back of a server's way out is done: it leaves, whatever comes.
    Retire { id: IntentId },
    /// Server and Node are gone.
    Depart { id: IntentId },
    /// Objects are about to be pruned.
    Prune { subject: String, reason: String },
}

impl Intent {
    /// Wanted from now on, and not there yet.
    fn new(pool: &PoolName, name: &NodeName, now: Timestamp) -> Self {
        Self {
            pool: pool.clone(),
            name: name.clone(),
            at: now,
            server: None,
            address: None,
            cancelled: None,
            cut_off: None,
        }
    }

    /// Whether it stands for a machine of the user's own.
    pub fn is_own(&self) -> bool {
        self.server.is_some_and(ServerId::is_own)
    }
}

impl Ledger {
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            schema: SCHEMA,
            cluster,
            foundation: None,
            admitted: None,
            next_intent: 0,
            intents: BTreeMap::new(),
            nonces: BTreeMap::new(),
            alarmed: BTreeSet::new(),
            members: BTreeMap::new(),
            recipients: BTreeMap::new(),
            tickets: BTreeMap::new(),
            resting: BTreeMap::new(),
            sequence: 0,
            next_ticket: 0,
            begun_minor: None,
            denied: BTreeMap::new(),
            lapses: BTreeMap::new(),
            pace: BTreeMap::new(),
            history: Vec::new(),
        }
    }

    /// How many things of a kind happened within the hour before `now`. Where that may be more than is remembered, it
    /// is more than any cap.
    pub fn count_last_hour(&self, kind: EventKind, now: Timestamp) -> usize {
        let count = self
            .history
            .iter()
            .filter(|e| e.kind == kind && is_recent(e, now))
            .count();
        if count < MAX_HISTORY {
            count
        } else {
            usize::MAX
        }
    }

    /// When fewer than `cap` things of a kind will have happened within an hour, if nothing more happens. `None` where
    /// that is so now, and where it never will be.
    pub fn room_at(&self, kind: EventKind, cap: usize, now: Timestamp) -> Option<Timestamp> {
        let of_kind = |e: &&Event| e.kind == kind && is_recent(e, now);
        let last = self.history.iter().rev().filter(of_kind);
        let leaves = last.take(cap).nth(cap.checked_sub(1)?)?;
        Some(leaves.at + SignedDuration::from_secs(HISTORY_SECS))
    }

    /// Whether `id` was an intent of this cluster at some time.
    pub fn once_intended(&self, id: &IntentId) -> bool {
        (0..self.next_intent)
            .rev()
            .take(REMEMBERED_INTENTS)
            .any(|n| IntentId::derive(&self.cluster, n) == *id)
    }

    /// Servers at Hetzner that should exist: they were seen, and nothing has said that they are gone.
    pub fn known_servers(&self) -> impl Iterator<Item = ServerId> + '_ {
        let coming = self.intents.values().filter_map(|i| i.server);
        let all = coming.chain(self.members.values().map(|m| m.server));
        all.filter(|server| !server.is_own())
    }

    /// Another member that has this key.
    pub fn other_with(&self, id: &IntentId, key: &AgeRecipient) -> Option<&NodeName> {
        let mut others = self.recipients.iter().filter(|(other, _)| *other != id);
        let (other, _) = others.find(|(_, recorded)| *recorded == key)?;
        Some(&self.members.get(other)?.name)
    }

    /// Whether servers at Hetzner are on their way in or out.
    pub fn changes_servers(&self) -> bool {
        let leaves = |t: &Ticket| t.leave().is_some() && !t.server.is_own();
        self.intents.values().any(|i| !i.is_own()) || self.tickets.values().any(leaves)
    }

    fn minor_in_force(&self) -> Option<u32> {
        let version = self.admitted.as_ref()?.kubernetes.as_deref()?;
        version.parse::<K3sRelease>().ok().map(K3sRelease::minor)
    }

    /// Does what `change` says. A change that no longer fits (its subject is gone) changes nothing.
    #[allow(
        clippy::too_many_lines,
        reason = "one short arm for each change; apart they would read worse"
    )]
    pub fn apply(&mut self, change: &Change, now: Timestamp) {
        match change {
            Change::Admit {
                commit,
                foundation,
                kubernetes,
            } => {
                // Before another minor is in force, the one that was is what servers have at most.
                let before = self.minor_in_force();
                self.admitted = Some(Admitted {
                    commit: commit.clone(),
                    at: now,
                    kubernetes: Some(kubernetes.clone()),
                });
                if self.begun_minor.is_none() && before != self.minor_in_force() {
                    self.begun_minor = before;
                }
                self.foundation.get_or_insert_with(|| foundation.clone());
                // Seconds, so that a ledger that was restored from an old snapshot says nothing that nodes would refuse.
                let seconds = u64::try_from(now.as_second()).unwrap_or(0);
                self.sequence = (self.sequence + 1).max(seconds);
            }
            Change::Intend {
                sequence,
                id,
                pool,
                name,
            } => {
                self.next_intent = self.next_intent.max(sequence + 1);
                let intent = Intent::new(pool, name, now);
                self.intents.insert(id.clone(), intent);
                self.remember(EventKind::Creation, name.as_str(), "the pool is short", now);
            }
            Change::Expect {
                id,
                pool,
                name,
                server,
            } => {
                let intent = Intent {
                    server: Some(*server),
                    ..Intent::new(pool, name, now)
                };
                self.intents.insert(id.clone(), intent);
            }
            Change::Bind {
                id,
                server,
                address,
            } => {
                if let Some(intent) = self.intents.get_mut(id) {
                    intent.server = Some(*server);
                    intent.address = *address;
                }
            }
            Change::Cancel { id } => self.cancel(id, "not joined, no longer wanted", now),
            Change::CutOff { id, at } => {
                if let Some(intent) = self.intents.get_mut(id) {
                    intent.cut_off = Some(*at);
                }
            }
            Change::Alarm { id } => {
                self.cancel(id, Reason::Alarmed.words(), now);
                self.alarmed.insert(id.clone());
            }
            Change::Invite { id, hash, until } => {
                let before = self.nonces.remove(id).filter(|n| n.hash == *hash);
                let nonce = Nonce {
                    hash: hash.clone(),
                    until: *until,
                    used: before.and_then(|n| n.used),
                };
                self.nonces.insert(id.clone(), nonce);
            }
            Change::UseNonce { id, by } => {
                if let Some(nonce) = self.nonces.get_mut(id) {
                    nonce.used.get_or_insert_with(|| by.clone());
                }
            }
            Change::Readopt {
                id,
                pool,
                name,
                server,
            } => {
                let intent = Intent {
                    server: Some(*server),
                    cancelled: Some(now),
                    ..Intent::new(pool, name, now)
                };
                self.intents.insert(id.clone(), intent);
                self.remember(EventKind::Deletion, name.as_str(), "a late server", now);
            }
            Change::Forget { id } => {
                self.intents.remove(id);
            }
            Change::Join { id, uid } => {
                if let Some(Intent {
                    pool,
                    name,
                    server: Some(server),
                    ..
                }) = self.intents.remove(id)
                {
                    self.members.insert(
                        id.clone(),
                        Member {
                            role: if pool == PoolName::servers() {
                                Role::Server
                            } else {
                                Role::Agent
                            },
                            pool,
                            name,
                            server,
                            uid: uid.clone(),
                        },
                    );
                }
            }
            Change::Adopt {
                id,
                name,
                server,
                uid,
            } => {
                let member = Member {
                    role: Role::Server,
                    pool: PoolName::servers(),
                    name: name.clone(),
                    server: *server,
                    uid: uid.clone(),
                };
                self.members.insert(id.clone(), member);
            }
            // Two that say one key at once: the second is told of, and not recorded.
            Change::RecordRecipient { id, recipient }
            | Change::ReplaceRecipient { id, recipient }
                if self.other_with(id, recipient).is_some() => {}
            Change::RecordRecipient { id, recipient } => {
                if self.members.contains_key(id) {
                    let recorded = self.recipients.entry(id.clone());
                    recorded.or_insert_with(|| recipient.clone());
                }
            }
            Change::ReplaceRecipient { id, recipient } => {
                if let Some(recorded) = self.recipients.get_mut(id) {
                    *recorded = recipient.clone();
                }
            }
            Change::Grant { id, ticket } => {
                self.tickets.insert(id.clone(), ticket.clone());
                self.resting.remove(id);
                match &ticket.purpose {
                    Purpose::Leave { reason, .. } => {
                        let (node, why) = (ticket.node.as_str(), reason.words());
                        self.remember(EventKind::Deletion, node, why, now);
                    }
                    Purpose::Update(update) => {
                        self.next_ticket = self.next_ticket.max(update.number + 1);
                    }
                }
            }
            Change::Ordered { id, at, deadline } => {
                if let Some(update) = self.tickets.get_mut(id).and_then(Ticket::update_mut) {
                    update.ordered = Some(*at);
                    update.deadline = Some(*deadline);
                    let minor = update.kubernetes.minor;
                    if self
                        .tickets
                        .get(id)
                        .is_some_and(|t| t.pool.as_str() == SERVERS_POOL)
                    {
                        self.begun_minor = self.begun_minor.max(Some(minor));
                    }
                }
            }
            Change::Unordered { id } => {
                if let Some(update) = self.tickets.get_mut(id).and_then(Ticket::update_mut) {
                    update.ordered = None;
                }
            }
            Change::TryAgain {
                id,
                number,
                boot,
                needs,
            } => self.try_again(id, *number, boot, *needs, now),
            Change::StartedMinor { id } => {
                if let Some(update) = self.tickets.get_mut(id).and_then(Ticket::update_mut) {
                    update.started_minor = true;
                }
            }
            Change::Reset { id, at } => {
                if let Some(update) = self.tickets.get_mut(id).and_then(Ticket::update_mut) {
                    update.reset = Some(*at);
                }
            }
            Change::Deny {
                system,
                pool,
                node,
                why,
            } => {
                let denied = Denied {
                    pool: pool.clone(),
                    node: node.clone(),
                    at: now,
                    why: why.chars().take(MAX_WHY).collect(),
                };
                self.denied.insert(system.clone(), denied);
            }
            Change::EndUpdate { id, ending } => {
                let ticket = self.tickets.remove(id);
                if let (Ending::Kept, Some(ticket)) = (ending, ticket) {
                    let lapsed = |l: &Lapses| l.node == ticket.node;
                    if let Some(update) = ticket.update()
                        && self.lapses.get(&update.system).is_some_and(lapsed)
                    {
                        self.lapses.remove(&update.system);
                    }
                    let took = now.duration_since(ticket.at);
                    self.pace.entry(ticket.pool).or_default().add(took);
                }
                if let Ending::Postponed { rest_until, .. } = ending {
                    self.resting.insert(id.clone(), *rest_until);
                }
            }
            Change::ForgetDenials { systems } => {
                self.denied.retain(|system, _| !systems.contains(system));
                self.lapses.retain(|system, _| !systems.contains(system));
            }
            Change::Release { id, rest_until } => {
                self.tickets.remove(id);
                if let Some(until) = rest_until {
                    self.resting.insert(id.clone(), *until);
                }
            }
            Change::Retire { id } => {
                if let Some(Ticket {
                    purpose: Purpose::Leave { retiring, .. },
                    ..
                }) = self.tickets.get_mut(id)
                {
                    retiring.get_or_insert(now);
                }
            }
            Change::Depart { id } => {
                self.tickets.remove(id);
                self.members.remove(id);
                self.recipients.remove(id);
                self.resting.remove(id);
            }
            Change::Prune { subject, reason } => {
                self.remember(EventKind::Prune, subject, reason, now);
            }
        }
        // With its intent a nonce ends too.
        let (intents, members) = (&self.intents, &self.members);
        self.alarmed
            .retain(|id| intents.contains_key(id) || members.contains_key(id));
        let is_wanted = |id: &IntentId| intents.get(id).is_some_and(|i| i.cancelled.is_none());
        self.nonces
            .retain(|id, nonce| nonce.until > now && is_wanted(id));
    }

    fn cancel(&mut self, id: &IntentId, reason: &str, now: Timestamp) {
        let Some(intent) = self.intents.get_mut(id) else {
            return;
        };
        intent.cancelled = Some(now);
        if intent.server.is_some() {
            let name = intent.name.clone();
            self.remember(EventKind::Deletion, name.as_str(), reason, now);
        }
    }

    fn try_again(
        &mut self,
        id: &IntentId,
        number: u64,
        boot: &BootId,
        needs: Needs,
        now: Timestamp,
    ) {
        let Some(ticket) = self.tickets.get_mut(id) else {
            return;
        };
        ticket.at = now;
        let (pool, node) = (ticket.pool.clone(), ticket.node.clone());
        let Some(update) = ticket.update_mut() else {
            return;
        };
        update.number = number;
        update.boot = boot.clone();
        update.needs = needs;
        let ordered = update.ordered;
        (update.ordered, update.deadline, update.reset) = (None, None, None);
        self.next_ticket = self.next_ticket.max(number + 1);
        let system = update.system.clone();
        let count = match self.lapses.get(&system) {
            Some(lapses) if lapses.include(ordered) => return,
            lapses => lapses.map_or(0, |l| l.count) + 1,
        };
        let at = Some(now);
        self.lapses.insert(
            system,
            Lapses {
                pool,
                node,
                count,
                at,
            },
        );
    }

    fn remember(&mut self, kind: EventKind, subject: &str, reason: &str, now: Timestamp) {
        self.history.retain(|e| is_recent(e, now));
        let same = self.history.iter().filter(|e| e.kind == kind).count();
        if same >= MAX_HISTORY
            && let Some(oldest) = self.history.iter().position(|e| e.kind == kind)
        {
            self.history.remove(oldest);
        }
        self.history.push(Event {
            at: now,
            kind,
            subject: subject.to_owned(),
            reason: reason.to_owned(),
        });
    }
}

impl Change {
    /// What the hourly limits count it as.
    pub fn kind(&self, ledger: &Ledger) -> Option<EventKind> {
        match self {
            Self::Intend { .. } => Some(EventKind::Creation),
            Self::Grant { ticket, .. } => ticket.leave().map(|_| EventKind::Deletion),
            Self::Readopt { .. } => Some(EventKind::Deletion),
            Self::Cancel { id } | Self::Alarm { id } => {
                ledger.intents.get(id)?.server.map(|_| EventKind::Deletion)
            }
            Self::Prune { .. } => Some(EventKind::Prune),
            _ => None,
        }
    }
}

fn is_recent(event: &Event, now: Timestamp) -> bool {
    now.duration_since(event.at) < SignedDuration::from_secs(HISTORY_SECS)
}

fn agent() -> Role {
    Role::Agent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_s_words_do_not_fill_it() {
        let mut ledger = Ledger::new("abcdefgh01234567".parse().unwrap());
        let deny = Change::Deny {
            system: "/nix/store/00000000000000000000000000000000-a"
                .parse()
                .unwrap(),
            pool: "workers".parse().unwrap(),
            node: "demo-workers-aaaaaa".parse().unwrap(),
            why: "its kubelet is ä".repeat(100_000),
        };
        ledger.apply(&deny, Timestamp::UNIX_EPOCH);
        let json = serde_json::to_string(&ledger).unwrap();
        assert!(json.len() < 5000, "{}", json.len());
    }

    #[test]
    fn many_prunes_push_no_other_kind_out_of_the_hour() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let mut ledger = Ledger::new("abcdefgh01234567".parse().unwrap());
        let intend = Change::Intend {
            sequence: 0,
            id: "aaaaaa".parse().unwrap(),
            pool: "workers".parse().unwrap(),
            name: "demo-workers-aaaaaa".parse().unwrap(),
        };
        ledger.apply(&intend, now);
        let prune = Change::Prune {
            subject: "v1/ConfigMap/web/a".to_owned(),
            reason: "no longer in the commit".to_owned(),
        };
        for _ in 0..5000 {
            ledger.apply(&prune, now);
        }
        assert_eq!(ledger.count_last_hour(EventKind::Creation, now), 1);
        assert!(
            ledger.count_last_hour(EventKind::Prune, now) >= 5000,
            "what was forgotten must not be done again"
        );
        assert!(ledger.history.len() <= 3000, "the ledger stays small");
        let later = now + SignedDuration::from_secs(HISTORY_SECS);
        let room_at = |cap| ledger.room_at(EventKind::Prune, cap, now);
        assert_eq!(room_at(100), Some(later));
        assert_eq!(room_at(0), None, "there is never room");
        assert_eq!(ledger.room_at(EventKind::Creation, 2, now), None);
        assert_eq!(ledger.count_last_hour(EventKind::Prune, later), 0);
    }
}
