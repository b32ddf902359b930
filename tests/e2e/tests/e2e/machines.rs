//! A pool of machines that are there already, each behind a real sshd: one shows another host key than is pinned and is told
//! nothing; the other becomes a node, is updated, and leaves by a person's word.

use anyhow::{Context, Result, ensure};
use fabrik_bed::{Bed, Machine, Options, SystemChange};
use fabrik_e2e::rolling::{ROLLED_OUT, file_of};
use fabrik_e2e::{RESIZED, Ran, SOON, World, ledger, list};
use serde_json::Value;

const NODE: &str = "demo-home-good";
/// Nobody has its private half.
const OTHER_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk";
const SHOP: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: default}
spec:
  replicas: 1
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      nodeSelector: {fabrik.dev/pool: home, place: attic}
      containers: [{name: shop, image: registry.example/shop:1}]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_ones_own_joins_by_its_host_key_and_leaves_by_a_persons_word() -> Result<()> {
    let world = World::start(Options {
        systems: true,
        ..Options::default()
    })
    .await?;
    let bed = &world.bed;
    let (good, host_key) = bed.own_machine(NODE).await?;
    let (bad, _) = bed.own_machine("demo-home-bad").await?;
    have_pool(bed, &[("good", &good, &host_key), ("bad", &bad, OTHER_KEY)])?;
    bed.git().write("manifests/shop/shop.yaml", SHOP)?;
    bed.git().commit_and_push("Have two machines at home")?;
    for machine in ["good", "bad"] {
        holds(&world, &format!("run `fabrik install {machine}`")).await?;
    }

    another_host_key_is_told_nothing(&world).await?;
    the_right_one_becomes_a_node(&world, &good).await?;

    bed.change_system("home", &SystemChange::Package("2".to_owned()))?;
    bed.git().commit_and_push("Have another package at home")?;
    bed.wait_until("it has the package", ROLLED_OUT, async || {
        let system = good.system()?.path;
        Ok((file_of(&good, &system, "package")? == "2").then_some(()))
    })
    .await?;

    it_leaves_by_a_persons_word(&world, &good, &host_key).await?;
    world.bed.shutdown().await;
    Ok(())
}

/// Writes the pool of these machines, each with the host key that is pinned for it.
fn have_pool(bed: &Bed, machines: &[(&str, &Machine, &str)]) -> Result<()> {
    bed.write_default_repo(0)?;
    bed.add_system("home")?;
    let spec = bed.git().read("cluster.toml")?;
    let pool = format!(
        "\n[firewall]\nssh-from = [\"127.0.0.0/8\"]\n[ssh-keys]\nme = \"{OTHER_KEY} me\"\n\
         [pools.home]\nlabels = {{ place = \"attic\" }}\n"
    );
    let tables = machines.iter().enumerate();
    let tables = tables.map(|(number, (name, machine, key))| table(number, name, machine, key));
    bed.git()
        .write("cluster.toml", spec + &pool + &tables.collect::<String>())
}

fn table(number: usize, name: &str, machine: &Machine, host_key: &str) -> String {
    format!(
        "[pools.home.machines.{name}]\naddress = \"{}\"\nhost-key = \"{host_key}\"\n\
         disk = \"/dev/disk/by-id/nvme-{name}\"\nnode-ip = \"10.0.9.{}\"\n",
        machine.address(),
        50 + number,
    )
}

async fn another_host_key_is_told_nothing(world: &World) -> Result<()> {
    let bed = &world.bed;
    // Until it is awaited, the command says to repeat it.
    let what = "the other key is told";
    bed.wait_until(what, SOON, async || {
        let refused = Ran::of(bed.install_cmd("bad")?)?;
        let told = ["shows another host key", "nothing was sent"];
        let is_told = told.iter().all(|part| refused.stderr.contains(part));
        ensure!(refused.code == Some(1) && is_told, "{refused:?}");
        Ok(Some(()))
    })
    .await?;
    ensure!(!sshd_log(bed, "demo-home-bad")?.contains("Accepted"));
    ensure!(tokens(world)?.is_empty(), "a token was made");
    ensure!(bed.nixos_anywhere_calls().is_empty(), "it was installed");
    Ok(())
}

