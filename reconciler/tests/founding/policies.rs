//! What RBAC allows and fabrik's admission policies refuse.

use fabrik::cluster::resources::{FabrikLedger, FabrikNode, FabrikNodeSpec};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::world::World;

const SERVER: &str = "server-1";

pub async fn guard_the_status_of_nodes(world: &World) {
    let admin = world.bed.kube().await.unwrap();
    let all: Api<FabrikNode> = Api::all(admin);
    for name in ["a", "b"] {
        let spec = FabrikNodeSpec {
            pool: "workers".to_owned(),
            server_id: 1,
            uid: String::new(),
            intent: String::new(),
            aim: None,
            publication: None,
            order: None,
        };
        let node = FabrikNode::new(name, spec);
        all.create(&PostParams::default(), &node).await.unwrap();
    }
    let by_a: Api<FabrikNode> = Api::all(world.node("a").await);
    let state = json!({"status": {"state": "well"}});
    let write = async |name: &str| {
        let params = PatchParams::default();
        by_a.patch_status(name, &params, &Patch::Merge(&state))
            .await
    };
    write("a").await.unwrap();
    refused_by("fabrik-node-status", write("b").await);

    let ledgers: Api<FabrikLedger> = Api::all(world.node("a").await);
    let error = ledgers.get("ledger").await.unwrap_err();
    assert!(
        matches!(&error, kube::Error::Api(status) if status.code == 403),
        "{error}"
    );
}

/// Neither the identity that k3s' agents share nor the kubelet itself writes `fabrik.dev/…` on a Node.
pub async fn guard_fabriks_keys(world: &World, leader: &Client) {
    let ours: Api<Node> = Api::all(leader.clone());
    let shared = world.bed.kube_for("system:k3s-controller", None).await;
    let shared: Api<Node> = Api::all(shared.unwrap());
    let kubelet: Api<Node> = Api::all(world.node(SERVER).await);
    let params = PatchParams::default();
    let status = async |body: Value| {
        shared
            .patch_status(SERVER, &params, &Patch::Merge(body))
            .await
    };
    let own = async |body: Value| kubelet.patch(SERVER, &params, &Patch::Merge(body)).await;

    for map in ["labels", "annotations"] {
        let body = |key: &str, value: Option<&str>| json!({"metadata": {map: {key: value}}});
        status(body("example.com/x", Some("y"))).await.unwrap();
        own(body("example.com/x", Some("z"))).await.unwrap();
        let forged = body("fabrik.dev/test", Some("forged"));
        refused_by("fabrik-node-keys", status(forged.clone()).await);
        refused_by("fabrik-node-keys", own(forged.clone()).await);

        let set = body("fabrik.dev/test", Some("ours"));
        ours.patch(SERVER, &params, &Patch::Merge(set))
            .await
            .unwrap();
        refused_by("fabrik-node-keys", status(forged).await);
        refused_by(
            "fabrik-node-keys",
            status(body("fabrik.dev/test", None)).await,
        );
        // With our keys in place, all else goes on.
        status(body("example.com/x", None)).await.unwrap();
    }
}

pub async fn guard_secrets(world: &World, leader: &Client) {
    let ours: Api<Secret> = Api::namespaced(leader.clone(), "kube-system");
    let admins: Api<Secret> = Api::namespaced(world.bed.kube().await.unwrap(), "kube-system");
    let post = PostParams::default();
    let secret = |name: &str, kind: &str, labels: Value| -> Secret {
        let metadata = json!({"name": name, "labels": labels});
        serde_json::from_value(json!({"metadata": metadata, "type": kind})).unwrap()
    };
    let token = "bootstrap.kubernetes.io/token";
    let label = json!({"fabrik.dev/intent": "abcdef"});

    let mine = secret("bootstrap-token-abcdef", token, label.clone());
    ours.create(&post, &mine).await.unwrap();
    let others = [
        secret("opaque", "Opaque", label),
        secret("bootstrap-token-other1", token, json!({})),
    ];
    for other in others {
        let name = other.metadata.name.clone().unwrap();
        refused_by("fabrik-join-tokens", ours.create(&post, &other).await);
        admins.create(&post, &other).await.unwrap();
        let deleted = ours.delete(&name, &DeleteParams::default()).await;
        refused_by("fabrik-join-tokens", deleted);
    }
    let name = mine.metadata.name.unwrap();
    ours.delete(&name, &DeleteParams::default()).await.unwrap();
}

fn refused_by<T: std::fmt::Debug>(policy: &str, answer: Result<T, kube::Error>) {
    let error = answer.unwrap_err();
    let by_policy = matches!(&error, kube::Error::Api(status)
        if matches!(status.code, 403 | 422) && status.message.contains(policy));
    assert!(by_policy, "not refused by {policy}: {error}");
}
