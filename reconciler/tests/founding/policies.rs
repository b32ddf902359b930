//! What RBAC allows and fabrik's admission policies refuse.

use std::time::Duration;

use fabrik::cluster::resources::{FabrikLedger, FabrikNode, FabrikNodeSpec};
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::world::World;

const SERVER: &str = "server-1";

pub async fn guard_the_status_of_nodes(world: &World, leader: &Client) {
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
            caches: Vec::new(),
            order: None,
            retirement: None,
            standing: None,
        };
        let node = FabrikNode::new(name, spec);
        all.create(&PostParams::default(), &node).await.unwrap();
    }
    let by_a: Api<FabrikNode> = Api::all(world.node("a").await);
    let shared = shared_identity_that_may_report(world).await;
    let by_shared: Api<FabrikNode> = Api::all(shared);
    let by_leader: Api<FabrikNode> = Api::all(leader.clone());
    let policy = "fabrik-node-status";
    let params = PatchParams::default();
    let state = json!({"status": {"state": "well"}});
    let report = json!({"status": {"report": {"running": "/nix/store/forged"}}});
    for status in [state, report] {
        let patch = Patch::Merge(&status);
        by_a.patch_status("a", &params, &patch).await.unwrap();
        refused_by(policy, by_a.patch_status("b", &params, &patch).await);
        // Neither who may write the status of each Node, nor the leader, nor an admin speaks for a node.
        for other in [&by_shared, &by_leader, &all] {
            refused_by(policy, other.patch_status("a", &params, &patch).await);
        }
    }

    // Nor does it fill etcd with words.
    let words = "x".repeat(10_000);
    for status in [
        json!({"status": {"message": words}}),
        json!({"status": {"state": words}}),
        json!({"status": {"report": {"activity": {"message": words}}}}),
        json!({"status": {"sshHostKeys": [words]}}),
    ] {
        let patched = by_a
            .patch_status("a", &params, &Patch::Merge(&status))
            .await;
        let refused = patched.unwrap_err().to_string();
        assert!(refused.contains("may not be more than"), "{refused}");
    }
    let forged = json!({"status": {"sshHostKeys": ["ssh-ed25519 AAAA\n* ssh-ed25519 AAAA"]}});
    let patched = by_a
        .patch_status("a", &params, &Patch::Merge(&forged))
        .await;
    let refused = patched.unwrap_err().to_string();
    assert!(refused.contains("should match"), "{refused}");

    // What a node is to do is not its own to say, not even by way of its status.
    let order = json!({
        "spec": {"aim": "/nix/store/forged", "order": {"ticket": 9}},
        "metadata": {"annotations": {"fabrik.dev/release-ticket": "9"}},
        "status": {"state": "well"},
    });
    let order = Patch::Merge(&order);
    forbidden(by_a.patch("a", &params, &order).await);
    let by_status = by_a.patch_status("a", &params, &order).await;
    if let Ok(written) = by_status {
        assert_eq!((written.spec.aim, written.spec.order), (None, None));
        assert_eq!(written.metadata.annotations, None);
    }
    let kept = all.get("a").await.unwrap();
    assert_eq!((kept.spec.aim, kept.spec.order), (None, None));
    assert_eq!(kept.metadata.annotations, None);

    let ledgers: Api<FabrikLedger> = Api::all(world.node("a").await);
    forbidden(ledgers.get("ledger").await);
}

/// The identity that all agents of k3s share and that may write the status of every Node, should somebody give it the
/// rights of a node on top.
async fn shared_identity_that_may_report(world: &World) -> Client {
    const SHARED: &str = "system:k3s-controller";
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "test-shared-reports"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "fabrik-node"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": SHARED}],
    }))
    .unwrap();
    let bindings: Api<ClusterRoleBinding> = Api::all(world.bed.kube().await.unwrap());
    let post = PostParams::default();
    bindings.create(&post, &binding).await.unwrap();
    let shared = world.bed.kube_for(SHARED, None).await.unwrap();
    let nodes: Api<FabrikNode> = Api::all(shared.clone());
    let deadline = Duration::from_secs(30);
    let bound = async || Ok(nodes.get("a").await.ok());
    let what = "the binding is in force";
    world.bed.wait_until(what, deadline, bound).await.unwrap();
    shared
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

fn forbidden<T: std::fmt::Debug>(answer: Result<T, kube::Error>) {
    let error = answer.unwrap_err();
    assert!(
        matches!(&error, kube::Error::Api(status) if status.code == 403),
        "{error}"
    );
}

fn refused_by<T: std::fmt::Debug>(policy: &str, answer: Result<T, kube::Error>) {
    let error = answer.unwrap_err();
    let by_policy = matches!(&error, kube::Error::Api(status)
        if matches!(status.code, 403 | 422) && status.message.contains(policy));
    assert!(by_policy, "not refused by {policy}: {error}");
}
