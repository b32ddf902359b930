//! The commit in force can't be read any more, because the cluster has another age key than it was encrypted to: the push
//! that mends it is taken all the same, and no other.

use std::fs;
use std::path::Path;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use anyhow::{Result, ensure};
use fabrik_bed::emulator::TOKEN;
use fabrik_bed::repository;
use fabrik_e2e::World;
use serde_json::Value;

const UNREADABLE: &str = "can't be read any more";

/// Finds one worker.
pub async fn is_mended_by_a_push(world: &World, first: &str) -> Result<()> {
    let fabrik = world.bed.fabrik(0);
    fabrik.stop();
    let before = world.bed.founding()?.age_recipient;
    let now = replace_age_key(&fabrik.dir().join("age.key"))?;
    fabrik.start()?;
    world
        .status_says("the commit in force can't be read", |status| {
            says(status, UNREADABLE) && says(status, first)
        })
        .await?;

    let version = world.bed.options().kubernetes_version.clone();
    let bad = world.push_edited(&version, "1.30.0")?;
    let status = world.refused(&bad).await?;
    let refused = status["refused"].to_string();
    ensure!(refused.contains("goes back from"), "{refused}");
    ensure!(says(&status, UNREADABLE), "out of sight: {status:#}");

    let git = world.bed.git();
    let text = git.read("cluster.toml")?;
    git.write("cluster.toml", text.replace("1.30.0", &version))?;
    let rules = git.read(".sops.yaml")?;
    ensure!(rules.contains(&before), "{rules}");
    git.write(".sops.yaml", rules.replace(&before, &now))?;
    world.write_secret(repository::TOKEN_FILE, &format!("token: {TOKEN}\n"))?;
    let mended = git.commit_and_push("Encrypt to the new key")?;
    world.carried_out(&mended).await?;
    let status = world.status().await?;
    ensure!(!says(&status, UNREADABLE), "{status:#}");
    ensure!(status["refused"].is_null(), "{status:#}");
    world.workers_ready(1).await.map(drop)
}

fn says(status: &Value, words: &str) -> bool {
    let message = status["message"].as_str();
    message.is_some_and(|message| message.contains(words))
}

/// Puts a new key there; returns whom it is for.
fn replace_age_key(path: &Path) -> Result<String> {
    let key = Identity::generate();
    ensure!(path.exists(), "no {}", path.display());
    fs::write(path, key.to_string().expose_secret())?;
    Ok(key.to_public().to_string())
}
