//! Who is let into the control plane: a machine that shows the nonce of an intent to create a server, from the address of
//! the server that was made for it, while the nonce lives. A machine of the user's own has its nonce from who installs it.
//!
//! What it is then given is everything that a server has, so it is given to one recipient and to no second one. The nonce
//! itself is in the server's user data and nowhere else: the ledger has its hash.

use core::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::id::{AgeRecipient, IntentId, NodeName, NonceHash, PoolName, ServerId};
use crate::ledger::{Change, Intent, Ledger};

/// How long a machine has from the order that creates it until it asks.
pub const NONCE_SECS: i64 = 20 * 60;
/// How far Hetzner's clock and the leader's may be apart.
const SKEW_SECS: i64 = 60;

/// A nonce that was given out, as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nonce {
    pub hash: NonceHash,
    pub until: Timestamp,
    /// Whom it has let in: written before anything is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Use>,
}

/// Who has used a nonce. All of it can be seen on the wire; none of it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    pub at: Timestamp,
    pub recipient: AgeRecipient,
    pub source: IpAddr,
}

/// A machine of the user's own that a person wants to be a server, and that has a nonce with this hash from them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub node: NodeName,
    pub hash: NonceHash,
    pub until: Timestamp,
}

impl Asked {
    /// Whether it counts now. What is to count for longer than a nonce does was written by a clock that is wrong.
    pub fn counts(&self, now: Timestamp) -> bool {
        now < self.until && self.until <= now + SignedDuration::from_secs(NONCE_SECS + SKEW_SECS)
    }
}

/// What a machine says of itself, and where it says it from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Of the nonce that it showed.
    pub hash: NonceHash,
    pub node: NodeName,
    /// Whom the answer is to be encrypted to: an identity that the machine made.
    pub recipient: AgeRecipient,
    pub source: IpAddr,
}

/// A server of this cluster at Hetzner that bears the label of the intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub id: ServerId,
    pub name: String,
    pub created: Timestamp,
    /// On the private network.
    pub addresses: Vec<IpAddr>,
}

/// What a claim gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The answer, once `change` is written. There is none where the same machine asks again because the answer was lost:
    /// it is encrypted to the same recipient, so who else repeats the claim gets what it can't open.
    Answer {
        intent: IntentId,
        change: Option<Change>,
    },
    Refused(Refusal),
    /// Two machines have shown one nonce, and one of them may have been answered: the server is not wanted any more once
    /// `change` is written, and another one is made.
    Alarm {
        node: NodeName,
        change: Change,
        first: IpAddr,
    },
}

/// Why a claim gets nothing. A machine that was made by fabrik meets none of these for long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "no server that is on its way has this nonce: it was never given out, or its server has joined, or is not wanted \
         any more"
    )]
    Unknown,
    #[error("the nonce is not that of {node}")]
    OtherNode { node: NodeName },
    #[error(
        "the nonce of {node} has ended at {until}. Delete the server at Hetzner: another one is made. A machine of yours: \
         `fabrik install` once more"
    )]
    Ended { node: NodeName, until: Timestamp },
    #[error("at Hetzner there is no server {node} for it")]
    NoMachine { node: NodeName },
    #[error("at Hetzner there are several servers for {node}: {ids}. None of them is let in")]
    ManyMachines { node: NodeName, ids: String },
    #[error("server {id} was made at {created}, and {node} was not wanted before {wanted}")]
    OtherTime {
        node: NodeName,
        id: ServerId,
        created: Timestamp,
        wanted: Timestamp,
    },
    #[error("{source_address} is no address of {node}")]
    OtherAddress {
        node: NodeName,
        source_address: IpAddr,
    },
}

/// What the ledger knows a nonce by.
pub fn hash(nonce: &[u8]) -> NonceHash {
    NonceHash::of(Sha256::digest(nonce).into())
}

/// Lets the machine that is about to be made for `id` show a nonce with this hash; another one that was given out before for it
/// is worth nothing from then on, and who has used this one before has used it. `None` where no server of the control plane is
/// on its way by that name.
pub fn invite(ledger: &Ledger, id: &IntentId, hash: NonceHash, now: Timestamp) -> Option<Change> {
    let intent = ledger.intents.get(id).filter(|i| is_on_its_way(i))?;
    (intent.pool == PoolName::servers()).then(|| Change::Invite {
        id: id.clone(),
        hash,
        until: now + SignedDuration::from_secs(NONCE_SECS),
    })
}

