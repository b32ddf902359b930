//! The main story on real parts, from a first push to the last server: git, etcd, the API server, evictions and sops are
//! real. What is asserted is read from the API server and the emulator, not from fabrik.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::{Bed, Options};
use fabrik_e2e::faults::{state, workers};
use fabrik_e2e::resize;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(120);

async fn ready_workers(bed: &Bed) -> Result<Vec<String>> {
    let nodes: Api<Node> = Api::all(bed.kube().await?);
    let listed = nodes
        .list(&ListParams::default().labels("fabrik.dev/pool=workers"))
        .await?;
    let ready = |n: &Node| {
        let status = n
            .status
            .as_ref()?
            .conditions
            .as_ref()?
            .iter()
            .find(|c| c.type_ == "Ready")?;
        (status.status == "True")
            .then(|| n.metadata.name.clone())
            .flatten()
    };
    Ok(listed.items.iter().filter_map(ready).collect())
}

async fn has_workers(bed: &Bed, count: usize) -> Result<()> {
    bed.wait_until(
        &format!("{count} workers at Hetzner and in the cluster"),
        DEADLINE,
        async || {
            let there =
                workers(bed).await?.len() == count && ready_workers(bed).await?.len() == count;
            Ok(there.then_some(()))
        },
    )
    .await
}

const SETTINGS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\n  namespace: default\ndata:\n  colour: blue\n";

#[tokio::test(flavor = "multi_thread")]
async fn pushes_change_the_size_of_a_cluster_and_what_runs_in_it() -> Result<()> {
    let bed = Bed::start(Options {
        fabrik: true,
        webhooks: true,
        ..Options::default()
    })
    .await?;
    bed.default_repo(2)?;
    has_workers(&bed, 2).await?;
    let there = state(&bed).await?;
    for kind in ["networks", "firewalls", "placement_groups"] {
        let ours = there[kind].as_array().context(kind)?;
        ensure!(
            ours.iter()
                .any(|r| r["labels"]["fabrik.dev/cluster"].is_string()),
            "no {kind}: {there:#}"
        );
    }

    bed.git().write("manifests/base/settings.yaml", SETTINGS)?;
    bed.git().commit_and_push("Add settings")?;
    let maps: Api<ConfigMap> = Api::default_namespaced(bed.kube().await?);
    let colour = async || -> Result<Option<String>> {
        Ok(maps
            .get_opt("settings")
            .await?
            .and_then(|m| m.data?.get("colour").cloned()))
    };
    let is_blue = async || Ok((colour().await?.as_deref() == Some("blue")).then_some(()));
    bed.wait_until("the manifest is applied", DEADLINE, is_blue)
        .await?;

    let red = json!({"data": {"colour": "red"}});
    maps.patch("settings", &PatchParams::default(), &Patch::Merge(&red))
        .await?;
    bed.wait_until(
        "the change by hand is put back",
        Duration::from_secs(5),
        is_blue,
    )
    .await?;

    bed.git().write("cluster.toml", "this is no spec")?;
    let nonsense = bed.git().commit_and_push("Break it")?;
    let refused = bed
        .wait_until("the nonsense is refused", DEADLINE, async || {
            let described = bed.kubectl(&["describe", "fabrikcluster"])?;
            Ok(described.contains(&nonsense).then_some(described))
        })
        .await?;
    ensure!(refused.contains("cluster.toml"), "{refused}");
    has_workers(&bed, 2).await?;
    bed.git().git(&["revert", "--no-edit", "HEAD"])?;
    bed.git().push()?;

    bed.git().remove("manifests/base/settings.yaml")?;
    bed.git().commit_and_push("Remove settings")?;
    bed.wait_until("the object is pruned", DEADLINE, async || {
        Ok(colour().await?.is_none().then_some(()))
    })
    .await?;

    resize(&bed, 2, 1)?;
    has_workers(&bed, 1).await?;
    let tokens: Api<Secret> = Api::namespaced(bed.kube().await?, "kube-system");
    bed.wait_until("no join token is left over", DEADLINE, async || {
        let left = tokens
            .list_metadata(&ListParams::default().labels("fabrik.dev/intent"))
            .await?;
        Ok(left.items.is_empty().then_some(()))
    })
    .await?;
    bed.shutdown().await;
    Ok(())
}
