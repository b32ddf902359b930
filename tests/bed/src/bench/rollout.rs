//! `bed rollout`: a new kernel goes through many scripted workers. How long that takes, and what fabrik uses for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::process::{self, Cpu};
use super::{mebi, requests};
use crate::scripted::Script;
use crate::system::WORKERS;
use crate::{Bed, Options, SystemChange};

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Play {
    pub workers: u32,
    pub max_unavailable: u32,
    pub script: Script,
    pub soak: Duration,
}

/// How it went.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// From before the push until the first worker was cordoned: evaluating, building and fetching are in it.
    pub until_first: Duration,
    /// From then on until each has booted, is Ready and not cordoned.
    pub took: Duration,
    /// How many were cordoned or not Ready at the same time.
    pub most_down: usize,
}

impl Play {
    /// Twenty seconds of steps.
    pub fn of(workers: u32, max_unavailable: u32) -> Self {
        Self {
            workers,
            max_unavailable,
            script: Script {
                stop: Duration::from_secs(2),
                prepare: Duration::from_secs(1),
                down: Duration::from_secs(9),
                keep: Duration::from_secs(2),
            },
            soak: Duration::from_secs(6),
        }
    }

    fn a_node(&self) -> Duration {
        let Script {
            stop,
            prepare,
            down,
            keep,
        } = self.script;
        stop + prepare + down + self.soak + keep
    }

    fn ideal(&self) -> Duration {
        self.a_node() * self.workers.div_ceil(self.max_unavailable)
    }

    /// A cluster of that many workers, which all run what they should.
    pub async fn begin(&self) -> Result<Bed> {
        let bed = Bed::start(Options {
            fabrik: true,
            systems: true,
            script: Some(self.script),
            webhooks: true,
            poll: Duration::from_secs(15),
            ..Options::default()
        })
        .await?;
        bed.default_repo(0)?;
        let (workers, down, soak) = (self.workers, self.max_unavailable, self.soak.as_secs());
        let spec = bed.git().read("cluster.toml")?;
        let spec = spec
            .replace(
                "count = 0",
                &format!("count = {workers}\nmax-unavailable = {down}"),
            )
            .replace("soak = \"2s\"", &format!("soak = \"{soak}s\""));
        bed.git().write("manifests/shop/shop.yaml", shop(self))?;
        let limits = "\n[limits]\ncreations-per-hour = 500\n";
        bed.git().write("cluster.toml", spec + limits)?;
        bed.git().commit_and_push("Have many workers")?;
        let head = bed.git().head()?;
        let waited = bed
            .fabrik_cmd(&["wait", &head, "--timeout", "900s"])?
            .output()?;
        let said = String::from_utf8_lossy(&waited.stderr);
        ensure!(waited.status.success(), "{said}");
        self.shop_is_open(&bed).await?;
        Ok(bed)
    }

    /// A budget that is not fulfilled yet lets no pod go.
    async fn shop_is_open(&self, bed: &Bed) -> Result<()> {
        let shops: Api<Deployment> = Api::namespaced(bed.kube().await?, "default");
        let workers = i32::try_from(self.workers)?;
        let is_open = |shop: Option<&Deployment>| {
            let status = shop.and_then(|shop| shop.status.as_ref());
            status.and_then(|status| status.available_replicas) == Some(workers)
        };
        let open = await_condition(shops, "shop", is_open);
        let opened = tokio::time::timeout(Duration::from_secs(120), open).await;
        opened.context("the workers' pods don't run")??;
        Ok(())
    }

    /// Pushes another kernel, and watches it go.
    pub async fn roll(&self, bed: &Bed) -> Result<Rollout> {
        let nodes = Nodes::read(bed).await?;
        bed.change_system(WORKERS, &SystemChange::Kernel("6.12.2".to_owned()))?;
        bed.git().commit("Another kernel")?;
        let began = Instant::now();
        bed.git().push()?;
        let limit = self.ideal() * 3 + Duration::from_secs(120);
        match tokio::time::timeout(limit, nodes.follow(began)).await {
            Ok(rollout) => rollout,
            Err(_) => bail!("the rollout did not end within {limit:?}"),
        }
    }
}

/// Prints a table in Markdown.
pub async fn run(workers: u32, max_unavailable: u32) -> Result<()> {
    let play = Play::of(workers, max_unavailable);
    eprintln!("{workers} workers join …");
    let bed = play.begin().await?;
    let pid = bed.fabrik(0).pid().context("fabrik runs")?;
    refill(&bed).await?;
    eprintln!("They get another kernel, {max_unavailable} at a time …");
    process::forget_peak(pid)?;
    let used = Use::begin(&bed, pid).await?;
    let rollout = play.roll(&bed).await?;
    let peak = process::kib(pid, "VmHWM")?;
    let rolling = used.end(&bed, pid).await?;
    eprintln!("They rest …");
    tokio::time::sleep(Duration::from_secs(15)).await;
    let used = Use::begin(&bed, pid).await?;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let resting = used.end(&bed, pid).await?;

    println!("| what | figure |\n|---|---|");
    let (a_node, ideal) = (play.a_node().as_secs(), play.ideal().as_secs());
    println!(
        "| push → the first of {workers} workers is cordoned | {:.1} s |",
        rollout.until_first.as_secs_f64()
    );
    println!(
        "| then → all have rebooted and are uncordoned, {max_unavailable} at a time, {a_node} s of steps a node (at best {ideal} s) | {:.1} s |",
        rollout.took.as_secs_f64()
    );
    println!("| down at the same time, at most | {} |", rollout.most_down);
    println!("| `fabrik run` meanwhile | {rolling} |");
    println!(
        "| `fabrik run` meanwhile, resident at most | {:.1} MiB |",
        mebi(peak * 1024)
    );
    println!("| `fabrik run` in a minute of rest | {resting} |");
    bed.shutdown().await;
    Ok(())
}

