//! Rollouts that meet trouble, some minutes each: `make rolling` plays them.

use anyhow::{Result, ensure};
use fabrik_bed::{Machine, Options, SystemChange, system};
use fabrik_e2e::rolling::{ROLLED_OUT, Watcher, all_run, has_kernel, push_system};
use fabrik_e2e::{ledger, set_count};

use super::{nobody_waits, world};

const KERNEL: &str = "6.12.2";

/// Two of everything at once, and a person among it: one budget holds over all of them.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_a_shrink_and_a_person_s_drain_share_one_budget() -> Result<()> {
    let world = world(Options::default()).await?;
    let bed = &world.bed;
    let watcher = Watcher::start(bed).await?;
    let person_s = fabrik_e2e::faults::workers(bed).await?.remove(0);
    bed.kubectl(&["drain", &person_s, "--ignore-daemonsets", "--timeout=60s"])?;
    set_count(bed, 4, 3)?;
    push_system(
        bed,
        &SystemChange::Kernel(KERNEL.to_owned()),
        "Have another kernel and a worker less",
    )?;
    bed.wait_until("every server has the kernel", ROLLED_OUT, async || {
        let servers = (0..3).map(|server| bed.server_machine(server));
        let mut done = true;
        for machine in servers {
            done &= has_new_kernel(machine, &machine.system()?.path)?;
        }
        Ok(done.then_some(()))
    })
    .await?;
    if world.exists(&["node", &person_s])? {
        bed.kubectl(&["uncordon", &person_s])?;
    }
    bed.wait_until("a worker less", ROLLED_OUT, async || {
        let workers = fabrik_e2e::faults::workers(bed).await?;
        Ok((workers.len() == 3).then_some(()))
    })
    .await?;
    all_run(bed, "every machine has the kernel", has_new_kernel).await?;
    watcher.verdict(&world, 1).await?;
    world.bed.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_boots_sick_is_left_by_the_node_that_tried_it() -> Result<()> {
    is_left(&SystemChange::Sick).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_hangs_while_it_boots_is_left_by_the_node_that_tried_it() -> Result<()> {
    is_left(&SystemChange::Hangs).await
}

/// One node tries it and is back and Ready, no other one ever does, and a revert converges.
async fn is_left(fault: &SystemChange) -> Result<()> {
    let world = world(Options::default()).await?;
    let bed = &world.bed;
    let watcher = Watcher::start(bed).await?;
    for pool in [system::SERVERS, system::WORKERS] {
        bed.change_system(pool, &SystemChange::Kernel(KERNEL.to_owned()))?;
        bed.change_system(pool, fault)?;
    }
    bed.git().commit_and_push("Have a kernel that is no good")?;
    bed.wait_until("a node left it", ROLLED_OUT, async || {
        let denied = ledger(bed).await?["denied"].clone();
        let denied = denied.as_object().map_or(0, serde_json::Map::len);
        Ok((denied == 1).then_some(()))
    })
    .await?;
    bed.git().git(&["revert", "--no-edit", "HEAD"])?;
    bed.git().push()?;
    let revert = bed.git().head()?;
    bed.wait_until("the revert is carried out", ROLLED_OUT, async || {
        let status = world.status().await?;
        ensure!(status["appliedCommit"] == revert, "{status:#}");
        Ok(Some(()))
    })
    .await?;
    nobody_waits(&world).await?;
    let tried: Vec<_> = bed
        .machines()
        .iter()
        .filter(|machine| machine.boots() > 1)
        .map(|machine| machine.name().to_owned())
        .collect();
    ensure!(tried.len() == 1, "booted again: {tried:?}");
    watcher.verdict(&world, 1).await?;
    world.bed.shutdown().await;
    Ok(())
}

fn has_new_kernel(machine: &Machine, system: &str) -> Result<bool> {
    has_kernel(machine, system, KERNEL)
}