/// The intent whose nonce this is, as far as one is on its way: for nobody else is Hetzner asked.
pub fn invited<'a>(
    ledger: &'a Ledger,
    hash: &NonceHash,
) -> Result<(&'a IntentId, &'a Intent, &'a Nonce), Refusal> {
    let found = ledger.nonces.iter().find(|(_, nonce)| nonce.hash == *hash);
    let (id, nonce) = found.ok_or(Refusal::Unknown)?;
    let intent = ledger.intents.get(id).filter(|i| is_on_its_way(i));
    Ok((id, intent.ok_or(Refusal::Unknown)?, nonce))
}

/// What `claim` gets, where `machines` are the servers at Hetzner that bear the label of its intent.
pub fn judge(claim: &Claim, ledger: &Ledger, machines: &[Machine], now: Timestamp) -> Verdict {
    let (id, intent, nonce) = match invited(ledger, &claim.hash) {
        Ok(invited) => invited,
        Err(refusal) => return Verdict::Refused(refusal),
    };
    let by = |used: &Use| used.recipient == claim.recipient && used.source == claim.source;
    if let Some(used) = nonce.used.as_ref().filter(|used| !by(used)) {
        return Verdict::Alarm {
            node: intent.name.clone(),
            change: Change::Alarm { id: id.clone() },
            first: used.source,
        };
    }
    let guards = is_named(claim, intent)
        .and_then(|()| is_alive(nonce, intent, now))
        .and_then(|()| is_the_machine(claim, intent, machines, now));
    if let Err(refusal) = guards {
        return Verdict::Refused(refusal);
    }
    let change = nonce.used.is_none().then(|| Change::UseNonce {
        id: id.clone(),
        by: Use {
            at: now,
            recipient: claim.recipient.clone(),
            source: claim.source,
        },
    });
    Verdict::Answer {
        intent: id.clone(),
        change,
    }
}

fn is_on_its_way(intent: &Intent) -> bool {
    intent.cancelled.is_none()
}

fn is_named(claim: &Claim, intent: &Intent) -> Result<(), Refusal> {
    if claim.node == intent.name {
        return Ok(());
    }
    Err(Refusal::OtherNode {
        node: claim.node.clone(),
    })
}

fn is_alive(nonce: &Nonce, intent: &Intent, now: Timestamp) -> Result<(), Refusal> {
    if now < nonce.until {
        return Ok(());
    }
    Err(Refusal::Ended {
        node: intent.name.clone(),
        until: nonce.until,
    })
}

/// One server, made for this intent and after it, speaks from its own address. Of a machine of the user's own that is the one
/// in `cluster.toml`.
fn is_the_machine(
    claim: &Claim,
    intent: &Intent,
    machines: &[Machine],
    now: Timestamp,
) -> Result<(), Refusal> {
    let node = || intent.name.clone();
    if intent.is_own() {
        return is_from(intent.address.as_slice(), claim);
    }
    let machine = match machines {
        [machine] => machine,
        [] => return Err(Refusal::NoMachine { node: node() }),
        many => {
            let ids: Vec<String> = many.iter().map(|m| m.id.to_string()).collect();
            return Err(Refusal::ManyMachines {
                node: node(),
                ids: ids.join(", "),
            });
        }
    };
    let is_bound_elsewhere = intent.server.is_some_and(|id| id != machine.id);
    if is_bound_elsewhere || machine.name != intent.name.as_str() {
        return Err(Refusal::NoMachine { node: node() });
    }
    let skew = SignedDuration::from_secs(SKEW_SECS);
    if machine.created < intent.at - skew || machine.created > now + skew {
        return Err(Refusal::OtherTime {
            node: node(),
            id: machine.id,
            created: machine.created,
            wanted: intent.at,
        });
    }
    is_from(&machine.addresses, claim)
}

/// Who has another name was refused before.
fn is_from(addresses: &[IpAddr], claim: &Claim) -> Result<(), Refusal> {
    if addresses.contains(&claim.source) {
        return Ok(());
    }
    Err(Refusal::OtherAddress {
        node: claim.node.clone(),
        source_address: claim.source,
    })
}

#[cfg(test)]
mod tests;
