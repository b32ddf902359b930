//! What a drain sees and does on a real API server, as the leader's own identity.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fabrik::cluster::nodes::{self, Eviction};
use fabrik_bed::wait;
use fabrik_core::id::NodeName;
use fabrik_core::observed::{Pod as Seen, PodKind};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

const NODE: &str = "workers-0";
const LIMIT: Duration = Duration::from_secs(30);

/// kubectl evicts what has finished, also where nothing would bring it back, and asks whether the DaemonSet of a pod is
/// there.
pub async fn sees_and_evicts_pods_as_kubectl_would(admin: &Client, leader: &Client) {
    make_daemon_set(admin).await;
    make_pod(admin, "bare", &json!({}), "Running").await;
    make_pod(admin, "finished", &json!({}), "Succeeded").await;
    let mirror = json!({"annotations": {"kubernetes.io/config.mirror": "x"}});
    make_pod(admin, "mirror", &mirror, "Running").await;
    let orphan = json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "gone",
        "uid": "00000000-0000-0000-0000-000000000000", "controller": true}],
        "finalizers": ["example.org/stays"]});
    make_pod(admin, "orphan", &orphan, "Running").await;

    let pods = observe(leader).await;
    let kinds: BTreeMap<&str, (PodKind, bool)> = pods
        .iter()
        .map(|(name, pod)| (name.as_str(), (pod.kind, pod.managed)))
        .collect();
    assert_eq!(
        kinds,
        BTreeMap::from([
            ("bare", (PodKind::Ordinary, false)),
            ("daemon", (PodKind::DaemonSet, true)),
            ("finished", (PodKind::Finished, false)),
            ("mirror", (PodKind::Mirror, false)),
            ("orphan", (PodKind::Ordinary, false)),
        ])
    );
    assert!(pods.values().all(|p| p.empty_dir), "{pods:?}");

    for name in ["bare", "finished"] {
        let evicted = nodes::evict(leader, "default", name, &pods[name].uid).await;
        assert_eq!(evicted.unwrap(), Eviction::Accepted, "{name}");
    }
}

/// Three volumes are attached: a claim's to the node, another claim's whose pod stays there, and one to another node.
pub async fn sees_volumes_until_they_are_detached(admin: &Client, leader: &Client) {
    for (name, node) in [("shop", NODE), ("logs", NODE), ("far", "workers-1")] {
        let spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "csi": {"driver": "csi.example.org", "volumeHandle": name},
            "claimRef": {"namespace": "default", "name": name}});
        create::<PersistentVolume>(admin, &format!("pv-{name}"), &spec).await;
        let spec = json!({"attacher": "csi.example.org", "nodeName": node,
            "source": {"persistentVolumeName": format!("pv-{name}")}});
        create::<VolumeAttachment>(admin, name, &spec).await;
    }
    let node: NodeName = NODE.parse().unwrap();
    let staying = BTreeSet::from([("default".to_owned(), "logs".to_owned())]);
    let asked = BTreeMap::from([(node.clone(), staying)]);
    let attached = async || {
        let claims = nodes::observe_volumes(leader).await.unwrap().claims;
        nodes::observe_attached(leader, &asked, &claims)
            .await
            .unwrap()
    };
    let volume = "pv-shop (claim default/shop)".to_owned();
    assert_eq!(attached().await, BTreeMap::from([(node, vec![volume])]));

    let api: Api<VolumeAttachment> = Api::all(admin.clone());
    api.delete("shop", &DeleteParams::default()).await.unwrap();
    wait::until("the volume is detached", LIMIT, async || {
        Ok(attached().await.is_empty().then_some(()))
    })
    .await
    .unwrap();
}

