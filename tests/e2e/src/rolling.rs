//! A watcher of rollouts that asks fabrik nothing: it looks at machines and at the API servers'
//! objects many times a second, writes to etcd through the API all the while, and reads the audit
//! logs at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fabrik_bed::parts::Parts;
use fabrik_bed::{Bed, Machine, State, SystemChange, system};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PostParams};
use tokio::task::JoinHandle;

use crate::{Ran, World};

/// For a rollout over a few nodes, on a machine that has other things to do.
pub const ROLLED_OUT: Duration = Duration::from_secs(420);
const LOOK: Duration = Duration::from_millis(150);
/// How long a node that reaches an API server again may take until its Node is Ready.
const READY_AGAIN: Duration = Duration::from_secs(10);
/// An answer that takes longer is no answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Six pods of which one may be missing.
pub const SHOP: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: default}
spec:
  replicas: 6
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
spec: {minAvailable: 5, selector: {matchLabels: {app: shop}}}
";
const MIN_AVAILABLE: usize = 5;

/// Nodes that were down at one look, and what was seen of each.
type Down = BTreeMap<String, String>;

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub looks: usize,
    /// The most servers, and the most workers, that were down at one look, and why.
    pub servers_down: Down,
    pub workers_down: Down,
    /// Every node that was ever cordoned.
    pub cordoned: BTreeSet<String>,
    /// An agent that ran a newer k3s than a server (S4).
    pub disorder: Option<String>,
    /// Fewest ready pods of the shop.
    pub ready_pods: Option<usize>,
    /// Names of the ConfigMaps whose creation an API server acknowledged.
    pub acknowledged: Vec<String>,
}

/// Looks on until it is dropped.
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Watcher {
    pub async fn start(bed: &Bed) -> Result<Self> {
        let seen = Arc::<Mutex<Seen>>::default();
        let (client, machines) = (bed.kube().await?, bed.machines());
        let look = looks(client.clone(), machines, Arc::clone(&seen));
        let write = writes(client, Arc::clone(&seen));
        let tasks = vec![tokio::spawn(look), tokio::spawn(write)];
        Ok(Self { seen, tasks })
    }

    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// What must hold of every rollout.
    pub async fn verdict(self, world: &World, max_unavailable: usize) -> Result<Seen> {
        let seen = self.seen();
        ensure!(seen.looks > 10, "it hardly looked: {seen:?}");
        ensure!(
            seen.servers_down.len() <= 1,
            "down at the same time: {:?}",
            seen.servers_down
        );
        ensure!(
            seen.workers_down.len() <= max_unavailable,
            "down at the same time: {:?}",
            seen.workers_down
        );
        ensure!(seen.disorder.is_none(), "{:?}", seen.disorder);
        let fewest = seen.ready_pods.context("no pods of the shop were seen")?;
        ensure!(fewest >= MIN_AVAILABLE, "only {fewest} pods were ready");
        let pods = deleted_by_others(world)?;
        ensure!(pods.is_empty(), "pods were deleted, not evicted: {pods:#?}");
        let kept = names(world).await?;
        ensure!(
            seen.acknowledged.len() > 5,
            "hardly a write was acknowledged"
        );
        let lost: Vec<_> = seen
            .acknowledged
            .iter()
            .filter(|name| !kept.contains(*name))
            .collect();
        ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        Ok(seen)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Changes the system of both pools, commits and pushes.
pub fn push_system(bed: &Bed, change: &SystemChange, message: &str) -> Result<String> {
    for pool in [system::SERVERS, system::WORKERS] {
        bed.change_system(pool, change)?;
    }
    bed.git().commit_and_push(message)
}

/// Waits until every machine runs a system of which `holds` is true, and boots it by default.
pub async fn all_run(
    bed: &Bed,
    what: &str,
    holds: impl Fn(&Machine, &str) -> Result<bool>,
) -> Result<()> {
    all_run_within(ROLLED_OUT, bed, what, holds).await
}

/// The same, with time for what is done to them on the way.
pub async fn all_run_within(
    limit: Duration,
    bed: &Bed,
    what: &str,
    holds: impl Fn(&Machine, &str) -> Result<bool>,
) -> Result<()> {
    bed.wait_until(what, limit, async || {
        let mut missing = BTreeMap::new();
        for machine in bed.machines() {
            let root = machine.root().context("a machine without a disk")?;
            for link in ["run/current-system", "nix/var/nix/profiles/system"] {
                let mut system = std::fs::read_link(root.path(link))?;
                if let Ok(generation) =
                    std::fs::read_link(root.path("nix/var/nix/profiles").join(&system))
                {
                    system = generation;
                }
                let system = system.to_str().context("a store path")?;
                if !holds(&machine, system)? {
                    missing.insert(machine.name().to_owned(), format!("{link} is {system}"));
                }
            }
        }
        ensure!(missing.is_empty(), "not yet: {missing:#?}");
        Ok(Some(()))
    })
    .await
}

/// `fabrik plan` with a Nix at hand that has a store of its own.
pub fn plan_with_nix(bed: &Bed, what: &str) -> Result<String> {
    let mut command = bed.fabrik_cmd(&["plan", what])?;
    let nix = Parts::nix()?;
    let folders = nix.parent().map(Path::to_owned).into_iter();
    let path = command.get_envs().find(|(name, _)| *name == "PATH");
    let path = path
        .and_then(|(_, path)| path)
        .unwrap_or_default()
        .to_owned();
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&path)))?;
    let home = bed.dir().join("home");
    command
        .env("PATH", path)
        .env("HOME", &home)
        .env("NIX_REMOTE", home.join("store"))
        .env("NIX_CONF_DIR", bed.dir().join("image/root/etc/nix"));
    Ran::of(command)?.ok()
}