/// A pod on each worker and never two, so that the steps of a node are as scripted. Twice as many may be away as nodes.
fn shop(play: &Play) -> String {
    let Play {
        workers,
        max_unavailable,
        ..
    } = play;
    let away = 2 * max_unavailable;
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: shop, namespace: default}}
spec:
  replicas: {workers}
  selector: {{matchLabels: {{app: shop}}}}
  template:
    metadata: {{labels: {{app: shop}}}}
    spec:
      nodeSelector: {{fabrik.dev/pool: workers}}
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {{labelSelector: {{matchLabels: {{app: shop}}}}, topologyKey: kubernetes.io/hostname}}
      containers: [{{name: shop, image: registry.example/shop:1}}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: shop, namespace: default}}
spec: {{maxUnavailable: {away}, selector: {{matchLabels: {{app: shop}}}}}}
"
    )
}

/// The project's request budget is as it is where nothing has happened for an hour.
async fn refill(bed: &Bed) -> Result<()> {
    let url = format!("{}/_emulator/settings", bed.emulator_url());
    let full = json!({"rate_limit": {"remaining": 3600}});
    let answer = reqwest::Client::new().put(url).json(&full).send().await?;
    answer.error_for_status()?;
    Ok(())
}

/// What fabrik uses in a span of time.
struct Use {
    cpu: Cpu,
    at: Timestamp,
    hetzner: u64,
}

struct Used {
    cpu: Cpu,
    kubernetes: usize,
    hetzner: u64,
}

impl Use {
    async fn begin(bed: &Bed, pid: u32) -> Result<Self> {
        Ok(Self {
            cpu: Cpu::of(pid)?,
            at: Timestamp::now(),
            hetzner: last_request(bed).await?,
        })
    }

    async fn end(self, bed: &Bed, pid: u32) -> Result<Used> {
        let cpu = Cpu::of(pid)?.since(self.cpu);
        let now = Timestamp::now();
        let hetzner = last_request(bed).await? - self.hetzner;
        let span = self.at..now;
        let ours = |e: &&crate::audit::Event| {
            e.stage == "ResponseComplete"
                && e.user.username.contains(":fabrik-system:")
                && span.contains(&e.request_received_timestamp)
        };
        let kubernetes = bed.audit(0)?.iter().filter(ours).count();
        Ok(Used {
            cpu,
            kubernetes,
            hetzner,
        })
    }
}

impl std::fmt::Display for Used {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.1} s of CPU, and {:.1} s of its children; {} requests to the API server, {} to Hetzner",
            self.cpu.own.as_secs_f64(),
            self.cpu.children.as_secs_f64(),
            self.kubernetes,
            self.hetzner
        )
    }
}

async fn last_request(bed: &Bed) -> Result<u64> {
    let journal = requests(bed, 0).await?;
    journal["last"].as_u64().context("the journal has an end")
}

/// The workers' Nodes before it.
struct Nodes {
    api: Api<Node>,
    boots: BTreeMap<String, String>,
}

impl Nodes {
    async fn read(bed: &Bed) -> Result<Self> {
        let api: Api<Node> = Api::all(bed.kube().await?);
        let nodes = api.list(&kube::api::ListParams::default()).await?;
        let workers = nodes.items.iter().filter(|n| n.name_any() != "server-1");
        let boots = workers.map(|n| (n.name_any(), boot(n))).collect();
        Ok(Self { api, boots })
    }

    /// Until each has booted once and is back in use.
    async fn follow(self, began: Instant) -> Result<Rollout> {
        let mut changes = watcher(self.api, watcher::Config::default())
            .default_backoff()
            .applied_objects()
            .boxed();
        let (mut down, mut done) = (BTreeSet::new(), BTreeSet::new());
        let (mut most_down, mut until_first) = (0, None);
        while let Some(change) = changes.next().await {
            let Ok(node) = change else { continue };
            let name = node.name_any();
            let Some(before) = self.boots.get(&name) else {
                continue;
            };
            if is_down(&node) {
                until_first.get_or_insert_with(|| began.elapsed());
                down.insert(name);
                most_down = most_down.max(down.len());
                continue;
            }
            down.remove(&name);
            if boot(&node) != *before {
                done.insert(name);
            }
            if done.len() == self.boots.len() && down.is_empty() {
                let until_first = until_first.context("none was ever down")?;
                return Ok(Rollout {
                    until_first,
                    took: began.elapsed().saturating_sub(until_first),
                    most_down,
                });
            }
        }
        bail!("the watch ended")
    }
}

fn is_down(node: &Node) -> bool {
    let status = node.status.as_ref();
    let mut conditions = status
        .into_iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.any(|c| c.type_ == "Ready" && c.status == "True");
    let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable);
    !ready || cordoned == Some(true)
}

fn boot(node: &Node) -> String {
    let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
    info.map(|i| i.boot_id.clone()).unwrap_or_default()
}