/// Its budget refuses the eviction. The applier deletes it, under its own UID only; the leader may not.
pub async fn forces_a_pod_and_no_other_of_its_name(
    admin: &Client,
    leader: &Client,
    applier: &Client,
) {
    make_pod(
        admin,
        "shop",
        &json!({"labels": {"app": "shop"}}),
        "Running",
    )
    .await;
    let budget = json!({"metadata": {"name": "shop"}, "spec": {"minAvailable": 1,
        "selector": {"matchLabels": {"app": "shop"}}}});
    let budget: PodDisruptionBudget = serde_json::from_value(budget).unwrap();
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(admin.clone(), "default");
    budgets
        .create(&PostParams::default(), &budget)
        .await
        .unwrap();
    let uid = observe(leader).await["shop"].uid.clone();
    let refused = wait::until("the budget refuses", LIMIT, async || {
        let evicted = nodes::evict(leader, "default", "shop", &uid).await?;
        Ok(match evicted {
            Eviction::Blocked(why) => Some(why),
            Eviction::Accepted | Eviction::Gone => None,
        })
    });
    let why = refused.await.unwrap();
    assert!(why.contains("PodDisruptionBudget default/shop"), "{why}");

    let by_leader = nodes::delete_pod(leader, "default", "shop", &uid).await;
    assert!(by_leader.is_err(), "the leader's identity may only evict");
    let another = "00000000-0000-0000-0000-000000000000".parse().unwrap();
    nodes::delete_pod(applier, "default", "shop", &another)
        .await
        .unwrap();
    assert!(!observe(leader).await["shop"].terminating);
    nodes::delete_pod(applier, "default", "shop", &uid)
        .await
        .unwrap();
    let pods = observe(leader).await;
    assert!(pods.get("shop").is_none_or(|p| p.terminating), "{pods:?}");
}

async fn create<K>(admin: &Client, name: &str, spec: &Value)
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + serde::Serialize
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let object = json!({"metadata": {"name": name}, "spec": spec});
    let object: K = serde_json::from_value(object).unwrap();
    let api: Api<K> = Api::all(admin.clone());
    api.create(&PostParams::default(), &object).await.unwrap();
}

async fn observe(client: &Client) -> BTreeMap<String, Seen> {
    let daemon_sets = nodes::observe_daemon_sets(client).await.unwrap();
    let node = NODE.parse().unwrap();
    let seen = nodes::observe_pods(client, &node, &daemon_sets)
        .await
        .unwrap();
    let short = |p: &Seen| match p.kind {
        PodKind::DaemonSet => "daemon".to_owned(),
        _ => p.name.clone(),
    };
    seen.pods.into_iter().map(|p| (short(&p), p)).collect()
}

pub async fn make_node(admin: &Client) {
    let api: Api<Node> = Api::all(admin.clone());
    let node = json!({"metadata": {"name": NODE}});
    let node: Node = serde_json::from_value(node).unwrap();
    api.create(&PostParams::default(), &node).await.unwrap();
    let capacity = json!({"pods": "10", "cpu": "1", "memory": "1Gi"});
    let ready = json!({"status": {"capacity": capacity, "allocatable": capacity,
        "conditions": [{"type": "Ready", "status": "True"}]}});
    let params = PatchParams::default();
    api.patch_status(NODE, &params, &Patch::Merge(&ready))
        .await
        .unwrap();
}

/// Its controller makes the pod, and the scheduler puts it on the node.
async fn make_daemon_set(admin: &Client) {
    let api: Api<DaemonSet> = Api::namespaced(admin.clone(), "default");
    let labels = json!({"app": "logs"});
    let set = json!({"metadata": {"name": "logs"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": spec()}}});
    let set: DaemonSet = serde_json::from_value(set).unwrap();
    api.create(&PostParams::default(), &set).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    wait::until("the DaemonSet's pod is on the node", LIMIT, async || {
        let pods = pods.list(&kube::api::ListParams::default()).await?;
        let bound = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(NODE);
        Ok(pods.iter().any(bound).then_some(()))
    })
    .await
    .unwrap();
}

async fn make_pod(admin: &Client, name: &str, metadata: &Value, phase: &str) {
    let api: Api<Pod> = Api::namespaced(admin.clone(), "default");
    let (mut metadata, mut spec) = (metadata.clone(), spec());
    metadata["name"] = json!(name);
    spec["nodeName"] = json!(NODE);
    let pod = json!({"metadata": metadata, "spec": spec});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let made = api.create(&PostParams::default(), &pod).await.unwrap();
    let status = json!({"status": {"phase": phase}});
    let params = PatchParams::default();
    api.patch_status(&made.name_any(), &params, &Patch::Merge(&status))
        .await
        .unwrap();
}

fn spec() -> Value {
    json!({"containers": [{"name": "c", "image": "example.org/none"}],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "tolerations": [{"operator": "Exists"}]})
}
