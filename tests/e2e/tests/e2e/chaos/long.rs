//! Each fault at each step: `make chaos` plays it.

use anyhow::{Result, ensure};
use fabrik_bed::Options;
use fabrik_bed::parts::{FORMER_KUBERNETES_VERSION, KUBERNETES_VERSION};
use fabrik_e2e::chaos::{Chaos, Plan, ROLLED_OUT};
use fabrik_e2e::random::Random;
use fabrik_e2e::rolling::{Watcher, all_run_within, file_of};

use super::{kernel, world};

const WORKERS: u32 = 3;
/// Some steps come once in a rollout.
const MOST_KERNELS: u32 = 9;

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_at_each_step_of_a_node_s_way_is_lived_through() -> Result<()> {
    let random = Random::seeded(4)?;
    let world = world(
        WORKERS,
        Options {
            servers: 3,
            kubernetes_version: FORMER_KUBERNETES_VERSION.to_owned(),
            other_kubernetes_versions: vec![KUBERNETES_VERSION.to_owned()],
            ..Options::default()
        },
    )
    .await?;
    let bed = &world.bed;
    let watcher = Watcher::start(bed).await?;
    let mut chaos = Chaos::start(bed, random, Plan::All).await?;
    let mut played = minor(bed, &mut chaos).await;
    let mut kernels = 0;
    while played.is_ok() && !chaos.missing().is_empty() && kernels < MOST_KERNELS {
        kernels += 1;
        println!("{}", chaos.table());
        played = kernel(bed, &mut chaos, &format!("6.13.{kernels}")).await;
    }
    println!("after {kernels} kernels\n{}", chaos.table());
    played?;
    watcher.verdict(&world, 1).await?;
    let missing = chaos.missing();
    ensure!(missing.is_empty(), "never put in: {missing:?}");
    world.bed.shutdown().await;
    Ok(())
}

/// The next minor of k3s for all: the only step that takes a snapshot.
async fn minor(bed: &fabrik_bed::Bed, chaos: &mut Chaos<'_>) -> Result<()> {
    bed.change_kubernetes(FORMER_KUBERNETES_VERSION, KUBERNETES_VERSION)?;
    bed.git().commit_and_push("Have the next minor of k3s")?;
    let rolled_out = all_run_within(
        ROLLED_OUT,
        bed,
        "every machine has the new k3s",
        |machine, system| {
            Ok(file_of(machine, system, "k3s-version")?.starts_with(KUBERNETES_VERSION))
        },
    );
    chaos.play(rolled_out).await
}
