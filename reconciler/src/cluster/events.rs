//! Kubernetes Events: what happened, where people look for it.
//!
//! kube's own recorder takes two Events about one object for the same one if they have one reason, whatever they say
//! (kube-runtime 5, `Recorder::get_event_key`): of two nodes that were told to try only the first would be told of.

use std::collections::BTreeMap;
use std::time::Duration;

use fabrik_core::id::NodeName;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tracing::warn;

/// For how long the same words about the same object are counted, and not written anew: as client-go does it.
const SAME_FOR: SignedDuration = SignedDuration::from_mins(6);
/// Where Events about objects without a namespace are.
const NAMESPACE: &str = "default";
const API_VERSION: &str = "fabrik.dev/v1alpha1";

/// How many Events wait to be written; what comes beyond that is left out.
const MAX_WAITING: usize = 256;
/// A webhook that hangs must not keep the others waiting for long.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// So many Events of one reason are written about one object while they are remembered: a node that tells of something
/// else each time must not fill etcd.
const MAX_ALIKE: usize = 25;
/// Each is told: they are no more than a node has pods.
pub const POD_FORCED: &str = "PodForced";

/// Says Events on the `FabrikCluster` and on what belongs to it. They are written beside, in their order: who says one
/// goes on at once, and a failure to write one is logged and stops nothing.
#[derive(Clone)]
pub struct Events {
    cluster: ObjectReference,
    nodes: BTreeMap<NodeName, String>,
    waiting: mpsc::Sender<Saying>,
}

/// An Event that is to be written.
struct Saying {
    subject: ObjectReference,
    weight: Weight,
    action: String,
    reason: String,
    note: String,
    at: Timestamp,
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
    /// `node` is the replica that reports. What was said is written also when who said it does not lead any more.
    pub fn new(client: Client, node: &str, cluster: &str) -> Self {
        let (waiting, sayings) = mpsc::channel(MAX_WAITING);
        let writer = Writer {
            client,
            node: node.to_owned(),
            told: BTreeMap::new(),
        };
        tokio::spawn(writer.write_all(sayings));
        Self {
            cluster: reference("FabrikCluster", cluster, None),
            nodes: BTreeMap::new(),
            waiting,
        }
    }

    /// The UIDs of `FabrikCluster` and `FabrikNode`s: `kubectl describe` shows no Event that has not its object's.
    pub fn know(&mut self, cluster: Option<String>, nodes: BTreeMap<NodeName, String>) {
        self.cluster.uid = cluster.or(self.cluster.uid.take());
        self.nodes = nodes;
    }

    pub fn normal(&self, reason: &str, action: &str, note: &str) {
        self.of_cluster(Weight::Normal, reason, action, note);
    }

    pub fn warning(&self, reason: &str, action: &str, note: &str) {
        self.of_cluster(Weight::Warning, reason, action, note);
    }

    pub fn of_cluster(&self, weight: Weight, reason: &str, action: &str, note: &str) {
        let subject = &self.cluster;
        self.about(subject, weight, reason, action, note);
    }

    /// On the `FabrikNode` of that name.
    pub fn of_node(&self, node: &NodeName, weight: Weight, reason: &str, note: &str) {
        let subject = reference("FabrikNode", node.as_str(), self.nodes.get(node).cloned());
        self.about(&subject, weight, reason, "update", note);
    }

    pub fn about(
        &self,
        subject: &ObjectReference,
        weight: Weight,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let saying = Saying {
            subject: subject.clone(),
            weight,
            action: action.to_owned(),
            reason: reason.to_owned(),
            note: shorten(note),
            at: Timestamp::now(),
        };
        if self.waiting.try_send(saying).is_err() {
            warn!(reason, "an Event is left out: too many wait to be written");
        }
    }
}

/// Writes what was said, one after the other.
struct Writer {
    client: Client,
    node: String,
    told: BTreeMap<Words, Told>,
}

