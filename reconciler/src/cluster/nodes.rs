//! Nodes and what runs on them: what is there (`observe`), and the few things that the leader does to a Node.
//!
//! Nothing here decides. Each act bears the UID of the object that was meant, so that another one of the same name is
//! left alone.

mod budgets;
mod evict;
mod execute;
mod observe;
mod secrets;
mod systems;
mod volumes;

pub use budgets::observe_blockers;
pub use evict::{Eviction, delete_pod, evict};
pub use execute::{cordon, delete, label, uncordon};
pub use observe::{
    NodesSeen, PodsSeen, count_ready, heard, observe_daemon_sets, observe_nodes, observe_pods,
};
pub use secrets::{CIPHERTEXT_KEY, SIGNATURE_KEY, deliver, observe_deliveries, secrets_object};
pub use systems::{SystemsSeen, aim, observe_systems, order, retire, say_standing, withdraw};
pub use volumes::{Claim, VolumesSeen, may_observe_attached, observe_attached, observe_volumes};

/// What the API server said to something that the leader asked of it.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("can't list {what}: {source}")]
    List {
        what: &'static str,
        source: Box<kube::Error>,
    },
    #[error("can't {verb} {object}: {source}")]
    Refused {
        verb: &'static str,
        object: String,
        source: Box<kube::Error>,
    },
    #[error("{object} is not the one that was meant: {reason}; nothing was done to it")]
    Changed { object: String, reason: String },
}

/// How often an object is read and judged before its change is given up.
const ATTEMPTS: u32 = 3;

/// Does it again where the object has changed between reading and writing, for which a kubelet's heartbeat is enough.
async fn again(act: impl AsyncFn() -> Result<(), NodeError>) -> Result<(), NodeError> {
    for _ in 1..ATTEMPTS {
        match act().await {
            Err(NodeError::Changed { .. }) => {}
            done => return done,
        }
    }
    act().await
}
