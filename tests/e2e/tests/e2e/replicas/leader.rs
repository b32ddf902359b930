//! The leader ends, in order or not: another of the three goes on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fabrik_e2e::{SOON, World};

/// Less than a Lease lasts: who is told to end gives it back. On a quiet machine a second passes.
const AFTER_STOP: Duration = Duration::from_secs(9);
/// Nobody may go on before the Lease has ended.
const AFTER_KILL: Duration = Duration::from_secs(30);

/// Finds four workers, and leaves four.
pub async fn another_replica_goes_on(world: &World) -> Result<()> {
    as_in_production(world)?;
    let what = "one of them leads again";
    let leader = world
        .bed
        .wait_until(what, SOON, async || holder(world))
        .await?;
    let other = succeeds(world, &leader, AFTER_STOP, || stop(world, &leader, false)).await?;
    world.push_edited("count = 4", "count = 5")?;
    world.workers_ready(5).await?;

    restart(world, &leader)?;
    let third = succeeds(world, &other, AFTER_KILL, || stop(world, &other, true)).await?;
    let last = world.push_edited("count = 5", "count = 4")?;
    world.workers_ready(4).await?;
    world.carried_out(&last).await?;
    assert_eq!(world.status().await?["leader"], third.as_str());
    restart(world, &other)
}

/// Gives each replica the timings that it has outside of tests.
fn as_in_production(world: &World) -> Result<()> {
    for server in world.bed.servers() {
        let fabrik = &server.fabrik;
        fabrik.stop();
        let config = fabrik.founding().context("not founded")?.config;
        let text = std::fs::read_to_string(&config)?;
        let changed = text
            .replace("lease-duration = \"4s\"", "lease-duration = \"12s\"")
            .replace("renew-deadline = \"3s\"", "renew-deadline = \"8s\"")
            .replace("retry-period = \"500ms\"", "retry-period = \"1s\"");
        for wanted in ["\"12s\"", "\"8s\"", "\"1s\""] {
            ensure!(changed.contains(wanted), "no {wanted} in:\n{changed}");
        }
        std::fs::write(&config, changed)?;
    }
    let mut servers = world.bed.servers().iter();
    servers.try_for_each(|server| server.fabrik.start())
}

/// Ends the leader and waits for another one to hold the Lease; returns its name.
async fn succeeds(
    world: &World,
    before: &str,
    limit: Duration,
    end: impl FnOnce() -> Result<()>,
) -> Result<String> {
    end()?;
    let since = Instant::now();
    let next = world
        .bed
        .wait_until("another one leads", SOON, async || {
            Ok(holder(world)?.filter(|holder| holder != before))
        })
        .await?;
    let took = since.elapsed();
    ensure!(took < limit, "{next} leads after {took:?}");
    Ok(next)
}

/// The server whose replica holds the Lease.
fn holder(world: &World) -> Result<Option<String>> {
    let lease = world.get(&["lease", "-n", "fabrik-system", "fabrik-leader"])?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    let servers = world.bed.servers().iter();
    let mut names = servers.map(|s| s.control_plane.name().to_owned());
    Ok(names.find(|name| holder.starts_with(name.as_str())))
}

fn stop(world: &World, name: &str, by_kill: bool) -> Result<()> {
    let fabrik = &server(world, name)?.fabrik;
    if by_kill {
        fabrik.kill();
    } else {
        fabrik.stop();
    }
    ensure!(!fabrik.is_running());
    Ok(())
}

fn restart(world: &World, name: &str) -> Result<()> {
    server(world, name)?.fabrik.start()
}

fn server<'a>(world: &'a World, name: &str) -> Result<&'a fabrik_bed::server::Server> {
    let mut servers = world.bed.servers().iter();
    let found = servers.find(|s| s.control_plane.name() == name);
    found.map(AsRef::as_ref).with_context(|| name.to_owned())
}
