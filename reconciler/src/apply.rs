//! Manifests: makes the cluster's objects what an admitted commit says, keeps them so, and prunes what is gone from it.
//!
//! Nothing here decides what is wanted or what may be pruned (`fabrik_core::apply` does); it carries out and reports.
//! The inventory of a unit is written before its first object is sent, so whoever goes on after a crash knows every
//! object that may be there. Objects are not cached: of each we keep digests, its health, and a fingerprint of the
//! fields that are ours, by which the metadata watches notice drift.

use std::collections::BTreeMap;
use std::sync::Arc;

use fabrik_core::apply::Allowance;
use fabrik_core::desired::Inventory;
use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::hold::Hold;
use fabrik_core::id::{CommitId, UnitName};
use fabrik_core::manifest::Object;
use fabrik_core::spec::Limits;
use futures::future::BoxFuture;

use crate::cluster::events::Events;

mod discovery;
mod engine;
mod failure;
mod inventory;
mod live;
mod object;
mod prune;
mod status;
mod track;
mod watch;

/// What an admitted commit wants of the manifests. A newer one replaces an older one at once: a request that has
/// begun ends, and no other follows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub commit: CommitId,
    pub units: BTreeMap<UnitName, Vec<Object>>,
    pub limits: Limits,
    /// Why nothing may be changed at present, if so.
    pub paused: Option<String>,
}

/// How far the units are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UnitsReport {
    /// The commit that this is about; `None` before the inventories have been read.
    pub commit: Option<CommitId>,
    /// Every object of the commit was applied, and nothing is left to prune. Health is another matter.
    pub applied: bool,
    pub units: BTreeMap<UnitName, UnitReport>,
    /// What is wrong and concerns no unit alone.
    pub holds: Vec<Hold>,
}

impl UnitsReport {
    /// What is stored of each unit.
    pub fn inventories(&self) -> BTreeMap<UnitName, Inventory> {
        let units = self.units.iter();
        units
            .map(|(name, unit)| (name.clone(), unit.inventory.clone()))
            .collect()
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct UnitReport {
    /// The last commit that changed something in this unit.
    pub commit: Option<CommitId>,
    pub objects: usize,
    /// Objects that were applied and are healthy.
    pub ready: usize,
    /// As stored in the cluster.
    pub inventory: Inventory,
    /// All objects that could not be applied or pruned.
    pub errors: Vec<Diagnostic>,
    pub holds: Vec<Hold>,
}

/// Leadership has ended: whoever holds this sends nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node no longer leads")]
pub struct Lost;

/// Asked before each request that changes something.
pub type Authority = Arc<dyn Fn() -> Result<(), Lost> + Send + Sync>;

/// Takes the names of objects that are about to be deleted, in order; writes those that this hour's allowance has room
/// for into the ledger's history (`fabrik_core::apply::allowance`) and returns how many had room, from the front.
pub type PruneGrant =
    Arc<dyn Fn(Vec<String>) -> BoxFuture<'static, Result<Allowance, String>> + Send + Sync>;

/// Applies units. One per leader; everything that it remembers can be lost.
pub struct Engine {
    client: kube::Client,
    grant: PruneGrant,
    events: Option<Events>,
}

impl Engine {
    /// `client` acts as the applier.
    pub fn new(client: kube::Client, grant: PruneGrant) -> Self {
        Self {
            client,
            grant,
            events: None,
        }
    }

    /// Tells by Events what it puts back.
    #[must_use]
    pub fn telling(mut self, events: Events) -> Self {
        self.events = Some(events);
        self
    }
}
