//! fabrik's own definitions, identities and policies, as this build has them.
//!
//! Two builds share a cluster while an update of fabrik rolls through it. So what a newer one applied is never taken back
//! by an older one, and a version may only add to what the version before it needs.

use std::time::Duration;

use fabrik_core::names::{MANIFESTS_ANNOTATION, NAMESPACE};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::DEADLINE;
use crate::cluster::credentials::admin_client;
use crate::cluster::error::{ClusterError, while_doing};
use crate::cluster::found::FoundError;
use crate::cluster::resources::definitions;
use crate::config::Config;

/// Raised with each change of what is applied here; a test knows.
const VERSION: u32 = 4;
const MANIFESTS: [&str; 3] = [
    include_str!("../../../../manifests/fabrik/namespace.yaml"),
    include_str!("../../../../manifests/fabrik/rbac.yaml"),
    include_str!("../../../../manifests/fabrik/policies.yaml"),
];
const FOUNDING_MANAGER: &str = "fabrik-founding";
const RETRY: Duration = Duration::from_secs(30);

/// Applies them by the admin's kubeconfig where the cluster has older ones: another build of fabrik has come by a push,
/// and `fabrik found` was not repeated. Ends when they are there, or no kubeconfig is configured.
pub async fn keep_up(config: &Config) {
    if config.kubernetes.admin_kubeconfig.is_none() {
        return;
    }
    while let Err(error) = catch_up(config).await {
        warn!(%error, "fabrik's own definitions, rights and policies may be older than this fabrik");
        tokio::time::sleep(RETRY).await;
    }
}

async fn catch_up(config: &Config) -> Result<(), FoundError> {
    let admin = admin_client(config).await?;
    if applied(&admin).await? < VERSION {
        apply_manifests(&admin).await?;
        info!(
            version = VERSION,
            "renewed fabrik's own definitions, rights and policies"
        );
    }
    Ok(())
}

/// Applies them unless the cluster has newer ones, and waits until the definitions are served.
pub async fn apply_manifests(admin: &Client) -> Result<(), FoundError> {
    if applied(admin).await? > VERSION {
        return Ok(());
    }
    for (name, definition) in definitions() {
        let value = serde_json::to_value(&definition).map_err(|error| ClusterError::Malformed {
            object: name.to_owned(),
            problem: error.to_string(),
        })?;
        apply(admin, value).await?;
    }
    for manifest in MANIFESTS {
        for value in documents(manifest)? {
            apply(admin, value).await?;
        }
    }
    let served: Api<CustomResourceDefinition> = Api::all(admin.clone());
    for (_, definition) in definitions() {
        let name = definition.name_any();
        let established = await_condition(served.clone(), &name, conditions::is_crd_established());
        let last = match tokio::time::timeout(DEADLINE, established).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no condition Established".to_owned(),
        };
        return Err(FoundError::Timeout {
            what: format!("the definition {name} was not served"),
            deadline: DEADLINE,
            last,
        });
    }
    mark_as_applied(admin).await
}

/// 0 where none is marked: the first versions were not.
async fn applied(admin: &Client) -> Result<u32, ClusterError> {
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let namespace = namespaces.get_opt(NAMESPACE).await;
    let namespace = namespace.map_err(while_doing(format!("reading Namespace {NAMESPACE}")))?;
    let version = namespace.and_then(|mut n| n.annotations_mut().remove(MANIFESTS_ANNOTATION));
    Ok(version.and_then(|v| v.parse().ok()).unwrap_or(0))
}

/// Last of all: what was applied in part is applied again. By a manager of its own, or applying the namespace would take the
/// mark away.
async fn mark_as_applied(admin: &Client) -> Result<(), FoundError> {
    let mark = Patch::Apply(
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": NAMESPACE, "annotations": {MANIFESTS_ANNOTATION: VERSION.to_string()}}}),
    );
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let manager = PatchParams::apply("fabrik-manifests").force();
    let marked = namespaces.patch(NAMESPACE, &manager, &mark);
    marked
        .await
        .map_err(while_doing(format!("annotating Namespace {NAMESPACE}")))?;
    Ok(())
}

async fn apply(admin: &Client, value: Value) -> Result<(), ClusterError> {
    let malformed = |problem: String| ClusterError::Malformed {
        object: "a manifest of fabrik's own".to_owned(),
        problem,
    };
    let object: DynamicObject =
        serde_json::from_value(value).map_err(|error| malformed(error.to_string()))?;
    let types = object
        .types
        .clone()
        .ok_or_else(|| malformed("it has no kind".to_owned()))?;
    let gvk = types
        .try_into()
        .map_err(|_| malformed("its apiVersion is malformed".to_owned()))?;
    let resource = ApiResource::from_gvk(&gvk);
    let name = object.name_any();
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(admin.clone(), &namespace, &resource),
        None => Api::all_with(admin.clone(), &resource),
    };
    api.patch(
        &name,
        &PatchParams::apply(FOUNDING_MANAGER).force(),
        &Patch::Apply(&object),
    )
    .await
    .map_err(while_doing(format!("applying {} {name}", gvk.kind)))?;
    Ok(())
}

fn documents(manifest: &str) -> Result<Vec<Value>, ClusterError> {
    serde_saphyr::from_multiple(manifest).map_err(|error| ClusterError::Malformed {
        object: "a manifest of fabrik's own".to_owned(),
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ring::digest::{SHA256, digest};

    use super::*;

    #[test]
    fn every_embedded_manifest_reads_and_has_kind_and_name() {
        let mut kinds = BTreeSet::new();
        for value in MANIFESTS.iter().flat_map(|m| documents(m).unwrap()) {
            kinds.insert(value["kind"].as_str().unwrap().to_owned());
            assert!(value["metadata"]["name"].is_string());
        }
        assert!(
            kinds.contains("ValidatingAdmissionPolicyBinding") && kinds.contains("ServiceAccount")
        );
    }

    #[test]
    fn what_is_applied_has_a_version_of_its_own() {
        let definitions = definitions().map(|(_, d)| serde_json::to_string(&d).unwrap());
        let texts = definitions.into_iter().chain(MANIFESTS.map(str::to_owned));
        let digest = digest(&SHA256, texts.collect::<String>().as_bytes());
        let digest = fabrik_core::hex(&digest.as_ref()[..8]);
        assert_eq!(
            (VERSION, digest.as_str()),
            (4, "199679bb2b70dad7"),
            "raise VERSION where this differs from what was released"
        );
    }
}
