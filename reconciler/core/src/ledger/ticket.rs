//! Tickets: which node may be down, what for, and how that ended.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{NodeName, PoolName, ServerId, Uid};
use crate::system::Update;

/// Permission for one node to be down. It never ends by time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    pub pool: PoolName,
    pub node: NodeName,
    pub uid: Uid,
    pub server: ServerId,
    #[serde(flatten)]
    pub purpose: Purpose,
    pub at: Timestamp,
}

/// What a node may be down for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "purpose")]
pub enum Purpose {
    /// To leave the cluster.
    Leave {
        /// One that this version does not know is not written, so that what is there stays (`cluster::ledger`).
        #[serde(default = "unknown", skip_serializing_if = "Reason::is_unknown")]
        reason: Reason,
        /// Since when there is no way back, of a server: its k3s is to end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retiring: Option<Timestamp>,
    },
    /// To run another system.
    Update(Update),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The pool has more nodes than its count.
    ScaleDown,
    /// Its server no longer exists at Hetzner.
    Dead,
    /// Its Node was deleted by somebody; k3s lets no machine rejoin under a deleted Node's name.
    NodeDeleted,
    /// Two machines have shown its nonce, and it has joined before it could be kept out.
    Alarmed,
    /// One that this version does not know: it leaves as carefully as any.
    #[serde(other)]
    Unknown,
}

/// How an update ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The node runs the new system, and will after any boot.
    Kept,
    /// The node is gone.
    Lost,
    /// It was not told to try, and something else is wanted by now.
    Withdrawn,
    /// It was not told to try, and there was no time left.
    Postponed { rest_until: Timestamp, why: String },
    /// It runs the old system again.
    WentBack,
    /// A person took it away.
    Released,
}

impl Ticket {
    /// Why the node is to leave, if it is.
    pub fn leave(&self) -> Option<Reason> {
        match &self.purpose {
            Purpose::Leave { reason, .. } => Some(*reason),
            Purpose::Update(_) => None,
        }
    }

    /// Since when a server leaves whatever comes, if it does.
    pub fn retiring(&self) -> Option<Timestamp> {
        match &self.purpose {
            Purpose::Leave { retiring, .. } => *retiring,
            Purpose::Update(_) => None,
        }
    }

    /// Which system the node is to run, if that is what it is for.
    pub fn update(&self) -> Option<&Update> {
        match &self.purpose {
            Purpose::Leave { .. } => None,
            Purpose::Update(update) => Some(update),
        }
    }

    pub(super) fn update_mut(&mut self) -> Option<&mut Update> {
        match &mut self.purpose {
            Purpose::Leave { .. } => None,
            Purpose::Update(update) => Some(update),
        }
    }
}

impl Reason {
    pub fn words(self) -> &'static str {
        match self {
            Self::ScaleDown => "the pool has more nodes than its count",
            Self::Dead => "its server no longer exists",
            Self::NodeDeleted => "its Node was deleted, and it can't rejoin",
            Self::Alarmed => "two machines have shown its nonce",
            Self::Unknown => "a newer fabrik wants it",
        }
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
    fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }
}

fn unknown() -> Reason {
    Reason::Unknown
}
