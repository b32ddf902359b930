//! The verbs of the command line, and the rotation of the Hetzner token by a push.

mod plan;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fabrik_bed::Options;
use fabrik_bed::emulator::TOKEN;
use fabrik_e2e::{SOON, World, config_map, list, name};
use serde_json::Value;

/// For what must not happen: several rounds of the leader.
const WHILE: Duration = Duration::from_secs(4);
const NEW_TOKEN: &str = "the-token-after-the-rotation";
/// Nobody here has the key to it.
const STRANGER: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

#[tokio::test(flavor = "multi_thread")]
async fn each_verb_does_what_it_says() -> Result<()> {
    let world = World::start(Options {
        webhooks: true,
        ..Options::default()
    })
    .await?;
    plan::a_plan_says_what_the_push_then_does(&world.bed).await?;
    let git = world.bed.git();
    git.write(
        "manifests/shop/settings.yaml",
        config_map("settings", "one"),
    )?;
    let first = git.commit_and_push("Have settings")?;
    waits_for_success(&world, &first)?;
    let rest = world.fabrik(&["plan", "HEAD"])?.ok()?;
    ensure!(rest.starts_with("Nothing to do"), "{rest}");
    world.workers_ready(1).await?;

    validates(&world)?;
    plans(&world).await?;
    shows_status(&world, &first).await?;
    pauses_and_resumes(&world).await?;
    rotates_the_token(&world).await?;
    misses_the_leader(&world).await?;
    world.bed.shutdown().await;
    Ok(())
}

/// The dead leader's own words stay in the cluster, and nobody is to believe them.
async fn misses_the_leader(world: &World) -> Result<()> {
    world.bed.fabrik(0).kill();
    let says = async || {
        let status = world.fabrik(&["status"])?.ok()?;
        Ok(status.contains("leader     NONE").then_some(()))
    };
    world
        .bed
        .wait_until("status misses the leader", SOON, says)
        .await?;
    let asked = world.fabrik(&["reconcile"])?.ok()?;
    ensure!(asked.contains("no replica leads"), "{asked}");
    Ok(())
}

fn waits_for_success(world: &World, commit: &str) -> Result<()> {
    let waited = world.fabrik(&["wait", commit, "--timeout", "60s"])?.ok()?;
    ensure!(waited.contains("is in force and carried out"), "{waited}");
    Ok(())
}

fn validates(world: &World) -> Result<()> {
    let git = world.bed.git();
    world.fabrik(&["validate"])?.ok()?;
    let spec = git.read("cluster.toml")?;
    git.write("cluster.toml", spec.replace("count = 1", "count = -1"))?;
    let dir = git.dir().to_str().context("a path in UTF-8")?;
    let refused = world.fabrik(&["validate", dir])?;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    ensure!(refused.stderr.contains("cluster.toml:"), "{refused:?}");
    git.write("cluster.toml", spec)
}

/// What is planned for a directory and for a revision is what then happens.
async fn plans(world: &World) -> Result<()> {
    let git = world.bed.git();
    let scaled = world.fabrik(&["scale", "workers", "2"])?.ok()?;
    let human = world.fabrik(&["plan", "HEAD"])?.ok()?;
    for page in [&scaled, &human] {
        ensure!(page.contains("workers"), "{page}");
    }
    let effects = planned(&world.fabrik(&["plan", "HEAD", "--output", "json"])?.ok()?)?;
    let mark = world.last_request().await?;
    git.push()?;
    world.workers_ready(2).await?;
    let writes = world.writes(mark).await?;
    let is_order = |request: &&Value| request["path"] == "/v1/servers";
    let orders = writes.iter().filter(is_order).count();
    let creations = effects.iter().filter(|verb| *verb == "create-server");
    assert_eq!((creations.count(), orders), (1, 1), "{effects:?}");
    Ok(())
}

/// The verbs of the effects in a plan.
fn planned(json: &str) -> Result<Vec<String>> {
    let document: Value = serde_json::from_str(json)?;
    ensure!(document["plan"].is_object(), "{json}");
    let effects = list(&document["plan"], "effects");
    let verbs = effects.iter().filter_map(|e| e["verb"].as_str());
    Ok(verbs.map(str::to_owned).collect())
}

