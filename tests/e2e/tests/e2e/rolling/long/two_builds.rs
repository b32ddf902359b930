//! A newer build of fabrik reaches node after node as any package does: each of the two leads the other's agents meanwhile.
//!
//! The way back to this old one is not played: it calls nixos-rebuild so that it evaluates itself, and can keep nothing.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use fabrik_bed::parts::former;
use fabrik_bed::{Build, Options, SystemChange, system};
use fabrik_e2e::World;
use fabrik_e2e::rolling::{Watcher, all_run, has_kernel, push_system};

use crate::rolling::{nobody_waits, world};

/// What runs as `fabrik agent` on each machine, and as `fabrik run` on each server.
fn all_programs(world: &World) -> Result<Vec<PathBuf>> {
    let machines = world.bed.machines();
    let mut programs: Vec<PathBuf> = machines
        .iter()
        .map(|machine| machine.agent_program().context("no agent"))
        .collect::<Result<_>>()?;
    for server in 0..world.bed.options().servers {
        let pid = world.bed.fabrik(server).pid().context("no fabrik run")?;
        programs.push(std::fs::read_link(format!("/proc/{pid}/exe"))?);
    }
    Ok(programs)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_fabrik_comes_by_a_push_and_works_beside_the_older_one() -> Result<()> {
    let former = tokio::task::spawn_blocking(former::fabrik).await??;
    let world = world(Options {
        former_fabrik: Some(former.clone()),
        ..Options::default()
    })
    .await?;
    let bed = &world.bed;
    ensure!(
        all_programs(&world)?
            .iter()
            .all(|program| *program == former)
    );
    let watcher = Watcher::start(bed).await?;
    for pool in [system::SERVERS, system::WORKERS] {
        bed.change_system(pool, &SystemChange::Fabrik(Build::Tested))?;
    }
    let kernel = SystemChange::Kernel("6.12.2".to_owned());
    push_system(bed, &kernel, "Have another build of fabrik, and a kernel")?;
    all_run(bed, "every machine has the kernel", |machine, system| {
        has_kernel(machine, system, "6.12.2")
    })
    .await?;
    ensure!(
        all_programs(&world)?
            .iter()
            .all(|program| *program != former)
    );
    nobody_waits(&world).await?;
    let ledger = fabrik_e2e::ledger(bed).await?;
    ensure!(
        ledger["denied"].is_null(),
        "a system was given up: {ledger:#}"
    );
    watcher.verdict(&world, 1).await?;
    world.bed.shutdown().await;
    Ok(())
}
