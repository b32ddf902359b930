//! The engine when somebody made a mistake, or the API server is not well.

use fabrik::apply::UnitsReport;
use fabrik_core::hold::{Hold, HoldReason};
use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::proxy::Proxy;
use crate::world::{
    Leader, SOON, api, config, definition, found, found_as, namespace, units, wanted,
};
use crate::{configs, eventually, start, value_of};

const DEFINITION: (&str, &str, &str, &str) = (
    "apiextensions.k8s.io",
    "v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
);

fn custom(kind: &str, namespace: Option<&str>) -> Value {
    let mut object = json!({"apiVersion": "example.org/v1alpha1", "kind": kind,
        "metadata": {"name": "x"}});
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

/// Somebody else's definition: the commits know nothing of it.
async fn define(server: &ApiServer, kind: &str, plural: &str, scope: &str) {
    let (group, version, definition_kind, definitions) = DEFINITION;
    let definitions = api(&server.client, group, version, definition_kind, definitions);
    let value = definition("example.org", kind, plural, scope);
    let name = format!("{plural}.example.org");
    let params = PatchParams::apply("somebody");
    definitions
        .patch(&name, &params, &Patch::Apply(value))
        .await
        .unwrap();
    let objects = databases(server, kind, plural);
    eventually("the kind is served", SOON, async || {
        objects.list(&ListParams::default()).await.is_ok()
    })
    .await;
}

fn databases(server: &ApiServer, kind: &str, plural: &str) -> Api<DynamicObject> {
    api(&server.client, "example.org", "v1alpha1", kind, plural)
}

fn holds(report: &UnitsReport) -> impl Iterator<Item = &Hold> {
    report.units.values().flat_map(|unit| &unit.holds)
}

#[tokio::test]
async fn a_namespace_that_was_forgotten_or_too_much_can_be_corrected() {
    let server = start().await;
    define(&server, "Database", "databases", "Namespaced").await;
    define(&server, "Region", "regions", "Cluster").await;
    let wrong = [
        namespace("web"),
        custom("Database", None),
        custom("Region", Some("web")),
    ];
    let mut leader = Leader::start(&server.client, wanted('1', &[("web", &wrong)]));
    leader
        .until("both are told", |r| {
            r.units.values().any(|u| u.errors.len() == 2)
        })
        .await;
    let right = [
        namespace("web"),
        custom("Database", Some("web")),
        custom("Region", None),
    ];
    leader.push(wanted('2', &[("web", &right)]));
    let report = leader.until_applied('2').await;
    let web = &report.units[&"web".parse().unwrap()];
    assert_eq!((web.inventory.len(), &web.errors), (3, &vec![]), "{web:#?}");
}

#[tokio::test]
async fn an_object_of_a_kind_that_the_group_s_preferred_version_lacks_is_pruned() {
    let server = start().await;
    let mut stable = definition("example.org", "Gateway", "gateways", "Namespaced");
    stable["spec"]["versions"][0]["name"] = json!("v1");
    let young = definition("example.org", "Route", "routes", "Namespaced");
    let all = [
        namespace("web"),
        stable,
        young,
        custom("Route", Some("web")),
    ];
    let mut leader = Leader::start(&server.client, wanted('1', &[("web", &all)]));
    leader.until_applied('1').await;
    assert!(leader.lose().await.is_err());

    let proxy = Proxy::default();
    let client = proxy.client(&server.client);
    let mut next = Leader::start(&client, wanted('2', &[("web", &all[..3])]));
    next.until_applied('2').await;
    let routes = databases(&server, "Route", "routes");
    let left = routes.list(&ListParams::default()).await.unwrap().items;
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_group_is_asked_for_once_however_many_of_its_objects_are_to_be_pruned() {
    let server = start().await;
    let crd = definition("example.org", "Database", "databases", "Namespaced");
    let mut all = vec![namespace("web"), crd];
    for n in 0..8 {
        let mut object = custom("Database", Some("web"));
        object["metadata"]["name"] = json!(format!("x{n}"));
        all.push(object);
    }
    let mut leader = Leader::start(&server.client, wanted('1', &[("web", &all)]));
    leader.until_applied('1').await;
    assert!(leader.lose().await.is_err());

    let proxy = Proxy::default();
    let client = proxy.client(&server.client);
    let mut next = Leader::start(&client, wanted('2', &[("web", &all[..2])]));
    next.until_applied('2').await;
    // Once for the prunes, and once more at most because the watch of definitions began meanwhile.
    let asked = proxy.count("/apis/example.org/v1alpha1");
    assert!(asked <= 2, "asked {asked} times");
}

#[tokio::test]
async fn what_can_not_be_looked_at_counts_against_max_prune() {
    let server = start().await;
    let all: Vec<Value> = (0..4).map(|n| config(&format!("c{n}"), "1")).collect();
    let all = [vec![namespace("web")], all].concat();
    let proxy = Proxy::default();
    let client = proxy.client(&server.client);
    let mut leader = Leader::start(&client, wanted('1', &[("web", &all)]));
    leader.until_applied('1').await;

    proxy.fail(|method, path| {
        let hidden = path.ends_with("/configmaps/c0") || path.ends_with("/configmaps/c1");
        (method == Method::GET && hidden).then_some(StatusCode::SERVICE_UNAVAILABLE)
    });
    let mut few = wanted('2', &[("web", &all[..1])]);
    few.limits.max_prune = 2;
    leader.push(few);
    leader
        .until("the prune is held", |r| {
            holds(r).any(|h| h.reason == HoldReason::PruneGuard)
        })
        .await;
    let live = configs(&server).list(&ListParams::default()).await.unwrap();
    let ours = live.items.iter().filter(|c| c.metadata.labels.is_some());
    assert_eq!(ours.count(), 4);
}

#[tokio::test]
async fn a_webhook_that_refuses_everything_can_be_removed() {
    let server = start().await;
    let webhook = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "dead"},
        "webhooks": [{"name": "dead.example.org", "failurePolicy": "Fail", "sideEffects": "None",
            "timeoutSeconds": 1, "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://127.0.0.1:1/"},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                "operations": ["CREATE", "UPDATE", "DELETE"], "scope": "*"}]}]});
    let first = [
        namespace("web"),
        config("a", "1"),
        config("old", "1"),
        webhook,
    ];
    let mut leader = Leader::start(&server.client, wanted('1', &[("web", &first)]));
    leader.until_applied('1').await;
    let refused = async || {
        let mut probe: ConfigMap = serde_json::from_value(config("probe", "1")).unwrap();
        probe.metadata.namespace = None;
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        configs(&server).create(&dry_run, &probe).await.is_err()
    };
    eventually("the webhook is in force", SOON, refused).await;
    let second = [namespace("web"), config("a", "2")];
    leader.push(wanted('2', &[("web", &second)]));
    leader.until_applied('2').await;
    assert_eq!(value_of(&configs(&server), "a").await.as_deref(), Some("2"));
    assert!(value_of(&configs(&server), "old").await.is_none());
}

