//! The end of a cluster, in a project that others use as well: what bears its id goes, also when the laptop dies half-way.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use fabrik_bed::Options;
use fabrik_e2e::{HETZNER_KINDS, RESIZED, Ran, World, list, name};
use reqwest::Method;
use serde_json::{Value, json};

const OTHER: &str = "0000000000000000";
const ALL: [&str; 2] = ["--volumes", "--protected"];

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_ends_and_nothing_else_does() -> Result<()> {
    let world = World::start(Options::default()).await?;
    let commit = world.bed.default_repo(2)?;
    let workers = world.workers_ready(2).await?;
    world.carried_out(&commit).await?;
    let others = other_things(&world, workers[0]["id"].as_u64().context("an id")?).await?;

    // Nobody has said yes.
    let mark = world.last_request().await?;
    let asked = run(&world, &[])?;
    ensure!(asked.code == Some(1), "{asked:?}");
    for shown in [
        "cluster demo (id",
        "server-1",
        "EUR",
        "data",
        "it holds data",
        "demo-lookalike",
        "pvc-1",
    ] {
        let page = asked.stdout.to_lowercase();
        ensure!(
            page.contains(&shown.to_lowercase()),
            "no `{shown}` in {page}"
        );
    }
    ensure!(asked.stderr.contains("--yes demo"), "{asked:?}");
    let wrong = run(&world, &["--yes", "dmeo"])?;
    ensure!(
        wrong.code == Some(1) && wrong.stderr.contains("dmeo"),
        "{wrong:?}"
    );
    ensure!(
        world.writes(mark).await?.is_empty(),
        "nothing was to be done"
    );
    ensure!(
        !world
            .get(&["fabrikcluster", "demo"])?
            .to_string()
            .contains("paused")
    );

    // The laptop dies when the control plane has lost its power.
    let mut dying = start(&world, &["--yes", "demo"])?;
    world
        .bed
        .wait_until("the control plane is off or gone", RESIZED, async || {
            let servers = list(&world.hetzner().await?, "servers");
            let on = |s: &Value| name(s) == "server-1" && s["status"] != "off";
            Ok((!servers.iter().any(on)).then_some(()))
        })
        .await?;
    dying.kill()?;
    dying.wait()?;
    // No API server tells the cluster's id any more, and the project has two.
    let unclear = run(&world, &["--yes", "demo"])?;
    ensure!(unclear.code == Some(1), "{unclear:?}");
    for told in [world.cluster_id.as_str(), OTHER, "--cluster-id"] {
        ensure!(unclear.stderr.contains(told), "no `{told}` in {unclear:?}");
    }
    let id = ["--cluster-id", &world.cluster_id, "--yes", "demo"];
    let ended = run(&world, &id)?.ok()?;
    ensure!(ended.contains("Removed"), "{ended}");
    assert_eq!(things(&world).await?, others, "{ended}");
    for told in ["guarded", "data", "pvc-1", "demo-lookalike"] {
        ensure!(ended.contains(told), "no `{told}` in {ended}");
    }

    // Asked for the rest, it takes what is the cluster's.
    run(&world, &[id.as_slice(), ALL.as_slice()].concat())?.ok()?;
    let mut rest = others;
    rest.retain(|thing| !["servers guarded", "volumes data"].contains(&thing.as_str()));
    assert_eq!(names_of(&things(&world).await?), names_of(&rest));
    let again = run(&world, &[id.as_slice(), ALL.as_slice()].concat())?.ok()?;
    ensure!(again.contains("Nothing is there"), "{again}");
    world.bed.shutdown().await;
    Ok(())
}

/// Makes things that are not the cluster's, and some that are and must be asked for. Returns what must be there when all
/// else is gone.
async fn other_things(world: &World, worker: u64) -> Result<Vec<String>> {
    let hetzner = world.bed.hetzner();
    let make = async |path: &str, body: Value| hetzner.call(Method::POST, path, &body).await;
    let before = things(world).await?;
    let ours = json!({"fabrik.dev/cluster": world.cluster_id});
    let mut guarded = None;
    for (name, labels) in [
        ("guarded", ours.clone()),
        ("foreign", json!({"fabrik.dev/cluster": OTHER})),
        ("demo-lookalike", json!({})),
    ] {
        // Without power nothing has to run on them.
        let body = json!({"name": name, "server_type": "cx23", "image": "debian-12",
            "location": "fsn1", "labels": labels, "start_after_create": false});
        let (id, _) = hetzner.create_server(&body).await?;
        guarded = guarded.or(Some(id));
    }
    for (name, labels) in [("data", ours), ("pvc-1", json!({}))] {
        let body = json!({"name": name, "size": 10, "server": worker, "labels": labels});
        make("/volumes", body).await?;
    }
    let guarded = guarded.context("a server")?;
    world
        .bed
        .wait_until("all of it is there and protected", RESIZED, async || {
            let state = world.hetzner().await?;
            let servers = list(&state, "servers");
            let made = servers.iter().all(|s| s["status"] != "initializing");
            let attached = list(&state, "volumes")
                .iter()
                .all(|v| !v["server"].is_null());
            Ok((made && attached).then_some(()))
        })
        .await?;
    let path = format!("/servers/{guarded}/actions/change_protection");
    make(&path, json!({"delete": true, "rebuild": true})).await?;
    let mut made = things(world).await?;
    made.retain(|thing| !before.contains(thing));
    Ok(made)
}

/// All that the emulator has, as `kind name`.
async fn things(world: &World) -> Result<Vec<String>> {
    let state = world.hetzner().await?;
    let of_kind = |kind: &&str| {
        let kind = (*kind).to_owned();
        let all = list(&state, &kind).into_iter();
        all.map(move |thing| format!("{kind} {}", name(&thing)))
    };
    let mut all: Vec<String> = HETZNER_KINDS.iter().flat_map(of_kind).collect();
    all.sort();
    Ok(all)
}

/// Without the addresses that come and go with servers.
fn names_of(things: &[String]) -> Vec<&String> {
    let is_address = |thing: &&String| thing.starts_with("primary_ips ");
    things.iter().filter(|t| !is_address(t)).collect()
}

fn command(world: &World, arguments: &[&str]) -> Result<Command> {
    let key = world.bed.fabrik(0).dir().join("age.key");
    let endpoint = world.bed.hetzner().endpoint();
    let key = key.to_str().context("a path in UTF-8")?;
    let common = [
        "destroy",
        "--age-key-file",
        key,
        "--hetzner-endpoint",
        &endpoint,
    ];
    world.bed.fabrik_cmd(&[&common, arguments].concat())
}

fn run(world: &World, arguments: &[&str]) -> Result<Ran> {
    Ran::of(command(world, arguments)?)
}

fn start(world: &World, arguments: &[&str]) -> Result<Child> {
    let mut command = command(world, arguments)?;
    let silent = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(silent.spawn()?)
}
