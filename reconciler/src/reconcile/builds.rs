//! The systems of the commit in force: asks for them, and hands the core what came of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use fabrik_core::desired::Desired;
use fabrik_core::hold::Hold;
use fabrik_core::id::{CommitId, PoolName};
use fabrik_core::names::SERVERS_POOL;
use fabrik_core::observed::Observed;
use fabrik_core::spec::{K3sVersion, Spec};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::warn;

use super::leader::{InForce, Leader};
use crate::build::{Builder, Builds, Origin, Request};

/// The builder beside the loop.
pub struct Building {
    ask: watch::Sender<Option<Arc<Request>>>,
    builds: watch::Receiver<Builds>,
    /// The commit whose notices were told.
    noticed: Option<CommitId>,
}

impl Building {
    pub fn start(builder: Arc<Builder>, beside: &mut JoinSet<()>) -> Self {
        let (ask, requests) = watch::channel(None);
        let (tell, builds) = watch::channel(Builds::default());
        beside.spawn(async move { builder.run(requests, tell).await });
        Self {
            ask,
            builds,
            noticed: None,
        }
    }

    /// Ends when something came of it; never where nothing is built.
    pub async fn changed(building: &mut Option<Self>) {
        if let Some(building) = building
            && building.builds.changed().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }

    /// What failed is tried now.
    pub fn try_again(&self) {
        if self.builds.borrow().any_failed() {
            self.ask.send_modify(|_| {});
        }
    }

    /// Asks, unless that was asked already. What servers run changes as they follow, and is no reason to ask again.
    fn ask(&self, request: Request) {
        self.ask.send_if_modified(|before| {
            let same = before.as_deref().is_some_and(|before| {
                let servers_run = before.servers_run;
                Request {
                    servers_run,
                    ..request.clone()
                } == *before
            });
            if !same {
                *before = Some(Arc::new(request));
            }
            !same
        });
    }
}

impl Leader {
    /// What is wanted, with the systems as far as they are built.
    pub(super) fn with_systems(&mut self, in_force: &InForce, observed: &Observed) -> Desired {
        let mut desired = in_force.desired.clone();
        let Some(building) = &mut self.building else {
            return desired;
        };
        let clone = match self.replica.repository.clone_dir() {
            Ok(clone) => clone,
            Err(error) => {
                warn!(%error, "systems can't be evaluated");
                return desired;
            }
        };
        let commit = desired.commit.clone();
        building.ask(Request {
            origin: Origin {
                clone,
                commit: commit.clone(),
            },
            sequence: observed.ledger.sequence,
            pools: pools(&desired.spec),
            settings: desired.spec.nix.clone(),
            servers_run: servers_run(observed),
        });
        let builds = building.builds.borrow_and_update().clone();
        desired.targets = builds.targets(&commit);
        self.publications = builds.publications(&commit);
        let settled = builds.commit.as_ref() == Some(&commit) && builds.is_settled();
        if settled && building.noticed.as_ref() != Some(&commit) {
            building.noticed = Some(commit);
            for (pool, notice) in builds.notices() {
                let message = format!("pool {pool}: {notice}");
                self.events.normal("OneStep", "Build", &message);
            }
        }
        desired
    }

    /// Why nodes wait for the systems of the commit in force.
    pub(super) fn holds_of_systems(&self) -> Vec<Hold> {
        let (Some(building), Some(in_force)) = (&self.building, &self.in_force) else {
            return Vec::new();
        };
        building.builds.borrow().holds(&in_force.desired.commit)
    }
}

/// Pools that have nodes, or will.
fn pools(spec: &Spec) -> BTreeSet<PoolName> {
    let workers = spec.pools.iter().filter(|(_, pool)| !pool.is_empty());
    let workers = workers.map(|(name, _)| name.clone());
    workers.chain(SERVERS_POOL.parse()).collect()
}

/// The oldest k3s on a control-plane node.
fn servers_run(observed: &Observed) -> Option<K3sVersion> {
    let servers = observed.nodes.values().filter(|node| node.control_plane);
    let versions = servers.filter_map(|node| K3sVersion::of_kubelet(&node.kubelet_version));
    versions.min()
}