#[tokio::test]
async fn prunes_wait_for_what_was_never_applied_and_say_so_but_not_for_a_conflict() {
    let server = start().await;
    let configs = configs(&server);
    let first = [namespace("web"), config("a", "1"), config("b", "1")];
    let mut leader = Leader::start(&server.client, wanted('1', &[("web", &first)]));
    leader.until_applied('1').await;

    let typo = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "new", "namespace": "web"}, "dta": {"key": "1"}});
    let renamed = [namespace("web"), config("a", "1"), typo];
    leader.push(wanted('2', &[("web", &renamed)]));
    let report = leader
        .until("the wait is told", |r| {
            holds(r).any(|h| h.reason == HoldReason::PruneGuard)
        })
        .await;
    let hold = holds(&report).find(|h| h.reason == HoldReason::PruneGuard);
    let message = &hold.unwrap().message;
    assert!(message.contains("ConfigMap/web/new"), "{message}");
    assert!(value_of(&configs, "b").await.is_some());

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
    leader.push(wanted('3', &[("web", &first[..2])]));
    eventually("b is pruned beside the conflict", SOON, async || {
        value_of(&configs, "b").await.is_none()
    })
    .await;
    assert_eq!(value_of(&configs, "a").await.as_deref(), Some("theirs"));
}

