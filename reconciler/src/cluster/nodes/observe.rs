//! Nodes, the pods on them and the local volumes pinned to them, as the core knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fabrik_core::drain;
use fabrik_core::id::NodeName;
use fabrik_core::names::{LEADER_MANAGER, TICKET_ANNOTATION};
use fabrik_core::observed::{Node, Pod, PodKind};
use fabrik_core::spec::Pods;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, OwnerReference};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::NodeError;
use super::systems::in_one_line;
use super::volumes::{Claim, claims};
use crate::cluster::etcd::Hosts;

/// k3s sets it on servers; `NodeRestriction` keeps kubelets from setting it themselves.
const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// All Nodes of one quorum read, and the names of those that no `NodeName` can hold.
#[derive(Debug, Default)]
pub struct NodesSeen {
    pub nodes: BTreeMap<NodeName, Node>,
    /// The control plane's.
    pub hosts: Hosts,
    pub unreadable: Vec<String>,
}

/// Which `DaemonSet`s there are, by namespace and name. `None` where the leader may not ask, with the roles of an older
/// founding: then each pod is taken at its word.
pub type DaemonSets = Option<BTreeSet<(String, String)>>;

/// The pods of one Node.
#[derive(Debug, Default)]
pub struct PodsSeen {
    pub pods: Vec<Pod>,
    /// Claims of those that a drain leaves where they are.
    pub staying_claims: BTreeSet<Claim>,
    /// Those of the system's DaemonSets that are not ready, as `namespace/name`.
    pub unready_daemons: Vec<String>,
}

/// Reads all Nodes.
pub async fn observe_nodes(client: &Client) -> Result<NodesSeen, NodeError> {
    let mut seen = NodesSeen::default();
    for node in list::<core::Node>(Api::all(client.clone()), ListParams::default(), "nodes").await?
    {
        let name = node.metadata.name.clone().unwrap_or_default();
        let addresses = addresses(&node);
        match convert(node) {
            Some(node) => {
                if node.control_plane {
                    let by_address = addresses.into_iter().map(|a| (a, node.name.clone()));
                    seen.hosts.by_address.extend(by_address);
                    seen.hosts.names.insert(node.name.clone());
                }
                seen.nodes.insert(node.name.clone(), node);
            }
            None => seen.unreadable.push(name),
        }
    }
    Ok(seen)
}

/// Reads which `DaemonSet`s there are, by namespace and name.
pub async fn observe_daemon_sets(client: &Client) -> Result<DaemonSets, NodeError> {
    let api: Api<DaemonSet> = Api::all(client.clone());
    let listed = match api.list_metadata(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(None),
        listed => listed.map_err(|source| NodeError::List {
            what: "daemonsets",
            source: Box::new(source),
        })?,
    };
    let names = listed.items.into_iter();
    let names = names.filter_map(|d| Some((d.metadata.namespace?, d.metadata.name?)));
    Ok(Some(names.collect()))
}

/// Reads the pods of one Node.
pub async fn observe_pods(
    client: &Client,
    node: &NodeName,
    daemon_sets: &DaemonSets,
) -> Result<PodsSeen, NodeError> {
    let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = list::<core::Pod>(Api::all(client.clone()), params, "pods").await?;
    let unready = pods.iter().filter(|p| is_unready_daemon(p, daemon_sets));
    let converted = pods.iter().filter_map(|pod| {
        let seen = convert_pod(pod, node, daemon_sets)?;
        Some((pod, seen))
    });
    let converted: Vec<_> = converted.collect();
    let staying = converted.iter().filter(|(_, seen)| drain::stays(seen));
    Ok(PodsSeen {
        unready_daemons: unready
            .map(|p| format!("{}/{}", p.namespace().unwrap_or_default(), p.name_any()))
            .collect(),
        staying_claims: staying.flat_map(|(pod, _)| claims(pod)).collect(),
        pods: converted.into_iter().map(|(_, seen)| seen).collect(),
    })
}

/// How many of these pods are Ready, wherever they run. Those that are ending don't count.
pub async fn count_ready(client: &Client, pods: &Pods) -> Result<u32, NodeError> {
    let api: Api<core::Pod> = Api::namespaced(client.clone(), &pods.namespace);
    let params = ListParams::default().labels(&pods.labels.to_string());
    let listed = list(api, params, "pods").await?;
    let counts = |p: &&core::Pod| is_ready(p) && p.metadata.deletion_timestamp.is_none();
    let count = listed.iter().filter(counts).count();
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// When the kubelet of a Node last renewed its Lease.
pub async fn heard(client: &Client, node: &NodeName) -> Result<Option<Timestamp>, NodeError> {
    let api: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let lease = api.get_opt(node.as_str()).await;
    let lease = lease.map_err(|source| NodeError::List {
        what: "the Leases of nodes",
        source: Box::new(source),
    })?;
    Ok(lease.and_then(|l| Some(l.spec?.renew_time?.0)))
}

pub(super) async fn list<K>(
    api: Api<K>,
    params: ListParams,
    what: &'static str,
) -> Result<Vec<K>, NodeError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let listed = api.list(&params).await;
    listed.map(|l| l.items).map_err(|source| NodeError::List {
        what,
        source: Box::new(source),
    })
}

