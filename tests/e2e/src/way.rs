//! How far each node is on its way to another system: by the API server's objects, and by the journal that its agent has
//! on its disk, which says more and sooner.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use fabrik_bed::server::Server;
use fabrik_bed::{Bed, Machine};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinHandle;

/// What became true of a node last, in the order in which it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// It has a ticket.
    Granted,
    Cordoned,
    /// No pod is left on it that an eviction would move.
    Drained,
    /// Its etcd member does not lead any more.
    EtcdMoved,
    /// A snapshot was taken, before the first server of a newer k3s minor.
    Snapshotted,
    /// The ledger says that it may try.
    Allowed,
    /// Its replica of fabrik led, and another one's does.
    HandedOver,
    /// Its FabrikNode has the order to try.
    Ordered,
    /// Its journal has the order.
    Accepted,
    /// It switches, or goes down to boot the new system once.
    Applying,
    /// It runs the new system.
    Trying,
    /// Its FabrikNode has the order to keep it.
    KeepOrdered,
    /// The new system is its default.
    Kept,
    Uncordoned,
    /// Its ticket is no more.
    Ended,
}

impl Step {
    pub const ALL: [Self; 15] = [
        Self::Granted,
        Self::Cordoned,
        Self::Drained,
        Self::EtcdMoved,
        Self::Snapshotted,
        Self::Allowed,
        Self::HandedOver,
        Self::Ordered,
        Self::Accepted,
        Self::Applying,
        Self::Trying,
        Self::KeepOrdered,
        Self::Kept,
        Self::Uncordoned,
        Self::Ended,
    ];
}

/// Looks on until it is dropped.
pub struct Ways {
    machines: Vec<Machine>,
    /// Where servers have their snapshots of etcd.
    snapshots: Vec<PathBuf>,
    shown: Arc<Mutex<Shown>>,
    tasks: Vec<JoinHandle<()>>,
    at: BTreeMap<String, At>,
    /// How often a lead had been given up when the replica of this node led and it was allowed to try.
    led: BTreeMap<String, usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct At {
    ticket: u64,
    /// How many were taken under this ticket: one that is taken again is a step again.
    snapshots: usize,
    step: Step,
}

/// What the API server showed last.
#[derive(Default)]
struct Shown {
    ledger: Value,
    orders: BTreeMap<String, Value>,
    cordoned: BTreeSet<String>,
    /// Of the default namespace: the nodes that they are on.
    pods: BTreeMap<String, String>,
    leader: Option<String>,
    /// How often the lead was given up in order.
    given_up: usize,
    /// When the lead of etcd was moved away from a server.
    etcd_moved: BTreeMap<String, Timestamp>,
}

impl Ways {
    pub async fn start(bed: &Bed) -> Result<Self> {
        let client = bed.kube().await?;
        let shown = Arc::<Mutex<Shown>>::default();
        let tasks = follow_all(&client, &shown);
        let dir = |server: &Arc<Server>| server.control_plane.dir().join("snapshots");
        Ok(Self {
            machines: bed.machines(),
            snapshots: bed.servers().iter().map(dir).collect(),
            shown,
            tasks,
            at: BTreeMap::new(),
            led: BTreeMap::new(),
        })
    }

    /// Whose replica of fabrik leads.
    pub fn leader(&self) -> Option<String> {
        let holder = lock(&self.shown).leader.clone()?;
        let names = self.machines.iter().map(Machine::name);
        let mut servers = names.filter(|name| holder.starts_with(*name));
        servers.next().map(str::to_owned)
    }

    /// Tickets and cordons that there are; empty where there are none.
    pub fn left(&self) -> String {
        let shown = lock(&self.shown);
        let tickets = shown.ledger["tickets"].as_object().into_iter().flatten();
        let tickets = tickets.map(|(_, ticket)| format!("ticket {ticket}"));
        let cordons = shown
            .cordoned
            .iter()
            .map(|node| format!("cordon of {node}"));
        tickets.chain(cordons).collect::<Vec<_>>().join(", ")
    }

    /// What nodes have come to since the last look. What one passed through between two looks is left out.
    pub fn look(&mut self) -> Vec<(Machine, Step)> {
        let leader = self.leader();
        let mut news = Vec::new();
        for machine in self.machines.clone() {
            let before = self.at.get(machine.name()).copied();
            let ended = before.map(|at| At {
                step: Step::Ended,
                ..at
            });
            let now = self.now(&machine, leader.as_deref()).or(ended);
            if let Some(now) = now.filter(|now| Some(*now) != before) {
                self.at.insert(machine.name().to_owned(), now);
                news.push((machine, now.step));
            }
        }
        news
    }

