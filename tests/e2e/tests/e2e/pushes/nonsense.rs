//! Nonsense is refused: nothing changes, and the whole reason is shown wherever one looks.

use anyhow::{Result, ensure};
use fabrik_e2e::{World, config_map, words};
use serde_json::Value;

/// Finds no worker and leaves one. Returns the commit in force.
pub async fn changes_nothing(world: &World) -> Result<String> {
    let git = world.bed.git();
    git.write(
        "manifests/shop/settings.yaml",
        config_map("settings", "one"),
    )?;
    let older = git.commit_and_push("Have settings")?;
    world.carried_out(&older).await?;
    let good = world.push_edited("count = 0", "count = 1")?;
    world.workers_ready(1).await?;
    world.carried_out(&good).await?;
    let spec = git.read("cluster.toml")?;

    // A broken cluster.toml.
    git.write("cluster.toml", spec.replace("count = 1", "count = = 1"))?;
    refused(world, &good, "Break the syntax", &["cluster.toml:"]).await?;

    // A broken manifest; the good change beside it is not carried out either.
    git.write("cluster.toml", spec.replace("count = 1", "count = 2"))?;
    git.write(
        "manifests/shop/broken.yaml",
        "kind: ConfigMap\nmetadata: {name: x\n",
    )?;
    let parts = ["manifests/shop/broken.yaml"];
    refused(world, &good, "Break a manifest", &parts).await?;

    // Several faults, all told at once.
    let faults = spec
        .replace("count = 1", "count = 100000")
        .replace("zone =", "zonne =");
    git.write("cluster.toml", faults)?;
    git.write(
        "manifests/shop/nameless.yaml",
        "apiVersion: v1\nkind: ConfigMap\n",
    )?;
    let parts = [
        "count",
        "zonne",
        "manifests/shop/broken.yaml",
        "manifests/shop/nameless.yaml",
    ];
    refused(world, &good, "Break many things", &parts).await?;

    // A rewind to a commit that was good once.
    git.git(&["reset", "--quiet", "--hard", &older])?;
    git.force_push()?;
    let parts = ["does not descend from", good.as_str()];
    check_refusal(world, &good, &older, &parts).await?;

    // And a good push recovers.
    git.git(&["reset", "--quiet", "--hard", &good])?;
    git.write(
        "manifests/shop/settings.yaml",
        config_map("settings", "two"),
    )?;
    let better = git.commit("Change the settings")?;
    git.force_push()?;
    world.carried_out(&better).await?;
    assert_eq!(settings(world)?, "two");
    let status = world.status().await?;
    ensure!(status["refused"].is_null(), "still refused: {status:#}");
    Ok(better)
}

async fn refused(world: &World, good: &str, message: &str, reasons: &[&str]) -> Result<()> {
    let bad = world.bed.git().commit_and_push(message)?;
    check_refusal(world, good, &bad, reasons).await
}

/// `bad` is refused for all these reasons, and `good` stays in force.
async fn check_refusal(world: &World, good: &str, bad: &str, reasons: &[&str]) -> Result<()> {
    let mark = world.last_request().await?;
    let before = world.get(&["configmap", "settings"])?;
    let status = world.refused(bad).await?;
    assert_eq!(status["admittedCommit"], good, "{status:#}");

    let log = world.bed.fabrik(0).log();
    let shown = [
        ("the log", words(&log)),
        ("fabrik status", words(&world.fabrik(&["status"])?.ok()?)),
        ("kubectl describe", world.described()?),
    ];
    for (place, text) in &shown {
        ensure!(text.contains(&bad[..8]), "{bad} is not in {place}:\n{text}");
        for reason in reasons {
            let told = text.contains(reason) || reason.len() == 40 && text.contains(&reason[..8]);
            ensure!(told, "`{reason}` is not in {place}:\n{text}");
        }
        for diagnostic in status["refused"]["diagnostics"]
            .as_array()
            .into_iter()
            .flatten()
        {
            for part in ["problem", "remedy"] {
                let whole = words(diagnostic[part].as_str().unwrap_or_default());
                ensure!(
                    text.contains(&whole),
                    "`{whole}` is not in {place}:\n{text}"
                );
            }
        }
    }

    let waited = world.fabrik(&["wait", bad, "--timeout", "30s"])?;
    assert_eq!(waited.code, Some(1), "{waited:?}");
    ensure!(waited.stderr.contains("refused"), "{waited:?}");
    // By now the leader has gone round more than once.
    let writes = world.writes(mark).await?;
    ensure!(writes.is_empty(), "something changed: {writes:#?}");
    assert_eq!(world.workers().await?.len(), 1);
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    assert_eq!(
        version(&before),
        version(&world.get(&["configmap", "settings"])?)
    );
    Ok(())
}

fn settings(world: &World) -> Result<Value> {
    Ok(world.get(&["configmap", "settings"])?["data"]["value"].clone())
}
