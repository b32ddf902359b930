//! The node's own FabrikNode: its spec is heard, its status written, both as the kubelet.
//!
//! Without an API server nothing is lost: what was heard last counts, and what is to be reported is reported later.

use std::time::Duration;

use fabrik_core::id::NodeName;
use futures::StreamExt as _;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::AgentConfig;
use super::error::causes;
use super::identity::Identity;
use super::secrets::Keeper;
use crate::cluster::resources::{FabrikNode, FabrikNodeStatus};

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How often it is looked whether the kubelet has another certificate.
const IDENTITY_PERIOD: Duration = Duration::from_secs(30);
/// How long after a failure it is tried again.
const PAUSE: Duration = Duration::from_secs(3);
const FIELD_MANAGER: &str = "fabrik-agent";

/// Keeps `seen` as the object is, the object's status as `status` is, and the node's secrets as the object says. Runs until
/// dropped.
pub async fn run(
    config: AgentConfig,
    seen: watch::Sender<Option<FabrikNode>>,
    status: watch::Receiver<Option<FabrikNodeStatus>>,
    mut keeper: Keeper,
) {
    let mut told = String::new();
    loop {
        let identity = Identity::read(&config.kubeconfig);
        let connected = match identity {
            Ok(identity) => identity.api_client().await.map(|client| (identity, client)),
            Err(error) => Err(error),
        };
        match connected {
            Ok((identity, client)) => {
                told.clear();
                tokio::select! {
                    () = talk(client.clone(), &config.node, &seen, status.clone()) => {}
                    () = keeper.follow(client, seen.subscribe()) => {}
                    () = other_identity(&config, identity) => {}
                }
            }
            Err(error) => {
                // Once: before the node has joined this goes on for a while.
                let error = error.to_string();
                if told != error {
                    tracing::warn!(error, "no connection to an API server yet");
                    told = error;
                }
            }
        }
        sleep(PAUSE).await;
    }
}

/// The same by one client, for as long as that may be.
pub async fn talk(
    client: Client,
    node: &NodeName,
    seen: &watch::Sender<Option<FabrikNode>>,
    status: watch::Receiver<Option<FabrikNodeStatus>>,
) {
    tokio::select! {
        () = listen(client.clone(), node, seen) => {}
        () = speak(client, node, seen.subscribe(), status) => {}
    }
}

async fn listen(client: Client, node: &NodeName, seen: &watch::Sender<Option<FabrikNode>>) {
    let api: Api<FabrikNode> = Api::all(client);
    let only = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut events = watcher(api, only).default_backoff().boxed();
    let mut listed = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed = None,
            Ok(Event::InitApply(object)) => listed = Some(object),
            Ok(Event::InitDone) => {
                seen.send_replace(listed.take());
            }
            Ok(Event::Apply(object)) => {
                seen.send_replace(Some(object));
            }
            Ok(Event::Delete(_)) => {
                seen.send_replace(None);
            }
            Err(error) => {
                let error = causes(&error);
                tracing::debug!(error, "the watch of this FabrikNode is renewed");
            }
        }
    }
}

async fn speak(
    client: Client,
    node: &NodeName,
    mut seen: watch::Receiver<Option<FabrikNode>>,
    mut status: watch::Receiver<Option<FabrikNodeStatus>>,
) {
    let api: Api<FabrikNode> = Api::all(client);
    let mut sent: Option<(String, FabrikNodeStatus)> = None;
    loop {
        let object = seen.borrow_and_update().clone();
        let wanted = status.borrow_and_update().clone();
        let wanted = wanted.map(FabrikNodeStatus::within_bounds);
        if let (Some(object), Some(wanted)) = (object, wanted) {
            let now = (object.uid().unwrap_or_default(), wanted);
            let there = object.status.as_ref() == Some(&now.1);
            if !there && (sent.as_ref() != Some(&now) || object.status.is_none()) {
                if write(&api, node, &now.1).await {
                    sent = Some(now);
                } else {
                    sleep(PAUSE).await;
                    continue;
                }
            }
        }
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}

async fn write(api: &Api<FabrikNode>, node: &NodeName, status: &FabrikNodeStatus) -> bool {
    // As an apply, so that what is no longer said is removed.
    let body = json!({
        "apiVersion": "fabrik.dev/v1alpha1",
        "kind": "FabrikNode",
        "metadata": { "name": node },
        "status": status,
    });
    let patch = Patch::Apply(&body);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = api.patch_status(node.as_str(), &params, &patch);
    match timeout(ANSWER_TIMEOUT, written).await {
        Ok(Ok(_)) => return true,
        Ok(Err(error)) => {
            let error = causes(&error);
            tracing::warn!(error, "the report can't be written; it is tried again");
        }
        Err(_) => tracing::warn!("no answer to the report; it is tried again"),
    }
    false
}

/// Comes back when the kubeconfig says something else.
async fn other_identity(config: &AgentConfig, identity: Identity) {
    loop {
        sleep(IDENTITY_PERIOD).await;
        match Identity::read(&config.kubeconfig) {
            Ok(now) if now == identity => {}
            // While it is being written it can't be read.
            Err(error) => tracing::debug!(%error, "the kubeconfig can't be read"),
            Ok(_) => {
                tracing::info!("the kubelet has another certificate");
                return;
            }
        }
    }
}
