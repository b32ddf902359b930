//! The leader's loop: fetch, admit, observe, ask the core, carry out, report. Then wait for a reason to look again.
//!
//! Nothing that matters is kept here: another replica may go on after any line.

mod engine;
mod pass;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fabrik_core::desired::Desired;
use fabrik_core::disruption::Blocker;
use fabrik_core::id::{CommitId, NodeName, PoolName, SecretName, ServerId, Uid};
use fabrik_core::manifest::Object;
use fabrik_core::observed::Well;
use fabrik_core::spec::Limits;
use fabrik_core::system::SignedPublication;
use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{Instrument as _, info_span, warn};

use super::builds::Building;
use super::evictions::Evictions;
use super::ledger::Held;
use super::observe::Recent;
use super::pace::{self, Backoff};
use super::publish::Publisher;
use super::status::Refusal;
use super::{Replica, RunError, admission, publish};
use crate::apply::{UnitsReport, Wanted};
use crate::cluster::LedgerStore;
use crate::cluster::etcd::Etcd;
use crate::cluster::events::Events;
use crate::cluster::lease::Authority;
use crate::cluster::tokens::Tokens;
use crate::cluster::triggers::{self, Trigger};
use crate::cluster::wishes::Wishes;
use crate::hetzner;
use crate::repo::Changes;
use crate::report::Outcome;
use crate::secrets::Secret;
use pass::GivenUp;

/// A commit in force, with what it takes to carry it out.
pub struct InForce {
    pub desired: Desired,
    pub objects: BTreeMap<fabrik_core::id::UnitName, Vec<Object>>,
    /// What nodes are given, opened.
    pub node_secrets: BTreeMap<SecretName, Secret>,
    /// Of its project at Hetzner, where it has one.
    pub hetzner: Option<hetzner::Client>,
}

pub struct Leader {
    pub(super) replica: Arc<Replica>,
    pub(super) authority: Authority,
    pub(super) ledger: Arc<Mutex<Held>>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) events: Events,
    pub(super) in_force: Option<Arc<InForce>>,
    pub(super) head: Option<CommitId>,
    pub(super) refusal: Option<Refusal>,
    /// Somebody asked: a head that was refused is judged anew.
    pub(super) look_again: bool,
    /// What was said last about git, if it can't be reached.
    pub(super) trouble: Option<String>,
    pub(super) wishes: Wishes,
    pub(super) evictions: Evictions,
    /// Evictions that were refused, and when to ask again.
    pub(super) blocked: BTreeMap<Uid, (String, Instant)>,
    pub(super) backoff: Backoff,
    /// Machines whose reset was asked for, and when.
    pub(super) resets: BTreeMap<ServerId, Instant>,
    /// The last look at Hetzner, while it counts.
    pub(super) hetzner: Option<Recent>,
    /// A node was uncordoned in the last pass: another one may be begun with in this one.
    pub(super) makes_room: bool,
    /// The control plane's etcd, where the configuration says how to ask it.
    pub(super) etcd: Option<Etcd>,
    /// What was said last about it, if it can't be read.
    pub(super) etcd_trouble: Option<String>,
    /// What was said last about the secrets that lie ready for nodes, if those can't be read.
    pub(super) deliveries_trouble: Option<String>,
    /// What can't be read of the `FabrikNode`s, as it was said last.
    pub(super) unreadable: Vec<String>,
    /// Pods that would not be evicted, and when they were looked for.
    pub(super) blockers: (Option<Instant>, Vec<Blocker>),
    /// Since when the nodes that are being updated are well.
    pub(super) well: BTreeMap<NodeName, Well>,
    /// What the nodes of each pool may run, as it was signed for the commit in force.
    pub(super) publications: BTreeMap<PoolName, SignedPublication>,
    /// The caches of the servers that were seen last.
    pub(super) caches: Vec<String>,
    /// Makes the systems of the commit in force, where the configuration says how.
    pub(super) building: Option<Building>,
    /// Its own server is to be updated: another replica is to tell it so.
    pub(super) hands_over: AtomicBool,
    pub(super) publisher: Publisher,
    /// Nodes that are being drained: each pod that goes from them is news.
    drained: watch::Sender<BTreeSet<NodeName>>,
    limits: watch::Sender<Limits>,
    /// Tells the engine what is wanted; `None` until something is.
    wanted: Option<watch::Sender<Arc<Wanted>>>,
    tell: watch::Sender<UnitsReport>,
    reports: watch::Receiver<UnitsReport>,
    triggers: mpsc::Receiver<Trigger>,
    changes: Changes,
    /// The engine and whatever else runs beside the loop; ends with it.
    beside: JoinSet<()>,
}

