//! Cordon, uncordon, label and delete a Node.

use std::collections::BTreeMap;

use fabrik_core::effect::NodeRef;
use fabrik_core::id::IntentId;
use fabrik_core::names::{LEADER_MANAGER, TICKET_ANNOTATION};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use super::NodeError;

/// Cordons and writes down under which ticket, in one patch.
pub async fn cordon(client: &Client, node: &NodeRef, ticket: &IntentId) -> Result<(), NodeError> {
    let patch = json!({
        "metadata": {"uid": node.uid, "annotations": {TICKET_ANNOTATION: ticket}},
        "spec": {"unschedulable": true},
    });
    let params = PatchParams {
        field_manager: Some(LEADER_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patched = api(client)
        .patch(node.name.as_str(), &params, &Patch::Merge(&patch))
        .await;
    patched.map(drop).map_err(|e| explain("cordon", node, e))
}

/// Takes back the cordon that was made under `ticket`, and no other (S6).
pub async fn uncordon(client: &Client, node: &NodeRef, ticket: &IntentId) -> Result<(), NodeError> {
    let api = api(client);
    let live = api
        .get(node.name.as_str())
        .await
        .map_err(|e| explain("uncordon", node, e))?;
    let under = live
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(TICKET_ANNOTATION));
    if under.map(String::as_str) != Some(ticket.as_str()) {
        let reason = "the cordon is not ours any more".to_owned();
        return Err(NodeError::Changed {
            object: object(node),
            reason,
        });
    }
    let patch = json!({
        "metadata": {
            "uid": node.uid,
            "resourceVersion": live.metadata.resource_version,
            "annotations": {TICKET_ANNOTATION: null},
        },
        "spec": {"unschedulable": null},
    });
    let params = PatchParams {
        field_manager: Some(LEADER_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patched = api
        .patch(node.name.as_str(), &params, &Patch::Merge(&patch))
        .await;
    patched.map(drop).map_err(|e| explain("uncordon", node, e))
}

/// Makes `labels` the leader's labels of the Node: what is no longer among them goes, others' labels stay.
pub async fn label(
    client: &Client,
    node: &NodeRef,
    labels: &BTreeMap<String, String>,
) -> Result<(), NodeError> {
    let wanted = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "uid": node.uid, "labels": labels},
    });
    let params = PatchParams::apply(LEADER_MANAGER).force();
    let patched = api(client)
        .patch(node.name.as_str(), &params, &Patch::Apply(&wanted))
        .await;
    patched.map(drop).map_err(|e| explain("label", node, e))
}

/// Deletes the Node with this UID. One that is gone already is no error.
pub async fn delete(client: &Client, node: &NodeRef) -> Result<(), NodeError> {
    let same = Preconditions {
        uid: Some(node.uid.to_string()),
        resource_version: None,
    };
    let params = DeleteParams {
        preconditions: Some(same),
        ..DeleteParams::default()
    };
    match api(client).delete(node.name.as_str(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(explain("delete", node, error)),
    }
}

fn api(client: &Client) -> Api<Node> {
    Api::all(client.clone())
}

fn object(node: &NodeRef) -> String {
    format!("Node {}", node.name)
}

/// A conflict is a UID or a version that is not the one that was meant.
fn explain(verb: &'static str, node: &NodeRef, error: kube::Error) -> NodeError {
    match error {
        kube::Error::Api(status) if status.code == 409 => NodeError::Changed {
            object: object(node),
            reason: status.message.clone(),
        },
        error => NodeError::Refused {
            verb,
            object: object(node),
            source: Box::new(error),
        },
    }
}