fn convert(node: core::Node) -> Option<Node> {
    let spec = node.spec.unwrap_or_default();
    let status = node.status.unwrap_or_default();
    let metadata = node.metadata;
    let labels = metadata.labels.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    Some(Node {
        name: metadata.name?.parse().ok()?,
        uid: metadata.uid?.parse().ok()?,
        provider_id: spec.provider_id,
        control_plane: labels.contains_key(CONTROL_PLANE_LABEL),
        ready: conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True"),
        unschedulable: spec.unschedulable.unwrap_or(false),
        cordoned_under: metadata
            .annotations
            .and_then(|mut a| a.remove(TICKET_ANNOTATION)),
        deleting: metadata.deletion_timestamp.is_some(),
        heard: None,
        lease_unread: false,
        kubelet_version: status
            .node_info
            .map(|i| in_one_line(&i.kubelet_version))
            .unwrap_or_default(),
        our_labels: our_labels(&metadata.managed_fields.unwrap_or_default()),
        labels,
    })
}

fn addresses(node: &core::Node) -> Vec<IpAddr> {
    let addresses = node
        .status
        .iter()
        .flat_map(|s| s.addresses.iter().flatten());
    let own = addresses.filter(|a| a.type_ == "InternalIP");
    own.filter_map(|a| a.address.parse().ok()).collect()
}

/// Of those that a node is not well without: the cluster's own and fabrik's.
fn is_unready_daemon(pod: &core::Pod, daemon_sets: &DaemonSets) -> bool {
    let system = matches!(
        pod.metadata.namespace.as_deref(),
        Some("kube-system" | "fabrik-system")
    );
    system && pod_kind(pod, daemon_sets) == PodKind::DaemonSet && !is_ready(pod)
}

fn is_ready(pod: &core::Pod) -> bool {
    let status = pod.status.iter();
    let mut conditions = status.flat_map(|s| s.conditions.iter().flatten());
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The label keys that the leader owns by server-side apply.
fn our_labels(managed: &[ManagedFieldsEntry]) -> BTreeSet<String> {
    let ours = |e: &&ManagedFieldsEntry| {
        e.manager.as_deref() == Some(LEADER_MANAGER) && e.operation.as_deref() == Some("Apply")
    };
    let keys = |e: &ManagedFieldsEntry| {
        let labels = e
            .fields_v1
            .as_ref()?
            .0
            .pointer("/f:metadata/f:labels")?
            .as_object()?;
        Some(
            labels
                .keys()
                .filter_map(|k| k.strip_prefix("f:").map(str::to_owned))
                .collect::<Vec<_>>(),
        )
    };
    managed
        .iter()
        .filter(ours)
        .filter_map(keys)
        .flatten()
        .collect()
}

fn convert_pod(pod: &core::Pod, node: &NodeName, daemon_sets: &DaemonSets) -> Option<Pod> {
    Some(Pod {
        namespace: pod.metadata.namespace.clone()?,
        name: pod.metadata.name.clone()?,
        uid: pod.metadata.uid.clone()?.parse().ok()?,
        node: node.clone(),
        kind: pod_kind(pod, daemon_sets),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ready: is_ready(pod),
        managed: is_managed(pod, daemon_sets),
        empty_dir: has_empty_dir(pod),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        // The API server adds the grace period to it (kubernetes.io, "Object Meta", deletionTimestamp).
        ends: pod.metadata.deletion_timestamp.as_ref().map(|t| t.0),
        blocked: None,
    })
}

/// As kubectl tells them apart (pkg/drain/filters.go). A pod whose `DaemonSet` is gone is nobody's.
fn pod_kind(pod: &core::Pod, daemon_sets: &DaemonSets) -> PodKind {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let annotations = pod.metadata.annotations.as_ref();
    if annotations.is_some_and(|a| a.contains_key(MIRROR_ANNOTATION)) {
        PodKind::Mirror
    } else if matches!(phase, Some("Succeeded" | "Failed")) {
        PodKind::Finished
    } else if controller(pod).is_some_and(is_daemon_set) && is_managed(pod, daemon_sets) {
        PodKind::DaemonSet
    } else {
        PodKind::Ordinary
    }
}

/// A controller is taken at its word; of a `DaemonSet` alone kubectl asks whether it is there.
fn is_managed(pod: &core::Pod, daemon_sets: &DaemonSets) -> bool {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    controller(pod).is_some_and(|owner| {
        let named = (namespace, owner.name.clone());
        let is_there = || daemon_sets.as_ref().is_none_or(|d| d.contains(&named));
        !is_daemon_set(owner) || is_there()
    })
}

fn controller(pod: &core::Pod) -> Option<&OwnerReference> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.find(|o| o.controller == Some(true))
}

