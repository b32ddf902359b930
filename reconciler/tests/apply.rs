//! The apply engine against a real API server.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fabrik_core::hold::HoldReason;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use self::api_server::ApiServer;
use self::world::{Leader, SOON, api, config, definition, found, namespace, units, wanted};

#[path = "apply/api_server.rs"]
mod api_server;
#[path = "apply/faults.rs"]
mod faults;
#[path = "apply/proxy.rs"]
mod proxy;
#[path = "apply/world.rs"]
mod world;

/// Polls until it holds.
pub async fn eventually(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < within, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn start() -> ApiServer {
    let server = ApiServer::start().await;
    found(&server.client).await;
    server
}

fn configs(server: &ApiServer) -> Api<ConfigMap> {
    Api::namespaced(server.client.clone(), "web")
}

async fn value_of(configs: &Api<ConfigMap>, name: &str) -> Option<String> {
    let live = configs.get_opt(name).await.unwrap()?;
    live.data?.get("key").cloned()
}

#[tokio::test]
async fn a_unit_with_its_own_namespace_and_kinds_is_applied_at_once_and_then_left_alone() {
    let server = start().await;
    let custom = json!({"apiVersion": "example.org/v1alpha1", "kind": "Database",
        "metadata": {"name": "orders", "namespace": "web"}, "spec": {"size": 1}});
    let crd = definition("example.org", "Database", "databases", "Namespaced");
    let objects = [
        custom,
        config("a", "1"),
        config("b", "1"),
        crd,
        namespace("web"),
    ];
    let mut leader = Leader::start(&server.client, wanted('1', &[("web", &objects)]));
    let report = leader.until_applied('1').await;
    let web = &report.units[&"web".parse().unwrap()];
    assert_eq!(
        (web.objects, web.ready, &web.errors),
        (5, 5, &vec![]),
        "{web:#?}"
    );

    let databases = api(
        &server.client,
        "example.org",
        "v1alpha1",
        "Database",
        "databases",
    );
    let live = databases.list(&ListParams::default()).await.unwrap();
    let labels = live.items[0].metadata.labels.as_ref().unwrap();
    assert_eq!(labels["fabrik.dev/unit"], "web");
    let unit = units(&server.client).get("web").await.unwrap();
    assert_eq!(
        unit.data["status"]["inventory"].as_object().unwrap().len(),
        5
    );
    let ready = &unit.data["status"]["conditions"][0];
    assert_eq!(ready["status"], "True", "{:#}", unit.data);
    assert_eq!(ready["observedGeneration"], 1);

    let before = server.applies().await;
    let mut next = objects.clone();
    next[1] = config("a", "2");
    leader.push(wanted('2', &[("web", &next)]));
    leader.until_applied('2').await;
    assert_eq!(value_of(&configs(&server), "a").await.as_deref(), Some("2"));
    assert_eq!(
        server.applies().await - before,
        1,
        "only what changed is sent"
    );
}

/// What a file says under `stringData` is in no field that the API server keeps.
#[tokio::test]
async fn a_secret_s_texts_are_put_back_and_go_with_their_lines() {
    let server = start().await;
    let secret = |texts: Value| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "web"},
            "type": "Opaque", "stringData": texts})
    };
    let both = [namespace("web"), secret(json!({"a": "1", "b": "2"}))];
    let mut leader = Leader::start(&server.client, wanted('1', &[("web", &both)]));
    leader.until_applied('1').await;

    let secrets: Api<Secret> = Api::namespaced(server.client.clone(), "web");
    let texts = async || {
        let data = secrets.get("s").await.unwrap().data.unwrap_or_default();
        data.into_iter()
            .map(|(key, value)| format!("{key}={}", String::from_utf8(value.0).unwrap()))
            .collect::<Vec<_>>()
    };
    let by_hand = Patch::Merge(json!({"stringData": {"a": "by hand"}}));
    let edit = PatchParams::default();
    secrets.patch("s", &edit, &by_hand).await.unwrap();
    eventually("the text is put back", SOON, async || {
        texts().await == ["a=1", "b=2"]
    })
    .await;

    let one = [namespace("web"), secret(json!({"b": "2"}))];
    leader.push(wanted('2', &[("web", &one)]));
    leader.until_applied('2').await;
    assert_eq!(texts().await, ["b=2"]);
}

