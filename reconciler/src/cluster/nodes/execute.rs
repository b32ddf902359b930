//! Cordon, uncordon, label and delete a Node.

use std::collections::BTreeMap;

use fabrik_core::effect::NodeRef;
use fabrik_core::names::{LEADER_MANAGER, TICKET_ANNOTATION};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{NodeError, again};

/// Cordons, and writes `mark` over the mark that the decision was made by. What another has cordoned or marked since is
/// left as it is (S6).
pub async fn cordon(
    client: &Client,
    node: &NodeRef,
    mark: &str,
    over: Option<&str>,
) -> Result<(), NodeError> {
    again(async || {
        let live = get(client, "cordon", node).await?;
        match before_cordon(&live, mark, over) {
            Before::Done => Ok(()),
            Before::Another(reason) => Err(NodeError::Changed {
                object: object(node),
                reason: reason.to_owned(),
            }),
            Before::Go => set(client, "cordon", node, &live, json!(mark), json!(true)).await,
        }
    })
    .await
}

/// Takes back the cordon that bears `mark`. Where the mark is another one or none, that was done already: this request is
/// late, and what is there now is somebody else's or the next ticket's (S6, S7).
pub async fn uncordon(client: &Client, node: &NodeRef, mark: &str) -> Result<(), NodeError> {
    again(async || {
        let live = get(client, "uncordon", node).await?;
        if mark_of(&live) != Some(mark) {
            return Ok(());
        }
        set(client, "uncordon", node, &live, json!(null), json!(null)).await
    })
    .await
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

#[derive(Debug, PartialEq, Eq)]
enum Before {
    Go,
    Done,
    Another(&'static str),
}

fn before_cordon(live: &Node, mark: &str, over: Option<&str>) -> Before {
    let borne = mark_of(live);
    let cordoned = live.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
    match borne {
        Some(borne) if cordoned && borne == mark => Before::Done,
        None if cordoned => Before::Another("somebody else has cordoned it"),
        borne if borne != over => Before::Another("it was cordoned or uncordoned in between"),
        _ => Before::Go,
    }
}

fn mark_of(node: &Node) -> Option<&str> {
    let annotations = node.metadata.annotations.as_ref()?;
    annotations.get(TICKET_ANNOTATION).map(String::as_str)
}

async fn get(client: &Client, verb: &'static str, node: &NodeRef) -> Result<Node, NodeError> {
    let live = api(client).get(node.name.as_str()).await;
    live.map_err(|e| explain(verb, node, e))
}

/// Mark and cordon in one patch, of `live` and of no later version.
async fn set(
    client: &Client,
    verb: &'static str,
    node: &NodeRef,
    live: &Node,
    mark: Value,
    unschedulable: Value,
) -> Result<(), NodeError> {
    let patch = json!({
        "metadata": {
            "uid": node.uid,
            "resourceVersion": live.metadata.resource_version,
            "annotations": {TICKET_ANNOTATION: mark},
        },
        "spec": {"unschedulable": unschedulable},
    });
    let params = PatchParams {
        field_manager: Some(LEADER_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patched = api(client)
        .patch(node.name.as_str(), &params, &Patch::Merge(&patch))
        .await;
    patched.map(drop).map_err(|e| explain(verb, node, e))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cordon_of_ours_that_was_seen_is_marked_anew() {
        let node = |unschedulable: bool, mark: Option<&str>| -> Node {
            serde_json::from_value(json!({
                "metadata": {"annotations": mark.map(|m| BTreeMap::from([(TICKET_ANNOTATION, m)]))},
                "spec": {"unschedulable": unschedulable},
            }))
            .unwrap()
        };
        let before =
            |unschedulable, mark, over| before_cordon(&node(unschedulable, mark), "abc234.2", over);
        let (one, two, three) = (Some("abc234.1"), Some("abc234.2"), Some("abc234.3"));
        assert_eq!(before(false, None, None), Before::Go);
        assert_eq!(before(true, one, one), Before::Go);
        assert_eq!(before(false, one, one), Before::Go);
        assert_eq!(before(true, two, None), Before::Done);
        for (unschedulable, mark, over) in [
            (true, None, None),
            (true, None, one),
            (true, three, None),
            (false, three, one),
            (false, None, one),
        ] {
            let before = before(unschedulable, mark, over);
            assert!(
                matches!(before, Before::Another(_)),
                "{mark:?} over {over:?}"
            );
        }
    }
}