    /// None where it has no ticket.
    fn now(&mut self, machine: &Machine, leader: Option<&str>) -> Option<At> {
        let name = machine.name();
        let shown = lock(&self.shown);
        let tickets = shown.ledger["tickets"].as_object()?;
        let ticket = tickets.values().find(|t| t["node"] == name)?;
        let number = ticket["number"].as_u64()?;
        let snapshots = snapshots(&self.snapshots, number);
        let at = |step| {
            Some(At {
                ticket: number,
                snapshots,
                step,
            })
        };
        let cordoned = shown.cordoned.contains(name);
        let current = journal(machine).filter(|current| current["ticket"] == number);
        let phase = current.as_ref().and_then(|c| c["phase"].as_str());
        let order = shown.orders.get(name).filter(|o| o["ticket"] == number);
        let action = order.and_then(|order| order["action"].as_str());
        match (phase, action) {
            (Some("kept"), _) if cordoned => return at(Step::Kept),
            (Some("kept"), _) => return at(Step::Uncordoned),
            (Some("trying"), Some("keep")) => return at(Step::KeepOrdered),
            (Some("trying"), _) => return at(Step::Trying),
            (Some("applying"), _) => return at(Step::Applying),
            (Some(_), _) => return at(Step::Accepted),
            (None, Some(_)) => return at(Step::Ordered),
            (None, None) => {}
        }
        if !ticket["ordered"].is_null() {
            if leader == Some(name) {
                self.led.insert(name.to_owned(), shown.given_up);
            }
            let led = self.led.get(name);
            let gave_up = led.is_some_and(|before| shown.given_up > *before);
            return at(if gave_up {
                Step::HandedOver
            } else {
                Step::Allowed
            });
        }
        let since: Option<Timestamp> = ticket["at"].as_str().and_then(|at| at.parse().ok());
        let moved = shown.etcd_moved.get(name);
        at(if !cordoned {
            Step::Granted
        } else if snapshots > 0 {
            Step::Snapshotted
        } else if moved.is_some_and(|moved| since.is_some_and(|since| *moved > since)) {
            Step::EtcdMoved
        } else if name.starts_with("server-") || shown.pods.values().any(|node| node == name) {
            Step::Cordoned
        } else {
            Step::Drained
        })
    }
}

impl Drop for Ways {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn follow_all(client: &Client, shown: &Arc<Mutex<Shown>>) -> Vec<JoinHandle<()>> {
    let ours = |kind: &str| {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("fabrik.dev", "v1alpha1", kind));
        Api::<DynamicObject>::all_with(client.clone(), &kind)
    };
    vec![
        follow(shown, ours("FabrikLedger"), |shown, ledger, _| {
            shown.ledger = ledger.data["spec"].clone();
        }),
        follow(shown, ours("FabrikNode"), |shown, node, _| {
            let order = node.data["spec"]["order"].clone();
            shown.orders.insert(node.name_any(), order);
        }),
        follow(shown, Api::<Node>::all(client.clone()), |shown, node, _| {
            if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
                shown.cordoned.insert(node.name_any());
            } else {
                shown.cordoned.remove(&node.name_any());
            }
        }),
        follow(
            shown,
            Api::<Pod>::default_namespaced(client.clone()),
            |shown, pod, gone| {
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
                if let Some(node) = node.filter(|_| !gone) {
                    shown.pods.insert(pod.name_any(), node);
                } else {
                    shown.pods.remove(&pod.name_any());
                }
            },
        ),
        follow(
            shown,
            Api::<Lease>::namespaced(client.clone(), "fabrik-system"),
            |shown, lease, _| {
                let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.clone());
                shown.leader = holder.filter(|holder| !holder.is_empty());
                shown.given_up += usize::from(shown.leader.is_none());
            },
        ),
        follow(
            shown,
            Api::<Event>::all(client.clone()),
            |shown, event, _| {
                shown.etcd_moved.extend(moved(event));
            },
        ),
    ]
}

/// A server from which fabrik says to have moved the lead of etcd away, and when it did so last.
fn moved(event: &Event) -> Option<(String, Timestamp)> {
    let note = event.message.as_deref()?;
    let server = note.strip_prefix("move-etcd-leader ")?;
    let series = event
        .series
        .as_ref()
        .and_then(|s| s.last_observed_time.as_ref());
    let at = series.or(event.event_time.as_ref())?.0;
    Some((server.to_owned(), at))
}

/// Keeps what is shown as a watch tells it. `true` for an object that is gone.
fn follow<K>(
    shown: &Arc<Mutex<Shown>>,
    api: Api<K>,
    note: fn(&mut Shown, &K, bool),
) -> JoinHandle<()>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let shown = Arc::clone(shown);
    tokio::spawn(async move {
        let mut events = watcher(api, watcher::Config::default())
            .default_backoff()
            .boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                    note(&mut lock(&shown), &object, false);
                }
                Ok(watcher::Event::Delete(object)) => note(&mut lock(&shown), &object, true),
                // It begins again by itself.
                Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => {}
            }
        }
    })
}

/// The order that the agent of this machine carries out, or the last one that it did.
fn journal(machine: &Machine) -> Option<Value> {
    let file = machine.root()?.path("var/lib/fabrik-agent/journal.json");
    let mut journal: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    Some(journal["current"].take())
}

/// fabrik names them after the ticket.
fn snapshots(dirs: &[PathBuf], ticket: u64) -> usize {
    let files = dirs
        .iter()
        .flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten());
    let is = |file: &str| file.contains(&format!("-{ticket}-"));
    let names = files.flatten().map(|file| file.file_name());
    names.filter(|name| is(&name.to_string_lossy())).count()
}

fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}
