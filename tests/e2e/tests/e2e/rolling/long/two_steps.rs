//! One commit changes the kernel and the minor of k3s: the servers take two steps, and agents follow them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fabrik_bed::parts::{FORMER_KUBERNETES_VERSION, KUBERNETES_VERSION};
use fabrik_bed::{Machine, Options, SystemChange, system};
use fabrik_e2e::rolling::{Watcher, all_run, file_of, has_kernel};
use tokio::task::JoinHandle;

use super::super::{WHOLE_GRACE, world};
use super::nobody_is_cordoned;

const KERNEL: &str = "6.12.2";
const LOOK: Duration = Duration::from_millis(150);

/// Whether a machine has the new kernel, and whether it has the new k3s.
type Runs = (bool, bool);
const OLD: Runs = (false, false);
const FIRST: Runs = (true, false);
const SECOND: Runs = (true, true);

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_and_a_minor_in_one_commit_are_two_steps() -> Result<()> {
    let world = world(Options {
        kubernetes_version: FORMER_KUBERNETES_VERSION.to_owned(),
        node_monitor_grace_period: WHOLE_GRACE,
        other_kubernetes_versions: vec![KUBERNETES_VERSION.to_owned()],
        ..Options::default()
    })
    .await?;
    let bed = &world.bed;
    let watcher = Watcher::start(bed).await?;
    let steps = Steps::watch(bed.machines());
    bed.change_kubernetes(FORMER_KUBERNETES_VERSION, KUBERNETES_VERSION)?;
    for pool in [system::SERVERS, system::WORKERS] {
        bed.change_system(pool, &SystemChange::Kernel(KERNEL.to_owned()))?;
    }
    bed.git()
        .commit_and_push("Have another kernel and the next minor of k3s")?;
    all_run(bed, "every machine has both", |machine, system| {
        Ok(runs(machine, system)? == SECOND)
    })
    .await?;
    nobody_is_cordoned(&world).await?;
    steps.verdict()?;
    watcher.verdict(&world, 1).await?;
    world.bed.shutdown().await;
    Ok(())
}

/// Looks at what the machines run until it is dropped.
struct Steps {
    looks: Arc<Mutex<Vec<BTreeMap<String, Runs>>>>,
    task: JoinHandle<()>,
}

impl Steps {
    fn watch(machines: Vec<Machine>) -> Self {
        let looks = Arc::<Mutex<Vec<_>>>::default();
        let seen = Arc::clone(&looks);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                // One that is between two boots runs nothing.
                let now = machines.iter().filter_map(|machine| {
                    let system = machine.system().ok()?;
                    let runs = runs(machine, &system.path).ok()?;
                    Some((machine.name().to_owned(), runs))
                });
                let now: BTreeMap<_, _> = now.collect();
                let mut looks = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if looks.last() != Some(&now) {
                    looks.push(now);
                }
            }
        });
        Self { looks, task }
    }

    fn verdict(self) -> Result<()> {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let is_server = |name: &&String| name.starts_with("server-");
        let mut took_first = BTreeSet::new();
        for look in looks.iter() {
            let (servers, agents): (Vec<_>, Vec<_>) = look.iter().partition(|(n, _)| is_server(n));
            took_first.extend(
                servers
                    .iter()
                    .filter(|(_, r)| **r == FIRST)
                    .map(|(n, _)| (*n).clone()),
            );
            let further = servers.iter().any(|(_, runs)| **runs == SECOND);
            let behind = servers.iter().any(|(_, runs)| **runs == OLD);
            ensure!(
                !(further && behind),
                "a server was two steps ahead: {look:#?}"
            );
            let begun = agents.iter().any(|(_, runs)| **runs != OLD);
            let done = servers.iter().all(|(_, runs)| **runs == SECOND);
            ensure!(!begun || done, "an agent went before a server: {look:#?}");
            let skips = |(_, runs): &(&String, &Runs)| **runs == (false, true);
            ensure!(
                !look.iter().any(|l| skips(&l)),
                "k3s came before the kernel: {look:#?}"
            );
        }
        ensure!(
            took_first.len() == 3,
            "the first step was taken by {took_first:?} alone"
        );
        Ok(())
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn runs(machine: &Machine, system: &str) -> Result<Runs> {
    let k3s = file_of(machine, system, "k3s-version").context("its k3s")?;
    let kernel = has_kernel(machine, system, KERNEL)?;
    Ok((kernel, k3s.starts_with(KUBERNETES_VERSION)))
}
