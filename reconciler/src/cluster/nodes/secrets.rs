//! What lies ready for nodes: for each a Secret that no other node may read.
//!
//! It is the applier that reads and writes them, not the leader's own identity. The leader's would need Secrets, Roles and
//! RoleBindings of this namespace for it, and who may grant a right has it; the applier may do all that already, and is
//! held by the same process.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fabrik_core::effect::NodeRef;
use fabrik_core::id::{NodeName, SecretsDigest};
use fabrik_core::names::{NAMESPACE, NODE_SECRETS_LABEL, ORDERS_MANAGER, SECRETS_ANNOTATION};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::NodeError;
use super::systems::stands_for;
use crate::delivery::Sealed;

/// The keys of its data.
pub const CIPHERTEXT_KEY: &str = "secrets.age";
pub const SIGNATURE_KEY: &str = "signature";
/// No built-in type: those mean something to others.
const TYPE: &str = "fabrik.dev/node-secrets";
const MANAGER: &str = "fabrik-secrets";
const PREFIX: &str = "node-";

/// What the Secret of a node is called, and the right to read it.
pub fn secrets_object(node: &NodeName) -> String {
    format!("{PREFIX}{node}")
}

/// Which secrets lie ready, by node. `noted` is what the nodes were told of: what one was not told of is not ready.
pub async fn observe_deliveries(
    applier: &Client,
    noted: &BTreeMap<NodeName, SecretsDigest>,
) -> Result<BTreeMap<NodeName, SecretsDigest>, NodeError> {
    let api: Api<Secret> = Api::namespaced(applier.clone(), NAMESPACE);
    let ours = ListParams::default().labels(NODE_SECRETS_LABEL);
    let listed = api.list_metadata(&ours).await;
    let listed = listed.map_err(|source| NodeError::List {
        what: "the secrets of nodes",
        source: Box::new(source),
    })?;
    let ready = listed.items.iter().filter_map(|object| {
        let node: NodeName = object.name_any().strip_prefix(PREFIX)?.parse().ok()?;
        let digest = object.annotations().get(SECRETS_ANNOTATION)?.parse().ok()?;
        (noted.get(&node) == Some(&digest)).then_some((node, digest))
    });
    Ok(ready.collect())
}

/// Lays secrets ready, with the right to read them before them, and then tells the node. All goes with its `FabrikNode`.
pub async fn deliver(
    leader: &Client,
    applier: &Client,
    node: &NodeRef,
    digest: &SecretsDigest,
    sealed: &Sealed,
) -> Result<(), NodeError> {
    let owner = stands_for(leader, "deliver secrets to", node).await?;
    let uid = owner.uid().unwrap_or_default();
    let objects = Objects {
        name: secrets_object(&node.name),
        node: &node.name,
        uid: &uid,
    };
    apply::<Role>(applier, objects.role()).await?;
    apply::<RoleBinding>(applier, objects.binding()).await?;
    apply::<Secret>(applier, objects.secret(digest, sealed)).await?;
    let note = json!({"metadata": {"uid": uid, "annotations": {SECRETS_ANNOTATION: digest}}});
    let params = PatchParams {
        field_manager: Some(ORDERS_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let noted = super::systems::dynamic(leader)
        .patch(node.name.as_str(), &params, &Patch::Merge(&note))
        .await;
    noted.map(drop).map_err(|source| NodeError::Refused {
        verb: "note the secrets of",
        object: format!("FabrikNode {}", node.name),
        source: Box::new(source),
    })
}

struct Objects<'a> {
    name: String,
    node: &'a NodeName,
    /// Of the `FabrikNode`.
    uid: &'a str,
}

impl Objects<'_> {
    fn metadata(&self) -> Value {
        json!({
            "name": self.name, "namespace": NAMESPACE, "labels": {NODE_SECRETS_LABEL: ""},
            "ownerReferences": [{"apiVersion": "fabrik.dev/v1alpha1", "kind": "FabrikNode", "name": self.node,
                "uid": self.uid}],
        })
    }

    /// To get it by its name: not to list, and not to write.
    fn role(&self) -> Value {
        let rule = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": [self.name], "verbs": ["get"]});
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": self.metadata(),
            "rules": [rule]})
    }

    fn binding(&self) -> Value {
        let group = "rbac.authorization.k8s.io";
        let node = json!({"apiGroup": group, "kind": "User", "name": format!("system:node:{}", self.node)});
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": self.metadata(),
            "roleRef": {"apiGroup": group, "kind": "Role", "name": self.name}, "subjects": [node]})
    }

    fn secret(&self, digest: &SecretsDigest, sealed: &Sealed) -> Value {
        let mut metadata = self.metadata();
        metadata["annotations"] = json!({SECRETS_ANNOTATION: digest});
        let data = json!({
            CIPHERTEXT_KEY: STANDARD.encode(&sealed.ciphertext),
            SIGNATURE_KEY: STANDARD.encode(&sealed.signature),
        });
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": TYPE, "data": data})
    }
}

async fn apply<K>(client: &Client, object: Value) -> Result<(), NodeError>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let params = PatchParams::apply(MANAGER).force();
    let applied = api.patch(name, &params, &Patch::Apply(&object)).await;
    applied.map(drop).map_err(|source| NodeError::Refused {
        verb: "apply",
        object: format!("{} {NAMESPACE}/{name}", K::kind(&())),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_may_read_one_secret_and_write_none() {
        let node = "w-1".parse().unwrap();
        let objects = Objects {
            name: secrets_object(&node),
            node: &node,
            uid: "u",
        };
        let role: Role = serde_json::from_value(objects.role()).unwrap();
        let rules = role.rules.unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0].verbs, ["get"]);
        assert_eq!(
            rules[0].resource_names.as_deref(),
            Some(["node-w-1".to_owned()].as_slice())
        );
        let binding: RoleBinding = serde_json::from_value(objects.binding()).unwrap();
        assert_eq!(binding.role_ref.name, "node-w-1");
        let subjects = binding.subjects.unwrap();
        let names: Vec<_> = subjects
            .iter()
            .map(|s| (s.kind.as_str(), s.name.as_str()))
            .collect();
        assert_eq!(names, [("User", "system:node:w-1")]);
        let sealed = Sealed {
            ciphertext: vec![0, 1],
            signature: "k:x".to_owned(),
        };
        let digest: SecretsDigest = "0".repeat(64).parse().unwrap();
        let secret: Secret = serde_json::from_value(objects.secret(&digest, &sealed)).unwrap();
        assert_eq!(secret.data.unwrap()[CIPHERTEXT_KEY].0, [0, 1]);
        assert_eq!(secret.metadata.owner_references.unwrap()[0].uid, "u");
    }
}
