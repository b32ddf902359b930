//! The systems of a commit: evaluated, built, signed and kept, once, on the leader, and served to nodes by whoever has
//! them.
//!
//! Nothing here decides what a node runs. What goes wrong holds the nodes back and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::{CommitId, PoolName};
use fabrik_core::spec::{self, K3sVersion};
use fabrik_core::system::{SignedPublication, Target};

mod builder;
pub mod cache;
mod evaluate;
mod git_cache;
mod lock;
mod nix;
mod preview;
mod published;
mod room;
mod systems;
#[cfg(test)]
mod tests;
mod trace;

pub use builder::Builder;
pub use evaluate::Origin;
pub(crate) use evaluate::checkout_url;
pub use lock::{LockError, fault as lock_fault, lock};
pub use nix::NixError;
pub use preview::{Preview, Previewed};
pub use published::Published;

/// The systems that are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub origin: Origin,
    /// The ledger's, for the publications.
    pub sequence: u64,
    pub pools: BTreeSet<PoolName>,
    pub settings: spec::Nix,
    /// The oldest k3s that a server runs. Where a commit brings their pool another minor, the step is made in two if the
    /// flake can.
    pub servers_run: Option<K3sVersion>,
}

/// How far the systems of a commit are. A pool is missing where the commit says nothing of its system.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Builds {
    pub commit: Option<CommitId>,
    pub pools: BTreeMap<PoolName, State>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Evaluating,
    Building,
    Built(Box<Built>),
    /// It is tried again after a while; nodes stay as they are.
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    pub target: Target,
    pub publication: SignedPublication,
    /// What a person should know of it.
    pub notice: Option<String>,
}

impl Builds {
    /// What the nodes of each pool should run, where that is known of `commit`.
    pub fn targets(&self, commit: &CommitId) -> BTreeMap<PoolName, Target> {
        self.built(commit)
            .map(|(pool, built)| (pool.clone(), built.target.clone()))
            .collect()
    }

    /// What the nodes of each pool have to see to believe it.
    pub fn publications(&self, commit: &CommitId) -> BTreeMap<PoolName, SignedPublication> {
        self.built(commit)
            .map(|(pool, built)| (pool.clone(), built.publication.clone()))
            .collect()
    }

    /// What people should know, by pool.
    pub fn notices(&self) -> impl Iterator<Item = (&PoolName, &str)> {
        self.pools.iter().filter_map(|(pool, state)| match state {
            State::Built(built) => Some((pool, built.notice.as_deref()?)),
            _ => None,
        })
    }

    /// Why nodes wait for their systems. A commit that nothing was said of yet waits as well: that nodes have nothing to
    /// follow is known only once it was looked at.
    pub fn holds(&self, commit: &CommitId) -> Vec<Hold> {
        if self.commit.as_ref() != Some(commit) {
            return vec![Hold {
                about: "systems".to_owned(),
                reason: HoldReason::Evaluation,
                message: format!("those of {} are not evaluated yet", commit.short()),
            }];
        }
        let pools = self.of(commit).into_iter().flatten();
        let holds = pools.filter_map(|(pool, state)| {
            let message = match state {
                State::Evaluating => "its system is being evaluated".to_owned(),
                State::Building => "its system is being built".to_owned(),
                State::Failed(why) => why.clone(),
                State::Built(_) => return None,
            };
            Some(Hold {
                about: format!("pool {pool}"),
                reason: HoldReason::Evaluation,
                message,
            })
        });
        holds.collect()
    }

    /// Nothing is under way.
    pub fn is_settled(&self) -> bool {
        let mut states = self.pools.values();
        states.all(|s| matches!(s, State::Built(_) | State::Failed(_)))
    }

    pub fn any_failed(&self) -> bool {
        self.pools.values().any(|s| matches!(s, State::Failed(_)))
    }

    fn of(&self, commit: &CommitId) -> Option<&BTreeMap<PoolName, State>> {
        (self.commit.as_ref() == Some(commit)).then_some(&self.pools)
    }

    fn built(&self, commit: &CommitId) -> impl Iterator<Item = (&PoolName, &Built)> {
        let pools = self.of(commit).into_iter().flatten();
        pools.filter_map(|(pool, state)| match state {
            State::Built(built) => Some((pool, built.as_ref())),
            _ => None,
        })
    }
}

/// Why a pool's system is not there.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Nix(#[from] NixError),
    #[error(
        "flake.nix has a `nixConfig`, which would change how the leader's Nix works. Remove it, and name caches, keys \
         and builders in [nix] of cluster.toml"
    )]
    NixConfig,
    #[error(
        "flake.lock does not lock what flake.nix asks for as {}. What is not locked could be something else for each who \
         builds it, so fabrik builds nothing of it. Run `nix flake lock`, commit flake.lock, and push", inputs.join(", ")
    )]
    Unlocked { inputs: Vec<String> },
    #[error(transparent)]
    NoSystem(#[from] NoSystem),
    #[error("pool {pool}: {problem}")]
    OddSystem { pool: PoolName, problem: String },
    #[error(
        "pool {pool}: fabrik.first.{pool} was asked for the k3s minor of {asked} and gave {got}. It is called with \
         {{ version, minor }} and has to return the configuration with a k3s of that minor"
    )]
    FirstHasAnotherMinor {
        pool: PoolName,
        asked: K3sVersion,
        got: K3sVersion,
    },
    #[error(
        "pool {pool}: the build gave {got} and the evaluation {expected}: that is a fault in Nix or in fabrik"
    )]
    OtherOutput {
        pool: PoolName,
        expected: String,
        got: String,
    },
    #[error(
        "{} of the server that leads has {free_mib} MiB free, and below {spare_mib} MiB nothing is built: etcd needs the \
         room. Collect garbage there (nix-collect-garbage --delete-older-than 30d), or make the disk larger", store.display()
    )]
    NoRoom {
        store: PathBuf,
        free_mib: u64,
        spare_mib: u64,
    },
    #[error("{0}")]
    Disk(String),
}

/// The flake says nothing of a pool.
#[derive(Debug, thiserror::Error)]
#[error(
    "flake.nix has no nixosConfigurations.{pool}, and the cluster has a pool of that name. It has: {}",
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
)]
pub struct NoSystem {
    pub pool: PoolName,
    pub known: Vec<String>,
}