async fn the_right_one_becomes_a_node(world: &World, machine: &Machine) -> Result<()> {
    let bed = &world.bed;
    let installed = Ran::of(bed.install_cmd("good")?)?;
    ensure!(installed.code == Some(0), "{installed:?}");
    ensure!(sshd_log(bed, NODE)?.contains("Accepted publickey for root"));
    let system = machine.system()?.path;
    let calls = bed.nixos_anywhere_calls();
    let of_call = [
        &format!(" {system} --copy-host-keys --ssh-port 22 -i "),
        &format!(" --target-host root@{}\n", machine.address()),
    ];
    ensure!(
        calls.starts_with("--store-paths /nix/store/") && calls.lines().count() == 1,
        "{calls}"
    );
    ensure!(of_call.iter().all(|part| calls.contains(*part)), "{calls}");
    let root = machine.root().context("it has no disk")?;
    let given = root.path("var/lib/fabrik-identity/machine.json");
    ensure!(!given.exists(), "its token is left in {}", given.display());

    bed.wait_until("it is a member, and its token is gone", SOON, async || {
        let ledger = ledger(bed).await?;
        let tokens = tokens(world)?;
        ensure!(
            is_member(&ledger) && tokens.is_empty(),
            "{ledger:#}, {tokens:?}"
        );
        Ok(Some(()))
    })
    .await?;
    let node = world.get(&["node", NODE])?;
    let provider_id = node["spec"]["providerID"].as_str().unwrap_or_default();
    ensure!(provider_id.starts_with("fabrik://"), "{node:#}");
    bed.wait_until("the shop is open on it", SOON, async || {
        let pods = list(&world.get(&["pods", "-l", "app=shop"])?, "items");
        let runs =
            |pod: &Value| pod["status"]["phase"] == "Running" && pod["spec"]["nodeName"] == NODE;
        ensure!(pods.iter().any(runs), "{pods:#?}");
        Ok(Some(()))
    })
    .await
}

async fn it_leaves_by_a_persons_word(
    world: &World,
    machine: &Machine,
    host_key: &str,
) -> Result<()> {
    let bed = &world.bed;
    world.push_edited(&table(0, "good", machine, host_key), "")?;
    holds(world, "is drained, and is a machine of yours: power it off").await?;
    let node = world.get(&["node", NODE])?;
    ensure!(node["spec"]["unschedulable"] == true, "{node:#}");
    let pods = list(&world.get(&["pods", "-l", "app=shop"])?, "items");
    ensure!(
        !pods.iter().any(|pod| pod["spec"]["nodeName"] == NODE),
        "{pods:#?}"
    );

    machine.power_off().await?;
    holds(world, "is a machine of yours that is not heard of").await?;
    ensure!(is_member(&ledger(bed).await?), "silence is nobody's word");
    bed.kubectl(&["delete", "node", NODE])?;
    bed.wait_until("it is forgotten", RESIZED, async || {
        let (ledger, holds) = (
            ledger(bed).await?,
            world.status().await?["holds"].to_string(),
        );
        let tickets = ledger["tickets"]
            .as_object()
            .map_or(0, serde_json::Map::len);
        ensure!(
            !is_member(&ledger) && tickets == 0 && !holds.contains(NODE),
            "{ledger:#}, {holds}"
        );
        Ok(Some(()))
    })
    .await
}

/// Waits until this is left for a person to do, and `fabrik status` says it.
async fn holds(world: &World, what: &str) -> Result<()> {
    let says = |status: &Value| {
        let is_told = |hold: &Value| {
            let message = hold["message"].as_str().unwrap_or_default();
            hold["reason"] == "ByHand" && message.contains(what)
        };
        list(status, "holds").iter().any(is_told)
    };
    world.status_says_within(RESIZED, what, says).await?;
    let told = fabrik_e2e::words(&world.fabrik(&["status"])?.ok()?);
    ensure!(told.contains(what), "{told}");
    Ok(())
}

fn is_member(ledger: &Value) -> bool {
    let members = ledger["members"].as_object();
    let mut members = members.into_iter().flat_map(serde_json::Map::values);
    members.any(|member| member["name"] == NODE && member["pool"] == "home")
}

/// Join tokens that there are.
fn tokens(world: &World) -> Result<Vec<Value>> {
    let tokens = ["secrets", "-n", "kube-system", "-l", "fabrik.dev/intent"];
    Ok(list(&world.get(&tokens)?, "items"))
}

fn sshd_log(bed: &Bed, node: &str) -> Result<String> {
    let log = bed.logs().join(format!("{node}-sshd.log"));
    std::fs::read_to_string(&log).with_context(|| log.display().to_string())
}
