//! Chapters 8 and 9: nodes follow the commit, and come back from one that does not boot.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;

use super::stage::{carried_out_within, command, fabrik, fetch, push, say, shown, title};
use crate::parts::{FORMER_KUBERNETES_VERSION, KUBERNETES_VERSION};
use crate::{Bed, SystemChange, system};

const ROLLED_OUT: Duration = Duration::from_secs(600);

pub async fn upgrade(bed: &Bed) -> Result<()> {
    title("8. Another minor of k3s: an etcd snapshot, the servers one by one, then the workers");
    bed.change_kubernetes(FORMER_KUBERNETES_VERSION, KUBERNETES_VERSION)?;
    push(bed, &format!("k3s {KUBERNETES_VERSION}"))?;
    let order = follow(bed, &format!("v{KUBERNETES_VERSION}+k3s1")).await?;
    carried_out_within(bed, ROLLED_OUT)?;
    let control_planes = bed.control_planes();
    let servers: Vec<&str> = control_planes
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let first: Vec<&str> = order
        .iter()
        .map(String::as_str)
        .take(servers.len())
        .collect();
    ensure!(
        first.iter().all(|name| servers.contains(name)),
        "a worker went before a server: {order:?}"
    );
    let snapshot = control_planes
        .iter()
        .filter_map(|(_, dir)| std::fs::read_dir(dir.join("snapshots")).ok())
        .flatten()
        .find_map(Result::ok)
        .context("no snapshot of etcd was taken")?;
    say(&format!(
        "The way back, if it had been needed: {}.",
        snapshot.file_name().to_string_lossy()
    ));
    Ok(())
}

pub async fn fall_back(bed: &Bed) -> Result<()> {
    title("9. A kernel that panics is tried by one node, which comes back by itself");
    let boots = || -> Vec<(String, u32)> {
        let machines = bed.machines();
        machines
            .iter()
            .map(|m| (m.name().to_owned(), m.boots()))
            .collect()
    };
    let before = boots();
    for pool in [system::SERVERS, system::WORKERS] {
        bed.change_system(pool, &SystemChange::Kernel("6.13.0".to_owned()))?;
        bed.change_system(pool, &SystemChange::Panics)?;
    }
    push(bed, "Another kernel")?;
    let status = bed
        .wait_until("the rollout stands still", ROLLED_OUT, async || {
            let status = String::from_utf8(bed.fabrik_cmd(&["status"])?.output()?.stdout)?;
            let all_well = nodes(bed).await?.iter().all(|node| node.well);
            Ok((all_well && status.contains("stands still")).then_some(status))
        })
        .await?;
    shown("fabrik status", &status);
    let after = boots();
    let tried: Vec<&str> = after
        .iter()
        .filter(|entry| !before.contains(entry))
        .map(|(name, _)| name.as_str())
        .collect();
    ensure!(tried.len() == 1, "more than one node tried it: {tried:?}");
    say(&format!(
        "{} alone has tried it, and runs its old system again. Taking the commit back:",
        tried[0]
    ));
    command("git revert HEAD && git push && fabrik reconcile");
    bed.git().git(&["revert", "--no-edit", "HEAD"])?;
    bed.git().git(&["push", "-q"])?;
    fetch(bed)?;
    carried_out_within(bed, ROLLED_OUT)
}

/// Names the nodes as they come to run `version`, and shows the status once in between.
async fn follow(bed: &Bed, version: &str) -> Result<Vec<String>> {
    let began = Instant::now();
    let mut order = Vec::new();
    bed.wait_until("all nodes run it", ROLLED_OUT, async || {
        let nodes = nodes(bed).await?;
        for node in nodes.iter().filter(|n| n.version == version) {
            if order.contains(&node.name) {
                continue;
            }
            say(&format!(
                "{:>5.0} s  {} runs {version}",
                began.elapsed().as_secs_f64(),
                node.name
            ));
            order.push(node.name.clone());
            if order.len() == 1 {
                fabrik(bed, &["status"])?;
            }
        }
        Ok((order.len() == nodes.len()).then_some(()))
    })
    .await?;
    Ok(order)
}

struct Seen {
    name: String,
    version: String,
    /// Ready and not cordoned.
    well: bool,
}

async fn nodes(bed: &Bed) -> Result<Vec<Seen>> {
    let api: Api<Node> = Api::all(bed.kube().await?);
    let listed = api.list(&ListParams::default()).await?;
    let seen = listed.items.into_iter().map(|node| Seen {
        well: super::look::is_ready(&node)
            && node.spec.as_ref().and_then(|s| s.unschedulable) != Some(true),
        version: node
            .status
            .and_then(|s| s.node_info)
            .map(|i| i.kubelet_version)
            .unwrap_or_default(),
        name: node.metadata.name.unwrap_or_default(),
    });
    Ok(seen.collect())
}