#[tokio::test]
async fn units_that_can_not_be_read_stop_no_other_and_are_told() {
    let server = ApiServer::start().await;
    let loose = definition("fabrik.dev", "FabrikUnit", "fabrikunits", "Cluster");
    found_as(&server.client, loose).await;
    let fabrik_units = units(&server.client);
    let create = async |name: &str| {
        let unit = json!({"apiVersion": "fabrik.dev/v1alpha1", "kind": "FabrikUnit",
            "metadata": {"name": name}, "spec": {}});
        let unit: DynamicObject = serde_json::from_value(unit).unwrap();
        fabrik_units.create(&PostParams::default(), &unit).await
    };
    for name in ["a.b", "torn"] {
        create(name).await.unwrap();
    }
    found(&server.client).await;
    eventually("no other such name is let in", SOON, async || {
        let answer = create("c.d").await;
        fabrik_units
            .delete("c.d", &DeleteParams::default())
            .await
            .ok();
        answer.is_err_and(|e| e.to_string().contains("a folder under manifests/"))
    })
    .await;
    let status = |inventory: Value| Patch::Merge(json!({"status": {"inventory": inventory}}));
    let params = PatchParams::default();
    fabrik_units
        .patch_status("torn", &params, &status(json!({"nonsense": "1"})))
        .await
        .unwrap();
    let objects = [namespace("web"), config("a", "1")];
    let mut leader = Leader::start(&server.client, wanted('1', &[("web", &objects)]));
    let report = leader
        .until("the other unit is ready, and both are told", |r| {
            let web = r.units.get(&"web".parse().unwrap());
            let told = format!("{r:?}");
            web.is_some_and(|u| u.ready == 2) && told.contains("`a.b`") && told.contains("nonsense")
        })
        .await;
    assert!(!report.applied, "what is left of `torn` is not known");
    eventually("the status of the other is written", SOON, async || {
        let web = fabrik_units.get("web").await.unwrap();
        web.data["status"]["conditions"][0]["status"] == "True"
    })
    .await;
    let torn = fabrik_units.get("torn").await.unwrap();
    assert_eq!(torn.data["status"]["inventory"]["nonsense"], "1");

    fabrik_units
        .patch_status("torn", &params, &status(json!({"nonsense": null})))
        .await
        .unwrap();
    leader.until_applied('1').await;
    assert!(fabrik_units.get_opt("torn").await.unwrap().is_none());
}

#[tokio::test]
async fn a_unit_whose_inventory_can_not_be_written_stops_no_other() {
    let server = start().await;
    let proxy = Proxy::default();
    proxy.fail(|method, path| {
        let big = path.ends_with("/fabrikunits/big/status");
        (method == Method::PUT && big).then_some(StatusCode::PAYLOAD_TOO_LARGE)
    });
    let client = proxy.client(&server.client);
    let (big, web) = ([config("b", "1")], [namespace("web"), config("a", "1")]);
    let mut leader = Leader::start(&client, wanted('1', &[("big", &big), ("web", &web)]));
    let big: fabrik_core::id::UnitName = "big".parse().unwrap();
    leader
        .until("it is told", |r| {
            let told = r.units.get(&big).map(|u| format!("{:?}", u.holds));
            told.is_some_and(|t| t.contains("planted"))
        })
        .await;
    let fabrik_units = units(&server.client);
    eventually("the status of the other is written", SOON, async || {
        let web = fabrik_units.get_opt("web").await.unwrap();
        web.is_some_and(|u| u.data["status"]["conditions"][0]["status"] == "True")
    })
    .await;
    assert!(value_of(&configs(&server), "b").await.is_none());
    proxy.mend();
    leader.until_applied('1').await;
    assert!(value_of(&configs(&server), "b").await.is_some());
}
