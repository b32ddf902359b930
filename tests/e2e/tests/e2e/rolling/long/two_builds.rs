//! Another build of fabrik reaches node after node as any package does: two builds lead and obey each other meanwhile,
//! in either order.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fabrik_bed::parts::former;
use fabrik_bed::{Build, Machine, Options, SystemChange};
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

async fn all_have(world: &World, kernel: &str, is_build: impl Fn(&Path) -> bool) -> Result<()> {
    let what = format!("every machine has kernel {kernel}");
    all_run(&world.bed, &what, |machine, system| {
        has_kernel(machine, system, kernel)
    })
    .await?;
    for machine in world.bed.machines() {
        let programs = programs(world, &machine)?;
        ensure!(
            programs.iter().all(|program| is_build(program)),
            "{} runs {programs:?}",
            machine.name()
        );
    }
    nobody_is_cordoned(world).await?;
    let what = "no ticket is left, and no system was given up";
    let settled = world.bed.wait_until(what, SOON, async || {
        let ledger = fabrik_e2e::ledger(&world.bed)?;
        ensure!(ledger["denied"].is_null(), "{ledger:#}");
        Ok((ledger["tickets"] == serde_json::json!({})).then_some(()))
    });
    settled.await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_builds_of_fabrik_work_beside_each_other() -> Result<()> {
    let former = tokio::task::spawn_blocking(former::fabrik).await??;
    let world = world(Options {
        former_fabrik: Some(former.clone()),
        ..Options::default()
    })
    .await?;
    let bed = &world.bed;
    let watcher = Watcher::start(bed).await?;
    for (build, kernel) in [(Build::Tested, "6.12.2"), (Build::Former, "6.12.3")] {
        for pool in [fabrik_bed::system::SERVERS, fabrik_bed::system::WORKERS] {
            bed.change_system(pool, &SystemChange::Fabrik(build))?;
        }
        let kernel_change = SystemChange::Kernel(kernel.to_owned());
        push_system(bed, &kernel_change, "Have another build of fabrik")?;
        let wanted = build == Build::Former;
        all_have(&world, kernel, |program| (program == former) == wanted).await?;
    }
    watcher.verdict(&world, 1).await?;
    world.bed.shutdown().await;
    Ok(())
}
