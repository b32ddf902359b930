//! What nodes should run by a plan's source, where Nix is at hand to tell.

use std::collections::BTreeMap;
use std::path::Path;

use fabrik_core::id::{CommitId, PoolName};
use fabrik_core::names::SERVERS_POOL;
use fabrik_core::spec::Spec;
use fabrik_core::system::Target;

use crate::build::Preview;
use crate::repo::Tree;

const FLAKE_FILE: &str = "flake.nix";

/// Targets as far as they are known, and what is to be said about the others.
#[derive(Default)]
pub struct Systems {
    pub targets: BTreeMap<PoolName, Target>,
    pub notes: Vec<String>,
}

/// Evaluates what is in `dir`, or in a commit of its repository.
pub async fn evaluate(dir: &Path, commit: Option<&CommitId>, tree: &Tree, spec: &Spec) -> Systems {
    let mut systems = Systems::default();
    if tree.file(FLAKE_FILE).is_none() {
        return systems;
    }
    let preview = match Preview::of(dir, commit) {
        Ok(preview) => preview,
        Err(why) => {
            let note = format!("Systems were not evaluated, and are not in this plan: {why}.");
            systems.notes.push(note);
            return systems;
        }
    };
    let workers = spec.pools.iter().filter(|(_, pool)| pool.count > 0);
    let pools = SERVERS_POOL.parse().into_iter();
    for pool in pools.chain(workers.map(|(name, _)| name.clone())) {
        match preview.system(&pool).await {
            Ok(system) => {
                let first = None;
                systems.targets.insert(pool, Target { system, first });
            }
            Err(error) => systems.notes.push(error.to_string()),
        }
    }
    systems
}