impl Writer {
    async fn write_all(mut self, mut sayings: mpsc::Receiver<Saying>) {
        while let Some(saying) = sayings.recv().await {
            let reason = saying.reason.clone();
            match tokio::time::timeout(WRITE_LIMIT, self.write(saying)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, reason, "an Event was not written"),
                Err(_) => warn!(reason, "an Event was not written within {WRITE_LIMIT:?}"),
            }
        }
    }

    async fn write(&mut self, saying: Saying) -> Result<(), kube::Error> {
        let namespace = saying.subject.namespace.as_deref().unwrap_or(NAMESPACE);
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let words = Words {
            subject: format!(
                "{:?} {namespace} {:?}",
                saying.subject.kind, saying.subject.name
            ),
            reason: saying.reason.clone(),
            note: saying.note.clone(),
        };
        let now = saying.at;
        self.told
            .retain(|_, told| now.duration_since(told.last) < SAME_FOR);
        // One that can't be counted on (it was deleted) is written anew the next time.
        if let Some(told) = self.told.remove(&words) {
            let count = told.count.saturating_add(1);
            let series = json!({"count": count, "lastObservedTime": MicroTime(now)});
            let patch = Patch::Merge(json!({"series": series}));
            api.patch(&told.name, &PatchParams::default(), &patch)
                .await?;
            self.told.insert(
                words,
                Told {
                    count,
                    last: now,
                    ..told
                },
            );
            return Ok(());
        }
        let alike = |w: &&Words| w.subject == words.subject && w.reason == words.reason;
        if saying.reason != POD_FORCED && self.told.keys().filter(alike).count() >= MAX_ALIKE {
            return Ok(());
        }
        let event = api
            .create(&PostParams::default(), &self.event(&saying))
            .await?;
        let told = Told {
            name: event.metadata.name.unwrap_or_default(),
            count: 1,
            last: now,
        };
        self.told.insert(words, told);
        Ok(())
    }

    fn event(&self, saying: &Saying) -> Event {
        let namespace = saying.subject.namespace.as_deref().unwrap_or(NAMESPACE);
        Event {
            metadata: ObjectMeta {
                namespace: Some(namespace.to_owned()),
                generate_name: Some(format!("fabrik-{}-", self.node)),
                ..ObjectMeta::default()
            },
            action: Some(saying.action.clone()),
            event_time: Some(MicroTime(saying.at)),
            note: Some(saying.note.clone()),
            reason: Some(saying.reason.clone()),
            regarding: Some(saying.subject.clone()),
            reporting_controller: Some("fabrik".to_owned()),
            reporting_instance: Some(self.node.clone()),
            type_: Some(format!("{:?}", saying.weight)),
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
    use std::sync::{Arc, Mutex};

    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::Value;

    use super::*;

    /// One that writes to an API server that names what it is given, and what that was asked for: the method, and the note
    /// or the count.
    fn writer() -> (Writer, Arc<Mutex<Vec<String>>>) {
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
        let writer = Writer {
            client,
            node: "server-1".to_owned(),
            told: BTreeMap::new(),
        };
        (writer, asked)
    }

    /// Says these and waits until all is written.
    async fn say(notes: impl IntoIterator<Item = String>) -> Vec<String> {
        let (writer, asked) = writer();
        let (waiting, sayings) = mpsc::channel(MAX_WAITING);
        let events = Events {
            cluster: reference("FabrikCluster", "demo", None),
            nodes: BTreeMap::new(),
            waiting,
        };
        for note in notes {
            events.normal("UpdateGranted", "update", &note);
        }
        drop(events);
        writer.write_all(sayings).await;
        asked.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn only_the_same_words_are_the_same_event() {
        let asked = say(["a", "b", "a"].map(|node| format!("node {node} may try"))).await;
        let expected = [
            r#"POST "node a may try""#,
            r#"POST "node b may try""#,
            "PATCH 2",
        ];
        assert_eq!(asked, expected);
    }

    #[tokio::test]
    async fn who_says_something_else_each_time_is_not_written_for_ever() {
        let asked = say((0..100).map(|number| format!("failed {number} times"))).await;
        assert_eq!(asked.len(), MAX_ALIKE);
    }
}
