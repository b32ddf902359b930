//! Kubernetes Events: what happened, where people look for it.
//!
//! kube's own recorder takes two Events about one object for the same one if they have one reason, whatever they say
//! (kube-runtime 5, `Recorder::get_event_key`): of two nodes that were told to try only the first would be told of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fabrik_core::id::NodeName;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tracing::warn;

/// For how long the same words about the same object are counted, and not written anew: as client-go does it.
const SAME_FOR: SignedDuration = SignedDuration::from_mins(6);
/// Where Events about objects without a namespace are.
const NAMESPACE: &str = "default";
const API_VERSION: &str = "fabrik.dev/v1alpha1";

/// Writes Events on the `FabrikCluster` and on what belongs to it; a failure to do so is logged and stops nothing.
#[derive(Clone)]
pub struct Events {
    client: Client,
    /// The replica that reports.
    node: String,
    cluster: ObjectReference,
    nodes: BTreeMap<NodeName, String>,
    told: Arc<Mutex<BTreeMap<Words, Told>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    Normal,
    Warning,
}

/// What makes two Events the same one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Words {
    subject: String,
    reason: String,
    note: String,
}

/// An Event that was written.
struct Told {
    name: String,
    count: i32,
    last: Timestamp,
}

impl Events {
    pub fn new(client: Client, node: &str, cluster: &str) -> Self {
        Self {
            client,
            node: node.to_owned(),
            cluster: reference("FabrikCluster", cluster, None),
            nodes: BTreeMap::new(),
            told: Arc::default(),
        }
    }

    /// The UIDs of `FabrikCluster` and `FabrikNode`s: `kubectl describe` shows no Event that has not its object's.
    pub fn know(&mut self, cluster: Option<String>, nodes: BTreeMap<NodeName, String>) {
        self.cluster.uid = cluster.or(self.cluster.uid.take());
        self.nodes = nodes;
    }

    pub async fn normal(&self, reason: &str, action: &str, note: &str) {
        self.of_cluster(Weight::Normal, reason, action, note).await;
    }

    pub async fn warning(&self, reason: &str, action: &str, note: &str) {
        self.of_cluster(Weight::Warning, reason, action, note).await;
    }

    pub async fn of_cluster(&self, weight: Weight, reason: &str, action: &str, note: &str) {
        let subject = &self.cluster;
        self.about(subject, weight, reason, action, note).await;
    }

    /// On the `FabrikNode` of that name.
    pub async fn of_node(&self, node: &NodeName, weight: Weight, reason: &str, note: &str) {
        let subject = reference("FabrikNode", node.as_str(), self.nodes.get(node).cloned());
        self.about(&subject, weight, reason, "update", note).await;
    }

    pub async fn about(
        &self,
        subject: &ObjectReference,
        weight: Weight,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let namespace = subject.namespace.as_deref().unwrap_or(NAMESPACE);
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let words = Words {
            subject: format!("{:?} {namespace} {:?}", subject.kind, subject.name),
            reason: reason.to_owned(),
            note: shorten(note),
        };
        let now = Timestamp::now();
        let written = if let Some((name, count)) = self.again(&words, now) {
            let series = json!({"count": count, "lastObservedTime": MicroTime(now)});
            let patch = Patch::Merge(json!({"series": series}));
            api.patch(&name, &PatchParams::default(), &patch).await
        } else {
            let event = self.event(subject, weight, action, &words, now);
            let created = api.create(&PostParams::default(), &event).await;
            created.inspect(|event| self.remember(words, event, now))
        };
        if let Err(error) = written {
            warn!(%error, reason, "an Event was not written");
        }
    }

    /// The Event that has said this lately, and how often it is said now.
    fn again(&self, words: &Words, now: Timestamp) -> Option<(String, i32)> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, told| now.duration_since(told.last) < SAME_FOR);
        let told = told.get_mut(words)?;
        told.count = told.count.saturating_add(1);
        told.last = now;
        Some((told.name.clone(), told.count))
    }

    fn remember(&self, words: Words, event: &Event, now: Timestamp) {
        let name = event.metadata.name.clone().unwrap_or_default();
        let told = Told {
            name,
            count: 1,
            last: now,
        };
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(words, told);
    }

    fn event(
        &self,
        subject: &ObjectReference,
        weight: Weight,
        action: &str,
        words: &Words,
        now: Timestamp,
    ) -> Event {
        Event {
            metadata: ObjectMeta {
                namespace: Some(subject.namespace.as_deref().unwrap_or(NAMESPACE).to_owned()),
                generate_name: Some(format!("fabrik-{}-", self.node)),
                ..ObjectMeta::default()
            },
            action: Some(action.to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(words.note.clone()),
            reason: Some(words.reason.clone()),
            regarding: Some(subject.clone()),
            reporting_controller: Some("fabrik".to_owned()),
            reporting_instance: Some(self.node.clone()),
            type_: Some(format!("{weight:?}")),
            ..Event::default()
        }
    }
}

fn reference(kind: &str, name: &str, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        uid,
        ..ObjectReference::default()
    }
}

/// The API takes notes of less than 1 KiB.
fn shorten(note: &str) -> String {
    const MAX_CHARS: usize = 1000;
    if note.len() < 1024 {
        return note.to_owned();
    }
    note.chars()
        .filter(char::is_ascii)
        .take(MAX_CHARS)
        .chain(['…'])
        .collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::Value;

    use super::*;

    /// An API server that names what it is given, and what it was asked for: the method, and the note or the count.
    fn events() -> (Events, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let told = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            let told = Arc::clone(&told);
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect_bytes().await.unwrap();
                let mut event: Value = serde_json::from_slice(&body).unwrap();
                let what = match method {
                    Method::POST => event["note"].to_string(),
                    _ => event["series"]["count"].to_string(),
                };
                told.lock().unwrap().push(format!("{method} {what}"));
                event["metadata"]["name"] = json!("an-event");
                event["eventTime"] = json!("2026-11-21T12:00:00.000000Z");
                let body = Body::from(event.to_string().into_bytes());
                Ok::<_, Infallible>(Response::new(body))
            }
        });
        let client = Client::new(service, "default");
        (Events::new(client, "server-1", "demo"), asked)
    }

    #[tokio::test]
    async fn only_the_same_words_are_the_same_event() {
        let (events, asked) = events();
        for node in ["a", "b", "a"] {
            let note = format!("node {node} may try");
            events.normal("UpdateGranted", "update", &note).await;
        }
        let asked = asked.lock().unwrap();
        let expected = [
            r#"POST "node a may try""#,
            r#"POST "node b may try""#,
            "PATCH 2",
        ];
        assert_eq!(*asked, expected);
    }
}
