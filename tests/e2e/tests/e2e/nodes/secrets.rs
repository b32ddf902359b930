//! Secrets on nodes: each node has those of its pool, nobody else can have them, and they are in the clear in no other place
//! than the node's memory.

mod restart;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use fabrik_bed::Machine;
use fabrik_e2e::search::{find, forms, leaks};
use fabrik_e2e::watch::{Processes, Sample};
use fabrik_e2e::{LEADER, SOON, World};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

const NODES: &str = "system:nodes";
const NAMESPACE: &str = "fabrik-system";
const FOLDER: &str = "run/fabrik/secrets";
const FILE: &str = "secrets/nodes.yaml";
/// No part of another one, and none is in the name of anything.
const VPN: [&str; 4] = [
    "planted-vpn-4b7e21",
    "planted-vpn-c90d55",
    "planted-vpn-1fa836",
    "planted-vpn-72d0be",
];
const REGISTRY: &str = "planted-registry-e6d014";
const MODE: &str = "mode = \"0440\"";
/// Kubernetes' garbage collector looks for kinds of objects twice a minute, and tries again later and later.
const COLLECTED: Duration = Duration::from_secs(120);

/// Before there is a worker.
pub fn want(world: &World) -> Result<String> {
    let bed = &world.bed;
    bed.write_default_repo(1)?;
    let spec = bed.git().read("cluster.toml")?;
    let secrets = format!(
        "\n[secrets.vpn]\nfile = \"{FILE}\"\nkey = \"vpn\"\npools = [\"workers\"]\n{MODE}\n\
         \n[secrets.registry]\nfile = \"{FILE}\"\nkey = \"registry\"\npools = [\"servers\"]\n"
    );
    bed.git().write("cluster.toml", spec + &secrets)?;
    push(world, VPN[0])
}

/// Leaves no worker.
pub async fn each_node_has_its_own_and_nobody_else_s(
    world: &World,
    worker: &Machine,
    processes: Processes,
) -> Result<()> {
    let bed = &world.bed;
    let server = bed.server_machine(0);
    holds(worker, &[("vpn", VPN[0], 0o440)])?;
    holds(server, &[("registry", REGISTRY, 0o400)])?;

    others_are_refused(world, worker.name()).await?;
    what_is_missing_is_refused(world).await?;
    a_deleted_one_comes_back(world, worker.name()).await?;

    let ticket = restart::next_ticket(world).await?;
    let commit = push(world, VPN[1])?;
    world.carried_out(&commit).await?;
    holds(worker, &[("vpn", VPN[1], 0o440)])?;
    ensure!(
        restart::next_ticket(world).await? == ticket && restart::noted(worker)?.is_empty(),
        "more than the file changed"
    );

    worker.reboot().await;
    // Its memory is empty by then.
    worker.wait_running(SOON).await?;
    let booted = bed.wait_until("they are in place after a boot", SOON, async || {
        holds(worker, &[("vpn", VPN[1], 0o440)])?;
        Ok(Some(()))
    });
    booted.await?;

    restart::is_rolled_out_under_a_ticket(world, worker).await?;
    another_key_gets_nothing(world, worker).await?;
    // First: the search for the values has them on its command line.
    let seen = processes.end()?;
    in_the_clear_nowhere_else(world, worker, &seen)?;
    all_goes_with_the_node(world, worker.name()).await
}

fn push(world: &World, vpn: &str) -> Result<String> {
    world.write_secret(FILE, &format!("vpn: {vpn}\nregistry: {REGISTRY}\n"))?;
    world
        .bed
        .git()
        .commit_and_push("Have another key of the VPN")
}

