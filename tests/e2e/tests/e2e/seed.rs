//! A cluster comes out of a repository and an empty Hetzner project, by one command. The laptop only seeds it and ends it;
//! between the two a push is all that there is.

mod cut_off;
mod planted;

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fabrik_bed::emulator::TOKEN;
use fabrik_bed::{Bed, Options, Transport};
use fabrik_e2e::person::{Person, seed};
use fabrik_e2e::{HETZNER_KINDS, Ran, World, ledger, list, name};
use serde_json::{Value, json};

/// fabrik looks at the repository four times a minute.
const FOLLOWED: Duration = Duration::from_secs(300);
/// Of two servers, one after the other.
const JOINED: Duration = Duration::from_secs(240);
const ETCD: &str = "node-role.kubernetes.io/etcd";

/// A cluster of one server and one worker, which has come out of nothing and needs its laptop no more.
pub async fn seeded() -> Result<World> {
    let bed = empty_bed().await?;
    let person = Person::new(&bed)?;
    person.make_repository(&bed)?;
    let world = seed(bed, &person)?;
    stands_alone(&world, &person).await?;
    Ok(world)
}

async fn empty_bed() -> Result<Bed> {
    Bed::start(Options {
        servers: 0,
        systems: true,
        transport: Transport::Ssh,
        action_duration: Duration::from_millis(50),
        ..Options::default()
    })
    .await
}

/// The cluster runs, and neither Hetzner nor the laptop have what only the seed needed.
async fn stands_alone(world: &World, person: &Person) -> Result<()> {
    let workers = world.workers_ready(1).await?;
    let head = world.bed.git().head()?;
    let kubeconfig = person.state().join("kubeconfig");
    let kubeconfig = kubeconfig.to_str().context("a path in UTF-8")?;
    let look = ["status", "--kubeconfig", kubeconfig];
    let page = Ran::of(person.command(&world.bed, &look)?)?.ok()?;
    let short = head.get(..8).context("a commit")?;
    ensure!(page.contains(short), "no {short} in {page}");

    let state = world.hetzner().await?;
    let keys: Vec<String> = list(&state, "ssh_keys").iter().map(name).collect();
    assert_eq!(keys, ["demo-alice"]);
    let servers = list(&state, "servers");
    let counts = (of_role(&servers, "server"), of_role(&servers, "agent"));
    assert_eq!((servers.len(), counts), (2, (1, 1)));
    let node = world.get(&["node", &name(&workers[0])])?;
    let addresses = list(&node["status"], "addresses");
    let own = workers[0]["private_net"][0]["ip"].clone();
    ensure!(
        addresses.contains(&json!({"type": "InternalIP", "address": own})),
        "not in the private network: {addresses:?}"
    );
    let images = list(&state, "images");
    ensure!(
        images.len() == 1 && workers[0]["image"]["id"] == images[0]["id"],
        "{images:?}"
    );

    let mut kept = Vec::new();
    for entry in fs::read_dir(person.state())? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path())?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let secret =
            text.contains(TOKEN) || text.contains("PRIVATE KEY") || text.contains("AGE-SECRET");
        ensure!(file == "kubeconfig" || !secret, "{file} has a secret");
        kept.push(file);
    }
    kept.sort();
    assert_eq!(kept, ["kubeconfig", "lock", "seed.json"]);
    Ok(())
}

/// Waits for three servers, which are members when they vote, and never sees two on their way.
async fn three_servers(world: &World) -> Result<()> {
    let mut at_once = 0;
    world
        .bed
        .wait_until("three servers are members", JOINED, async || {
            let servers = list(&world.hetzner().await?, "servers");
            let made = of_role(&servers, "server");
            // Read later, so that they can't be fewer than they were when a server was ordered.
            let ledger = ledger(&world.bed).await?;
            let members = ledger["members"].as_object().into_iter().flatten();
            let members = members.filter(|(_, m)| m["role"] == "server").count();
            at_once = at_once.max(made.saturating_sub(members));
            let nodes = ["get", "nodes", "-l", ETCD, "--no-headers"];
            let nodes = world.bed.kubectl(&nodes)?;
            let ready = nodes.matches(" Ready ").count();
            ensure!(
                (made, members, ready) == (3, 3, 3),
                "{made} servers, {members} members, {nodes}"
            );
            Ok(Some(()))
        })
        .await?;
    ensure!(at_once <= 1, "{at_once} servers on their way at once");
    // Founding a replica of its own comes after k3s.
    world
        .bed
        .wait_until("fabrik runs on each of them", JOINED, async || {
            let servers = list(&world.hetzner().await?, "servers");
            for server in servers.iter().filter(|s| role_of(s) == "server") {
                let machine = world.bed.machine(&name(server))?;
                let root = machine.root().context("a root")?;
                let state = fs::read_to_string(root.path("run/services/state.fabrik"))?;
                ensure!(state == "active\n", "{}: {state}", name(server));
            }
            Ok(Some(()))
        })
        .await
}

fn of_role(servers: &[Value], role: &str) -> usize {
    servers.iter().filter(|s| role_of(s) == role).count()
}

fn role_of(server: &Value) -> &str {
    server["labels"]["fabrik.dev/role"]
        .as_str()
        .unwrap_or_default()
}

/// The kinds of what the emulator has.
async fn things(world: &World) -> Result<Vec<String>> {
    Ok(kinds(&world.hetzner().await?))
}

fn kinds(state: &Value) -> Vec<String> {
    let is_there = |kind: &&str| !list(state, kind).is_empty();
    let there = HETZNER_KINDS.into_iter().filter(is_there);
    there.map(str::to_owned).collect()
}
