//! Which kinds live in namespaces: those of Kubernetes by a table, those of a commit by its own definitions.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Object;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// Scopes of the kinds that the commit's own `CustomResourceDefinition`s define, and of the built-in ones.
#[derive(Debug, Clone, Default)]
pub struct Scopes {
    defined: BTreeMap<(String, String), Scope>,
}

/// Kubernetes' own groups. In these, what `CLUSTER_SCOPED` does not list is namespaced.
const GROUPS: [&str; 17] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// Written down by hand from the API reference of Kubernetes 1.36, in the groups' preferred versions. Only discovery in a
/// cluster is the truth: of a group that neither `GROUPS` nor this lists, an object keeps the namespace that it says.
const CLUSTER_SCOPED: [(&str, &str); 29] = [
    ("", "ComponentStatus"),
    ("", "Namespace"),
    ("", "Node"),
    ("", "PersistentVolume"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"),
    (
        "admissionregistration.k8s.io",
        "MutatingAdmissionPolicyBinding",
    ),
    (
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
    ),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
    (
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding",
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
    ),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "APIService"),
    ("certificates.k8s.io", "CertificateSigningRequest"),
    ("certificates.k8s.io", "ClusterTrustBundle"),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
    ("networking.k8s.io", "IPAddress"),
    ("networking.k8s.io", "IngressClass"),
    ("networking.k8s.io", "ServiceCIDR"),
    ("node.k8s.io", "RuntimeClass"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("resource.k8s.io", "DeviceClass"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("storage.k8s.io", "CSIDriver"),
    ("storage.k8s.io", "CSINode"),
    ("storage.k8s.io", "StorageClass"),
    ("storage.k8s.io", "VolumeAttachment"),
    ("storage.k8s.io", "VolumeAttributesClass"),
];

impl Scopes {
    pub fn of(objects: &[Object]) -> Self {
        let definitions = objects
            .iter()
            .filter(|o| o.key.kind == "CustomResourceDefinition");
        Self {
            defined: definitions.filter_map(|o| definition(&o.value)).collect(),
        }
    }

    /// `None` for a kind that only the cluster knows.
    pub fn get(&self, group: &str, kind: &str) -> Option<Scope> {
        let defined = self
            .defined
            .get(&(group.to_owned(), kind.to_owned()))
            .copied();
        if CLUSTER_SCOPED.contains(&(group, kind)) {
            Some(Scope::Cluster)
        } else if GROUPS.contains(&group) {
            Some(Scope::Namespaced)
        } else {
            defined
        }
    }
}

fn definition(value: &Value) -> Option<((String, String), Scope)> {
    let spec = value.get("spec")?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let group = text(spec.get("group"))?;
    let kind = text(spec.get("names").and_then(|names| names.get("kind")))?;
    let scope = match text(spec.get("scope"))?.as_str() {
        "Cluster" => Scope::Cluster,
        "Namespaced" => Scope::Namespaced,
        _ => return None,
    };
    Some(((group, kind), scope))
}