/// Why the loop wakes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// Something in the cluster changed, or a pass is due.
    Look,
    /// The `FabrikCluster` changed: people may ask for something.
    Wish,
    /// The repository may have changed, or somebody asks.
    Fetch,
}

impl Leader {
    pub fn new(replica: Arc<Replica>, authority: Authority) -> Result<Self, RunError> {
        let clients = &replica.clients;
        let ledger = Arc::new(Mutex::new(Held {
            store: LedgerStore::new(clients.leader_once.clone()),
            current: None,
            epoch: i64::try_from(authority.epoch).unwrap_or(i64::MAX),
        }));
        let tokens = Arc::new(Tokens::new(
            clients.leader_once.clone(),
            &replica.config.kubernetes.ca_file,
        )?);
        let (tell, reports) = watch::channel(UnitsReport::default());
        let mut beside = JoinSet::new();
        let (hints, triggers) = mpsc::channel(16);
        let drained = watch::Sender::default();
        let client = &clients.leader;
        let pods = triggers::watch_drained(client.clone(), drained.subscribe(), hints.clone());
        beside.spawn(pods);
        let asking = Arc::clone(&replica);
        let asks = move || asking.fetch_asked.notify_one();
        beside.spawn(triggers::watch(client.clone(), hints, asks));
        let name = replica.config.cluster.name.as_str();
        let publisher = Publisher::start(client.clone(), &replica.config, &authority, &mut beside);
        Ok(Self {
            ledger,
            tokens,
            events: Events::new(clients.leader.clone(), replica.config.node.as_str(), name),
            in_force: None,
            head: None,
            refusal: None,
            look_again: false,
            trouble: None,
            wishes: Wishes::default(),
            evictions: Evictions::new(clients.leader_once.clone(), authority.clone()),
            blocked: BTreeMap::new(),
            backoff: Backoff::default(),
            resets: BTreeMap::new(),
            hetzner: None,
            makes_room: false,
            etcd: replica.config.etcd.clone().map(Etcd::new),
            etcd_trouble: None,
            deliveries_trouble: None,
            unreadable: Vec::new(),
            blockers: (None, Vec::new()),
            well: BTreeMap::new(),
            publications: BTreeMap::new(),
            caches: Vec::new(),
            building: replica
                .builder
                .clone()
                .map(|builder| Building::start(builder, &mut beside)),
            hands_over: AtomicBool::new(false),
            publisher,
            drained,
            limits: watch::Sender::new(Limits::default()),
            wanted: None,
            tell,
            reports,
            triggers,
            changes: replica.repository.changes(),
            beside,
            authority,
            replica,
        })
    }

    pub fn hands_over(&self) -> bool {
        self.hands_over.load(Ordering::Relaxed)
    }