/// Whether a system of a machine has this kernel.
pub fn has_kernel(machine: &Machine, system: &str, kernel: &str) -> Result<bool> {
    let root = machine.root().context("a machine without a disk")?;
    let link = std::fs::read_link(root.path(system).join("kernel"))?;
    Ok(link.to_string_lossy().ends_with(&format!("linux-{kernel}")))
}

/// A file of a system, as its machine has it.
pub fn file_of(machine: &Machine, system: &str, file: &str) -> Result<String> {
    let root = machine.root().context("a machine without a disk")?;
    let path = root.path(system).join(file);
    let text = std::fs::read_to_string(&path);
    Ok(text
        .with_context(|| format!("reading {}", path.display()))?
        .trim()
        .to_owned())
}

async fn looks(client: kube::Client, machines: Vec<Machine>, seen: Arc<Mutex<Seen>>) {
    let nodes: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::namespaced(client, "default");
    // A worker whose Node was deleted has left the cluster; that its machine is off is as it should be.
    let mut known = BTreeSet::new();
    // A Node that is not Ready because the test has cut its machine off is not down by a rollout's doing.
    let mut excused: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let cut_off = machines.iter().filter(|machine| machine.is_cut_off());
        let until = Instant::now() + READY_AGAIN;
        excused.extend(cut_off.map(|machine| (machine.name().to_owned(), until)));
        excused.retain(|_, until| Instant::now() < *until);
        let off = |machine: &&Machine| !matches!(machine.state(), State::Running { .. });
        let mut down: Down = machines
            .iter()
            .filter(off)
            .map(|machine| (machine.name().to_owned(), "off".to_owned()))
            .collect();
        let parameters = ListParams::default();
        let answer = tokio::time::timeout(PATIENCE, nodes.list(&parameters)).await;
        let mut cordoned = BTreeSet::new();
        let looked = matches!(answer, Ok(Ok(_)));
        if let Ok(Ok(nodes)) = answer {
            known.clear();
            for node in nodes {
                let name = node.metadata.name.clone().unwrap_or_default();
                known.insert(name.clone());
                if node
                    .spec
                    .as_ref()
                    .is_some_and(|spec| spec.unschedulable == Some(true))
                {
                    cordoned.insert(name.clone());
                    down.entry(name.clone())
                        .or_insert_with(|| format!("cordoned, seen at {}", Timestamp::now()));
                }
                if !is_ready(&node) && !excused.contains_key(&name) {
                    down.entry(name).or_insert_with(|| not_ready(&node));
                }
            }
        }
        let shop = ListParams::default().labels("app=shop");
        let answer = tokio::time::timeout(PATIENCE, pods.list(&shop)).await;
        let ready = answer
            .ok()
            .and_then(Result::ok)
            .map(|pods| pods.iter().filter(|p| pod_ready(p)).count());
        let (servers, workers): (Down, Down) = down
            .into_iter()
            .filter(|(name, _)| known.contains(name))
            .partition(|(name, _)| name.starts_with("server-"));
        let mut seen = lock(&seen);
        seen.looks += usize::from(looked);
        seen.disorder = seen.disorder.take().or_else(|| disorder(&machines));
        seen.cordoned.extend(cordoned);
        if servers.len() > seen.servers_down.len() {
            seen.servers_down = servers;
        }
        if workers.len() > seen.workers_down.len() {
            seen.workers_down = workers;
        }
        seen.ready_pods = seen.ready_pods.into_iter().chain(ready).min();
    }
}

