//! A smaller count: workers leave in order, and nothing else is touched.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use fabrik_bed::Options;
use fabrik_bed::audit;
use fabrik_e2e::{LEADER, SOON, World, list, name};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

const SHOP: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - labelSelector: {matchLabels: {app: shop}}
            topologyKey: kubernetes.io/hostname
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchExpressions:
              - {key: node-role.kubernetes.io/control-plane, operator: DoesNotExist}
      containers: [{name: shop, image: shop}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: shop-stays, namespace: default}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: shop}}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_not_wanted_leaves_in_order() -> Result<()> {
    let world = World::start(Options::default()).await?;
    let first = world.bed.default_repo(2)?;
    world.workers_ready(2).await?;
    world.carried_out(&first).await?;
    world.kubectl_apply(SHOP)?;
    world
        .bed
        .wait_until("a pod runs on each worker", SOON, async || {
            Ok((shop_nodes(&world)?.len() == 2).then_some(()))
        })
        .await?;
    add_foreign(&world).await?;
    let before = world.hetzner().await?;
    let mark = world.last_request().await?;

    world.push_edited("count = 2", "count = 1")?;
    let leaving = blocked(&world).await?;
    // Nothing was taken from it while the budget forbids it.
    assert_eq!(shop_nodes(&world)?.len(), 2);
    let events = world.server_events().await?;
    ensure!(!events.iter().any(|e| e["kind"] == "off"), "{events:#?}");

    world
        .bed
        .kubectl(&["delete", "poddisruptionbudget", "shop-stays"])?;
    let left = world.workers_ready(1).await?;
    ensure!(name(&left[0]) != leaving, "the other one left");
    check_order(&world, &leaving).await?;
    check_foreign(&world, &before, mark, &leaving).await?;
    world.bed.shutdown().await;
    Ok(())
}

/// The nodes on which the shop's pods run.
fn shop_nodes(world: &World) -> Result<BTreeSet<String>> {
    let pods = list(&world.get(&["pods", "-l", "app=shop"])?, "items");
    let running = pods.iter().filter(|p| p["status"]["phase"] == "Running");
    let nodes = running.filter_map(|p| p["spec"]["nodeName"].as_str());
    Ok(nodes.map(str::to_owned).collect())
}

/// What others have in the same project, as like ours as it can be.
async fn add_foreign(world: &World) -> Result<()> {
    let hetzner = world.bed.hetzner();
    let labels = json!({"fabrik.dev/cluster": "another-cluster", "fabrik.dev/role": "agent",
        "fabrik.dev/pool": "workers", "fabrik.dev/intent": "zzzzzz"});
    for (name, labels) in [("demo-workers-zzzzzz", &labels), ("a-pet", &json!({}))] {
        let body = json!({"name": name, "server_type": "cx33", "image": "debian-12",
            "location": "fsn1", "labels": labels});
        hetzner.create_server(&body).await?;
        let network = json!({"name": format!("{name}-net"), "ip_range": "10.0.0.0/16",
            "labels": labels});
        hetzner.call(Method::POST, "/networks", &network).await?;
    }
    Ok(())
}

/// Waits until one worker is cordoned and can't be drained; returns its name.
async fn blocked(world: &World) -> Result<String> {
    let leaving = world
        .bed
        .wait_until("one worker is cordoned", SOON, async || {
            let nodes = list(&world.get(&["nodes"])?, "items");
            let cordoned = nodes.iter().find(|n| n["spec"]["unschedulable"] == true);
            Ok(cordoned.map(|n| name(&n["metadata"])))
        })
        .await?;
    world
        .bed
        .wait_until("the budget refuses an eviction", SOON, async || {
            Ok((evictions(&world.audit()?, 429) > 0).then_some(()))
        })
        .await?;
    world
        .bed
        .wait_until("the blocker is named everywhere", SOON, async || {
            let page = world.fabrik(&["status"])?.ok()?;
            let described = world.described()?;
            let events = world.bed.kubectl(&["get", "events", "-A"])?;
            for (place, text) in [
                ("fabrik status", &page),
                ("kubectl describe", &described),
                ("the events", &events),
            ] {
                ensure!(text.contains("shop-stays"), "not in {place}: {text}");
                ensure!(text.contains(&leaving), "{leaving} not in {place}: {text}");
            }
            Ok(Some(()))
        })
        .await?;
    Ok(leaving)
}

