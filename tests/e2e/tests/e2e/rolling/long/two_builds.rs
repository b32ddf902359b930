//! A newer build of fabrik reaches node after node as any package does: each of the two leads the other's agents meanwhile.
//!
//! The way back to this old one is not played: it calls nixos-rebuild so that it evaluates itself, and can keep nothing.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use fabrik_bed::parts::former;
use fabrik_bed::{Build, Machine, Options, SystemChange, system};
use fabrik_e2e::rolling::{Watcher, all_run, has_kernel, push_system};
use fabrik_e2e::{SOON, World};

use super::nobody_is_cordoned;
use crate::rolling::world;

/// The build of a machine's agent and, on a server, of its `fabrik run`.
fn programs(world: &World, machine: &Machine) -> Result<Vec<PathBuf>> {
    let agent = machine.agent_program().context("no agent")?;
    let server = machine.name().strip_prefix("server-");
    let Some(number) = server.and_then(|number| number.parse::<usize>().ok()) else {
        return Ok(vec![agent]);
    };
    let pid = world
        .bed
        .fabrik(number - 1)
        .pid()
        .context("no fabrik run")?;
    Ok(vec![agent, std::fs::read_link(format!("/proc/{pid}/exe"))?])
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
    for machine in bed.machines() {
        let programs = programs(&world, &machine)?;
        ensure!(
            !programs.contains(&former),
            "{} runs {programs:?}",
            machine.name()
        );
    }
    nobody_is_cordoned(&world).await?;
    let what = "no ticket is left, and no system was given up";
    bed.wait_until(what, SOON, async || {
        let ledger = fabrik_e2e::ledger(bed)?;
        ensure!(ledger["denied"].is_null(), "{ledger:#}");
        Ok((ledger["tickets"] == serde_json::json!({})).then_some(()))
    })
    .await?;
    watcher.verdict(&world, 1).await?;
    world.bed.shutdown().await;
    Ok(())
}
