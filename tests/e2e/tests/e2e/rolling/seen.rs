//! What a person sees of a rollout that a PodDisruptionBudget blocks: by `fabrik plan` beforehand, and by `fabrik
//! status`, kubectl and Events while it waits.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use fabrik_bed::{Bed, SystemChange, system};
use fabrik_e2e::rolling::{ROLLED_OUT, all_run, has_kernel, plan_with_nix};
use fabrik_e2e::{SOON, World, list, name};
use serde_json::Value;

use super::small_world;

const KERNEL: &str = "6.12.2";
const BUDGET: &str = "PodDisruptionBudget default/shop";
/// Two pods of which none may be missing.
const SHOP: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      nodeSelector: {fabrik.dev/pool: workers}
      terminationGracePeriodSeconds: 1
      containers: [{name: shop, image: registry.example/shop:1}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: shop, namespace: default}
spec: {minAvailable: 2, selector: {matchLabels: {app: shop}}}
";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_budget_blocks_is_said_beforehand_and_wherever_one_looks() -> Result<()> {
    let world = small_world("").await?;
    let bed = &world.bed;
    bed.git().write("manifests/shop/shop.yaml", SHOP)?;
    let shop = bed.git().commit_and_push("Open the shop")?;
    world.workers_ready(2).await?;
    world.carried_out(&shop).await?;
    a_plan_says_it(bed).await?;

    let watch = Watch::start(bed)?;
    bed.git().push()?;
    let node = a_drain_is_blocked(&world).await?;
    status_says_it(&world, &node)?;
    kubectl_says_it(&world, &node)?;

    let open = SHOP.replace("minAvailable: 2", "minAvailable: 1");
    bed.git().write("manifests/shop/shop.yaml", open)?;
    let commit = bed.git().commit_and_push("Let a pod of the shop go")?;
    all_run(bed, "every machine has the kernel", |machine, system| {
        has_kernel(machine, system, KERNEL)
    })
    .await?;
    world.carried_out(&commit).await?;
    let page = world.fabrik(&["status"])?.ok()?;
    ensure!(page.contains("3 of 3 nodes are up to date\n"), "{page}");
    let shown = watch.stop()?;
    for state in ["preparing", "trying", "verifying", "up to date"] {
        let line = |line: &str| line.starts_with("node") && line.contains(state);
        ensure!(
            shown.lines().any(line),
            "--watch never showed {state}:\n{shown}"
        );
    }
    world.bed.shutdown().await;
    Ok(())
}

/// Commits another kernel, and plans it before it is pushed.
async fn a_plan_says_it(bed: &Bed) -> Result<()> {
    for pool in [system::SERVERS, system::WORKERS] {
        bed.change_system(pool, &SystemChange::Kernel(KERNEL.to_owned()))?;
    }
    bed.git().commit("Have another kernel")?;
    bed.wait_until("the plan names what will block", SOON, async || {
        let plan = plan_with_nix(bed, "HEAD")?;
        let rollout =
            "3 reboots, server server-1, then 2 agents of pool workers one at a time, about ";
        ensure!(plan.contains(rollout), "{plan}");
        let blocks = |line: &str| {
            line.contains("pod default/shop-") && line.contains(&format!("because of {BUDGET}"))
        };
        ensure!(plan.lines().any(blocks), "{plan}");
        Ok(Some(()))
    })
    .await
}

/// The node that is being drained and can't be, by its own object.
async fn a_drain_is_blocked(world: &World) -> Result<String> {
    let what = "a drain is blocked, and its FabrikNode says so";
    let blocked = world.bed.wait_until(what, ROLLED_OUT, async || {
        let nodes = list(&world.get(&["fabriknodes"])?, "items");
        let says = |node: &&Value| {
            let message = node["spec"]["standing"]["message"].as_str();
            message.is_some_and(|m| m.contains(BUDGET))
        };
        Ok(nodes.iter().find(says).map(|node| name(&node["metadata"])))
    });
    blocked.await
}

fn status_says_it(world: &World, node: &str) -> Result<()> {
    let page = world.fabrik(&["status"])?.ok()?;
    let rollout = page.lines().find(|l| l.starts_with("rollout"));
    let rollout = rollout.with_context(|| page.clone())?;
    let estimate =
        rollout.contains(" of 3 nodes are up to date; ") && rollout.contains(", until 2");
    ensure!(estimate, "{page}");
    let line = line_of(&page, node)?;
    ensure!(line.contains("preparing"), "{page}");
    ensure!(
        line.contains(", runs ") && line.contains(", is to run "),
        "{page}"
    );
    let server = line_of(&page, "server-1")?;
    ensure!(
        server.contains("up to date") && !server.contains("is to run"),
        "{page}"
    );
    ensure!(
        page.contains(&format!("can't be evicted: {BUDGET}")),
        "{page}"
    );
    Ok(())
}

fn kubectl_says_it(world: &World, node: &str) -> Result<()> {
    let table = world.bed.kubectl(&["get", "fabriknodes"])?;
    ensure!(
        table.contains("STATE") && table.contains("SINCE"),
        "{table}"
    );
    let line = table.lines().find(|l| l.starts_with(node));
    let line = line.with_context(|| table.clone())?;
    ensure!(
        line.contains("preparing") && line.contains(BUDGET),
        "{table}"
    );
    let events = world.bed.kubectl(&["get", "events", "-A"])?;
    for told in [
        "node server-1 may try",
        "node server-1 is told to try",
        "node server-1 runs its new system",
        &format!("node {node} may try"),
        BUDGET,
    ] {
        ensure!(events.contains(told), "no Event says `{told}`:\n{events}");
    }
    let described = world.bed.kubectl(&["describe", "fabriknode", node])?;
    let of_its_own = described.contains("DrainBlocked") && described.contains("UpdateGranted");
    ensure!(of_its_own, "{described}");
    Ok(())
}

fn line_of<'a>(page: &'a str, node: &str) -> Result<&'a str> {
    let of = |line: &&str| line.starts_with("node ") && line.contains(node);
    page.lines().find(of).with_context(|| page.to_owned())
}

/// `fabrik status --watch` in the background, and the file that it writes to.
struct Watch {
    child: Child,
    file: PathBuf,
}

impl Watch {
    fn start(bed: &Bed) -> Result<Self> {
        let file = bed.dir().join("watched");
        let mut command = bed.fabrik_cmd(&["status", "--watch"])?;
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.stdout(std::fs::File::create(&file)?).spawn()?;
        Ok(Self { child, file })
    }

    /// All that it has shown.
    fn stop(mut self) -> Result<String> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(std::fs::read_to_string(&self.file)?)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
    }
}
