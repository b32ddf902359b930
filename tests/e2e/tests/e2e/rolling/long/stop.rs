//! How a person stops a rollout: by hand, in the repository, by a maintenance window, by holding a node out; and what a
//! machine that may be off does not stop.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fabrik_bed::{Bed, SystemChange, system};
use fabrik_e2e::faults::workers;
use fabrik_e2e::rolling::{ROLLED_OUT, has_kernel};
use fabrik_e2e::{SOON, World, ledger, list, page_url};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::super::small_world;

const KERNEL: &str = "6.12.2";
/// For what must not happen: several rounds of the leader.
const WHILE: Duration = Duration::from_secs(4);
/// A server that is held out, and a machine at somebody's desk.
const MORE: &str = "
[update.hold]
server-1 = \"its disk is being looked at\"

[pools.desk]
count = 1
server-types = [\"cx33\"]
locations = [\"fsn1\"]
image = \"debian-12\"
may-be-off = true
";

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_stands_still_when_it_is_told_to_and_goes_on() -> Result<()> {
    let world = small_world(MORE).await?;
    let bed = &world.bed;
    a_desk_that_is_off(&world).await?;
    let window = a_closed_window_holds(&world).await?;
    the_repository_pauses(&world, &window).await?;
    let (first, second) = by_hand_in_the_middle(&world).await?;
    the_repository_agrees(&world).await?;

    let last = world.push_edited("paused = \"the audit\"\n", "")?;
    bed.wait_until("the other worker has the kernel", ROLLED_OUT, async || {
        Ok(runs_new(bed, &second)?.then_some(()))
    })
    .await?;
    // Neither the server that is held out nor the desk that is off is waited for.
    world.carried_out(&last).await?;
    let page = world.fabrik(&["status"])?.ok()?;
    ensure!(page.contains("2 of 4 nodes are up to date"), "{page}");
    for (node, boots) in [("server-1", 1), (&first, 2), (&second, 2)] {
        let machine = bed.machine(node)?;
        ensure!(machine.boots() == boots, "{node}: {}", machine.boots());
    }
    world.bed.shutdown().await;
    Ok(())
}

/// A pool whose only machine is switched off, and a server that a person keeps out.
async fn a_desk_that_is_off(world: &World) -> Result<()> {
    let bed = &world.bed;
    bed.add_system("desk")?;
    let commit = bed.git().commit_and_push("Have workers and a desk")?;
    world.workers_ready(3).await?;
    world.carried_out(&commit).await?;
    let desk = workers(bed).await?;
    let desk = desk.iter().find(|name| name.contains("-desk-"));
    let desk = desk.context("no machine of pool desk")?;
    bed.machine(desk)?.power_off().await?;
    world
        .status_says("the desk is seen to be off", |status| {
            status["pools"]["desk"]["ready"] == 0
        })
        .await
        .map(drop)
}

/// Returns the window.
async fn a_closed_window_holds(world: &World) -> Result<String> {
    let (opens, window) = window()?;
    let kernel = SystemChange::Kernel(KERNEL.to_owned());
    for pool in [system::SERVERS, system::WORKERS, "desk"] {
        world.bed.change_system(pool, &kernel)?;
    }
    let commit = world.push_edited("[update]\n", &format!("[update]\n{window}"))?;
    let status = world
        .status_says("the window holds the workers", |status| {
            let window = format!("waits for the maintenance window, which opens at {opens}");
            status["admittedCommit"] == commit && workers_say(status, &window)
        })
        .await?;
    let server = systems(&status, "servers");
    let held = "is held out of updates: its disk is being looked at";
    ensure!(server[0]["message"] == held, "{status:#}");
    let desk = systems(&status, "desk");
    let off = desk[0]["message"].as_str().context("a message")?;
    ensure!(
        off.starts_with("is off, as nodes of its pool may be"),
        "{off}"
    );
    let page = world.fabrik(&["status"])?.ok()?;
    let estimate = format!("once the window opens at {opens}");
    ensure!(page.contains(&estimate), "{page}");
    let events = world.bed.kubectl(&["get", "events", "-A"])?;
    for told in [held, opens.as_str()] {
        ensure!(events.contains(told), "no Event says `{told}`:\n{events}");
    }
    nobody_has_a_ticket(&world.bed).await?;
    Ok(window)
}

/// A window that is closed now, and for two hours at least.
fn window() -> Result<(String, String)> {
    let hour = SignedDuration::from_hours(1).as_secs();
    let now = Timestamp::now().as_second();
    let opens = Timestamp::from_second((now / hour + 3) * hour)?;
    let of_day = opens.as_second() / hour % 24;
    let window = format!(
        "windows = [{{ start = \"0 {of_day} * * *\", length = \"1h\", zone = \"UTC\" }}]\n"
    );
    Ok((opens.to_string(), window))
}

async fn the_repository_pauses(world: &World, window: &str) -> Result<()> {
    let commit = world.push_edited(window, "paused = \"the holidays\"\n")?;
    let told = "is paused in cluster.toml ([update] paused): the holidays";
    world
        .status_says("the repository pauses the rollout", |status| {
            status["admittedCommit"] == commit && workers_say(status, told)
        })
        .await?;
    let page = world.fabrik(&["status"])?.ok()?;
    ensure!(page.contains("STANDS STILL (Paused)"), "{page}");
    stays_so(async || nobody_has_a_ticket(&world.bed).await).await
}

/// Lets it begin, and pauses by hand as soon as a worker is told to try. Returns that one and the other one.
async fn by_hand_in_the_middle(world: &World) -> Result<(String, String)> {
    let bed = &world.bed;
    world.push_edited("paused = \"the holidays\"\n", "")?;
    let first = bed.wait_until("a worker is told to try", ROLLED_OUT, async || {
        let nodes = list(&world.get(&["fabriknodes"])?, "items");
        let is_told = |node: &&Value| node["spec"]["order"]["action"] == "try";
        let told = nodes.iter().find(is_told);
        Ok(told.and_then(|node| Some(node["metadata"]["name"].as_str()?.to_owned())))
    });
    let first = first.await?;
    world.fabrik(&["pause", "--reason", "looking"])?.ok()?;
    bed.wait_until("who was told to try ends it", ROLLED_OUT, async || {
        let ended = ledger(bed).await?["tickets"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty);
        Ok((ended && runs_new(bed, &first)?).then_some(()))
    })
    .await?;
    let mut others = workers(bed).await?;
    others.retain(|name| *name != first && name.contains("-workers-"));
    let second = others.pop().context("another worker")?;
    stays_so(async || {
        ensure!(!runs_new(bed, &second)?, "{second} began");
        nobody_has_a_ticket(bed).await
    })
    .await?;
    let page = world.fabrik(&["status"])?.ok()?;
    ensure!(page.starts_with("!!! PAUSED"), "{page}");
    ensure!(page.contains("the repository does not say so"), "{page}");
    let metrics = reqwest::get(page_url(bed, "metrics")?)
        .await?
        .text()
        .await?;
    ensure!(metrics.contains("fabrik_paused 1"), "{metrics}");
    Ok((first, second))
}

/// A pause of the repository's takes over from the one by hand.
async fn the_repository_agrees(world: &World) -> Result<()> {
    let commit = world.push_edited("[update]\n", "[update]\npaused = \"the audit\"\n")?;
    world
        .bed
        .wait_until("status is loud no more", SOON, async || {
            let page = world.fabrik(&["status"])?.ok()?;
            ensure!(page.starts_with("PAUSED: nothing is carried out"), "{page}");
            ensure!(page.contains("the repository agrees"), "{page}");
            Ok(Some(()))
        })
        .await?;
    world.fabrik(&["resume"])?.ok()?;
    world
        .status_says("the repository alone pauses", |status| {
            let by_hand = |hold: &Value| hold["about"] == "everything";
            let known = systems(status, "workers").len() == 2;
            let alone = !list(status, "holds").iter().any(by_hand);
            status["admittedCommit"] == commit && known && alone
        })
        .await?;
    let page = world.fabrik(&["status"])?.ok()?;
    ensure!(!page.contains("PAUSED: nothing"), "{page}");
    ensure!(page.contains("([update] paused): the audit"), "{page}");
    nobody_has_a_ticket(&world.bed).await
}

/// Whether both wait, for this reason. What they are to run is known then.
fn workers_say(status: &Value, message: &str) -> bool {
    let workers = systems(status, "workers");
    workers.len() == 2 && workers.iter().all(|worker| worker["message"] == message)
}

/// What the status says of the nodes of a pool.
fn systems(status: &Value, pool: &str) -> Vec<Value> {
    let mut systems = list(status, "systems");
    systems.retain(|system| system["pool"] == pool);
    systems
}

fn runs_new(bed: &Bed, node: &str) -> Result<bool> {
    let machine = bed.machine(node)?;
    has_kernel(&machine, &machine.system()?.path, KERNEL)
}

async fn nobody_has_a_ticket(bed: &Bed) -> Result<()> {
    let tickets = ledger(bed).await?["tickets"].clone();
    let none = tickets.as_object().is_some_and(serde_json::Map::is_empty);
    ensure!(none, "somebody is on the way: {tickets}");
    Ok(())
}

async fn stays_so(holds: impl AsyncFn() -> Result<()>) -> Result<()> {
    let until = Instant::now() + WHILE;
    while Instant::now() < until {
        holds().await?;
    }
    Ok(())
}
