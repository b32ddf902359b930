//! What we remember of a live object: enough to tell our own writes from other people's.

use std::hash::{DefaultHasher, Hash, Hasher};

use fabrik_core::desired::ObjectKey;
use fabrik_core::names::APPLIER_MANAGER;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::core::{ApiResource, ObjectMeta};

/// An object's metadata as we need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Live {
    pub uid: String,
    /// Of its resource version. API servers promise that these grow, and that they can be compared (KEP-5504).
    pub version: u64,
    /// Of the fields that are ours; `None` if none is.
    pub fingerprint: Option<u64>,
    /// The last manager that is not us, of more than its status.
    pub other: Option<String>,
}

impl Live {
    pub fn of(meta: &ObjectMeta) -> Self {
        let entries = meta.managed_fields.as_deref().unwrap_or_default();
        // Controllers write the status of what somebody else has changed.
        let of_fields = |e: &&ManagedFieldsEntry| e.subresource.as_deref() != Some("status");
        let others = entries.iter().filter(|e| !is_ours(e)).filter(of_fields);
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            version: version(meta),
            fingerprint: entries.iter().find(|e| is_ours(e)).map(fingerprint),
            other: others
                .max_by_key(|e| e.time.as_ref().map(|t| t.0))
                .and_then(|e| e.manager.clone()),
        }
    }
}

pub(super) fn version(meta: &ObjectMeta) -> u64 {
    let text = meta.resource_version.as_deref();
    text.and_then(|v| v.parse().ok()).unwrap_or(u64::MAX)
}

pub(super) fn key(resource: &ApiResource, meta: &ObjectMeta) -> ObjectKey {
    ObjectKey {
        group: resource.group.clone(),
        kind: resource.kind.clone(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(APPLIER_MANAGER)
        && entry.operation.as_deref() == Some("Apply")
        && entry.subresource.as_deref().unwrap_or_default().is_empty()
}

/// Whoever changes one of our fields takes it from our entry, so the entry changes whenever a value of ours does.
fn fingerprint(entry: &ManagedFieldsEntry) -> u64 {
    let mut hasher = DefaultHasher::new();
    entry.api_version.hash(&mut hasher);
    let fields = entry.fields_v1.as_ref().map(|f| f.0.to_string());
    fields.hash(&mut hasher);
    hasher.finish()
}
