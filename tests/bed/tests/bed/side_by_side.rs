//! Beds do not disturb each other, and leave nothing behind.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use fabrik_bed::{Bed, Options};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

#[tokio::test]
async fn two_beds_run_side_by_side() -> Result<()> {
    let (one, two) = tokio::try_join!(
        Bed::start(Options::default()),
        Bed::start(Options::default())
    )?;
    assert_ne!(one.number(), two.number());
    let configuration: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "mine"}}))?;
    let in_one: Api<ConfigMap> = Api::namespaced(one.kube().await?, "default");
    let in_two: Api<ConfigMap> = Api::namespaced(two.kube().await?, "default");
    in_one
        .create(&PostParams::default(), &configuration)
        .await?;
    assert!(in_one.get_opt("mine").await?.is_some());
    assert!(in_two.get_opt("mine").await?.is_none());

    let dirs = [one.dir().to_owned(), two.dir().to_owned()];
    one.shutdown().await;
    // The second one does not notice.
    assert!(in_two.get_opt("mine").await?.is_none());
    drop(two);
    for dir in dirs {
        assert!(!dir.exists(), "{} was left behind", dir.display());
        assert_eq!(processes_of(&dir), Vec::<String>::new());
    }
    Ok(())
}

#[tokio::test]
async fn a_bed_that_is_killed_takes_its_processes_with_it() -> Result<()> {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_bed"))
        .arg("up")
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(
        child.stdout.take().context("standard output")?,
    ));
    let dir = loop {
        let line = tokio::time::timeout(Duration::from_secs(120), lines.next_line()).await??;
        let line = line.context("the bed ended early")?;
        if let Some(dir) = line.trim().strip_prefix("folder") {
            break dir.trim().to_owned();
        }
    };
    let dir = Path::new(&dir);
    let before = processes_of(dir);
    assert!(before.len() >= 4);
    let left = dir.join("left-behind");
    std::fs::write(&left, "by the bed that was killed")?;
    child.start_kill()?;
    child.wait().await?;
    fabrik_bed::wait::until(
        "all its processes are gone",
        Duration::from_secs(10),
        async || {
            // A bed that took the network meanwhile has its own there.
            let left = processes_of(dir).iter().any(|p| before.contains(p));
            Ok((!left).then_some(()))
        },
    )
    .await?;
    // The next bed that takes the network clears the folder: one of ours, or one of a test beside this one.
    let mut beds = Vec::new();
    while left.exists() && beds.len() < 4 {
        beds.push(
            Bed::start(Options {
                servers: 0,
                ..Options::default()
            })
            .await?,
        );
    }
    assert!(!left.exists(), "no bed took the network of the killed one");
    Ok(())
}

/// Running processes whose command line names the folder: process id and command line.
fn processes_of(dir: &Path) -> Vec<String> {
    let needle = format!("{}/", dir.display());
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if pid != own && line.contains(&needle) {
            found.push(format!("{pid} {line}"));
        }
    }
    found
}
