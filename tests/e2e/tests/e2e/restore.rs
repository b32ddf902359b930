//! Two of three servers are lost for good: `fabrik restore` on the third, from its own data, and from a snapshot; and one
//! whose data are broken. And what it refuses.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::control_plane::Component;
use fabrik_bed::emulator::TOKEN;
use fabrik_bed::{Bed, Options, RootShell};
use fabrik_e2e::writer::{Writer, config_maps};
use fabrik_e2e::{Ran, SOON, World, config_map, ledger};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;

/// The server that is left.
const LEFT: usize = 2;
const LOST: [&str; 2] = ["server-1", "server-2"];

#[tokio::test(flavor = "multi_thread")]
async fn the_third_server_goes_on_from_its_own_data() -> Result<()> {
    let world = three_servers(2).await?;
    let bed = &world.bed;
    let shell = RootShell::open(bed, LEFT).await?;
    let writer = Writer::start(bed.kube_at(LEFT).await?);

    // All of them live; then two of three.
    writer.goes_on(bed, 10).await?;
    refuses(&shell, &[], "etcd has a leader")?;
    bed.server_machine(0).kill().await?;
    writer.goes_on(bed, 10).await?;
    refuses(&shell, &[], "etcd has a leader")?;

    bed.server_machine(1).kill().await?;
    lost_quorum(bed, &shell).await?;
    let workers = boots(bed);
    for lost in LOST {
        refuses(&shell, &["--lost", lost], "Hetzner says that server-1 runs")?;
    }
    nothing_is_proved_without_hetzner(&world, &shell).await?;
    delete_lost(&world).await?;
    let kept = writer.end();

    let plan = Ran::of(shell.restore(&["--plan"])?)?.ok()?;
    ensure!(
        plan.contains("server-1: its machine is gone at Hetzner"),
        "{plan}"
    );
    ensure!(
        plan.contains("etcd's only member from its own data"),
        "{plan}"
    );
    refuses(&shell, &["--yes", "other"], "--yes demo")?;
    ensure!(
        bed.control_plane(LEFT).is_running(Component::Etcd),
        "it was no plan"
    );
    for step in ["begun", "resetting", "reset"] {
        let came_to = killed_at(bed, &shell, step).await?;
        let is_held = ["begun", "copied", "resetting"].contains(&came_to.as_str());
        ensure!(is_held || step != "begun", "it was killed at {came_to}");
        if is_held {
            let started = Ran::of(shell.command("systemctl", &["start", "k3s"]))?;
            ensure!(
                started.stderr.contains("a restore has begun"),
                "{started:?}"
            );
        }
    }
    let said = Ran::of(shell.restore(&["--yes", "demo"])?)?.ok()?;
    ensure!(said.contains("The cluster has one server now"), "{said}");

    let there = config_maps(bed.kube_at(LEFT).await?).await?;
    let missing: Vec<_> = kept.difference(&there).collect();
    ensure!(missing.is_empty(), "lost: {missing:?}");
    let members = bed.etcd().members()?;
    ensure!(members.len() == 1, "{members:?}");
    let nodes = nodes(bed).await?;
    ensure!(LOST.iter().all(|lost| !nodes.contains(*lost)), "{nodes:?}");
    ensure!(boots(bed) == workers, "a worker was stopped");

    let commit = world.push_edited("count = 2", "count = 3")?;
    world.workers_ready(3).await?;
    world.carried_out(&commit).await?;
    let said = Ran::of(shell.restore(&[])?)?;
    ensure!(said.stderr.contains("etcd has a leader"), "{said:?}");
    world.bed.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_data_are_gone_a_snapshot_is_restored() -> Result<()> {
    let world = three_servers(1).await?;
    let bed = &world.bed;
    let shell = RootShell::open(bed, LEFT).await?;
    world.kubectl_apply(&config_map("before", "there"))?;
    shell.save_snapshot("nightly")?;
    world.kubectl_apply(&config_map("after", "there"))?;
    world.push_edited("count = 1", "count = 2")?;
    let workers = world.workers_ready(2).await?;
    let boots_before = boots(bed);

    for machine in [bed.server_machine(0), bed.server_machine(1)] {
        machine.kill().await?;
    }
    delete_lost(&world).await?;
    for component in Component::ALL.into_iter().rev() {
        bed.control_plane(LEFT).kill(component);
    }
    bed.control_plane(LEFT).wipe_etcd()?;

    // Nothing says any more which machines they were.
    let lost: Vec<String> = (0..LEFT)
        .map(|server| bed.control_plane(server).address().to_string())
        .collect();
    refuses(&shell, &[], &format!("--lost {}", lost[0]))?;
    let said_lost = ["--lost", &lost[0], "--lost", &lost[1]];
    let plan = Ran::of(shell.restore(&[&said_lost[..], &["--plan"]].concat())?)?.ok()?;
    ensure!(
        plan.contains("Lost is all that the cluster was told since"),
        "{plan}"
    );
    let since = world.last_request().await?;
    Ran::of(shell.restore(&[&said_lost[..], &["--yes", "demo"]].concat())?)?.ok()?;

    let there = config_maps(bed.kube_at(LEFT).await?).await?;
    ensure!(
        there.contains("before") && !there.contains("after"),
        "{there:?}"
    );
    let young = an_old_ledger_neither_deletes_nor_doubles(&world, &workers, since).await?;
    ensure!(boots(bed) == boots_before, "a worker was stopped");

    // As the page says: it is replaced when a person deletes it.
    bed.hetzner().delete_server(young).await?;
    world.workers_ready(2).await?;
    let commit = bed.git().head()?;
    world.carried_out(&commit).await?;
    world.bed.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_etcd_cant_start_from_give_way_to_a_snapshot() -> Result<()> {
    let world = World::start(Options::default()).await?;
    let bed = &world.bed;
    let commit = bed.default_repo(1)?;
    world.workers_ready(1).await?;
    world.carried_out(&commit).await?;
    let shell = RootShell::open(bed, 0).await?;
    shell.save_snapshot("nightly")?;
    world.kubectl_apply(&config_map("after", "there"))?;
    for component in Component::ALL.into_iter().rev() {
        bed.control_plane(0).kill(component);
    }
    let db = bed.control_plane(0).dir();
    for log in std::fs::read_dir(db.join("etcd/member/wal"))? {
        std::fs::write(log?.path(), [0xff; 4096])?;
    }
    let snapshots = std::fs::read_dir(db.join("snapshots"))?;
    let snapshots: Vec<_> = snapshots.map(|s| Ok(s?.path())).collect::<Result<_>>()?;
    let snapshot = snapshots[0].to_str().context("a path in UTF-8")?;

    let older = ["--snapshot", snapshot, "--yes", "demo"];
    refuses(&shell, &older, "own data were written later")?;
    refuses(&shell, &["--yes", "demo"], "k3s did not reset etcd")?;
    ensure!(db.join("fabrik-restore/etcd/member").is_dir(), "no copy");
    let said = Ran::of(shell.restore(&older)?)?.ok()?;
    ensure!(said.contains("etcd's only member from /"), "{said}");
    ensure!(
        !world.exists(&["configmap", "after"])?,
        "the snapshot was not restored"
    );
    let commit = world.push_edited("count = 1", "count = 2")?;
    world.workers_ready(2).await?;
    world.carried_out(&commit).await?;
    world.bed.shutdown().await;
    Ok(())
}

/// A worker that is younger than the snapshot has no Node in it, and the ledger has never heard of it: the next wish for a
/// worker has its number again, and so finds it.
async fn an_old_ledger_neither_deletes_nor_doubles(
    world: &World,
    workers: &[Value],
    since: u64,
) -> Result<u64> {
    let bed = &world.bed;
    let young = bed
        .wait_until(
            "the young worker is one that is to come",
            SOON,
            async || {
                let ledger = ledger(bed).await?;
                let intents = ledger["intents"].as_object();
                let intent = intents.and_then(|i| i.values().next());
                let server = intent.and_then(|i| i["server"].as_u64());
                ensure!(server.is_some(), "{ledger:#}");
                Ok(server)
            },
        )
        .await?;
    ensure!(workers.iter().any(|w| w["id"] == young), "{young} is new");
    ensure!(names(&world.workers().await?) == names(workers));
    let writes = world.writes(since).await?;
    ensure!(writes.is_empty(), "{writes:#?}");
    Ok(young)
}

async fn three_servers(workers: u32) -> Result<World> {
    let world = World::start(Options {
        servers: 3,
        ..Options::default()
    })
    .await?;
    let commit = world.bed.default_repo(workers)?;
    world.workers_ready(workers as usize).await?;
    world.carried_out(&commit).await?;
    Ok(world)
}

/// With another token each answer is no proof, and a person has to say it.
async fn nothing_is_proved_without_hetzner(world: &World, shell: &RootShell) -> Result<()> {
    world.set_tokens(&["another"]).await?;
    let said = refuses(
        shell,
        &["--lost", "server-2"],
        "nothing proves that server-1 is dead",
    )?;
    ensure!(
        said.stdout.contains("Hetzner could not be asked"),
        "{said:?}"
    );
    let both = ["--lost", "server-1", "--lost", "server-2", "--plan"];
    Ran::of(shell.restore(&both)?)?.ok()?;
    refuses(
        shell,
        &["--lost", "server-7"],
        "The others are server-1, server-2",
    )?;
    world.set_tokens(&[TOKEN]).await
}

fn refuses(shell: &RootShell, arguments: &[&str], why: &str) -> Result<Ran> {
    let said = Ran::of(shell.restore(arguments)?)?;
    ensure!(
        said.code == Some(1) && said.stderr.contains(why),
        "not refused because of {why:?}: {said:?}"
    );
    Ok(said)
}

async fn lost_quorum(bed: &Bed, shell: &RootShell) -> Result<()> {
    bed.wait_until("the quorum is lost", SOON, async || {
        let said = Ran::of(shell.restore(&["--plan"])?)?;
        ensure!(!said.stderr.contains("etcd has a leader"), "{said:?}");
        Ok(Some(()))
    })
    .await
}

/// Hetzner shows a server until its deletion has ended.
async fn delete_lost(world: &World) -> Result<()> {
    let bed = &world.bed;
    let ids: Vec<u64> = (0..LEFT)
        .map(|server| bed.server_machine(server).id())
        .collect();
    for id in &ids {
        bed.hetzner().delete_server(*id).await?;
    }
    bed.wait_until("they are gone at Hetzner", SOON, async || {
        let state = world.hetzner().await?;
        let there = state["servers"].as_array().context("no servers")?;
        let are_gone = there.iter().all(|s| ids.iter().all(|id| s["id"] != *id));
        Ok(are_gone.then_some(()))
    })
    .await
}

/// Runs it until its journal says that it came to `step` and k3s is held, as it is before a reset, and kills it. Returns
/// where it died: on a busy machine that may be a step further.
async fn killed_at(bed: &Bed, shell: &RootShell, step: &str) -> Result<String> {
    let room = bed.control_plane(LEFT).dir().join("fabrik-restore");
    let came_to = || -> Result<String> {
        let text = std::fs::read_to_string(room.join("journal.json"))?;
        let journal: Value = serde_json::from_str(&text)?;
        Ok(journal["step"].as_str().context("no step")?.to_owned())
    };
    let mut command: Command = shell.restore(&["--yes", "demo"])?;
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = child.spawn()?;
    let what = format!("it comes to {step}");
    let reached = bed
        .wait_until(&what, SOON, async || {
            let now = came_to()?;
            let is_held = room.join("holds-k3s").exists();
            ensure!(now == step && (is_held || now == "reset"), "{now}");
            Ok(Some(()))
        })
        .await;
    child.kill()?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    reached.context(said)?;
    came_to()
}

async fn nodes(bed: &Bed) -> Result<BTreeSet<String>> {
    let nodes: Api<Node> = Api::all(bed.kube_at(LEFT).await?);
    let nodes = nodes.list(&ListParams::default()).await?;
    Ok(nodes
        .items
        .into_iter()
        .filter_map(|n| n.metadata.name)
        .collect())
}

fn names(servers: &[Value]) -> Vec<String> {
    let mut names: Vec<String> = servers.iter().map(fabrik_e2e::name).collect();
    names.sort();
    names
}

/// How often each machine that is left has booted, and that it runs.
fn boots(bed: &Bed) -> Vec<(String, u32, bool)> {
    let machines = bed.machines();
    let left = machines.iter().filter(|m| !LOST.contains(&m.name()));
    left.map(|m| {
        let runs = matches!(m.state(), fabrik_bed::State::Running { .. });
        (m.name().to_owned(), m.boots(), runs)
    })
    .collect()
}