/// These files with these modes, and no other but the agent's own.
fn holds(machine: &Machine, wanted: &[(&str, &str, u32)]) -> Result<()> {
    let root = machine.root().context("a disk")?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root.path(FOLDER))? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    names.remove(".placed");
    let expected = wanted.iter().map(|(name, ..)| (*name).to_owned()).collect();
    ensure!(names == expected, "{} has {names:?}", machine.name());
    for (name, value, mode) in wanted {
        let path = root.path(FOLDER).join(name);
        let is = fs::metadata(&path)?.permissions().mode() & 0o7777;
        let content = fs::read_to_string(&path)?;
        ensure!(
            content == *value && is == *mode,
            "{name}: `{content}`, {is:o}"
        );
    }
    Ok(())
}

/// By the API server, whatever they hold.
async fn others_are_refused(world: &World, worker: &str) -> Result<()> {
    let (own, other) = (format!("node-{worker}"), "node-server-1");
    let by_worker = secrets(node(world, worker).await?);
    let lies_ready = by_worker.get(&own).await.context("its own one")?;
    let text = serde_json::to_string(&lies_ready)?;
    ensure!(
        !text.contains(VPN[0]) && text.contains("secrets.age"),
        "{text}"
    );
    refused("another's", by_worker.get(other).await)?;
    refused("all", by_worker.list(&ListParams::default()).await)?;
    let change = Patch::Merge(json!({"data": {"signature": "eA=="}}));
    let params = PatchParams::default();
    let changed = by_worker.patch(&own, &params, &change).await;
    refused("a change of its own", changed)?;
    let deleted = by_worker.delete(&own, &DeleteParams::default()).await;
    refused("to delete its own", deleted)?;
    for (who, client) in [
        ("another node", node(world, "server-1").await?),
        ("a node that nobody knows", node(world, "stranger").await?),
        (
            "what k3s' agents share",
            world.bed.kube_for("system:k3s-controller", None).await?,
        ),
        (
            "the leader's own identity",
            world.bed.kube_for(LEADER, None).await?,
        ),
    ] {
        let secrets = secrets(client);
        refused(who, secrets.get(&own).await)?;
        let changed = secrets.patch(&own, &params, &change).await;
        refused(who, changed)?;
    }
    Ok(())
}

async fn a_deleted_one_comes_back(world: &World, worker: &str) -> Result<()> {
    let object = format!("secret/node-{worker}");
    let kubectl = |arguments: &[&str]| world.bed.kubectl(&[arguments, &["-n", NAMESPACE]].concat());
    let uid = ["get", &object, "-o", "jsonpath={.metadata.uid}"];
    let before = kubectl(&uid)?;
    kubectl(&["delete", &object])?;
    let anew = world.bed.wait_until("it is written anew", SOON, async || {
        let now = kubectl(&uid).ok();
        Ok(now.filter(|now| *now != before))
    });
    anew.await.map(drop)
}

async fn all_goes_with_the_node(world: &World, worker: &str) -> Result<()> {
    let commit = world.push_edited("count = 1", "count = 0")?;
    world.carried_out(&commit).await?;
    let name = format!("node-{worker}");
    let gone = world
        .bed
        .wait_until("its objects are gone", COLLECTED, async || {
            let kinds = "secrets,roles,rolebindings";
            let arguments = ["get", kinds, "-n", NAMESPACE, "-o", "name"];
            let there = world.bed.kubectl(&arguments)?;
            Ok((!there.contains(&name)).then_some(()))
        });
    gone.await
}

/// The commit before stays in force.
async fn what_is_missing_is_refused(world: &World) -> Result<()> {
    let commit = world.push_edited("key = \"vpn\"", "key = \"vnp\"")?;
    let status = world.refused(&commit).await?;
    let told = status["refused"]["diagnostics"].to_string();
    ensure!(told.contains("vnp") && told.contains(FILE), "{told}");
    let dir = world.bed.git().dir().to_str().context("a path in UTF-8")?;
    let checked = world.fabrik(&["secrets", "check", dir])?;
    ensure!(
        checked.code == Some(1) && checked.stderr.contains("vnp"),
        "{checked:?}"
    );
    world
        .push_edited("key = \"vnp\"", "key = \"vpn\"")
        .map(drop)
}

