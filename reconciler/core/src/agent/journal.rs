//! What a node must still know after a crash at any point.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Facts;
use crate::id::{BootId, PoolName, StorePath};
use crate::names::SERVERS_POOL;
use crate::system::{Needs, Order, Phase, Publication};

/// The agent's memory. It is on the disk, synced, before anything that it speaks of is begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    pub schema: u32,
    /// Of the newest publication that was accepted. An older one is refused.
    #[serde(default)]
    pub sequence: u64,
    /// The pool of the first publication that was accepted. Those of other pools are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// The highest ticket of an order about a published system.
    #[serde(default)]
    pub ticket: u64,
    /// The order that is carried out, or the last one that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Try>,
}

/// One order on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each may be true without the others"
)]
pub struct Try {
    pub ticket: u64,
    pub system: StorePath,
    /// What ran when the order was accepted, and is gone back to.
    pub from: StorePath,
    /// What an ordinary boot would have started then, and is to start again when the try is left. Only `Keep` changes it.
    /// `None` where that could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<StorePath>,
    /// `from` was never kept: it is what a server is stuck on, and this is its fix.
    #[serde(default)]
    pub stuck: bool,
    pub needs: Needs,
    pub minor: bool,
    /// The boot in which it was begun; before that, the one in which the order was accepted.
    pub boot: BootId,
    pub phase: Phase,
    pub since: Timestamp,
    /// By this node's clock.
    pub deadline: Timestamp,
    /// A k3s of another minor was about to start, or has.
    #[serde(default)]
    pub started_minor: bool,
    /// The new system has run: it was seen to.
    #[serde(default)]
    pub ran: bool,
    /// It ends only because nobody said in time what to do; see `Activity::unheard`.
    #[serde(default)]
    pub unheard: bool,
    /// It was told to make the new system its default.
    #[serde(default)]
    pub keep: bool,
    /// How often the command of this phase was begun.
    #[serde(default)]
    pub attempts: u32,
    /// When that was last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("it is not a journal: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error(
        "its layout is version {found}, and this fabrik knows {}: run the fabrik that wrote it, or a newer one",
        Journal::SCHEMA
    )]
    UnknownSchema { found: u32 },
}

/// Why a publication is not obeyed although the cluster's key has signed it. The words complete "the publication …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    #[error(
        "has number {found}, and this node has seen number {seen}: an older one is not obeyed. Either somebody plays it \
         again, or the ledger is an older one: push a commit, which gets a higher number"
    )]
    Older { found: u64, seen: u64 },
    #[error("is for the pool {found}, and this node belongs to {ours}")]
    OtherPool { found: PoolName, ours: PoolName },
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            schema: Self::SCHEMA,
            sequence: 0,
            pool: None,
            ticket: 0,
            current: None,
        }
    }
}

impl Journal {
    /// The version of its layout.
    pub const SCHEMA: u32 = 1;

    pub fn read(text: &str) -> Result<Self, JournalError> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: u32,
        }
        // First: another layout would be called malformed.
        let Versioned { schema: found } = serde_json::from_str(text)?;
        if found != Self::SCHEMA {
            return Err(JournalError::UnknownSchema { found });
        }
        Ok(serde_json::from_str(text)?)
    }

    /// A control-plane node, by the publication that it accepted.
    pub fn is_server(&self) -> bool {
        let pool = self.pool.as_ref();
        pool.is_some_and(|pool| pool.as_str() == SERVERS_POOL)
    }

    /// What it may run by `publication`: nothing where that is not to be obeyed.
    pub fn allowed<'a>(&self, publication: Option<&'a Publication>) -> Vec<&'a StorePath> {
        let ours = |p: &&Publication| self.objection(p).is_none();
        let systems = publication.filter(ours).map(|p| p.systems.iter());
        systems.into_iter().flatten().map(|s| &s.output).collect()
    }

    /// Why a genuine publication is not obeyed, if it is not.
    pub fn objection(&self, publication: &Publication) -> Option<Objection> {
        let Publication { sequence, pool, .. } = publication;
        match &self.pool {
            Some(ours) if ours != pool => Some(Objection::OtherPool {
                found: pool.clone(),
                ours: ours.clone(),
            }),
            _ if *sequence < self.sequence => Some(Objection::Older {
                found: *sequence,
                seen: self.sequence,
            }),
            _ => None,
        }
    }

    pub(super) fn accept(&self, publication: &Publication) -> Self {
        Self {
            sequence: publication.sequence,
            pool: Some(publication.pool.clone()),
            ..self.clone()
        }
    }

    pub(super) fn with(&self, ticket: u64, current: Try) -> Self {
        Self {
            ticket,
            current: Some(current),
            ..self.clone()
        }
    }
}

impl Try {
    /// As it is accepted by a machine that shows these.
    pub(super) fn of(order: &Order, facts: &Facts) -> Self {
        let time = SignedDuration::from_secs(order.seconds.into());
        // Who runs it already, and would boot another one, is in the middle of a try that it has lost the memory of.
        let from = match &facts.default {
            Ok(default) if facts.running == order.system => default,
            _ => &facts.running,
        };
        Self {
            ticket: order.ticket,
            system: order.system.clone(),
            from: from.clone(),
            default: facts.default.clone().ok(),
            stuck: false,
            needs: order.needs,
            minor: order.minor,
            boot: facts.boot.clone(),
            phase: Phase::Accepted,
            since: facts.now,
            deadline: facts.now.saturating_add(time).unwrap_or(Timestamp::MAX),
            started_minor: false,
            ran: false,
            unheard: false,
            keep: false,
            attempts: 0,
            begun: None,
            message: String::new(),
        }
    }

    /// What is the default again when it was left. A journal of before that was written down means what ran, where the
    /// boot loader was touched at all.
    pub(super) fn fallback(&self) -> Option<&StorePath> {
        let booted = (self.needs == Needs::Reboot).then_some(&self.from);
        self.default.as_ref().or(booted)
    }

    /// Whether nothing is left to be done for it.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Kept | Phase::WentBack | Phase::Failed)
    }

    pub(super) fn enter(&self, phase: Phase, now: Timestamp, message: impl Into<String>) -> Self {
        Self {
            phase,
            since: now,
            ran: self.ran || phase == Phase::Trying,
            attempts: 0,
            begun: None,
            message: message.into(),
            ..self.clone()
        }
    }
}
