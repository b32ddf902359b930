//! A push makes workers and applies manifests. Here the repository is reached by HTTP; by SSH and by path in other stories
//! (`pushes`, `standalone`).

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fabrik_bed::{Options, Transport};
use fabrik_e2e::{Ran, SOON, World, config_map, list, name};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_followed_by_a_webhook_or_by_a_persons_word() -> Result<()> {
    // A poll would come much later than the deadline.
    let world = World::start(Options {
        transport: Transport::Http,
        webhooks: true,
        poll: Duration::from_secs(3600),
        ..Options::default()
    })
    .await?;
    a_push_makes_workers(&world).await?;
    reconcile_fetches_at_once(&world)?;
    world.bed.shutdown().await;
    Ok(())
}

async fn a_push_makes_workers(world: &World) -> Result<()> {
    let first = world.bed.default_repo(0)?;
    world.carried_out(&first).await?;
    ensure!(world.workers().await?.is_empty(), "nobody asked for them");

    let public_key = new_ssh_key(world)?;
    let git = world.bed.git();
    git.write(
        "manifests/shop/settings.yaml",
        config_map("settings", "one"),
    )?;
    let spec = git
        .read("cluster.toml")?
        .replace("count = 0", "count = 2\nlabels = { tier = \"web\" }")
        .replace(
            "[pools.workers]",
            &format!(
                "[firewall]\nssh-from = [\"203.0.113.0/24\"]\n\n\
                 [ssh-keys]\nalice = \"{public_key}\"\n\n[pools.workers]"
            ),
        );
    git.write("cluster.toml", spec)?;
    let commit = git.commit_and_push("Have two workers and settings")?;

    world.workers_ready(2).await?;
    // Hetzner attaches a server to its network while it boots already.
    let workers = world
        .bed
        .wait_until("the workers are in the network", SOON, async || {
            let workers = world.workers().await?;
            let attached = workers.iter().all(|s| s["private_net"][0].is_object());
            Ok(attached.then_some(workers))
        })
        .await?;
    let hetzner = world.hetzner().await?;
    let network = owned(world, &hetzner, "networks")?;
    let firewall = owned(world, &hetzner, "firewalls")?;
    let ssh_key = owned(world, &hetzner, "ssh_keys")?;
    let group = owned(world, &hetzner, "placement_groups")?;
    assert_eq!(network["ip_range"], "10.0.0.0/16");
    assert_eq!(network["subnets"][0]["ip_range"], "10.0.1.0/24");
    assert_eq!(group["type"], "spread");
    let key_words = |key: &str| -> Vec<String> {
        let words = key.split_whitespace().take(2);
        words.map(str::to_owned).collect()
    };
    let held = ssh_key["public_key"].as_str().context("no key")?;
    assert_eq!(key_words(held), key_words(&public_key));
    let opens_ssh = |rule: &Value| {
        rule["direction"] == "in"
            && rule["port"] == "22"
            && rule["source_ips"] == json!(["203.0.113.0/24"])
    };
    assert!(
        list(&firewall, "rules").iter().any(opens_ssh),
        "{firewall:#}"
    );

    for server in &workers {
        let labels = &server["labels"];
        assert_eq!(labels["fabrik.dev/pool"], "workers");
        let intent = labels["fabrik.dev/intent"].as_str().context("no intent")?;
        assert_eq!(name(server), format!("demo-workers-{intent}"));
        assert_eq!(server["private_net"][0]["network"], network["id"]);
        assert_eq!(server["placement_group"]["id"], group["id"]);
        assert_eq!(server["public_net"]["firewalls"][0]["id"], firewall["id"]);
        let node = world.get(&["node", &name(server)])?;
        let provider = format!("hcloud://{}", server["id"]);
        assert_eq!(node["spec"]["providerID"], provider.as_str());
        assert_eq!(node["metadata"]["labels"]["tier"], "web");
        let address = &server["private_net"][0]["ip"];
        ensure!(
            address.as_str().is_some_and(|ip| ip.starts_with("10.0.1.")),
            "not in the nodes' range: {address}"
        );
    }
    for order in world.writes(0).await? {
        if order["path"] == "/v1/servers" && name(&order["body"]).starts_with("demo-") {
            assert_eq!(
                order["body"]["ssh_keys"],
                json!([ssh_key["id"]]),
                "{order:#}"
            );
        }
    }

    world
        .bed
        .wait_until("the settings are applied", SOON, async || {
            let settings = world.get(&["configmap", "settings"])?;
            Ok((settings["data"]["value"] == "one").then_some(()))
        })
        .await?;
    // Only now: everything above came without asking fabrik.
    world.carried_out(&commit).await.map(drop)
}

/// Where no webhook calls.
fn reconcile_fetches_at_once(world: &World) -> Result<()> {
    world.bed.git_servers().set_webhooks(Vec::new());
    let (value, commit, waited) = unseen_push(world)?;
    ensure!(waited.stderr.contains("is not carried out"), "{waited:?}");
    world.fabrik(&["reconcile"])?.ok()?;
    world.fabrik(&["wait", &commit, "--timeout", "45s"])?.ok()?;
    let settings = world.get(&["configmap", "settings"])?;
    assert_eq!(settings["data"]["value"], value);
    Ok(())
}

/// Pushes until `wait` runs out of time. What was asked for before may still fetch the first push, and
/// that is the end of it.
fn unseen_push(world: &World) -> Result<(&'static str, String, Ran)> {
    let git = world.bed.git();
    for value in ["two", "three", "four"] {
        git.write(
            "manifests/shop/settings.yaml",
            config_map("settings", value),
        )?;
        let commit = git.commit_and_push("Change the settings")?;
        let waited = world.fabrik(&["wait", &commit, "--timeout", "4s"])?;
        if waited.code == Some(1) {
            return Ok((value, commit, waited));
        }
    }
    anyhow::bail!("each push was fetched, and nobody had asked for it")
}

/// The only resource of this kind that carries the cluster's id.
fn owned(world: &World, hetzner: &Value, kind: &str) -> Result<Value> {
    let mut all = list(hetzner, kind);
    all.retain(|r| r["labels"]["fabrik.dev/cluster"] == world.cluster_id.as_str());
    ensure!(all.len() == 1, "{kind} of this cluster: {all:#?}");
    all.pop().context("one")
}

fn new_ssh_key(world: &World) -> Result<String> {
    let file = world.bed.dir().join("alice");
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f"])
        .arg(&file)
        .status()?;
    ensure!(status.success(), "ssh-keygen: {status}");
    let public = std::fs::read_to_string(file.with_extension("pub"))?;
    Ok(public.trim().to_owned())
}
