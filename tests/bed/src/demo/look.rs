//! What the demo claims, read from the API server and from the emulator.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams};
use serde_json::Value;

use crate::Bed;

/// How many servers of the control plane are members, have a Ready Node and run fabrik.
pub async fn servers(bed: &Bed) -> Result<usize> {
    let nodes: Api<Node> = Api::all(bed.kube().await?);
    let servers = ListParams::default().labels("node-role.kubernetes.io/etcd");
    let nodes = nodes.list(&servers).await?.items;
    let ledger = ledger(bed).await?;
    let members = ledger["members"].as_object();
    let members: Vec<&Value> = members.into_iter().flat_map(|all| all.values()).collect();
    let counts = |node: &&Node| {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let machine = bed.machine(name);
        is_ready(node)
            && members.iter().any(|member| member["name"] == name)
            && machine.is_ok_and(|m| m.systemctl(&["is-active", "fabrik"]).is_ok())
    };
    Ok(nodes.iter().filter(counts).count())
}

pub async fn servers_at_hetzner(bed: &Bed) -> Result<usize> {
    let state = get(bed, "state").await?;
    Ok(state["servers"].as_array().context("servers")?.len())
}

pub async fn workers(bed: &Bed, count: usize, deadline: Duration) -> Result<()> {
    bed.wait_until(
        &format!("{count} workers at Hetzner and Ready in the cluster"),
        deadline,
        async || {
            let state = get(bed, "state").await?;
            let servers = state["servers"]
                .as_array()
                .context("the emulator lists servers")?;
            let at_hetzner = servers
                .iter()
                .filter(|s| s["labels"]["fabrik.dev/role"] == "agent")
                .count();
            let nodes: Api<Node> = Api::all(bed.kube().await?);
            let nodes = nodes
                .list(&ListParams::default().labels("fabrik.dev/pool=workers"))
                .await?;
            let in_cluster = nodes.items.iter().filter(|n| is_ready(n)).count();
            Ok((at_hetzner == count && in_cluster == count).then_some(()))
        },
    )
    .await
}

pub async fn pods_running(bed: &Bed, count: usize, deadline: Duration) -> Result<()> {
    bed.wait_until(
        &format!("{count} pods of the shop run"),
        deadline,
        async || {
            let pods: Api<Pod> = Api::default_namespaced(bed.kube().await?);
            let pods = pods.list(&ListParams::default().labels("app=shop")).await?;
            let runs = |p: &&Pod| {
                let phase = p.status.as_ref().and_then(|s| s.phase.as_deref());
                phase == Some("Running") && p.metadata.deletion_timestamp.is_none()
            };
            Ok((pods.items.iter().filter(runs).count() == count).then_some(()))
        },
    )
    .await
}

/// Sees to it that each worker has a pod of the shop: on an uneven one a pod is deleted, for the scheduler to place it
/// anew.
pub async fn spread(bed: &Bed, deadline: Duration) -> Result<()> {
    let pods: Api<Pod> = Api::default_namespaced(bed.kube().await?);
    bed.wait_until(
        "each worker has two pods of the shop",
        deadline,
        async || {
            let listed = pods.list(&ListParams::default().labels("app=shop")).await?;
            let mut on_node: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for pod in listed.items {
                let node = pod.spec.and_then(|s| s.node_name);
                if let (Some(node), Some(name)) = (node, pod.metadata.name)
                    && pod.metadata.deletion_timestamp.is_none()
                {
                    on_node.entry(node).or_default().push(name);
                }
            }
            let crowded = on_node.values().find(|pods| pods.len() > 2);
            if let Some(name) = crowded.and_then(|pods| pods.first()) {
                pods.delete(name, &DeleteParams::default()).await?;
            }
            Ok((on_node.len() == 3 && crowded.is_none()).then_some(()))
        },
    )
    .await
}

/// The colour of the settings, `None` for no settings at all.
pub async fn colour(bed: &Bed, wanted: Option<&str>, deadline: Duration) -> Result<()> {
    let maps: Api<ConfigMap> = Api::default_namespaced(bed.kube().await?);
    bed.wait_until(
        &format!("the settings' colour is {wanted:?}"),
        deadline,
        async || {
            let map = maps.get_opt("settings").await?;
            let colour = map.and_then(|m| m.data?.get("colour").cloned());
            Ok((colour.as_deref() == wanted).then_some(()))
        },
    )
    .await
}

