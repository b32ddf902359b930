//! A kernel reaches nodes while the leader is killed, the agent is killed or the node is cut off from the API servers, at
//! steps of its way. It ends well: each node runs it, no ticket and no cordon is left.

mod long;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::{Bed, Options, SystemChange};
use fabrik_e2e::chaos::{Chaos, Plan, ROLLED_OUT};
use fabrik_e2e::random::Random;
use fabrik_e2e::rolling::{SHOP, Watcher, all_run_within, push_system};
use fabrik_e2e::{SOON, World};

/// Chance has it play others than `make chaos` does, which plays all.
#[tokio::test(flavor = "multi_thread")]
async fn some_faults_on_the_way_of_a_kernel_are_lived_through() -> Result<()> {
    let random = Random::seeded(8)?;
    let world = world(
        2,
        Options {
            servers: 1,
            ..Options::default()
        },
    )
    .await?;
    let watcher = Watcher::start(&world.bed).await?;
    let mut chaos = Chaos::start(&world.bed, random, Plan::Sample).await?;
    let played = kernel(&world.bed, &mut chaos, "6.12.2").await;
    println!("{}", chaos.table());
    played?;
    ensure!(chaos.count() > 3, "hardly a fault was put in");
    watcher.verdict(&world, 1).await?;
    world.bed.shutdown().await;
    Ok(())
}

/// Workers that have joined, and the shop. A try has time for all that is done to it.
async fn world(workers: u32, options: Options) -> Result<World> {
    let world = World::start(Options {
        systems: true,
        ..options
    })
    .await?;
    world.bed.git().write("manifests/shop/shop.yaml", SHOP)?;
    world.bed.default_repo(workers)?;
    world.workers_ready(workers as usize).await?;
    let patient = "try-deadline = \"240s\"\nallow-control-plane-downtime = true";
    world.push_edited("try-deadline = \"90s\"", patient)?;
    let what = "the shop is open";
    let open = world.bed.wait_until(what, SOON, async || {
        let shop = world.get(&["deployment", "shop"])?;
        Ok((shop["status"]["readyReplicas"] == 6).then_some(()))
    });
    open.await?;
    Ok(world)
}

/// Another kernel for all, with faults on its way.
async fn kernel(bed: &Bed, chaos: &mut Chaos<'_>, version: &str) -> Result<()> {
    let change = SystemChange::Kernel(version.to_owned());
    push_system(bed, &change, &format!("Have kernel {version}"))?;
    let what = format!("every machine has kernel {version}");
    let name = format!("linux-{version}");
    let rolled_out = all_run_within(ROLLED_OUT, bed, &what, |machine, system| {
        let root = machine.root().context("a disk")?;
        let kernel = std::fs::read_link(root.path(system).join("kernel"))?;
        Ok(kernel.to_string_lossy().ends_with(&name))
    });
    chaos.play(rolled_out).await
}
