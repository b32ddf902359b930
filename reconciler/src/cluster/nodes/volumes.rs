//! Volumes as far as a node is concerned: such as exist on its disk alone, and such as are attached to it.

use std::collections::{BTreeMap, BTreeSet};

use fabrik_core::id::NodeName;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::NodeError;
use super::observe::list;

const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// A `PersistentVolumeClaim`, by namespace and name.
pub type Claim = (String, String);

/// What the `PersistentVolume`s tell.
#[derive(Debug, Default)]
pub struct VolumesSeen {
    /// Nodes that a bound local one is pinned to.
    pub pinned: BTreeSet<NodeName>,
    /// Whose each is.
    pub claims: BTreeMap<String, Claim>,
}

pub async fn observe_volumes(client: &Client) -> Result<VolumesSeen, NodeError> {
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let volumes = list(api, ListParams::default(), "persistentvolumes").await?;
    let bound = volumes.iter().filter(|v| is_bound(v));
    Ok(VolumesSeen {
        pinned: bound.flat_map(pinned_to).collect(),
        claims: volumes
            .iter()
            .filter_map(|v| Some((v.name_any(), claim(v)?)))
            .collect(),
    })
}

/// What CSI drivers have attached to those `nodes`, in words, but for the claims of pods that stay on each. No selector
/// finds the attachments of one node: they are listed whole.
pub async fn observe_attached(
    client: &Client,
    nodes: &BTreeMap<NodeName, BTreeSet<Claim>>,
    claims: &BTreeMap<String, Claim>,
) -> Result<BTreeMap<NodeName, Vec<String>>, NodeError> {
    let api: Api<VolumeAttachment> = Api::all(client.clone());
    let attachments = list(api, ListParams::default(), "volumeattachments").await?;
    let mut attached = BTreeMap::<NodeName, Vec<String>>::new();
    for attachment in attachments {
        let node = attachment.spec.node_name.parse::<NodeName>().ok();
        let Some((node, staying)) = node.and_then(|n| nodes.get_key_value(&n)) else {
            continue;
        };
        let volume = attachment.spec.source.persistent_volume_name.as_ref();
        let claim = volume.and_then(|v| claims.get(v));
        if !claim.is_some_and(|c| staying.contains(c)) {
            let words = match (volume, claim) {
                (Some(volume), Some((namespace, name))) => {
                    format!("{volume} (claim {namespace}/{name})")
                }
                (Some(volume), None) => volume.clone(),
                (None, _) => format!("of VolumeAttachment {}", attachment.name_any()),
            };
            attached.entry(node.clone()).or_default().push(words);
        }
    }
    Ok(attached)
}

/// Whether attachments can be read: it must be known before anything is evicted that the end of it can be seen.
pub async fn may_observe_attached(client: &Client) -> Result<(), NodeError> {
    let api: Api<VolumeAttachment> = Api::all(client.clone());
    let one = list(api, ListParams::default().limit(1), "volumeattachments");
    one.await.map(drop)
}

/// Claims that a pod mounts.
pub fn claims(pod: &Pod) -> Vec<Claim> {
    let namespace = pod.namespace().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| {
        let claim = volume.persistent_volume_claim.as_ref();
        let named = claim.map(|c| c.claim_name.clone());
        // kubernetes.io, "Ephemeral Volumes": PersistentVolumeClaim naming.
        let ephemeral = volume.ephemeral.as_ref();
        named.or_else(|| ephemeral.map(|_| format!("{}-{}", pod.name_any(), volume.name)))
    });
    names.map(|name| (namespace.clone(), name)).collect()
}

fn claim(volume: &PersistentVolume) -> Option<Claim> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some((claim.namespace.clone()?, claim.name.clone()?))
}

fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
}

/// The host names that the volume's node affinity allows: its only homes.
fn pinned_to(volume: &PersistentVolume) -> Vec<NodeName> {
    let affinity = volume
        .spec
        .as_ref()
        .and_then(|s| s.node_affinity.as_ref())
        .and_then(|a| a.required.as_ref());
    let terms = affinity.into_iter().flat_map(|a| &a.node_selector_terms);
    terms
        .flat_map(|t| t.match_expressions.iter().flatten())
        .filter(|e| e.key == HOSTNAME_LABEL && e.operator == "In")
        .flat_map(|e| e.values.iter().flatten())
        .filter_map(|name| name.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_local_volume_pins_its_host_while_it_is_bound() {
        let volume: PersistentVolume = serde_json::from_value(json!({
            "metadata": {"name": "v"},
            "spec": {"local": {"path": "/data"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}]}]}}},
            "status": {"phase": "Bound"}
        }))
        .unwrap();
        assert!(is_bound(&volume));
        assert_eq!(pinned_to(&volume), ["node-1".parse().unwrap()]);
    }

    #[test]
    fn a_pod_s_claims_are_those_it_names_and_those_made_for_it() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "db-0"},
            "spec": {"containers": [], "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}},
                {"name": "cache", "ephemeral": {}},
                {"name": "scratch", "emptyDir": {}},
            ]},
        }))
        .unwrap();
        let of_shop = |name: &str| ("shop".to_owned(), name.to_owned());
        assert_eq!(claims(&pod), [of_shop("data-db-0"), of_shop("db-0-cache")]);
    }
}
