//! `fabrik plan` before the push, without credentials: what it says is what the leader and the applier then do, as the
//! emulator and the API server saw it. The steps of one thing are compared in their order; between things there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::Bed;
use fabrik_bed::audit::Event;
use fabrik_e2e::faults::{self, AuditTail};
use fabrik_e2e::set_count;
use jiff::Timestamp;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(180);
/// Verbs of effects on servers and Nodes.
const ON_SERVERS_AND_NODES: [&str; 7] = [
    "create-server",
    "label-node",
    "cordon",
    "uncordon",
    "power-off",
    "delete-node",
    "delete-server",
];

/// The verbs for each server and its Node, in their order.
type Steps = BTreeMap<String, Vec<String>>;

/// Leaves one worker.
pub async fn a_plan_says_what_the_push_then_does(bed: &Bed) -> Result<()> {
    let map = |file: &str, name: &str, value: &str| {
        bed.git().write(
            &format!("manifests/{file}.yaml"),
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata: {{v: {value}}}\n"
            ),
        )
    };
    bed.default_repo(1)?;
    map("one/stays", "stays", "a")?;
    map("one/changes", "changes", "a")?;
    map("one/goes", "goes", "a")?;
    map("one/moves", "moves", "a")?;
    map("two/there", "there", "a")?;
    let commit = bed.git().commit_and_push("Have manifests")?;
    carried_out(bed, &commit, 1).await?;

    map("two/new", "new", "a")?;
    map("three/unit", "unit", "a")?;
    map("one/changes", "changes", "b")?;
    bed.git().remove("manifests/one/goes.yaml")?;
    bed.git().remove("manifests/one/moves.yaml")?;
    map("two/moves", "moves", "a")?;
    set_count(bed, 1, 3)?;
    as_planned(bed, "grow", 3, 5).await?;

    bed.git().remove("manifests/three/unit.yaml")?;
    map("one/unit", "unit", "b")?;
    set_count(bed, 3, 1)?;
    let web = ["deployment", "web", "--image=web", "--replicas=12"];
    bed.kubectl(&[&["create"][..], &web].concat())?;
    bed.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"])?;
    as_planned(bed, "shrink", 1, 1).await?;
    bed.kubectl(&["delete", "deployment", "web"]).map(drop)
}

/// Plans the commit, pushes it, and compares. `changes` says how many manifests change, so that no empty plan passes.
async fn as_planned(bed: &Bed, what: &str, count: usize, changes: usize) -> Result<()> {
    let commit = bed.git().commit(what)?;
    let url = format!("http://{}/observed", listen(bed)?);
    // The observation that counts is one in which nothing is under way.
    let plan = plan(bed, &url, &commit)?;
    let file = bed.dir().join("observed.gz");
    std::fs::write(&file, reqwest::get(&url).await?.bytes().await?)?;
    let from_file = self::plan(bed, &file.display().to_string(), &commit)?;
    ensure!(plan == from_file, "{plan:#}\n{from_file:#}");

    let known = server_names(bed).await?;
    let pods = pods_on_nodes(bed)?;
    let since = faults::last_request(bed).await?;
    let mut audit = AuditTail::new(bed, 0)?;
    bed.git().push()?;
    carried_out(bed, &commit, count).await?;

    let events = audit.completed()?;
    let mut steps: Vec<_> = events.iter().filter_map(|e| on_node(e, &pods)).collect();
    for request in faults::requests(bed, since).await? {
        if let Some((verb, target)) = faults::server_effect(&request) {
            let target = known.get(&target).cloned().unwrap_or(target);
            steps.push((request.time, verb.to_owned(), target));
        }
    }
    steps.sort();
    let mut done = in_order(steps.into_iter().map(|(_, verb, target)| (verb, target)));
    drained_between_cordon_and_power_off(&mut done, &pods)?;
    let planned = in_order(
        items(&plan, "effects")?
            .iter()
            .map(|e| (text(&e["verb"]), text(&e["target"])))
            .filter(|(verb, _)| ON_SERVERS_AND_NODES.contains(&verb.as_str())),
    );
    ensure!(
        !planned.is_empty() && planned == done,
        "{what}: planned {planned:#?}\ndone {done:#?}"
    );

    let done: BTreeSet<_> = events.iter().filter_map(on_manifest).collect();
    let planned: BTreeSet<_> = items(&plan, "manifests")?
        .iter()
        .map(|m| {
            let verb = text(&m["verb"]);
            // A move is an apply that finds the object there.
            let verb = if verb == "move" {
                "update".to_owned()
            } else {
                verb
            };
            (verb, object_name(&m["object"]))
        })
        .collect();
    ensure!(
        planned.len() == changes && planned == done,
        "{what}: planned {planned:#?}\ndone {done:#?}"
    );
    Ok(())
}