    /// Ends where the lead is to be given up; else whoever runs it drops it.
    pub async fn run(&mut self) {
        let mut wake = Wake::Fetch;
        let mut next_poll = Instant::now();
        loop {
            if wake == Wake::Fetch || Instant::now() >= next_poll {
                self.fetch_and_admit().await;
                // A git host that takes its time leaves some to the cluster.
                next_poll = Instant::now() + self.replica.config.repository.poll;
            }
            // A pass looks at all that they speak of.
            while self.triggers.try_recv().is_ok() {}
            let commit = self
                .in_force
                .as_ref()
                .map(|f| f.desired.commit.short().to_owned())
                .unwrap_or_default();
            let began = Instant::now();
            // On the heap: it is big, and the futures around it would be bigger.
            let pass = Box::pin(self.pass());
            let result = pass.instrument(info_span!("reconcile", commit)).await;
            self.replica.health.beat();
            if self.hands_over() {
                return;
            }
            self.replica
                .metrics
                .reconciled(Outcome::of(&result), began.elapsed());
            let (pause, least) = match result {
                Ok(busy) => {
                    let (pause, least) = self.until_next_pass(busy);
                    (pause.min(self.until_a_soak_ends()), least)
                }
                Err(GivenUp { problem, is_told }) => {
                    warn!(%problem, "this pass was given up; nothing that it did not see is believed");
                    // Whoever leads by now has told what there is.
                    if !is_told && self.authority.check().is_ok() {
                        publish::trouble(self, &problem);
                    }
                    (Duration::from_secs(3), pace::busy(self.hetzner_left()))
                }
            };
            wake = self.wait_at_least(least, began, pause, next_poll).await;
        }
    }

    fn until_next_pass(&self, busy: bool) -> (Duration, Duration) {
        let has_project = self.in_force.as_ref().is_some_and(|f| f.hetzner.is_some());
        let asks_hetzner = has_project && !self.hetzner.as_ref().is_some_and(Recent::counts);
        pace::until_next_pass(busy, asks_hetzner, self.hetzner_left())
    }

    /// The share of its rate limit that is left.
    pub(super) fn hetzner_left(&self) -> Option<f64> {
        let client = self.in_force.as_ref()?.hetzner.as_ref();
        client?.remaining_share()
    }

    /// No news come of time that has passed.
    fn until_a_soak_ends(&self) -> Duration {
        let in_force = self.in_force.as_ref();
        let soak = in_force.map_or(Duration::ZERO, |f| f.desired.spec.update.soak);
        let since = self.well.values().map(|well| well.since);
        pace::until_over(since, soak, Timestamp::now())
    }

    /// Waits for a reason to look again. News that come faster than passes may be (a pod that crashes again and again)
    /// wait together; what people wish is heard at once.
    async fn wait_at_least(
        &mut self,
        least: Duration,
        began: Instant,
        mut pause: Duration,
        next_poll: Instant,
    ) -> Wake {
        loop {
            let wake = self.wait(pause, next_poll).await;
            let early = least.saturating_sub(began.elapsed());
            if wake == Wake::Fetch || early.is_zero() {
                return wake;
            }
            if wake == Wake::Wish {
                match self.read_wishes().await {
                    Ok(wishes) => self.hear(wishes),
                    Err(problem) => warn!(problem, "what people ask for can't be read"),
                }
            }
            pause = early;
        }
    }

    async fn wait(&mut self, pause: Duration, next_poll: Instant) -> Wake {
        let fetch_asked = self.replica.fetch_asked.notified();
        tokio::select! {
            () = fetch_asked => { self.asked(); Wake::Fetch }
            () = self.changes.next() => Wake::Fetch,
            () = tokio::time::sleep_until(next_poll.into()) => Wake::Fetch,
            Some(trigger) = self.triggers.recv() => match trigger {
                Trigger::Nodes => Wake::Look,
                Trigger::Cluster => Wake::Wish,
            },
            _ = self.reports.changed() => Wake::Look,
            () = Building::changed(&mut self.building) => Wake::Look,
            () = self.evictions.changed() => Wake::Look,
            () = tokio::time::sleep(pause) => Wake::Look,
        }
    }

    /// A person asks: what failed or was refused is looked at again now.
    fn asked(&mut self) {
        self.backoff.clear();
        self.hetzner = None;
        self.look_again = true;
        if let Some(building) = &self.building {
            building.try_again();
        }
    }

    /// Fetches; admits what is new, or remembers why not.
    async fn fetch_and_admit(&mut self) {
        match admission::fetch(self).await {
            Ok(()) => self.trouble = None,
            Err(problem) => {
                if self.trouble.as_ref() != Some(&problem) {
                    warn!(
                        problem,
                        "the repository or the ledger can't be read; the commit in force stays"
                    );
                }
                self.trouble = Some(problem);
            }
        }
    }
}