fn is_daemon_set(owner: &OwnerReference) -> bool {
    owner.kind == "DaemonSet"
}

fn has_empty_dir(pod: &core::Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.into_iter().any(|v| v.empty_dir.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_read_with_its_cordon_its_ticket_and_the_labels_that_are_ours() {
        let node: core::Node = serde_json::from_value(json!({
            "metadata": {
                "name": "demo-workers-abc234", "uid": "u1",
                "labels": {"tier": "web", "fabrik.dev/pool": "workers"},
                "annotations": {"fabrik.dev/ticket": "abc234"},
                "managedFields": [
                    {"manager": "fabrik-leader", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                     "fieldsV1": {"f:metadata": {"f:labels": {"f:fabrik.dev/pool": {}}}}},
                    {"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                     "fieldsV1": {"f:metadata": {"f:labels": {"f:tier": {}}}}}
                ]
            },
            "spec": {"unschedulable": true, "providerID": "hcloud://7"},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}
        }))
        .unwrap();
        let node = convert(node).unwrap();
        assert!(node.unschedulable && !node.ready && !node.control_plane);
        assert_eq!(node.cordoned_under.as_deref(), Some("abc234"));
        assert_eq!(
            node.our_labels,
            BTreeSet::from(["fabrik.dev/pool".to_owned()])
        );
    }

    #[test]
    fn pods_are_told_apart_as_kubectl_does() {
        let daemon_sets = Some([("web".to_owned(), "d".to_owned())].into());
        let seen = |pod: serde_json::Value| {
            let pod = serde_json::from_value(pod).unwrap();
            (pod_kind(&pod, &daemon_sets), is_managed(&pod, &daemon_sets))
        };
        let owned = |kind: &str, name: &str, controller: bool, phase: &str| {
            json!({"metadata": {"namespace": "web", "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind,
                "name": name, "uid": "u", "controller": controller}]}, "status": {"phase": phase}})
        };
        for (pod, kind, managed) in [
            (
                owned("DaemonSet", "d", true, "Running"),
                PodKind::DaemonSet,
                true,
            ),
            (
                owned("DaemonSet", "gone", true, "Running"),
                PodKind::Ordinary,
                false,
            ),
            (
                owned("DaemonSet", "d", false, "Running"),
                PodKind::Ordinary,
                false,
            ),
            (
                owned("DaemonSet", "d", true, "Failed"),
                PodKind::Finished,
                true,
            ),
            (
                owned("ReplicaSet", "r", true, "Running"),
                PodKind::Ordinary,
                true,
            ),
            (
                json!({"metadata": {}, "status": {"phase": "Running"}}),
                PodKind::Ordinary,
                false,
            ),
            (
                json!({"metadata": {}, "status": {"phase": "Succeeded"}}),
                PodKind::Finished,
                false,
            ),
            (
                json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
                PodKind::Mirror,
                false,
            ),
        ] {
            assert_eq!(seen(pod.clone()), (kind, managed), "{pod}");
        }
        let of_one_that_is_gone = owned("DaemonSet", "gone", true, "Running");
        let pod = serde_json::from_value(of_one_that_is_gone).unwrap();
        assert_eq!(pod_kind(&pod, &None), PodKind::DaemonSet, "nobody may ask");
    }

    #[test]
    fn only_the_system_s_daemons_must_be_ready() {
        let pod = |namespace: &str, owner: &str, ready: &str| {
            let there = Some([(namespace.to_owned(), "d".to_owned())].into());
            let pod = json!({
                "metadata": {"name": "p", "namespace": namespace, "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": owner, "name": "d", "uid": "u", "controller": true}]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
            });
            is_unready_daemon(&serde_json::from_value(pod).unwrap(), &there)
        };
        assert!(pod("kube-system", "DaemonSet", "False"));
        assert!(!pod("kube-system", "DaemonSet", "True"));
        assert!(!pod("web", "DaemonSet", "False"));
        assert!(!pod("kube-system", "ReplicaSet", "False"));
    }
}
