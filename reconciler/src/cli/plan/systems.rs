//! What nodes should run by a plan's source, where Nix is at hand to tell.

use std::collections::BTreeMap;
use std::path::Path;

use fabrik_core::id::{CommitId, PoolName, StorePath};
use fabrik_core::names::SERVERS_POOL;
use fabrik_core::observed::Observed;
use fabrik_core::spec::Spec;
use fabrik_core::system::{Needs, Staged, Target};

use crate::build::{Preview, Previewed};
use crate::repo::Tree;

const FLAKE_FILE: &str = "flake.nix";

/// Targets as far as they are known, and what is to be said about the others.
#[derive(Default)]
pub struct Systems {
    pub targets: BTreeMap<PoolName, Target>,
    pub notes: Vec<String>,
    /// A system was evaluated and is none.
    pub failed: bool,
    steps: BTreeMap<PoolName, StepFrom>,
}

/// What it takes to go to a pool's system from the one of the commit in force.
struct StepFrom {
    system: StorePath,
    needs: Needs,
}

/// Evaluates what is in `dir`, or in a commit of its repository, and for comparison the commit in force, where the
/// repository has it.
pub async fn evaluate(
    dir: &Path,
    commit: Option<&CommitId>,
    tree: &Tree,
    spec: &Spec,
    in_force: Option<&CommitId>,
) -> Systems {
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
    let before = in_force.and_then(|commit| Preview::of(dir, Some(commit)).ok());
    let workers = spec.pools.iter().filter(|(_, pool)| !pool.is_empty());
    let pools = SERVERS_POOL.parse().into_iter();
    for pool in pools.chain(workers.map(|(name, _)| name.clone())) {
        match preview.system(&pool).await {
            Ok(new) => {
                if let Some(before) = &before
                    && let Ok(old) = before.system(&pool).await
                {
                    let step = step(old, &new);
                    systems.steps.extend(step.map(|step| (pool.clone(), step)));
                }
                let (system, first) = (new.system, None);
                systems.targets.insert(pool, Target { system, first });
            }
            Err(error) => {
                systems.failed = true;
                systems.notes.push(error.to_string());
            }
        }
    }
    systems
}

fn step(old: Previewed, new: &Previewed) -> Option<StepFrom> {
    let same = old.boots? == *new.boots.as_ref()?;
    Some(StepFrom {
        system: old.system.output,
        needs: if same { Needs::Switch } else { Needs::Reboot },
    })
}

impl Systems {
    /// Has the nodes say what they will say when they have fetched their systems.
    pub fn foresee(&self, observed: &mut Observed) {
        for member in observed.ledger.members.values() {
            let target = self.targets.get(&member.pool);
            let step = self.steps.get(&member.pool);
            let system = observed.systems.get_mut(&member.name);
            let report = system.and_then(|system| system.report.as_mut());
            if let (Some(target), Some(step), Some(report)) = (target, step, report)
                && report.running == step.system
            {
                report.staged = Some(Staged {
                    system: target.system.output.clone(),
                    needs: step.needs,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fabrik_core::system::System;

    use super::*;

    #[test]
    fn another_kernel_is_a_reboot_before_anybody_has_fetched_it() {
        let previewed = |name: &str, kernel: Option<&str>| {
            let path = |name: &str| format!("/nix/store/{}-{name}", "0".repeat(32));
            Previewed {
                system: System {
                    output: path(name).parse().unwrap(),
                    derivation: path(&format!("{name}.drv")).parse().unwrap(),
                    kubernetes: "1.36.3+k3s1".parse().unwrap(),
                },
                boots: kernel.map(str::to_owned),
            }
        };
        let needs = |old, new| step(old, &new).map(|step| step.needs);
        let old = previewed("old", Some("linux-1"));
        let reboot = needs(old.clone(), previewed("new", Some("linux-2")));
        assert_eq!(reboot, Some(Needs::Reboot));
        let switch = needs(old.clone(), previewed("new", Some("linux-1")));
        assert_eq!(switch, Some(Needs::Switch));
        assert_eq!(needs(old, previewed("new", None)), None, "nobody knows");
    }
}
