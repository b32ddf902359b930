//! A bed's control plane, and workers that join it.

use std::time::Duration;

use anyhow::{Context, Result};
use fabrik_bed::supervisor::TOKEN_GROUP;
use fabrik_bed::{Bed, Machine, Options, State};
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

const SOON: Duration = Duration::from_secs(40);

/// Makes a join token and creates a server with a worker's user data, by a plain POST.
async fn create_worker(bed: &Bed, name: &str, node_name: &str) -> Result<Machine> {
    let secrets: Api<Secret> = Api::namespaced(bed.kube().await?, "kube-system");
    let (id, secret) = ("abcdef", "0123456789abcdef");
    let expiration = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(10);
    let token: Secret = serde_json::from_value(json!({
        "metadata": {"name": format!("bootstrap-token-{id}")},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": id,
            "token-secret": secret,
            "expiration": expiration.round(jiff::Unit::Second)?.to_string(),
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": TOKEN_GROUP,
        },
    }))?;
    match secrets.create(&PostParams::default(), &token).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        other => drop(other?),
    }
    let user_data = json!({
        "fabrik": 1, "role": "agent", "pool": "workers", "node-name": node_name,
        "servers": [format!("https://{}:9345", bed.control_plane(0).address())],
        "token": format!("K10{}::{id}.{secret}", bed.ca_hash()),
        "labels": {"tier": "web"},
        "taints": ["dedicated=web:PreferNoSchedule"],
    });
    bed.hetzner()
        .create_server(&json!({
            "name": name, "server_type": "cx23", "image": "debian-12", "location": "fsn1",
            "user_data": user_data.to_string(),
        }))
        .await?;
    bed.machine_appears(name, SOON).await
}

async fn ready(nodes: &Api<Node>, name: &str) -> Result<Option<String>> {
    let node = nodes.get(name).await?;
    let conditions = node
        .status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    Ok(conditions
        .into_iter()
        .find(|c| c.type_ == "Ready")
        .map(|c| c.status))
}

async fn wait_ready(bed: &Bed, name: &str, wanted: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(bed.kube().await?);
    bed.wait_until(
        &format!("node {name} is Ready={wanted}"),
        SOON,
        async || Ok((ready(&nodes, name).await?.as_deref() == Some(wanted)).then_some(())),
    )
    .await
}

fn pod(name: &str, node: &str) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "image": "example.com/image"}],
            "tolerations": [{"operator": "Exists"}],
        },
    }))?)
}

async fn phase(pods: &Api<Pod>, name: &str) -> Result<Option<String>> {
    Ok(pods.get(name).await?.status.and_then(|status| status.phase))
}

async fn wait_running(bed: &Bed, pods: &Api<Pod>, name: &str) -> Result<()> {
    bed.wait_until(&format!("pod {name} runs"), SOON, async || {
        Ok((phase(pods, name).await?.as_deref() == Some("Running")).then_some(()))
    })
    .await
}

