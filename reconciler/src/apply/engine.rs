//! The loop: take what is wanted, bring the cluster there stage by stage, then wait for a commit, a sight or a retry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fabrik_core::apply::{Stage, stage};
use fabrik_core::desired::ObjectKey;
use fabrik_core::id::UnitName;
use fabrik_core::manifest::Object;
use futures::stream::{FuturesUnordered, StreamExt};
use kube::Client;
use tokio::sync::{mpsc, watch};

use super::discovery::{Discovery, Kind};
use super::failure::Failure;
use super::inventory::{InventoryError, InventoryStore, Stored};
use super::object::{self, Sent};
use super::prune::{Pruner, Prunes};
use super::track::Track;
use super::watch::{Sight, Watches};
use super::{Authority, Engine, Lost, PruneGrant, UnitsReport, Wanted};

mod books;
mod definitions;

/// More do not make an API server faster.
pub(super) const CONCURRENT_REQUESTS: usize = 16;
/// How often leadership is checked while there is nothing to do.
const IDLE_CHECK: Duration = Duration::from_secs(1);
/// After inventories could not be read or written.
const RELOAD_AFTER: Duration = Duration::from_secs(1);

type KindName = (String, String);

impl Engine {
    /// Works until the sender of `commands` is gone, or leadership is.
    ///
    /// May be dropped at any time: the next one goes on from the stored inventories.
    pub async fn run(
        self,
        mut commands: watch::Receiver<Arc<Wanted>>,
        reports: watch::Sender<UnitsReport>,
        authority: Authority,
    ) -> Result<(), Lost> {
        let (watches, mut sights) = Watches::start(self.client.clone());
        let wanted = commands.borrow_and_update().clone();
        let mut run = Run::new(self, wanted, watches, authority);
        loop {
            run.check()?;
            run.pass(&commands).await;
            run.check()?;
            run.publish(&reports).await;
            loop {
                tokio::select! {
                    biased;
                    changed = commands.changed() => {
                        if changed.is_err() {
                            return Ok(());
                        }
                        let wanted = commands.borrow_and_update().clone();
                        run.take(wanted);
                        break;
                    }
                    Some(sight) = sights.recv() => {
                        run.see(sight, &mut sights);
                        break;
                    }
                    () = tokio::time::sleep(run.idle()) => {
                        run.check()?;
                        if run.idle().is_zero() || !run.stale.is_empty() {
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// An engine at work.
struct Run {
    client: Client,
    store: InventoryStore,
    grant: PruneGrant,
    authority: Authority,
    discovery: Discovery,
    watches: Watches,
    wanted: Arc<Wanted>,
    tracks: BTreeMap<ObjectKey, Track>,
    /// Objects whose health must be asked for.
    stale: BTreeSet<ObjectKey>,
    units: BTreeMap<UnitName, Unit>,
    kinds: BTreeMap<KindName, Kind>,
    /// The inventories must be read, at this time.
    reload: Option<Instant>,
}

/// A unit that is wanted, or that has objects left.
#[derive(Default)]
struct Unit {
    stored: Stored,
    prunes: Prunes,
    /// Candidates that need no more care, still in the stored inventory.
    gone: BTreeSet<ObjectKey>,
}

impl Run {
    fn new(engine: Engine, wanted: Arc<Wanted>, watches: Watches, authority: Authority) -> Self {
        let mut run = Self {
            store: InventoryStore::new(engine.client.clone()),
            discovery: Discovery::new(engine.client.clone()),
            client: engine.client,
            grant: engine.grant,
            authority,
            watches,
            wanted: Arc::clone(&wanted),
            tracks: BTreeMap::new(),
            stale: BTreeSet::new(),
            units: BTreeMap::new(),
            kinds: BTreeMap::new(),
            reload: Some(Instant::now()),
        };
        run.take(wanted);
        run
    }

    fn check(&self) -> Result<(), Lost> {
        self.authority.as_ref()()
    }

    /// True when no further request may begin.
    fn stops(&self, commands: &watch::Receiver<Arc<Wanted>>) -> bool {
        commands.has_changed().unwrap_or(true) || self.check().is_err()
    }

    fn take(&mut self, wanted: Arc<Wanted>) {
        let mut old = std::mem::take(&mut self.tracks);
        for (unit, objects) in &wanted.units {
            self.units.entry(unit.clone()).or_default();
            for object in objects {
                let mut track = old
                    .remove(&object.key)
                    .unwrap_or_else(|| Track::new(unit, object));
                track.renew(unit, object);
                self.tracks.entry(object.key.clone()).or_insert(track);
            }
        }
        for unit in self.units.values_mut() {
            unit.prunes.renew();
            unit.gone.clear();
        }
        self.wanted = wanted;
    }

    /// Does all that is due and can be done now.
    async fn pass(&mut self, commands: &watch::Receiver<Arc<Wanted>>) {
        if !self.load().await {
            return;
        }
        if self.wanted.paused.is_none() {
            self.announce().await;
            for stage in Stage::ALL {
                if self.stops(commands) {
                    return;
                }
                self.apply(stage, commands).await;
                if stage == Stage::Definitions {
                    self.await_definitions(commands).await;
                }
            }
            self.prune(commands).await;
        }
        self.ask_health(commands).await;
        self.watch_kinds();
    }

    /// Sends what is due of one stage. A failing object does not stop the others.
    async fn apply(&mut self, wanted_stage: Stage, commands: &watch::Receiver<Arc<Wanted>>) {
        let wanted = Arc::clone(&self.wanted);
        let due = self.due(&wanted, wanted_stage);
        let kinds = self.resolve(&due).await;
        let (client, authority) = (self.client.clone(), self.authority.clone());
        let mut queue = due.into_iter();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < CONCURRENT_REQUESTS && !self.stops(commands) {
                let Some((unit, object)) = queue.next() else {
                    break;
                };
                let kind = kinds.get(&(object.api_version.as_str(), object.key.kind.as_str()));
                let (client, authority) = (&client, &authority);
                running.push(async move {
                    let outcome = match kind {
                        Some(Ok(kind)) => {
                            object::apply(client, kind, unit, object, authority).await
                        }
                        Some(Err(failure)) => Err(failure.clone()),
                        None => Ok(None),
                    };
                    (object, outcome)
                });
            }
            let Some((object, outcome)) = running.next().await else {
                return;
            };
            self.record(object, outcome);
        }
    }

    fn due<'a>(&self, wanted: &'a Wanted, wanted_stage: Stage) -> Vec<(&'a UnitName, &'a Object)> {
        let now = Instant::now();
        let objects = wanted
            .units
            .iter()
            .flat_map(|(unit, objects)| objects.iter().map(move |object| (unit, object)));
        objects
            .filter(|(unit, object)| {
                stage(&object.key) == wanted_stage
                    && self.is_announced(unit, &object.key)
                    && self
                        .tracks
                        .get(&object.key)
                        .is_some_and(|t| t.unit == **unit && t.is_due(&object.digest, now))
            })
            .collect()
    }

    /// Each kind is asked for once, however many objects there are of it.
    async fn resolve<'a>(
        &mut self,
        due: &[(&UnitName, &'a Object)],
    ) -> BTreeMap<(&'a str, &'a str), Result<Kind, Failure>> {
        let mut kinds = BTreeMap::new();
        for (_, object) in due {
            let name = (object.api_version.as_str(), object.key.kind.as_str());
            if kinds.contains_key(&name) {
                continue;
            }
            let kind = self.discovery.kind(name.0, name.1).await;
            if let Ok(kind) = &kind {
                self.kinds.insert(kind_name(&object.key), kind.clone());
            }
            kinds.insert(name, kind);
        }
        self.watch_kinds();
        kinds
    }

    fn record(&mut self, object: &Object, outcome: Result<Option<Sent>, Failure>) {
        let Some(track) = self.tracks.get_mut(&object.key) else {
            return;
        };
        match outcome {
            Ok(Some(sent)) => {
                tracing::info!(object = %object.key, unit = %track.unit, "applied");
                track.sent(&object.digest, sent);
                self.stale.remove(&object.key);
            }
            Ok(None) => {}
            Err(failure) => {
                tracing::warn!(object = %object.key, unit = %track.unit, place = %object.place, %failure, "not applied");
                track.fail(failure, Instant::now());
            }
        }
    }

    async fn prune(&mut self, commands: &watch::Receiver<Arc<Wanted>>) {
        let wanted = Arc::clone(&self.wanted);
        let names: Vec<UnitName> = self.units.keys().cloned().collect();
        for name in names {
            if self.stops(commands) {
                return;
            }
            let candidates = self.candidates(&name);
            if candidates.is_empty() || !self.all_applied(&name) {
                continue;
            }
            let Some(unit) = self.units.get_mut(&name) else {
                continue;
            };
            if !unit.prunes.is_due(Instant::now()) {
                continue;
            }
            let mut pruner = Pruner {
                client: &self.client,
                discovery: &mut self.discovery,
                limits: &wanted.limits,
                grant: &self.grant,
                authority: &self.authority,
            };
            for key in &candidates {
                if let Ok(Some(kind)) = pruner.discovery.of_key(key).await {
                    self.kinds.entry(kind_name(key)).or_insert(kind);
                }
            }
            let gone = unit.prunes.round(&name, candidates, &mut pruner).await;
            unit.gone.extend(gone);
        }
    }

    async fn ask_health(&mut self, commands: &watch::Receiver<Arc<Wanted>>) {
        let client = self.client.clone();
        let stale: Vec<ObjectKey> = std::mem::take(&mut self.stale).into_iter().collect();
        let known = stale.into_iter().filter_map(|key| {
            let kind = self.kinds.get(&kind_name(&key)).cloned()?;
            let client = &client;
            Some(async move {
                let health = object::look(client, &kind, &key).await;
                (key, health)
            })
        });
        let known: Vec<_> = known.collect();
        let mut answers = futures::stream::iter(known).buffer_unordered(CONCURRENT_REQUESTS);
        while let Some((key, health)) = answers.next().await {
            match health {
                Ok(Some(health)) => {
                    if let Some(track) = self.tracks.get_mut(&key) {
                        track.health = health;
                    }
                }
                // Its deletion is a sight of its own.
                Ok(None) => {}
                Err(failure) => {
                    tracing::debug!(object = %key, %failure, "health not known");
                    self.stale.insert(key);
                }
            }
            if self.stops(commands) {
                return;
            }
        }
    }

    /// Watches the kinds of what is wanted or may be pruned.
    fn watch_kinds(&mut self) {
        let wanted = self.tracks.keys();
        let stored = self.units.values().flat_map(|u| u.stored.inventory.keys());
        let used: BTreeSet<KindName> = wanted.chain(stored).map(kind_name).collect();
        self.kinds.retain(|name, _| used.contains(name));
        self.watches.keep(&self.kinds);
    }

    /// Takes in one sight and all others that wait behind it.
    fn see(&mut self, first: Sight, more: &mut mpsc::Receiver<Sight>) {
        self.see_one(first);
        while let Ok(sight) = more.try_recv() {
            self.see_one(sight);
        }
    }

    fn see_one(&mut self, sight: Sight) {
        let now = Instant::now();
        match sight {
            Sight::Seen(key, live) => match self.tracks.get_mut(&key) {
                Some(track) => {
                    if track.seen(live, now) && fabrik_core::apply::has_health(&key) {
                        self.stale.insert(key);
                    }
                }
                None => self.look_at_candidate(&key),
            },
            Sight::Gone(key, version) => match self.tracks.get_mut(&key) {
                Some(track) => track.gone(version, now),
                None => self.look_at_candidate(&key),
            },
            Sight::Listed {
                group,
                kind,
                keys,
                since,
            } => {
                let of_kind = |key: &ObjectKey| key.group == group && key.kind == kind;
                for (key, track) in &mut self.tracks {
                    if of_kind(key) && !keys.contains(key) {
                        track.unlisted(since, now);
                    }
                }
            }
            Sight::Definition { group } => {
                self.discovery.forget(&group);
                self.retry_kinds_of(&group);
            }
        }
    }

    fn look_at_candidate(&mut self, key: &ObjectKey) {
        for unit in self.units.values_mut() {
            if unit.stored.inventory.contains_key(key) {
                unit.prunes.wait_until = None;
            }
        }
    }

    /// How long there is nothing to do but to wait; zero if something is due.
    fn idle(&self) -> Duration {
        let now = Instant::now();
        let paused = self.wanted.paused.is_some();
        let retries = self
            .tracks
            .values()
            .filter_map(|t| Some(t.failed.as_ref()?.retry_at));
        let prunes = self.units.iter().filter(|(name, _)| self.may_prune(name));
        let prunes = prunes.map(|(_, unit)| unit.prunes.wait_until.unwrap_or(now));
        let work = retries.chain(prunes).filter(|_| !paused);
        let next = work.chain(self.reload).min();
        next.map_or(IDLE_CHECK, |at| at.saturating_duration_since(now))
            .min(IDLE_CHECK)
    }
}

fn kind_name(key: &ObjectKey) -> KindName {
    (key.group.clone(), key.kind.clone())
}

/// Logs why the books can't be kept; they are read again soon.
fn note(error: &InventoryError) {
    tracing::warn!(%error, "inventories");
}
