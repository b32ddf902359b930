//! Watches that say when to look again. They decide nothing: a trigger that comes once too often costs one pass.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hasher as _};

use fabrik_core::id::NodeName;
use fabrik_core::names::RECONCILE_ANNOTATION;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::resources::{FabrikCluster, FabrikNode};

/// Why to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A Node came, went, or changed in what matters here, says something else of its system, or lost a pod while it is
    /// drained.
    Nodes,
    /// The cluster's spec changed: paused or resumed.
    Cluster,
}

/// Watches until dropped, or until nobody listens. A trigger for which the channel has no room is left out: a full
/// channel says already that there is something to look at. `asks` is called when a person or a webhook asks for a fetch.
pub async fn watch(client: Client, triggers: mpsc::Sender<Trigger>, asks: impl Fn()) {
    let nodes: Api<Node> = Api::all(client.clone());
    let kind = ApiResource::erase::<FabrikNode>(&());
    let reports: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    tokio::select! {
        () = watch_all("Nodes", nodes, what_matters, &triggers) => {}
        () = watch_all("FabrikNodes", reports, what_is_said, &triggers) => {}
        () = watch_cluster(client, &triggers, asks) => {}
    }
}

/// Tells of each pod that goes from one of `nodes`, which may become others. Runs until dropped, or until nobody listens.
pub async fn watch_drained(
    client: Client,
    mut nodes: watch::Receiver<BTreeSet<NodeName>>,
    triggers: mpsc::Sender<Trigger>,
) {
    // A set that is dropped ends its task.
    let mut watched = BTreeMap::<NodeName, JoinSet<()>>::new();
    loop {
        let wanted = nodes.borrow_and_update().clone();
        watched.retain(|node, _| wanted.contains(node));
        for node in wanted {
            let pods = watch_pods(client.clone(), node.clone(), triggers.clone());
            watched.entry(node).or_insert_with(|| {
                let mut task = JoinSet::new();
                task.spawn(pods);
                task
            });
        }
        if nodes.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_pods(client: Client, node: NodeName, triggers: mpsc::Sender<Trigger>) {
    let only = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let pods = Api::<PartialObjectMeta<Pod>>::all(client);
    let mut events = watcher(pods, only).default_backoff().boxed();
    while let Some(event) = events.next().await {
        if matches!(event, Ok(Event::Delete(_))) && !send(&triggers, Trigger::Nodes) {
            return;
        }
    }
}

/// Tells of each change of what `digest_of` looks at.
async fn watch_all<K>(
    kinds: &'static str,
    api: Api<K>,
    digest_of: fn(&K) -> u64,
    triggers: &mpsc::Sender<Trigger>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut seen = Seen::default();
    let mut events = watcher(api, watcher::Config::default())
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        let changed = match event {
            Ok(event) => seen.take(event, digest_of),
            Err(error) => {
                tracing::debug!(%error, "the watch of {kinds} is renewed");
                false
            }
        };
        if changed && !send(triggers, Trigger::Nodes) {
            return;
        }
    }
}

async fn watch_cluster(client: Client, triggers: &mpsc::Sender<Trigger>, asks: impl Fn()) {
    let api: Api<FabrikCluster> = Api::all(client);
    let (mut specs, mut requests) = (Seen::default(), Seen::default());
    let mut events = watcher(api, watcher::Config::default())
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::debug!(%error, "the watch of the FabrikCluster is renewed");
                continue;
            }
        };
        let spec = specs.take(event.clone(), |cluster| {
            digest(&cluster.metadata.generation)
        });
        let asked = requests.take(event, |cluster| {
            digest(&cluster.annotations().get(RECONCILE_ANNOTATION))
        });
        if asked {
            asks();
        }
        if spec && !send(triggers, Trigger::Cluster) {
            return;
        }
    }
}

/// False when nobody listens any more.
fn send(triggers: &mpsc::Sender<Trigger>, trigger: Trigger) -> bool {
    !matches!(
        triggers.try_send(trigger),
        Err(mpsc::error::TrySendError::Closed(_))
    )
}

/// What a kubelet's heartbeat does not change.
fn what_matters(node: &Node) -> u64 {
    let conditions = node
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions
        .filter(|c| c.type_ == "Ready")
        .map(|c| c.status.as_str())
        .next();
    let spec = node.spec.as_ref();
    digest(&(
        node.uid(),
        node.labels(),
        node.metadata.deletion_timestamp.is_some(),
        ready,
        spec.and_then(|s| s.unschedulable).unwrap_or(false),
        spec.and_then(|s| s.provider_id.as_deref()),
    ))
}

/// What a node says of itself. What it is told is the leader's own doing.
fn what_is_said(node: &DynamicObject) -> u64 {
    let report = node.data.pointer("/status/report");
    digest(&(node.uid(), report.map(ToString::to_string)))
}

fn digest(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A digest of each object, so that a change in what does not matter is none.
#[derive(Default)]
struct Seen {
    digests: HashMap<String, u64>,
    /// While a list comes in: what it holds.
    listing: Option<BTreeMap<String, u64>>,
}

impl Seen {
    /// Whether the event changes what matters.
    fn take<K: ResourceExt>(&mut self, event: Event<K>, digest_of: impl Fn(&K) -> u64) -> bool {
        match event {
            Event::Apply(object) => {
                let digest = digest_of(&object);
                self.digests.insert(object.name_any(), digest) != Some(digest)
            }
            Event::Delete(object) => self.digests.remove(&object.name_any()).is_some(),
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                let listing = self.listing.get_or_insert_default();
                listing.insert(object.name_any(), digest_of(&object));
                false
            }
            Event::InitDone => {
                let listed: HashMap<_, _> = self
                    .listing
                    .take()
                    .unwrap_or_default()
                    .into_iter()
                    .collect();
                let changed = listed != self.digests;
                self.digests = listed;
                changed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(ready: &str, heartbeat: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "uid": "u"},
            "status": {"conditions": [
                {"type": "Ready", "status": ready, "lastHeartbeatTime": heartbeat}]}
        }))
        .unwrap()
    }

    #[test]
    fn a_heartbeat_is_no_change_and_a_lost_node_is_one() {
        let mut seen = Seen::default();
        let mut take = |event| seen.take(event, what_matters);
        let (one, two) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:10Z");
        assert!(!take(Event::Init));
        assert!(!take(Event::InitApply(node("True", one))));
        assert!(take(Event::InitDone));
        assert!(!take(Event::Apply(node("True", two))));
        assert!(take(Event::Apply(node("False", two))));
        assert!(take(Event::Delete(node("False", two))));
    }

    #[test]
    fn a_watch_that_begins_anew_tells_only_what_it_missed() {
        let mut seen = Seen::default();
        let one = "2026-01-01T00:00:00Z";
        let mut relist = |ready| {
            seen.take(Event::Init, what_matters);
            seen.take(Event::InitApply(node(ready, one)), what_matters);
            seen.take(Event::InitDone, what_matters)
        };
        assert!(relist("True"));
        assert!(!relist("True"));
        assert!(relist("False"));
    }
}