async fn wait_pod_ready(bed: &Bed, pods: &Api<Pod>, name: &str, wanted: &str) -> Result<()> {
    bed.wait_until(&format!("pod {name} is Ready={wanted}"), SOON, async || {
        let status = pods.get(name).await?.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let ready = conditions.iter().find(|c| c.type_ == "Ready");
        Ok(ready.is_some_and(|c| c.status == wanted).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_worker_joins_and_lives_through_what_happens_to_machines() -> Result<()> {
    let bed = Bed::start(Options::default()).await?;
    its_pods_live_and_die_with_it(&bed).await?;
    it_can_be_sick_reboot_and_be_refused(&bed).await?;
    bed.shutdown().await;
    Ok(())
}

async fn its_pods_live_and_die_with_it(bed: &Bed) -> Result<()> {
    let name = "demo-workers-000001";
    let worker = create_worker(bed, name, name).await?;
    worker.wait_running(SOON).await?;
    wait_ready(bed, name, "True").await?;

    let nodes: Api<Node> = Api::all(bed.kube().await?);
    let node = nodes.get(name).await?;
    let spec = node.spec.context("no spec")?;
    assert_eq!(
        spec.provider_id.as_deref(),
        Some(format!("hcloud://{}", worker.id()).as_str())
    );
    assert!(
        spec.taints
            .unwrap_or_default()
            .iter()
            .any(|taint| taint.key == "dedicated")
    );
    assert_eq!(
        node.metadata
            .labels
            .unwrap_or_default()
            .get("tier")
            .map(String::as_str),
        Some("web")
    );

    // KWOK plays the pods of a machine that is on.
    let pods: Api<Pod> = Api::namespaced(bed.kube().await?, "default");
    bed.wait_until("the default service account", SOON, async || {
        pods.create(&PostParams::default(), &pod("early", name)?)
            .await?;
        Ok(Some(()))
    })
    .await?;
    wait_running(bed, &pods, "early").await?;
    pods.create(&PostParams::default(), &pod("kept", name)?)
        .await?;
    wait_pod_ready(bed, &pods, "kept", "True").await?;

    // While it is off, its pods neither end nor start.
    worker.power_off().await?;
    wait_ready(bed, name, "Unknown").await?;
    wait_pod_ready(bed, &pods, "kept", "False").await?;
    pods.create(&PostParams::default(), &pod("late", name)?)
        .await?;
    pods.delete("early", &DeleteParams::default().grace_period(1))
        .await?;
    stays(bed, &pods).await?;

    // Back with power: what was asked for meanwhile is done.
    worker.power_on().await?;
    worker.wait_running(SOON).await?;
    wait_ready(bed, name, "True").await?;
    wait_running(bed, &pods, "late").await?;
    wait_pod_ready(bed, &pods, "kept", "True").await?;
    bed.wait_until("the deleted pod is gone", SOON, async || {
        Ok(pods.get_opt("early").await?.is_none().then_some(()))
    })
    .await?;
    Ok(())
}

/// Another machine's KWOK starts and ends a pod; the same is not done for the pods of the machine
/// that is off. So time has passed, and KWOK was awake.
async fn stays(bed: &Bed, pods: &Api<Pod>) -> Result<()> {
    for round in 0..3 {
        let elsewhere = format!("elsewhere-{round}");
        pods.create(&PostParams::default(), &pod(&elsewhere, "server-1")?)
            .await?;
        wait_running(bed, pods, &elsewhere).await?;
        pods.delete(&elsewhere, &DeleteParams::default().grace_period(1))
            .await?;
        bed.wait_until("the pod elsewhere is gone", SOON, async || {
            Ok(pods.get_opt(&elsewhere).await?.is_none().then_some(()))
        })
        .await?;
        assert_eq!(phase(pods, "late").await?.as_deref(), Some("Pending"));
        let early = pods.get("early").await?;
        assert!(early.metadata.deletion_timestamp.is_some());
    }
    Ok(())
}

async fn it_can_be_sick_reboot_and_be_refused(bed: &Bed) -> Result<()> {
    let name = "demo-workers-000002";
    let worker = create_worker(bed, name, name).await?;
    worker.wait_running(SOON).await?;
    let State::Running { boot_id: first } = worker.state() else {
        panic!("it does not run")
    };

    // Another machine with a good token may not take a name that has a password.
    let impostor = create_worker(bed, "impostor", name).await?;
    let refused = |state: &State| matches!(state, State::Refused { .. });
    let State::Refused { reason } = impostor.wait_for(SOON, refused).await? else {
        unreachable!()
    };
    assert!(reason.contains("hash does not match"), "{reason}");

    worker.sick();
    wait_ready(bed, name, "False").await?;
    worker.well();
    wait_ready(bed, name, "True").await?;

    // A reset at the emulator is a reboot of the machine. It comes back without its token.
    let secrets: Api<Secret> = Api::namespaced(bed.kube().await?, "kube-system");
    secrets
        .delete("bootstrap-token-abcdef", &DeleteParams::default())
        .await?;
    bed.hetzner().action(worker.id(), "reset").await?;
    let rebooted = |state: &State| matches!(state, State::Running { boot_id } if *boot_id != first);
    worker.wait_for(SOON, rebooted).await?;

    // With NodeRestriction, a kubelet writes no other Node.
    let other = bed
        .kube_for(&format!("system:node:{name}-b"), Some("system:nodes"))
        .await?;
    let nodes: Api<Node> = Api::all(other);
    let label = json!({"metadata": {"annotations": {"fabrik.dev/x": "y"}}});
    assert!(
        nodes
            .patch(name, &PatchParams::default(), &Patch::Merge(&label))
            .await
            .is_err()
    );

    // The identity that all k3s agents share may write any node's status.
    let shared: Api<Node> = Api::all(bed.kube_for("system:k3s-controller", None).await?);
    shared
        .patch_status(name, &PatchParams::default(), &Patch::Merge(&label))
        .await?;

    // Once its Node is deleted, it does not come back.
    let nodes: Api<Node> = Api::all(bed.kube().await?);
    nodes.delete(name, &DeleteParams::default()).await?;
    worker.reboot().await;
    let State::Refused { reason } = worker.wait_for(SOON, refused).await? else {
        unreachable!()
    };
    assert!(reason.contains("not found"), "{reason}");

    // The audit log tells who did what.
    let events = bed.audit(0)?;
    let by_node = format!("system:node:{name}");
    let writes_status = events.iter().any(|event| {
        let object = event.object_ref.clone().unwrap_or_default();
        event.user.username == by_node
            && object.resource == "nodes"
            && object.subresource == "status"
    });
    assert!(writes_status);
    Ok(())
}
