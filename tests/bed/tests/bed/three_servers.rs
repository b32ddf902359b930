//! Three servers: one dies, one's etcd member goes and comes back.

use std::time::Duration;

use anyhow::{Context, Result};
use fabrik_bed::control_plane::Component;
use fabrik_bed::{Bed, Options};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

const SOON: Duration = Duration::from_secs(50);

#[tokio::test]
async fn a_cluster_of_three_lives_without_one_and_takes_it_back() -> Result<()> {
    let bed = Bed::start(Options {
        servers: 3,
        ..Options::default()
    })
    .await?;
    let names = |bed: &Bed| -> Result<Vec<String>> {
        let mut names: Vec<_> = bed.etcd().members()?.into_iter().map(|m| m.name).collect();
        names.sort();
        Ok(names)
    };
    assert_eq!(names(&bed)?, ["server-1", "server-2", "server-3"]);

    // Each is a server with its address at the emulator.
    let state: serde_json::Value = reqwest::get(format!("{}/_emulator/state", bed.emulator_url()))
        .await?
        .json()
        .await?;
    let servers = state["servers"].as_array().context("no servers")?;
    for (number, server) in servers.iter().enumerate() {
        let address = bed.control_plane(number).address().to_string();
        assert_eq!(server["public_net"]["ipv4"]["ip"], json!(address));
        assert_eq!(server["labels"]["role"], "server");
    }

    // The power of the first one is cut at the emulator; the others go on.
    bed.hetzner()
        .action(bed.server_machine(0).id(), "poweroff")
        .await?;
    let nodes: Api<Node> = Api::all(bed.kube().await?);
    bed.wait_until("server-1 is seen to be gone", SOON, async || {
        let node = nodes.get("server-1").await?;
        let conditions = node
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        let gone = conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "Unknown");
        Ok(gone.then_some(()))
    })
    .await?;
    assert!(!bed.control_plane(0).is_running(Component::Etcd));

    // Its member is taken out, and comes back with an empty disk.
    bed.etcd().remove("server-1")?;
    assert_eq!(names(&bed)?, ["server-2", "server-3"]);
    bed.etcd().add("server-1")?;
    bed.server_machine(0).power_on().await?;
    bed.server_machine(0).wait_running(SOON).await?;
    assert_eq!(names(&bed)?, ["server-1", "server-2", "server-3"]);
    let own: Api<Node> = Api::all(bed.kube_at(0).await?);
    assert_eq!(own.list(&ListParams::default()).await?.items.len(), 3);
    bed.shutdown().await;
    Ok(())
}
