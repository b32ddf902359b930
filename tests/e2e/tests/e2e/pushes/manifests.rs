//! Manifests: pruned when they go, put back when somebody changes them, decrypted when encrypted.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fabrik_bed::emulator::TOKEN;
use fabrik_e2e::{SOON, World, config_map, words};

/// Goal: put back within a second or two.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Leaves one manifest and no worker.
pub async fn the_cluster_has_what_they_say(world: &World) -> Result<()> {
    let git = world.bed.git();
    git.write("manifests/shop/kept.yaml", config_map("kept", "one"))?;
    git.write("manifests/shop/extra.yaml", config_map("extra", "one"))?;
    git.write("manifests/other/all.yaml", config_map("other", "one"))?;
    let first = world.bed.default_repo(0)?;
    // The rules of .sops.yaml are there only now.
    world.write_secret(
        "manifests/shop/password.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: password\n  namespace: default\n\
         stringData:\n  password: correct-horse\n",
    )?;
    let committed = git.read("manifests/shop/password.yaml")?;
    ensure!(!committed.contains("correct-horse") && committed.contains("ENC["));
    let second = git.commit_and_push("Add a password")?;
    ensure!(first != second);
    world.carried_out(&second).await?;
    let secret = world.get(&["secret", "password"])?;
    assert_eq!(secret["data"]["password"], "Y29ycmVjdC1ob3JzZQ==");

    put_back(world).await?;
    pruned(world).await?;
    hetzner_is_away(world).await?;
    ensure!(
        !world.bed.fabrik(0).log().contains("correct-horse"),
        "the secret is in the log"
    );
    git.remove("manifests/shop/password.yaml")
}

async fn put_back(world: &World) -> Result<()> {
    let value = || -> Result<bool> {
        Ok(world.exists(&["configmap", "kept"])?
            && world.get(&["configmap", "kept"])?["data"]["value"] == "one")
    };
    ensure!(value()?);
    for by_hand in [
        &[
            "patch",
            "configmap",
            "kept",
            "-p",
            r#"{"data":{"value":"two"}}"#,
        ][..],
        &["delete", "configmap", "kept"][..],
    ] {
        world.bed.kubectl(by_hand)?;
        let since = Instant::now();
        world
            .bed
            .wait_until("it is put back", SOON, async || Ok(value()?.then_some(())))
            .await?;
        let took = since.elapsed();
        ensure!(took < AT_ONCE, "{by_hand:?} was put back after {took:?}");
    }
    let told = async || {
        let described = words(&world.bed.kubectl(&["describe", "configmap", "kept"])?);
        let file = "as manifests/shop/kept.yaml";
        let told = format!("ConfigMap/default/kept was deleted and is made anew, {file}");
        ensure!(described.contains(&told), "{described}");
        let events = world.bed.kubectl(&["get", "events"])?;
        let told = "ConfigMap/default/kept was changed by kubectl-patch and is put back";
        Ok(events.contains(told).then_some(()))
    };
    world.bed.wait_until("it is told", SOON, told).await
}

/// Neither new manifests nor a pause wait for Hetzner.
async fn hetzner_is_away(world: &World) -> Result<()> {
    world.set_tokens(&["another-project's"]).await?;
    world
        .status_says("Hetzner refuses", |status| {
            status["message"].to_string().contains("Hetzner")
        })
        .await?;
    let git = world.bed.git();
    git.write("manifests/shop/kept.yaml", config_map("kept", "three"))?;
    git.commit_and_push("Change a manifest while Hetzner is away")?;
    let has = |value: &str| -> Result<bool> {
        let there = world.exists(&["configmap", "kept"])?;
        Ok(there && world.get(&["configmap", "kept"])?["data"]["value"] == value)
    };
    let applied = async || Ok(has("three")?.then_some(()));
    world.bed.wait_until("it is applied", SOON, applied).await?;

    world.fabrik(&["pause", "--reason", "looking"])?.ok()?;
    world.paused().await?;
    world.bed.kubectl(&["delete", "configmap", "kept"])?;
    let until = Instant::now() + AT_ONCE * 2;
    while Instant::now() < until {
        ensure!(
            !world.exists(&["configmap", "kept"])?,
            "applied while paused"
        );
    }
    world.fabrik(&["resume"])?.ok()?;
    world
        .bed
        .wait_until("it is put back", SOON, applied)
        .await?;
    world.set_tokens(&[TOKEN]).await
}

async fn pruned(world: &World) -> Result<()> {
    world.kubectl_apply(&config_map("by-hand", "mine"))?;
    let git = world.bed.git();
    git.remove("manifests/shop/extra.yaml")?;
    git.remove("manifests/other")?;
    git.commit_and_push("Remove one manifest and a whole unit")?;
    for gone in ["extra", "other"] {
        world
            .bed
            .wait_until(&format!("{gone} is pruned"), SOON, async || {
                Ok((!world.exists(&["configmap", gone])?).then_some(()))
            })
            .await?;
    }
    for stays in ["kept", "by-hand"] {
        ensure!(world.exists(&["configmap", stays])?, "{stays} is gone");
    }
    Ok(())
}
