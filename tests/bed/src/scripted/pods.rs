//! The pods of a scripted worker: they run as soon as they are there, and take a while to end.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::sleep;

/// Plays the pods of `node`, until it is dropped.
pub async fn play(client: &Client, node: &str, stop: Duration) {
    let only = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let changes = watcher(Api::<Pod>::all(client.clone()), only).default_backoff();
    let mut changes = changes.applied_objects().boxed();
    let mut ending = FuturesUnordered::new();
    let mut begun = BTreeSet::new();
    loop {
        tokio::select! {
            Some(()) = ending.next() => {}
            Some(Ok(pod)) = changes.next() => {
                if pod.metadata.deletion_timestamp.is_none() {
                    start(client, &pod).await;
                } else if begun.insert(pod.uid()) {
                    ending.push(end(client, pod, stop));
                }
            }
            else => sleep(stop).await,
        }
    }
}

async fn start(client: &Client, pod: &Pod) {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if phase != Some("Pending") {
        return;
    }
    let conditions = ["Initialized", "ContainersReady", "Ready"];
    let conditions = conditions.map(|kind| json!({"type": kind, "status": "True"}));
    let running = json!({"status": {"phase": "Running", "conditions": conditions}});
    let patch = Patch::Strategic(running);
    let parameters = PatchParams::default();
    let api = of(client, pod);
    let started = api.patch_status(&pod.name_any(), &parameters, &patch).await;
    tell(pod, started.err());
}

async fn end(client: &Client, pod: Pod, stop: Duration) {
    sleep(stop).await;
    let same = Preconditions {
        uid: pod.uid(),
        resource_version: None,
    };
    let at_once = DeleteParams {
        preconditions: Some(same),
        ..DeleteParams::default().grace_period(0)
    };
    let ended = of(client, &pod).delete(&pod.name_any(), &at_once).await;
    tell(&pod, ended.err());
}

fn of(client: &Client, pod: &Pod) -> Api<Pod> {
    Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default())
}

fn tell(pod: &Pod, error: Option<kube::Error>) {
    if let Some(error) = error {
        tracing::debug!(pod = pod.name_any(), %error, "the pod is not played");
    }
}
