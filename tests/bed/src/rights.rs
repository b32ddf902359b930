//! Rights in a cluster of those whom k3s, or the bed, has there besides Nodes.

use anyhow::Result;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Api;
use kube::api::PostParams;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The identity that all agents of k3s share.
const K3S_CONTROLLER: &str = "system:k3s-controller";
/// The identity of KWOK.
pub const KWOK_USER: &str = "bed:kwok";

/// Gives them what they may do. What is there already stays.
pub async fn grant_all(client: &kube::Client) -> Result<()> {
    grant(client, K3S_CONTROLLER, &k3s_controller_rules()).await?;
    grant(client, KWOK_USER, &kwok_rules()).await
}

/// The rights of the identity that all agents of k3s share.
fn k3s_controller_rules() -> Value {
    json!([
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["update", "patch"]},
        {"apiGroups": [""], "resources": ["namespaces", "pods", "services"],
         "verbs": ["list", "watch"]},
    ])
}

/// KWOK looks at Nodes and plays pods. It may not write a Node.
fn kwok_rules() -> Value {
    json!([
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods"],
         "verbs": ["get", "list", "watch", "update", "patch", "delete"]},
        {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["update", "patch"]},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"],
         "verbs": ["create", "update", "patch"]},
    ])
}

/// A cluster role named like the user, and its binding to the user.
async fn grant(client: &kube::Client, user: &str, rules: &Value) -> Result<()> {
    let role: ClusterRole =
        serde_json::from_value(json!({"metadata": {"name": user}, "rules": rules}))?;
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }))?;
    create(Api::all(client.clone()), &role).await?;
    create(Api::all(client.clone()), &binding).await
}

async fn create<K>(api: Api<K>, object: &K) -> Result<()>
where
    K: Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    match api.create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        created => Ok(created.map(drop)?),
    }
}