/// How many of what stand at the emulator.
pub async fn made_at_hetzner(bed: &Bed) -> Result<String> {
    let state = get(bed, "state").await?;
    let mut parts = Vec::new();
    for (kind, word) in [
        ("servers", "servers (3 of them the control plane)"),
        ("networks", "network"),
        ("firewalls", "firewall"),
        ("ssh_keys", "SSH key"),
        ("placement_groups", "placement group"),
    ] {
        let ours = state[kind].as_array().context(kind)?.iter();
        let count = ours
            .filter(|r| r["labels"]["fabrik.dev/cluster"].is_string())
            .count();
        ensure!(count > 0, "there is no {word} at the emulator");
        parts.push(format!("{count} {word}"));
    }
    Ok(parts.join(", "))
}

/// The last server event at the emulator.
pub async fn last_event(bed: &Bed) -> Result<u64> {
    get(bed, "events").await?["last"]
        .as_u64()
        .context("events are numbered")
}

/// That the server was powered off before its Node was deleted, and deleted after it.
pub async fn order_of_departure(bed: &Bed, since: u64) -> Result<String> {
    let events = get(bed, &format!("events?since={since}")).await?;
    let events = events["events"]
        .as_array()
        .context("the emulator lists events")?;
    let at = |kind: &str| {
        let event = events.iter().find(|e| e["kind"] == kind);
        let event = event.with_context(|| format!("no server was {kind}"))?;
        Ok::<(String, String), anyhow::Error>((
            event["name"].as_str().unwrap_or_default().to_owned(),
            event["time"].as_str().unwrap_or_default().to_owned(),
        ))
    };
    let (name, off) = at("off")?;
    let (_, gone) = at("deleted")?;
    let node_gone = node_deleted_at(bed, &name)?;
    let (off, gone): (jiff::Timestamp, jiff::Timestamp) = (off.parse()?, gone.parse()?);
    ensure!(
        off <= node_gone && node_gone <= gone,
        "{name}: off {off}, Node deleted {node_gone}, deleted {gone}"
    );
    let after = |t: jiff::Timestamp| (t - off).total(jiff::Unit::Millisecond).unwrap_or_default();
    Ok(format!(
        "{name} was drained, then powered off; its Node went {:.0} ms and its server {:.0} ms after that",
        after(node_gone),
        after(gone)
    ))
}

fn node_deleted_at(bed: &Bed, name: &str) -> Result<jiff::Timestamp> {
    let events = bed.audit_of_all()?;
    let deleted = events.iter().find(|e| {
        let object = e.object_ref.as_ref();
        e.verb == "delete" && object.is_some_and(|o| o.resource == "nodes" && o.name == name)
    });
    let deleted = deleted.with_context(|| format!("no audit log has the deletion of {name}"))?;
    Ok(deleted.request_received_timestamp)
}

/// The server whose fabrik leads.
pub async fn leader(bed: &Bed) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(bed.kube().await?, "fabrik-system");
    let lease = leases.get("fabrik-leader").await?;
    let holder = lease
        .spec
        .and_then(|s| s.holder_identity)
        .context("nobody leads")?;
    let servers = bed.control_planes().into_iter();
    let mut names = servers.map(|(name, _)| name);
    let leader = names.find(|name| holder.starts_with(&format!("{name}_")));
    leader.context("a stranger leads")
}

/// Waits until servers are intended that do not exist yet, or have just been made.
pub async fn intended(bed: &Bed, deadline: Duration) -> Result<()> {
    bed.wait_until("the ledger has intents", deadline, async || {
        Ok((!ledger(bed).await?["intents"]
            .as_object()
            .is_none_or(serde_json::Map::is_empty))
        .then_some(()))
    })
    .await
}

pub async fn nothing_left_over(bed: &Bed, deadline: Duration) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(bed.kube().await?, "kube-system");
    bed.wait_until(
        "no intent and no join token is left over",
        deadline,
        async || {
            let tokens = secrets
                .list_metadata(&ListParams::default().labels("fabrik.dev/intent"))
                .await?;
            let ledger = ledger(bed).await?;
            let intents = ledger["intents"].as_object().is_some_and(|i| !i.is_empty());
            Ok((tokens.items.is_empty() && !intents).then_some(()))
        },
    )
    .await
}

async fn ledger(bed: &Bed) -> Result<Value> {
    let kind = ApiResource {
        group: "fabrik.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "fabrik.dev/v1alpha1".to_owned(),
        kind: "FabrikLedger".to_owned(),
        plural: "fabrikledgers".to_owned(),
    };
    let ledgers: Api<DynamicObject> = Api::all_with(bed.kube().await?, &kind);
    Ok(ledgers.get("ledger").await?.data["spec"].clone())
}

async fn get(bed: &Bed, what: &str) -> Result<Value> {
    Ok(
        reqwest::get(format!("{}/_emulator/{what}", bed.emulator_url()))
            .await?
            .json()
            .await?,
    )
}

pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}