async fn shows_status(world: &World, before: &str) -> Result<()> {
    let head = world.bed.git().head()?;
    ensure!(head != before);
    world.carried_out(&head).await?;
    let json = world.fabrik(&["status", "--output", "json"])?.ok()?;
    let view: Value = serde_json::from_str(&json)?;
    ensure!(json.contains(&head), "{json}");
    let shown: Vec<_> = list(&view, "nodes").iter().map(name).collect();
    for worker in world.workers().await? {
        let worker = name(&worker);
        ensure!(shown.contains(&worker), "{worker} is not in {json}");
    }

    let mut command = world.bed.fabrik_cmd(&["status", "--watch"])?;
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .spawn()?;
    let output = child.stdout.take().context("no output")?;
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    let appears = |text: &str| {
        let deadline = Instant::now() + SOON;
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if line.contains(text) {
                return Ok(());
            }
        }
        anyhow::bail!("`{text}` was not shown")
    };
    appears(&head[..8])?;
    world.bed.git().write(
        "manifests/shop/settings.yaml",
        config_map("settings", "two"),
    )?;
    let next = world.bed.git().commit_and_push("Change the settings")?;
    let shown = appears(&next[..8]);
    child.kill()?;
    child.wait()?;
    shown?;
    world.carried_out(&next).await
}

async fn pauses_and_resumes(world: &World) -> Result<()> {
    world
        .fabrik(&["pause", "--reason", "looking into etcd"])?
        .ok()?;
    let page = world.fabrik(&["status"])?.ok()?;
    ensure!(page.starts_with("!!! PAUSED"), "{page}");
    ensure!(page.contains("looking into etcd"), "{page}");
    world
        .status_says("the leader knows of the pause", |status| {
            status.to_string().contains("PAUSED")
        })
        .await?;

    let mark = world.last_request().await?;
    let commit = world.push_edited("count = 2", "count = 3")?;
    let by_hand = r#"{"data":{"value":"by hand"}}"#;
    world
        .bed
        .kubectl(&["patch", "configmap", "settings", "-p", by_hand])?;
    world
        .status_says("the push was fetched and checked", |status| {
            status["admittedCommit"] == commit.as_str() || status["headCommit"] == commit.as_str()
        })
        .await?;
    let value =
        || -> Result<Value> { Ok(world.get(&["configmap", "settings"])?["data"]["value"].clone()) };
    let until = Instant::now() + WHILE;
    while Instant::now() < until {
        let writes = world.writes(mark).await?;
        ensure!(writes.is_empty(), "it was paused: {writes:#?}");
        assert_eq!(value()?, "by hand", "it was paused");
    }
    world.fabrik(&["resume"])?.ok()?;
    world.workers_ready(3).await?;
    world
        .bed
        .wait_until("the change by hand is put back", SOON, async || {
            Ok((value()? == "two").then_some(()))
        })
        .await?;
    world.carried_out(&commit).await
}

async fn rotates_the_token(world: &World) -> Result<()> {
    world.set_tokens(&[TOKEN, NEW_TOKEN]).await?;
    world.write_secret("secrets/hetzner.yaml", &format!("token: {NEW_TOKEN}\n"))?;
    let rotated = world.bed.git().commit_and_push("Rotate the token")?;
    world.carried_out(&rotated).await?;
    world
        .bed
        .wait_until("fabrik shows the new token", SOON, async || {
            let requests = world.requests(0).await?;
            Ok(requests.iter().any(|r| r["token"] == 1).then_some(()))
        })
        .await?;
    // Only the new one opens from now on, and work goes on.
    world.set_tokens(&[NEW_TOKEN]).await?;
    let mark = world.last_request().await?;
    let smaller = world.push_edited("count = 3", "count = 2")?;
    world.workers_ready(2).await?;
    world.carried_out(&smaller).await?;
    let requests = world.requests(mark).await?;
    ensure!(
        !requests.is_empty() && requests.iter().all(|r| r["status"] != 401),
        "{requests:#?}"
    );

    // A token that does not open refuses the commit with everything in it.
    let git = world.bed.git();
    let rules = git.read(".sops.yaml")?;
    let ours = world.bed.founding()?.age_recipient;
    git.write(".sops.yaml", rules.replace(&ours, STRANGER))?;
    world.write_secret("secrets/hetzner.yaml", "token: not-for-us\n")?;
    let spec = git.read("cluster.toml")?;
    git.write("cluster.toml", spec.replace("count = 2", "count = 0"))?;
    let locked = git.commit_and_push("Lock everybody out")?;
    let status = world.refused(&locked).await?;
    ensure!(
        status["refused"]
            .to_string()
            .contains("secrets/hetzner.yaml"),
        "{status:#}"
    );
    assert_eq!(status["admittedCommit"], smaller.as_str());
    assert_eq!(world.workers().await?.len(), 2);
    let log = world.bed.fabrik(0).log();
    for token in [TOKEN, NEW_TOKEN] {
        ensure!(!log.contains(token), "the token is in the log");
    }
    Ok(())
}