/// A machine that has lost its key, or one that took its place.
async fn another_key_gets_nothing(world: &World, worker: &Machine) -> Result<()> {
    let root = worker.root().context("a disk")?;
    let state = root.path("var/lib/fabrik-agent");
    fs::remove_file(state.join("age.key"))?;
    fs::remove_file(state.join("secrets.json"))?;
    worker.kill_agent()?;
    let about = format!("node {}", worker.name());
    let status = world.status_says("another key is told of", |status| {
        let holds = fabrik_e2e::list(status, "holds");
        let is_told = |h: &Value| h["about"] == about.as_str() && h["reason"] == "OtherKey";
        holds.iter().any(is_told)
    });
    status.await?;
    let commit = push(world, VPN[3])?;
    let status = world.status_says("the commit is in force", |s| {
        s["admittedCommit"] == commit.as_str()
    });
    status.await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    holds(worker, &[("vpn", VPN[2], 0o440)]).context("it got something new")?;
    ensure!(restart::noted(worker)?.len() == 2, "it got an update");

    let object = world.get(&["fabriknode", worker.name()])?;
    let key = object["status"]["report"]["recipient"]
        .as_str()
        .context("a key")?;
    let accepted = format!("fabrik.dev/accept-recipient={key}");
    world
        .bed
        .kubectl(&["annotate", "fabriknode", worker.name(), &accepted])?;
    world.carried_out(&commit).await?;
    holds(worker, &[("vpn", VPN[3], 0o440)])
}

/// Processes, disks, stores, state, logs, etcd's data; and what the API shows.
fn in_the_clear_nowhere_else(world: &World, worker: &Machine, seen: &[Sample]) -> Result<()> {
    let dir = world.bed.dir();
    let values = VPN.into_iter().chain([REGISTRY]);
    let samples = values
        .map(|v| (v.to_owned(), v.as_bytes().to_vec()))
        .collect();
    let forms = forms(samples)?;
    let shown = leaks(seen, &forms);
    ensure!(shown.is_empty(), "{shown:#?}");
    let mut search = Command::new("grep");
    search.args([
        "--recursive",
        "--files-with-matches",
        "--text",
        "--fixed-strings",
    ]);
    for (_, form) in &forms {
        search.args(["-e", std::str::from_utf8(form)?]);
    }
    let found = search.arg(dir).output()?;
    let found = String::from_utf8(found.stdout)?;
    let (placed, leaks): (Vec<&str>, Vec<&str>) = found
        .lines()
        .partition(|path| path.contains(&format!("/{FOLDER}/")));
    ensure!(leaks.is_empty(), "in the clear: {leaks:#?}");
    let in_memory = worker.root().context("a disk")?.path(FOLDER).join("vpn");
    let in_memory = in_memory.to_str().context("a path in UTF-8")?;
    ensure!(
        placed.contains(&in_memory),
        "the search is blind: {placed:?}"
    );
    for kind in ["secrets", "configmaps", "events", "fabrik"] {
        let text = world
            .bed
            .kubectl(&["get", kind, "--all-namespaces", "-o", "json"])?;
        let leak = forms
            .iter()
            .find(|(_, form)| find(text.as_bytes(), form).is_some());
        ensure!(leak.is_none(), "{leak:?} in {kind}");
    }
    Ok(())
}

async fn node(world: &World, name: &str) -> Result<Client> {
    let user = format!("system:node:{name}");
    world.bed.kube_for(&user, Some(NODES)).await
}

fn secrets(client: Client) -> Api<Secret> {
    Api::namespaced(client, NAMESPACE)
}

fn refused<T>(what: &str, answer: Result<T, kube::Error>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        Err(other) => bail!("{what}: {other}"),
        Ok(_) => bail!("{what} was allowed"),
    }
}
