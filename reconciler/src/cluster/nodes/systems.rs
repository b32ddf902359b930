//! The `FabrikNode`s: what members were told and what they say (`observe_systems`), and what the leader tells them.

use std::collections::{BTreeMap, BTreeSet};

use fabrik_core::effect::NodeRef;
use fabrik_core::id::{AgeRecipient, InvalidId, NodeName, SecretsDigest, StorePath};
use fabrik_core::names::{
    ACCEPT_RECIPIENT_ANNOTATION, ORDERS_MANAGER, RELEASE_TICKET_ANNOTATION, SECRETS_ANNOTATION,
};
use fabrik_core::observed::NodeSystem;
use fabrik_core::system::{Order, Report, Retirement, SignedPublication};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{NodeError, again};
use crate::cluster::resources::{FabrikNode, Standing};

/// All `FabrikNode`s of one quorum read, and what in them this version can't read.
#[derive(Debug, Default)]
pub struct SystemsSeen {
    pub systems: BTreeMap<NodeName, NodeSystem>,
    /// The statement beside each aim.
    pub publications: BTreeMap<NodeName, SignedPublication>,
    /// The caches beside each aim.
    pub caches: BTreeMap<NodeName, Vec<String>>,
    /// Which secrets each node was told to fetch.
    pub noted: BTreeMap<NodeName, SecretsDigest>,
    /// The UIDs of the objects themselves.
    pub uids: BTreeMap<NodeName, String>,
    /// Numbers of the tickets that a person takes away.
    pub released: BTreeSet<u64>,
    pub unreadable: Vec<String>,
}

/// Reads all `FabrikNode`s. A report that another version wrote, or a forger, is none.
pub async fn observe_systems(client: &Client) -> Result<SystemsSeen, NodeError> {
    let listed = dynamic(client).list(&ListParams::default()).await;
    let listed = listed.map_err(|source| NodeError::List {
        what: "fabriknodes",
        source: Box::new(source),
    })?;
    let mut seen = SystemsSeen::default();
    for object in &listed.items {
        let Ok(name) = object.name_any().parse::<NodeName>() else {
            continue;
        };
        let publication = read(object, "/spec/publication", &mut seen.unreadable);
        seen.publications
            .extend(publication.map(|publication| (name.clone(), publication)));
        let caches = read(object, "/spec/caches", &mut seen.unreadable);
        seen.caches
            .extend(caches.map(|caches| (name.clone(), caches)));
        let system = NodeSystem {
            aim: read(object, "/spec/aim", &mut seen.unreadable),
            order: read(object, "/spec/order", &mut seen.unreadable),
            retirement: retirement(object, &mut seen.unreadable),
            report: report(object, &mut seen.unreadable),
            says: read(object, "/status/message", &mut seen.unreadable)
                .map(|says: String| in_one_line(&says)),
            accepts: accepts(object, &mut seen.unreadable),
            ..NodeSystem::default()
        };
        seen.uids
            .extend(object.uid().map(|uid| (name.clone(), uid)));
        let noted = object.annotations().get(SECRETS_ANNOTATION);
        let noted = noted.and_then(|digest| digest.parse().ok());
        seen.noted
            .extend(noted.map(|digest| (name.clone(), digest)));
        let release = object.annotations().get(RELEASE_TICKET_ANNOTATION);
        match release.map(|number| number.trim().parse()) {
            None => {}
            Some(Ok(number)) => drop(seen.released.insert(number)),
            Some(Err(_)) => seen.unreadable.push(format!(
                "{}: annotation {RELEASE_TICKET_ANNOTATION} is no number of a ticket",
                object.name_any()
            )),
        }
        seen.systems.insert(name, system);
    }
    Ok(seen)
}

/// What a server was told of its retirement. Whether it was signed is the server's to check.
fn retirement(object: &DynamicObject, unreadable: &mut Vec<String>) -> Option<Retirement> {
    let signed: SignedPublication = read(object, "/spec/retirement", unreadable)?;
    serde_json::from_str(&signed.statement).ok()
}

