//! Why a part of an admitted commit waits. Other parts go on.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `about` is what waits, `reason` one word for metrics and conditions, `message` the sentence that a person reads: what
/// is in the way, with names and figures, and what would let it go on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hold {
    pub about: String,
    pub reason: HoldReason,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HoldReason {
    Paused,
    /// Creations, deletions or prunes of this hour are used up.
    Throttled,
    /// The pool's `max-unavailable` is used up.
    Budget,
    /// etcd would be left without a margin, or is not whole (S3).
    Quorum,
    /// The maintenance window is closed, or closes too soon.
    Window,
    /// The systems of this commit can't be evaluated or built; the nodes stay as they are.
    Evaluation,
    /// Agents wait for the servers.
    ServersFirst,
    /// The others wait for the canary.
    Canary,
    /// The server whose fabrik leads waits for the other ones.
    Turn,
    /// A person keeps the node out of updates.
    HeldOut,
    /// The node has not said what it runs.
    NotReporting,
    /// The node is fetching its new system.
    Fetching,
    /// The node has not got its secrets yet.
    Secrets,
    /// The node says that its secrets are to be encrypted to another key than the one that was recorded.
    OtherKey,
    /// The node was about to be told to try its system, and by now it may not.
    Postponed,
    /// The node runs its new system and is not known to be well yet.
    Verifying,
    /// The system was tried and left: the rollout stands still.
    Denied,
    /// A node needs a person: the rollout stands still.
    Stuck,
    /// It would break the k3s ladder as things stand (S4).
    VersionSkew,
    /// An eviction is refused.
    DrainBlocked,
    /// A drain did not end in time; the node rests before the next try.
    Resting,
    /// A local volume is pinned to the node.
    LocalData,
    /// A name that we need belongs to somebody else.
    NameTaken,
    /// What we see at Hetzner or in the cluster is not what the ledger knows.
    Unexplained,
    /// Fewer servers are asked for than there are, and nobody has said that they may go.
    MayNotShrink,
    /// There is no image that the pool's servers could be made from.
    NoImage,
    /// Hetzner has none left of what the pool names.
    OutOfStock,
    /// A person has to do something with a machine of theirs.
    ByHand,
    /// A server has not joined in time.
    NotJoined,
    /// A server that is not wanted any more is not known to be there, and may still come.
    Settling,
    /// Hetzner or Kubernetes refused an effect.
    Refused,
    /// Too much would be pruned, or a protected kind.
    PruneGuard,
    /// Another controller owns a field.
    Conflict,
    /// An object could not be applied, or is not healthy yet.
    Unhealthy,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

impl HoldReason {
    /// Whether who comes later waits for the same.
    pub(crate) fn is_of_a_queue(self) -> bool {
        matches!(
            self,
            Self::Window | Self::Budget | Self::Quorum | Self::Canary
        )
    }
}

/// The end of a throttled hold's message.
pub(crate) fn goes_on(at: Option<Timestamp>) -> String {
    at.map_or_else(String::new, |at| format!("; it goes on at {at:.0}"))
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.message)
    }
}
