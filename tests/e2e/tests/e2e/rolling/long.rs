//! Some minutes each: `make rolling` plays them.

mod stop;
mod two_builds;
mod two_steps;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use fabrik_bed::parts::{FORMER_KUBERNETES_VERSION, KUBERNETES_VERSION};
use fabrik_bed::{Bed, Options, SystemChange, system};
use fabrik_e2e::rolling::{ROLLED_OUT, Watcher, all_run, file_of, has_kernel, push_system};
use fabrik_e2e::{SOON, config_map};

use super::{WHOLE_GRACE, nobody_is_cordoned, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_drains_and_reboots_node_by_node() -> Result<()> {
    let world = world(Options::default()).await?;
    let bed = &world.bed;
    let watcher = Watcher::start(bed).await?;
    push_system(
        bed,
        &SystemChange::Kernel("6.12.2".to_owned()),
        "Have another kernel",
    )?;
    all_run(bed, "every machine has the kernel", |machine, system| {
        has_kernel(machine, system, "6.12.2")
    })
    .await?;
    nobody_is_cordoned(&world).await?;
    let seen = watcher.verdict(&world, 1).await?;
    let names: BTreeSet<_> = bed.machines().iter().map(|m| m.name().to_owned()).collect();
    ensure!(
        seen.cordoned == names,
        "cordoned {:?}, not {names:?}",
        seen.cordoned
    );
    for machine in bed.machines() {
        ensure!(
            machine.boots() == 2,
            "{} booted {} times",
            machine.name(),
            machine.boots()
        );
    }
    world.bed.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_does_not_boot_is_tried_by_one_node_and_a_fix_goes_on() -> Result<()> {
    let world = world(Options::default()).await?;
    let bed = &world.bed;
    let good = bed.server_machine(0).system()?.path;
    let watcher = Watcher::start(bed).await?;
    for pool in [system::SERVERS, system::WORKERS] {
        bed.change_system(pool, &SystemChange::Kernel("6.13.0".to_owned()))?;
        bed.change_system(pool, &SystemChange::Panics)?;
    }
    bed.git().commit_and_push("Have a kernel that panics")?;
    bed.wait_until(
        "one node has tried it and is back",
        ROLLED_OUT,
        async || {
            let denied = fabrik_e2e::ledger(bed).await?["denied"].clone();
            let denied = denied.as_object().map_or(0, serde_json::Map::len);
            Ok((denied == 1).then_some(()))
        },
    )
    .await?;
    nobody_is_cordoned(&world).await?;
    // It stands still, and everything else goes on.
    bed.git().write(
        "manifests/shop/settings.yaml",
        config_map("settings", "one"),
    )?;
    bed.git().commit_and_push("Have settings")?;
    bed.wait_until("the settings are applied", SOON, async || {
        Ok(world.exists(&["configmap", "settings"])?.then_some(()))
    })
    .await?;
    ensure!(tried(bed) == 1, "{} machines booted again", tried(bed));
    for server in 0..3 {
        ensure!(
            bed.server_machine(server).system()?.path == good,
            "server {server} stayed on it"
        );
    }

    for pool in [system::SERVERS, system::WORKERS] {
        bed.change_system(pool, &SystemChange::Fixed)?;
    }
    bed.git().commit_and_push("Have a kernel that does not")?;
    all_run(
        bed,
        "every machine has the mended kernel",
        |machine, system| has_kernel(machine, system, "6.13.0"),
    )
    .await?;
    nobody_is_cordoned(&world).await?;
    watcher.verdict(&world, 1).await?;
    world.bed.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_minor_of_k3s_goes_through_the_servers_and_then_the_agents() -> Result<()> {
    let world = world(Options {
        kubernetes_version: FORMER_KUBERNETES_VERSION.to_owned(),
        node_monitor_grace_period: WHOLE_GRACE,
        other_kubernetes_versions: vec![KUBERNETES_VERSION.to_owned()],
        ..Options::default()
    })
    .await?;
    let bed = &world.bed;
    let watcher = Watcher::start(bed).await?;
    bed.change_kubernetes(FORMER_KUBERNETES_VERSION, KUBERNETES_VERSION)?;
    bed.git().commit_and_push("Have the next minor of k3s")?;
    all_run(bed, "every machine has the new k3s", |machine, system| {
        Ok(file_of(machine, system, "k3s-version")?.starts_with(KUBERNETES_VERSION))
    })
    .await?;
    let snapshots = (0..3).filter_map(|server| {
        std::fs::read_dir(bed.control_plane(server).dir().join("snapshots")).ok()
    });
    ensure!(snapshots.flatten().count() > 0, "no snapshot was taken");
    let nodes = bed.kubectl(&[
        "get",
        "nodes",
        "-o",
        "jsonpath={.items[*].status.nodeInfo.kubeletVersion}",
    ])?;
    let new = format!("v{KUBERNETES_VERSION}+k3s1");
    ensure!(
        nodes.split_whitespace().all(|version| version == new),
        "{nodes}"
    );
    nobody_is_cordoned(&world).await?;
    watcher.verdict(&world, 1).await?;
    world.bed.shutdown().await;
    Ok(())
}

/// How many machines booted more than once.
fn tried(bed: &Bed) -> usize {
    bed.machines()
        .iter()
        .filter(|machine| machine.boots() > 1)
        .count()
}