/// Tells a node which system to fetch and from where, with the statement that it may.
pub async fn aim(
    client: &Client,
    node: &NodeRef,
    system: &StorePath,
    publication: &SignedPublication,
    caches: &[String],
) -> Result<(), NodeError> {
    let spec = json!({"aim": system, "publication": publication, "caches": caches});
    again(async || tell(client, node, "aim", &spec).await).await
}

/// Tells a node what to do now.
pub async fn order(client: &Client, node: &NodeRef, order: &Order) -> Result<(), NodeError> {
    let spec = json!({"order": order});
    again(async || tell(client, node, "order", &spec).await).await
}

/// Tells a server that it leaves for good.
pub async fn retire(
    client: &Client,
    node: &NodeRef,
    retirement: &SignedPublication,
) -> Result<(), NodeError> {
    let spec = json!({"retirement": retirement});
    again(async || tell(client, node, "retire", &spec).await).await
}

/// Takes back what a node was told to do.
pub async fn withdraw(client: &Client, node: &NodeRef) -> Result<(), NodeError> {
    let spec = json!({"order": null});
    again(async || tell(client, node, "withdraw the order of", &spec).await).await
}

/// Shows on a `FabrikNode` where its node stands. A definition of an older version drops it.
pub async fn say_standing(
    client: &Client,
    node: &str,
    standing: Option<&Standing>,
) -> Result<(), kube::Error> {
    let patch = Patch::Merge(json!({"spec": {"standing": standing.map(whole)}}));
    let params = PatchParams {
        field_manager: Some(ORDERS_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match dynamic(client).patch(node, &params, &patch).await {
        // Somebody has just deleted it: it is made anew, and told of then.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        said => said.map(drop),
    }
}

/// With a null for what it does not say any more: a merge keeps what it does not name (RFC 7386).
fn whole(standing: &Standing) -> Value {
    let mut whole = json!({"message": null, "system": null, "wants": null});
    if let (Value::Object(whole), Value::Object(said)) = (&mut whole, json!(standing)) {
        whole.extend(said);
    }
    whole
}

/// Merges into the spec of the `FabrikNode` that stands for this Node, and for no other of the same name.
async fn tell(
    client: &Client,
    node: &NodeRef,
    verb: &'static str,
    spec: &Value,
) -> Result<(), NodeError> {
    let api = dynamic(client);
    let object = format!("FabrikNode {}", node.name);
    let refused = |error: kube::Error| match error {
        kube::Error::Api(status) if status.code == 409 => NodeError::Changed {
            object: object.clone(),
            reason: status.message.clone(),
        },
        source => NodeError::Refused {
            verb,
            object: object.clone(),
            source: Box::new(source),
        },
    };
    let live = stands_for(client, verb, node).await?;
    let patch = json!({
        "metadata": {"resourceVersion": live.metadata.resource_version},
        "spec": spec,
    });
    let params = PatchParams {
        field_manager: Some(ORDERS_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patched = api
        .patch(node.name.as_str(), &params, &Patch::Merge(&patch))
        .await;
    patched.map(drop).map_err(refused)
}

/// The `FabrikNode` that stands for this Node, and for no other of the same name.
pub(super) async fn stands_for(
    client: &Client,
    verb: &'static str,
    node: &NodeRef,
) -> Result<DynamicObject, NodeError> {
    let object = format!("FabrikNode {}", node.name);
    let live = dynamic(client).get(node.name.as_str()).await;
    let live = live.map_err(|source| NodeError::Refused {
        verb,
        object: object.clone(),
        source: Box::new(source),
    })?;
    let stands_for = live.data.pointer("/spec/uid").and_then(Value::as_str);
    if stands_for == Some(node.uid.as_str()) {
        return Ok(live);
    }
    let reason = format!(
        "it stands for the Node with UID {}",
        stands_for.unwrap_or("(none)")
    );
    Err(NodeError::Changed { object, reason })
}

pub(super) fn dynamic(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &ApiResource::erase::<FabrikNode>(&()))
}

fn read<T: DeserializeOwned>(
    object: &DynamicObject,
    pointer: &str,
    unreadable: &mut Vec<String>,
) -> Option<T> {
    let value = object.data.pointer(pointer).filter(|v| !v.is_null())?;
    match serde_json::from_value(value.clone()) {
        Ok(value) => Some(value),
        Err(error) => {
            unreadable.push(format!("{}{pointer}: {error}", object.name_any()));
            None
        }
    }
}

fn accepts(object: &DynamicObject, unreadable: &mut Vec<String>) -> Option<AgeRecipient> {
    let text = object.annotations().get(ACCEPT_RECIPIENT_ANNOTATION)?;
    let told = |error: InvalidId| {
        format!(
            "{}: annotation {ACCEPT_RECIPIENT_ANNOTATION}: {error}",
            object.name_any()
        )
    };
    text.trim()
        .parse()
        .map_err(|e| unreadable.push(told(e)))
        .ok()
}

fn report(object: &DynamicObject, unreadable: &mut Vec<String>) -> Option<Report> {
    let value = object.data.pointer("/status/report");
    let report = value.filter(|v| !v.is_null()).map(Report::read)?;
    let told = |error| format!("{}: its report {error}", object.name_any());
    let mut report = report.map_err(|e| unreadable.push(told(e))).ok()?;
    if let Some(activity) = &mut report.activity {
        activity.message = in_one_line(&activity.message);
    }
    Some(report)
}

/// A node's own words, as a person's terminal may show them: they must neither move its cursor nor pass for lines of ours.
pub(super) fn in_one_line(words: &str) -> String {
    words.replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_true_any_more_is_taken_away() {
        let mut standing = Standing {
            state: "up to date".to_owned(),
            since: "2026-11-30T12:00:00Z".parse().unwrap(),
            message: None,
            system: Some("a".to_owned()),
            wants: None,
        };
        let said = whole(&standing);
        assert_eq!(said["message"], Value::Null);
        assert!(said.as_object().unwrap().contains_key("wants"), "{said}");
        assert_eq!(
            (&said["state"], &said["system"]),
            (&json!("up to date"), &json!("a"))
        );
        standing.message = Some("waits".to_owned());
        assert_eq!(whole(&standing)["message"], "waits");
    }

    #[test]
    fn a_node_s_words_steer_no_terminal() {
        let words = in_one_line("\u{1b}[2J\u{1b}[Hrollout\n30 of 30 nodes\u{9b}");
        assert_eq!(words, " [2J [Hrollout 30 of 30 nodes ");
    }

    #[test]
    fn a_report_that_is_none_is_told_and_not_believed() {
        let object = |report: Value| {
            let object = json!({
                "apiVersion": "fabrik.dev/v1alpha1", "kind": "FabrikNode", "metadata": {"name": "n-1"},
                "spec": {"aim": "/nix/store/00000000000000000000000000000000-a"}, "status": {"report": report},
            });
            serde_json::from_value::<DynamicObject>(object).unwrap()
        };
        let report = |value: Value| {
            let mut unreadable = Vec::new();
            let report = report(&object(value), &mut unreadable);
            (report, unreadable)
        };
        let whole = json!({
            "boot": "00000000-0000-0000-0000-000000000001",
            "running": "/nix/store/00000000000000000000000000000000-a",
            "default": "/nix/store/00000000000000000000000000000000-a",
            "later": 1,
        });
        assert!(matches!(report(whole.clone()), (Some(_), u) if u.is_empty()));
        let mut newer = whole;
        newer["schema"] = json!(Report::SCHEMA + 1);
        let (none, unreadable) = report(newer);
        assert_eq!(none, None, "although it would read");
        let told = "n-1: its report has the layout 2, and this fabrik knows up to 1";
        assert!(unreadable[0].starts_with(told), "{unreadable:?}");
        assert_eq!(report(Value::Null), (None, Vec::new()));
        let (none, unreadable) = report(json!({"boot": "x"}));
        assert_eq!(none, None);
        assert!(
            unreadable[0].starts_with("n-1: its report can't be read: "),
            "{unreadable:?}"
        );
        let aim: Option<StorePath> = read(&object(Value::Null), "/spec/aim", &mut Vec::new());
        assert!(aim.is_some());
    }
}