#[tokio::test]
async fn what_is_changed_by_hand_is_put_back_and_what_a_controller_owns_is_not_taken() {
    let server = start().await;
    let configs = configs(&server);
    let objects = [
        namespace("web"),
        config("a", "1"),
        config("b", "1"),
        config("c", "1"),
    ];
    let mut leader = Leader::start(&server.client, wanted('1', &[("web", &objects)]));
    leader.until_applied('1').await;

    let edit = PatchParams {
        field_manager: Some("kubectl-edit".into()),
        ..PatchParams::default()
    };
    let by_hand = Patch::Merge(json!({"data": {"key": "by hand"}}));
    configs.patch("a", &edit, &by_hand).await.unwrap();
    eventually("the value is put back", SOON, async || {
        value_of(&configs, "a").await.as_deref() == Some("1")
    })
    .await;

    configs.delete("b", &DeleteParams::default()).await.unwrap();
    eventually("the object is back", SOON, async || {
        value_of(&configs, "b").await.is_some()
    })
    .await;

    let unlabel = Patch::Merge(json!({"metadata": {"labels": {"fabrik.dev/unit": null}}}));
    configs.patch("c", &edit, &unlabel).await.unwrap();
    eventually("the label is back", SOON, async || {
        configs.get("c").await.unwrap().metadata.labels.is_some()
    })
    .await;

    let operator = PatchParams {
        force: true,
        ..PatchParams::apply("settings-operator")
    };
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
        "data": {"key": "theirs"}});
    configs
        .patch("a", &operator, &Patch::Apply(theirs))
        .await
        .unwrap();
    let report = leader
        .until("the conflict is reported", |r| {
            r.units.values().any(|u| !u.holds.is_empty())
        })
        .await;
    let hold = &report.units[&"web".parse().unwrap()].holds[0];
    assert_eq!(hold.reason, HoldReason::Conflict);
    assert_eq!(hold.about, "ConfigMap/web/a");
    assert!(
        hold.message.contains("settings-operator (.data.key)"),
        "{hold}"
    );
    assert_eq!(value_of(&configs, "a").await.as_deref(), Some("theirs"));
}

#[tokio::test]
async fn what_leaves_the_repository_is_pruned_unless_a_guard_holds_it() {
    let server = start().await;
    let configs = configs(&server);
    let first = [namespace("web"), config("a", "1"), config("b", "1")];
    let mut leader = Leader::start(&server.client, wanted('1', &[("web", &first)]));
    leader.until_applied('1').await;
    let uid = configs.get("b").await.unwrap().metadata.uid;

    leader.push(wanted('2', &[("other", &[config("b", "1")])]));
    let report = leader
        .until("the namespace is held", |r| {
            r.units
                .values()
                .any(|u| u.holds.iter().any(|h| h.reason == HoldReason::PruneGuard))
                && r.units.values().all(|u| u.inventory.len() == 1)
        })
        .await;
    assert_eq!(
        leader.granted.load(Ordering::SeqCst),
        1,
        "recorded before the deletion"
    );
    assert!(configs.get_opt("a").await.unwrap().is_none());
    let moved = configs.get("b").await.unwrap();
    assert_eq!(
        moved.metadata.uid, uid,
        "it changed units and was not deleted"
    );
    assert_eq!(moved.metadata.labels.unwrap()["fabrik.dev/unit"], "other");
    let hold = &report.units[&"web".parse().unwrap()].holds[0];
    assert_eq!(hold.about, "Namespace//web");

    let namespaces: Api<Namespace> = Api::all(server.client.clone());
    let confirm =
        Patch::Merge(json!({"metadata": {"annotations": {"fabrik.dev/prune": "confirm"}}}));
    let params = PatchParams::default();
    namespaces.patch("web", &params, &confirm).await.unwrap();
    eventually("the namespace is deleted", SOON, async || {
        let live = namespaces.get_opt("web").await.unwrap();
        live.is_none_or(|n| n.metadata.deletion_timestamp.is_some())
    })
    .await;
}

