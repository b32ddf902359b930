//! Which objects must be there before others.

use crate::desired::ObjectKey;

/// Objects of one stage don't wait for one another; a stage begins when the one before it has been sent. Prunes go
/// through the stages from the last to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// What gives others their place: namespaces and the definitions of kinds.
    Definitions,
    /// What workloads refer to when they start: classes, permissions, configuration, secrets.
    Foundations,
    Workloads,
    /// What can refuse other objects, and works only when the workload behind it does.
    Webhooks,
}

impl Stage {
    /// In the order of applying.
    pub const ALL: [Self; 4] = [
        Self::Definitions,
        Self::Foundations,
        Self::Workloads,
        Self::Webhooks,
    ];
}

pub fn stage(object: &ObjectKey) -> Stage {
    match (object.group.as_str(), object.kind.as_str()) {
        ("", "Namespace") | ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            Stage::Definitions
        }
        ("", "ServiceAccount" | "ConfigMap" | "Secret" | "ResourceQuota" | "LimitRange")
        | ("rbac.authorization.k8s.io", _) => Stage::Foundations,
        ("admissionregistration.k8s.io", _) | ("apiregistration.k8s.io", "APIService") => {
            Stage::Webhooks
        }
        (_, kind) if kind.ends_with("Class") => Stage::Foundations,
        _ => Stage::Workloads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_stage() {
        let table = [
            ("Namespace//web", Stage::Definitions),
            (
                "CustomResourceDefinition.apiextensions.k8s.io//a.b",
                Stage::Definitions,
            ),
            ("StorageClass.storage.k8s.io//fast", Stage::Foundations),
            (
                "GatewayClass.gateway.networking.k8s.io//x",
                Stage::Foundations,
            ),
            (
                "ClusterRole.rbac.authorization.k8s.io//r",
                Stage::Foundations,
            ),
            (
                "RoleBinding.rbac.authorization.k8s.io/web/r",
                Stage::Foundations,
            ),
            ("ServiceAccount/web/a", Stage::Foundations),
            ("Secret/web/a", Stage::Foundations),
            ("ConfigMap/web/a", Stage::Foundations),
            ("Deployment.apps/web/a", Stage::Workloads),
            ("Service/web/a", Stage::Workloads),
            ("Namespace.example.org//not-the-core-one", Stage::Workloads),
            (
                "ValidatingWebhookConfiguration.admissionregistration.k8s.io//w",
                Stage::Webhooks,
            ),
            ("APIService.apiregistration.k8s.io//v1.x", Stage::Webhooks),
        ];
        for (key, expected) in table {
            let key = ObjectKey::try_from(key.to_owned()).unwrap();
            assert_eq!(stage(&key), expected, "{key}");
        }
    }
}
