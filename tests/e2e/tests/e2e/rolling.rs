//! Nodes follow the commit: three servers and four workers with systems that real Nix builds.

mod long;

use anyhow::{Result, ensure};
use fabrik_bed::{Options, SystemChange};
use fabrik_e2e::rolling::{SHOP, Watcher, all_run, file_of, push_system};
use fabrik_e2e::{SOON, World};

const WORKERS: u32 = 4;

/// Four workers that have joined, and the shop.
async fn world(options: Options) -> Result<World> {
    let world = World::start(Options {
        servers: 3,
        systems: true,
        ..options
    })
    .await?;
    let bed = &world.bed;
    bed.git().write("manifests/shop/shop.yaml", SHOP)?;
    bed.default_repo(WORKERS)?;
    world.workers_ready(WORKERS as usize).await?;
    bed.wait_until("the shop is open", SOON, async || {
        let shop = world.get(&["deployment", "shop"])?;
        Ok((shop["status"]["readyReplicas"] == 6).then_some(()))
    })
    .await?;
    Ok(world)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_reaches_every_node_without_a_drain_or_a_reboot() -> Result<()> {
    let world = world(Options::default()).await?;
    let bed = &world.bed;
    let watcher = Watcher::start(bed).await?;
    push_system(
        bed,
        &SystemChange::Package("2".to_owned()),
        "Have another package",
    )?;
    all_run(bed, "every machine has the package", |machine, system| {
        Ok(file_of(machine, system, "package")? == "2")
    })
    .await?;
    let seen = watcher.verdict(&world, 1).await?;
    ensure!(
        seen.cordoned.is_empty(),
        "cordoned for nothing: {:?}",
        seen.cordoned
    );
    for machine in bed.machines() {
        ensure!(
            machine.boots() == 1,
            "{} booted {} times",
            machine.name(),
            machine.boots()
        );
    }
    world.bed.shutdown().await;
    Ok(())
}
