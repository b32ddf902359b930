//! A seed that is killed after each of its steps, and what it leaves behind: one cluster, and no secret where none belongs.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use fabrik_bed::Bed;
use fabrik_bed::laptop::{deploy_key, follow};
use fabrik_e2e::person::{Person, adopt};
use fabrik_e2e::watch::Processes;
use fabrik_e2e::{Ran, World, list, name};

use super::planted::Planted;
use super::{FOLLOWED, empty_bed, things, three_servers};

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_each_step_it_comes_to_one_cluster_and_shows_no_secret() -> Result<()> {
    let bed = empty_bed().await?;
    let processes = Processes::watch();
    let person = Person::new(&bed)?;
    person.make_repository_for(&bed, 3, 2)?;
    bed.write_image(&bed.dir().join("disk.img"))?;

    let_in(&bed, &person)?;
    until(&bed, &person, "made the first server")?;
    let url = bed.repository_url();
    let undo = ["seed", "--undo", "--repository", &url, "--yes", "demo"];
    let undo = person.command(&bed, &undo)?;
    let undone = Ran::of(with_endpoint(undo, &bed))?.ok()?;
    let left = things_of(&bed).await?;
    ensure!(
        left.is_empty() && !person.state().exists(),
        "{left:?}: {undone}"
    );

    let_in(&bed, &person)?;
    let mut planted = Planted::default();
    let said = killed_after_each_step(&bed, &person, &mut planted)?;
    planted.person(&bed, &person)?;
    let world = adopt(bed, &person)?;
    three_servers(&world).await?;
    world.workers_ready(2).await?;
    nothing_is_double(&world).await?;

    // The laptop has no part in it.
    let commit = world.push_edited("[pools.workers]\ncount = 2", "[pools.workers]\ncount = 5")?;
    let carried_out = |status: &serde_json::Value| status["appliedCommit"] == commit.as_str();
    world
        .status_says_within(FOLLOWED, "five workers are wanted", carried_out)
        .await?;
    world.workers_ready(5).await?;

    planted.is_refused(&world).await?;
    let seen = processes.end()?;
    planted.shows_nowhere(&world, seen, &said).await?;

    let ended = person.destroy(&world.bed, &[])?.ok()?;
    assert_eq!(things(&world).await?, ["images"], "{ended}");
    // Nothing else is left that says whose they are.
    person.destroy(&world.bed, &["--snapshots"])?.ok()?;
    ensure!(things(&world).await?.is_empty());
    world.bed.shutdown().await;
    Ok(())
}

/// A person lets the deploy key in that the seed asks for.
fn let_in(bed: &Bed, person: &Person) -> Result<()> {
    let waits = person.seed(bed)?;
    ensure!(waits.code == Some(3), "{waits:?}");
    bed.git_servers().authorize(deploy_key(&waits.stdout)?)
}

/// Kills a seed when it has told of that step.
fn until(bed: &Bed, person: &Person, wanted: &str) -> Result<()> {
    let (ended, said) = follow(bed, person.laptop.seed(bed)?, |line| {
        if step(line) == Some(wanted) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    ensure!(
        ended.code().is_none(),
        "not killed after `{wanted}`: {said}"
    );
    Ok(())
}

/// Repeats a seed until it comes to its end, killed as soon as it tells of a step that it was not killed after before.
fn killed_after_each_step(bed: &Bed, person: &Person, planted: &mut Planted) -> Result<String> {
    let (mut killed_after, mut all) = (BTreeSet::new(), String::new());
    loop {
        let (ended, said) = follow(bed, person.laptop.seed(bed)?, |line| match step(line) {
            Some(step) if killed_after.insert(step.to_owned()) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })?;
        planted.laptop(&person.state())?;
        all.push_str(&said);
        match ended.code() {
            Some(0) => break,
            Some(code) => bail!("it ended with {code}: {said}"),
            None => {}
        }
    }
    ensure!(killed_after.len() >= 15, "{killed_after:?}");
    Ok(all)
}

/// A line of progress without its time: what was done.
fn step(line: &str) -> Option<&str> {
    let (secs, words) = line.trim_start().split_once(" s  ")?;
    secs.parse::<f64>().ok().map(|_| words)
}

/// One of each, and of servers as many as the commit asks for. What was made and is gone were the temporary servers.
async fn nothing_is_double(world: &World) -> Result<()> {
    let state = world.hetzner().await?;
    // A placement group for each pool.
    for (kind, count) in [
        ("networks", 1),
        ("firewalls", 1),
        ("placement_groups", 2),
        ("images", 1),
        ("ssh_keys", 1),
    ] {
        let there = list(&state, kind);
        ensure!(there.len() == count, "{kind}: {there:?}");
    }
    let events = world.server_events().await?;
    let made = events.iter().filter(|event| event["kind"] == "created");
    let made: Vec<String> = made.map(name).collect();
    let servers: Vec<String> = list(&state, "servers").iter().map(name).collect();
    // Those of the seed that was undone: a temporary and a first server.
    let rest = made[2..].iter().filter(|made| !servers.contains(made));
    let rest: Vec<&String> = rest.collect();
    ensure!(
        servers.len() == 5 && rest == ["demo-image"],
        "{made:?} were made, {servers:?} are there"
    );
    Ok(())
}

async fn things_of(bed: &Bed) -> Result<Vec<String>> {
    let url = format!("{}/_emulator/state", bed.emulator_url());
    let state: serde_json::Value = reqwest::get(url).await?.json().await?;
    Ok(super::kinds(&state))
}

fn with_endpoint(mut command: Command, bed: &Bed) -> Command {
    command.args(["--hetzner-endpoint", &bed.hetzner().endpoint()]);
    command
}