#[tokio::test]
async fn too_many_prunes_at_once_are_held_and_a_pause_changes_nothing() {
    let server = start().await;
    let configs = configs(&server);
    let all = [namespace("web"), config("a", "1"), config("b", "1")];
    let mut leader = Leader::start(&server.client, wanted('1', &[("web", &all)]));
    leader.until_applied('1').await;

    let mut few = wanted('2', &[("web", &all[..1])]);
    few.limits.max_prune = 1;
    few.paused = Some("for the test".into());
    leader.push(few.clone());
    let paused = |r: &fabrik::apply::UnitsReport| {
        r.units
            .values()
            .any(|u| u.holds.iter().any(|h| h.reason == HoldReason::Paused))
    };
    leader.until("it is paused", paused).await;
    few.paused = None;
    leader.push(few.clone());
    leader
        .until("the prune is held", |r| {
            !paused(r)
                && r.units
                    .values()
                    .any(|u| u.holds.iter().any(|h| h.reason == HoldReason::PruneGuard))
        })
        .await;
    assert!(value_of(&configs, "a").await.is_some() && value_of(&configs, "b").await.is_some());
    few.limits.max_prune = 2;
    leader.push(few);
    leader.until_applied('2').await;
    assert!(value_of(&configs, "a").await.is_none() && value_of(&configs, "b").await.is_none());
}

#[tokio::test]
async fn one_bad_object_stops_no_other_and_no_secret_is_told() {
    let server = start().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "web"},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "hunter2-planted"}});
    let unknown = json!({"apiVersion": "example.org/v1alpha1", "kind": "Database",
        "metadata": {"name": "x", "namespace": "web"}});
    let typo = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "t", "namespace": "web"},
        "dta": {"key": "1"}});
    let homeless = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "h", "namespace": "nowhere"}});
    let objects = [
        secret,
        unknown,
        typo,
        homeless,
        namespace("web"),
        config("good", "1"),
    ];
    let mut leader = Leader::start(&server.client, wanted('1', &[("web", &objects)]));
    let report = leader
        .until("all errors are told at once", |r| {
            r.units.values().any(|u| u.errors.len() == 4)
        })
        .await;
    assert_eq!(
        value_of(&configs(&server), "good").await.as_deref(),
        Some("1")
    );
    let text = format!("{report:?}");
    assert!(!text.contains("hunter2"), "{text}");
    let unit = units(&server.client).get("web").await.unwrap();
    assert!(
        !unit.data.to_string().contains("hunter2"),
        "{:#}",
        unit.data
    );
    for part in [
        "knows no kind Database",
        "dta",
        "namespace nowhere does not exist",
        "Secret/web/s",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let definitions = api(
        &server.client,
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    );
    let crd = definition("example.org", "Database", "databases", "Namespaced");
    let params = PatchParams::apply("somebody");
    definitions
        .patch("databases.example.org", &params, &Patch::Apply(crd))
        .await
        .unwrap();
    let namespaces: Api<Namespace> = Api::all(server.client.clone());
    namespaces
        .patch("nowhere", &params, &Patch::Apply(namespace("nowhere")))
        .await
        .unwrap();
    leader
        .until("what was missing is there", |r| {
            r.units.values().any(|u| u.errors.len() == 2)
        })
        .await;
    let secrets: Api<Secret> = Api::namespaced(server.client.clone(), "web");
    assert!(secrets.get_opt("s").await.unwrap().is_none());
}

#[tokio::test]
async fn whenever_a_leader_is_lost_the_next_one_leaves_no_orphan() {
    let server = start().await;
    let names: Vec<String> = (0..6).map(|n| format!("c{n}")).collect();
    let objects = |value: &str| -> Vec<Value> {
        let configs = names.iter().map(|name| config(name, value));
        [namespace("web")].into_iter().chain(configs).collect()
    };
    for checks in [1, 3, 5, 8, 12, 18] {
        let all = objects(&checks.to_string());
        let lost = Leader::start_until(&server.client, wanted('1', &[("web", &all)]), checks);
        assert!(lost.ended().await.is_err(), "{checks} checks");
        let stored = units(&server.client).get_opt("web").await.unwrap();
        let inventory = stored
            .map(|u| u.data["status"]["inventory"].clone())
            .unwrap_or_default();
        let live = configs(&server).list(&ListParams::default()).await.unwrap();
        let ours = live.items.iter().filter(|c| c.metadata.labels.is_some());
        for config in ours {
            let key = format!("ConfigMap/web/{}", config.metadata.name.as_ref().unwrap());
            assert!(
                inventory.get(&key).is_some(),
                "{key} is in no inventory: {inventory}"
            );
        }
        let mut next = Leader::start(&server.client, wanted('2', &[("web", &all[..2])]));
        next.until_applied('2').await;
        let live = configs(&server).list(&ListParams::default()).await.unwrap();
        let ours = live.items.iter().filter(|c| c.metadata.labels.is_some());
        assert_eq!(ours.count(), 1, "after {checks} checks");
        assert!(next.lose().await.is_err());
    }
}