fn plan(bed: &Bed, observed: &str, commit: &str) -> Result<Value> {
    let arguments = ["plan", commit, "--observed", observed, "--output", "json"];
    let mut command: Command = bed.fabrik_cmd(&arguments)?;
    let output = command.env_clear().output()?;
    ensure!(
        output.status.success(),
        "fabrik plan: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut answer: Value = serde_json::from_slice(&output.stdout)?;
    Ok(answer["plan"].take())
}

fn items(plan: &Value, key: &str) -> Result<Vec<Value>> {
    plan[key]
        .as_array()
        .cloned()
        .with_context(|| format!("no {key} in {plan}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The last part of an object's key, whether it is written as text or in parts.
fn object_name(object: &Value) -> String {
    match object.as_str() {
        Some(text) => text
            .rsplit(['/', ' '])
            .next()
            .unwrap_or_default()
            .to_owned(),
        None => text(&object["name"]),
    }
}

fn in_order(steps: impl Iterator<Item = (String, String)>) -> Steps {
    let mut all = Steps::new();
    for (verb, target) in steps {
        all.entry(target).or_default().push(verb);
    }
    all
}

/// A plan does not list evictions: nobody knows yet which pods there will be. They are taken out here, after a look at
/// where they stand.
fn drained_between_cordon_and_power_off(
    done: &mut Steps,
    pods: &BTreeMap<String, String>,
) -> Result<()> {
    for (node, steps) in done {
        let drained = steps.iter().any(|verb| verb == "drain");
        let leaves = steps.iter().any(|verb| verb == "power-off");
        let has_pods = pods.values().any(|n| n == node);
        ensure!(drained == (leaves && has_pods), "{node}: {steps:?}");
        steps.dedup();
        if drained {
            ensure!(
                steps.get(..3) == Some(&["cordon", "drain", "power-off"].map(str::to_owned)),
                "{node} was drained at the wrong time: {steps:?}"
            );
            steps.remove(1);
        }
    }
    Ok(())
}

/// What the leader did to a Node, and when.
fn on_node(event: &Event, pods: &BTreeMap<String, String>) -> Option<(Timestamp, String, String)> {
    let (verb, target) = faults::cluster_effect(event)?;
    let at = event.request_received_timestamp;
    if verb == "evict" {
        let node = pods.get(&target)?;
        return Some((at, "drain".to_owned(), node.clone()));
    }
    ON_SERVERS_AND_NODES
        .contains(&verb)
        .then(|| (at, verb.to_owned(), target))
}

/// The Node of each pod of ours.
fn pods_on_nodes(bed: &Bed) -> Result<BTreeMap<String, String>> {
    let pods: Value = serde_json::from_str(&bed.kubectl(&["get", "pods", "-o", "json"])?)?;
    let on_node = |pod: &Value| {
        (
            text(&pod["metadata"]["name"]),
            text(&pod["spec"]["nodeName"]),
        )
    };
    Ok(items(&pods, "items")?.iter().map(on_node).collect())
}

/// What the applier did to a `ConfigMap`.
fn on_manifest(event: &Event) -> Option<(String, String)> {
    let object = event.object_ref.as_ref()?;
    let code = event.response_status.as_ref()?.code;
    let dry = event.request_uri.contains("dryRun");
    if event.user.username != faults::APPLIER
        || object.resource != "configmaps"
        || dry
        || code >= 300
    {
        return None;
    }
    let verb = match (event.verb.as_str(), code) {
        ("create", _) | ("patch", 201) => "create",
        ("patch" | "update", _) => "update",
        ("delete", _) => "prune",
        _ => return None,
    };
    Some((verb.to_owned(), object.name.clone()))
}

fn listen(bed: &Bed) -> Result<String> {
    let config = std::fs::read_to_string(bed.founding()?.config)?;
    let line = config.lines().find_map(|l| l.strip_prefix("listen = "));
    Ok(line
        .context("no listen address")?
        .trim_matches('"')
        .to_owned())
}

async fn server_names(bed: &Bed) -> Result<BTreeMap<String, String>> {
    let state = faults::state(bed).await?;
    let servers = state["servers"].as_array().context("servers")?;
    Ok(servers
        .iter()
        .map(|s| (s["id"].to_string(), text(&s["name"])))
        .collect())
}

/// Waits until fabrik says so, and the observation it publishes shows nothing under way.
async fn carried_out(bed: &Bed, commit: &str, count: usize) -> Result<()> {
    bed.wait_until(
        &format!("{count} workers by {commit}"),
        DEADLINE,
        async || {
            let output = bed
                .fabrik_cmd(&["plan", commit, "--output", "json", "--observed"])?
                .arg(format!("http://{}/observed", listen(bed)?))
                .env_clear()
                .output()?;
            ensure!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            let answer: Value = serde_json::from_slice(&output.stdout)?;
            let nothing_left = items(&answer["plan"], "effects")?.is_empty()
                && items(&answer["plan"], "manifests")?.is_empty();
            let there = faults::workers(bed).await?.len() == count;
            Ok((nothing_left && there && answer["inForce"] == commit).then_some(()))
        },
    )
    .await
}