fn disorder(machines: &[Machine]) -> Option<String> {
    let minor = |machine: &Machine| -> Option<u32> {
        let k3s = machine.system().ok()?.k3s;
        k3s.split('.').nth(1)?.parse().ok()
    };
    let is_server = |machine: &&Machine| machine.name().starts_with("server-");
    let oldest = machines.iter().filter(is_server).filter_map(minor).min()?;
    let agents = machines.iter().filter(|machine| !is_server(machine));
    let mut newer = agents.filter(|agent| minor(agent).is_some_and(|minor| minor > oldest));
    newer
        .next()
        .map(|agent| format!("{} was before a server", agent.name()))
}

/// Writes one object after the other; what was not acknowledged is not counted.
async fn writes(client: kube::Client, seen: Arc<Mutex<Seen>>) {
    let maps: Api<ConfigMap> = Api::namespaced(client, "kube-public");
    for number in 0_u32.. {
        tokio::time::sleep(LOOK).await;
        let name = format!("write-{number}");
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        };
        let parameters = PostParams::default();
        let created = tokio::time::timeout(PATIENCE, maps.create(&parameters, &map)).await;
        if let Ok(Ok(_)) = created {
            lock(&seen).acknowledged.push(name);
        }
    }
}

async fn names(world: &World) -> Result<BTreeSet<String>> {
    let maps: Api<ConfigMap> = Api::namespaced(world.bed.kube().await?, "kube-public");
    let maps = maps.list(&ListParams::default()).await?;
    Ok(maps
        .into_iter()
        .filter_map(|map| map.metadata.name)
        .collect())
}

/// Deletions of pods of the shop that were no evictions. KWOK, which plays the kubelets, only ends
/// what somebody else has evicted.
fn deleted_by_others(world: &World) -> Result<Vec<String>> {
    let events = world.audit()?;
    let deletions = events.iter().filter(|event| {
        let pod = event.object_ref.as_ref().is_some_and(|object| {
            object.resource == "pods"
                && object.subresource.is_empty()
                && object.namespace == "default"
        });
        let done = event
            .response_status
            .as_ref()
            .is_some_and(|status| status.code < 300);
        pod && done && event.verb.starts_with("delete") && event.user.username != "bed:kwok"
    });
    Ok(deletions
        .map(|e| format!("{} {}", e.user.username, e.request_uri))
        .collect())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Says how late its heartbeat was, too: on a machine that is too busy that is the bed's doing.
fn not_ready(node: &Node) -> String {
    let conditions = node
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.filter(|c| c.type_ == "Ready");
    let why: Vec<String> = ready
        .map(|c| {
            format!(
                "{} by {:?} since {:?}",
                c.status, c.reason, c.last_transition_time
            )
        })
        .collect();
    format!(
        "not Ready ({}), seen at {}",
        why.join(", "),
        Timestamp::now()
    )
}

fn pod_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