fn evictions(audit: &[audit::Event], code: u16) -> usize {
    let counts = |event: &&audit::Event| {
        event.user.username == LEADER
            && event
                .object_ref
                .as_ref()
                .is_some_and(|o| o.subresource == "eviction")
            && event
                .response_status
                .as_ref()
                .is_some_and(|s| s.code == code)
    };
    audit.iter().filter(counts).count()
}

/// Cordon, eviction, power off, Node, server: each after the other, by their own records.
async fn check_order(world: &World, leaving: &str) -> Result<()> {
    let audit = world.audit()?;
    let asked = |verb: &str, resource: &str, subresource: &str| {
        let found = audit.iter().find(|event| {
            let object = event.object_ref.clone().unwrap_or_default();
            let done = event.response_status.as_ref().is_some_and(|s| s.code < 300);
            let ours = event.user.username == LEADER && event.verb == verb && done;
            let on_it = object.resource != "nodes" || object.name == leaving;
            ours && on_it && object.resource == resource && object.subresource == subresource
        });
        let found = found.map(|event| event.request_received_timestamp);
        found.with_context(|| format!("no {verb} {resource}/{subresource}"))
    };
    let evicted = asked("create", "pods", "eviction")?;
    let node_deleted = asked("delete", "nodes", "")?;
    let events = world.server_events().await?;
    let happened = |kind: &str| -> Result<Timestamp> {
        let of_it = |e: &&Value| e["name"] == leaving && e["kind"] == kind;
        let event = events.iter().find(of_it).context(kind.to_owned())?;
        Ok(event["time"].as_str().context("no time")?.parse()?)
    };
    let (off, deleted) = (happened("off")?, happened("deleted")?);
    ensure!(
        evicted < off && off < node_deleted && node_deleted < deleted,
        "evicted {evicted}, off {off}, Node deleted {node_deleted}, server deleted {deleted}"
    );
    // No pod of a node that leaves is deleted past its budget.
    let bare = audit.iter().any(|event| {
        let object = event.object_ref.clone().unwrap_or_default();
        event.user.username == LEADER && event.verb == "delete" && object.resource == "pods"
    });
    ensure!(!bare, "a pod was deleted without an eviction");
    Ok(())
}

/// All that fabrik changed at Hetzner is the server that left.
async fn check_foreign(world: &World, before: &Value, mark: u64, leaving: &str) -> Result<()> {
    let after = world.hetzner().await?;
    for kind in ["networks", "firewalls", "ssh_keys"] {
        let known = |state: &Value| -> Vec<(Value, Value, Value)> {
            let all = list(state, kind).into_iter();
            all.map(|r| (r["id"].clone(), r["name"].clone(), r["labels"].clone()))
                .collect()
        };
        assert_eq!(known(before), known(&after), "{kind}");
    }
    let servers = list(before, "servers");
    let gone = servers.iter().find(|s| name(s) == leaving);
    let path = format!("/v1/servers/{}", gone.context("it was there")?["id"]);
    for request in world.writes(mark).await? {
        let touched = request["path"].as_str().unwrap_or_default();
        let its_own = touched == path || touched.starts_with(&format!("{path}/"));
        ensure!(its_own, "something else was touched: {request:#}");
    }
    for server in servers.iter().filter(|s| name(s) != leaving) {
        let still = list(&after, "servers").into_iter();
        let still = still.into_iter().find(|s| s["id"] == server["id"]);
        let still = still.with_context(|| format!("{} is gone", name(server)))?;
        assert_eq!(still["labels"], server["labels"]);
    }
    Ok(())
}
