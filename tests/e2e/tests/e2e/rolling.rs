//! Nodes follow the commit: three servers and four workers with systems that real Nix builds.

mod long;
mod many;
mod seen;
mod trouble;

use std::time::Duration;

use anyhow::{Result, ensure};
use fabrik_bed::{Options, SystemChange, system};
use fabrik_e2e::rolling::{ROLLED_OUT, SHOP, Watcher, all_run, file_of, push_system};
use fabrik_e2e::{RESIZED, SOON, World, faults};
use serde_json::{Map, Value, json};

const WORKERS: u32 = 4;

/// Where the machine is busy a heartbeat comes late, and a node is not down by that.
const GRACE: Duration = Duration::from_secs(20);
/// Kubernetes' own (`--node-monitor-grace-period`). A server whose k3s takes half a minute to start its next minor was called
/// not Ready a moment after it was back, by a controller that had not heard of that yet: later than the bed's `soak` sees.
const WHOLE_GRACE: Duration = Duration::from_secs(50);

/// Four workers that have joined, and the shop.
async fn world(options: Options) -> Result<World> {
    let world = World::start(Options {
        servers: 3,
        systems: true,
        node_monitor_grace_period: options.node_monitor_grace_period.max(GRACE),
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

/// One server that may go down, and two workers that have joined: cheap, and what people see is the same. `more` goes to the
/// end of `cluster.toml`.
async fn small_world(more: &str) -> Result<World> {
    let world = World::start(Options {
        servers: 1,
        systems: true,
        ..Options::default()
    })
    .await?;
    let (bed, git) = (&world.bed, world.bed.git());
    bed.write_default_repo(2)?;
    let spec = git.read("cluster.toml")?;
    let allowed = "[update]\nallow-control-plane-downtime = true\n";
    git.write("cluster.toml", spec.replace("[update]\n", allowed) + more)?;
    Ok(world)
}

async fn nobody_is_cordoned(world: &World) -> Result<()> {
    let what = "nobody is cordoned";
    world
        .bed
        .wait_until(what, SOON, async || {
            let nodes = world.get(&["nodes"])?;
            let nodes = fabrik_e2e::list(&nodes, "items");
            let cordoned = nodes
                .iter()
                .any(|node| node["spec"]["unschedulable"] == true);
            Ok((!cordoned).then_some(()))
        })
        .await
}

/// No ticket and no cordon is left. Who was reset keeps both for a minute.
async fn nobody_waits(world: &World) -> Result<()> {
    let settled = world
        .bed
        .wait_until("no ticket is left", RESIZED, async || {
            let tickets = fabrik_e2e::ledger(&world.bed).await?["tickets"].clone();
            ensure!(tickets == json!({}), "{tickets:#}");
            Ok(Some(()))
        });
    settled.await?;
    nobody_is_cordoned(world).await
}

/// The commit is in force, and no node hears of its system.
async fn what_can_not_be_built_is_held(world: &World) -> Result<()> {
    for (fault, told) in [
        (
            SystemChange::DoesNotEvaluate,
            "evaluating pool workers failed",
        ),
        (SystemChange::DoesNotBuild, "building pool workers failed"),
    ] {
        world
            .bed
            .change_system(system::WORKERS, &SystemChange::Fixed)?;
        world.bed.change_system(system::WORKERS, &fault)?;
        let commit = world
            .bed
            .git()
            .commit_and_push("Have a system that is none")?;
        let what = format!("{told}, and that is said");
        let status = world.status_says(&what, |status| {
            let holds = fabrik_e2e::list(status, "holds");
            let is_told = |hold: &Value| {
                hold["message"]
                    .as_str()
                    .is_some_and(|m| m.starts_with(told))
            };
            holds.iter().any(is_told)
        });
        let status = status.await?;
        ensure!(status["admittedCommit"] == commit, "{status:#}");
        ensure!(status["appliedCommit"] != commit, "{status:#}");
    }
    Ok(())
}

/// From the first order on Hetzner's API fails, until the node that tries is kept.
async fn what_was_ordered_ends_without_hetzner(world: &World) -> Result<()> {
    let bed = &world.bed;
    bed.wait_until("a node is told to try", ROLLED_OUT, async || {
        let nodes = world.get(&["fabriknodes"])?;
        let is_told = |node: &Value| node["spec"]["order"]["action"] == "try";
        let told = fabrik_e2e::list(&nodes, "items").iter().any(is_told);
        Ok(told.then_some(()))
    })
    .await?;
    let away = json!({"path": "^/v1/", "kind": "error", "status": 503, "times": 1_000_000});
    faults::order(bed, away).await?;
    bed.wait_until("it is kept", ROLLED_OUT, async || {
        let tickets = &fabrik_e2e::ledger(bed).await?["tickets"];
        Ok((*tickets == json!({})).then_some(()))
    })
    .await?;
    let ledger = fabrik_e2e::ledger(bed).await?;
    let went_back =
        [&ledger["denied"], &ledger["lapses"]].map(|v| v.as_object().map_or(0, Map::len));
    ensure!(went_back == [0, 0], "a good system was left: {ledger}");
    faults::clear(bed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_reaches_every_node_without_a_drain_or_a_reboot() -> Result<()> {
    let world = world(Options::default()).await?;
    let bed = &world.bed;
    let watcher = Watcher::start(bed).await?;
    what_can_not_be_built_is_held(&world).await?;
    for pool in [system::SERVERS, system::WORKERS] {
        bed.change_system(pool, &SystemChange::Fixed)?;
    }
    push_system(
        bed,
        &SystemChange::Package("2".to_owned()),
        "Have another package",
    )?;
    what_was_ordered_ends_without_hetzner(&world).await?;
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
