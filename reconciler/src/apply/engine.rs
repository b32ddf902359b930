//! The loop: take what is wanted, bring the cluster there stage by stage, then wait for a commit, a sight or a retry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fabrik_core::apply::Stage;
use fabrik_core::desired::ObjectKey;
use fabrik_core::hold::Hold;
use fabrik_core::id::UnitName;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use tokio::sync::watch;

use super::discovery::{Discovery, Kind};
use super::inventory::{InventoryStore, Stored};
use super::prune::{Pruner, Prunes};
use super::track::Track;
use super::watch::Watches;
use super::{Authority, Engine, Lost, PruneGrant, UnitsReport, Wanted};
use crate::cluster::events::Events;

mod books;
mod definitions;
mod faults;
mod report;
mod sending;
mod sights;

use self::faults::Fault;

/// More do not make an API server faster.
pub(super) const CONCURRENT_REQUESTS: usize = 16;
/// How often leadership is checked while there is nothing to do.
const IDLE_CHECK: Duration = Duration::from_secs(1);

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
    /// They were read at least once.
    read: bool,
    /// What is wrong with them and concerns no unit alone.
    troubles: Vec<Hold>,
    events: Option<Events>,
    /// Objects that somebody had changed, and what is to be told of them.
    put_back: Vec<(ObjectReference, String)>,
}

/// A unit that is wanted, or that has objects left.
#[derive(Default)]
struct Unit {
    stored: Stored,
    prunes: Prunes,
    /// Candidates that need no more care, still in the stored inventory.
    gone: BTreeSet<ObjectKey>,
    fault: Option<Fault>,
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
            read: false,
            troubles: Vec::new(),
            events: engine.events,
            put_back: Vec::new(),
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

    async fn prune(&mut self, commands: &watch::Receiver<Arc<Wanted>>) {
        let wanted = Arc::clone(&self.wanted);
        let names: Vec<UnitName> = self.units.keys().cloned().collect();
        for name in names {
            if self.stops(commands) {
                return;
            }
            let (candidates, waiting) = self.prunable(&name);
            if candidates.is_empty() {
                continue;
            }
            let Some(unit) = self.units.get_mut(&name) else {
                continue;
            };
            if !unit.prunes.is_due(waiting, Instant::now()) {
                continue;
            }
            let mut pruner = Pruner {
                client: &self.client,
                discovery: &mut self.discovery,
                limits: &wanted.limits,
                grant: &self.grant,
                authority: &self.authority,
            };
            let prunes = &mut unit.prunes;
            let round = prunes.round(&name, candidates, waiting, &mut pruner).await;
            unit.gone.extend(round.gone);
            for kind in round.kinds {
                let name = (kind.resource.group.clone(), kind.resource.kind.clone());
                self.kinds.entry(name).or_insert(kind);
            }
        }
    }

    /// How long there is nothing to do but to wait; zero if something is due.
    fn idle(&self) -> Duration {
        let now = Instant::now();
        let paused = self.wanted.paused.is_some();
        let retries = self.tracks.iter().filter_map(|(key, track)| {
            let failed = track.failed.as_ref()?;
            self.is_announced(&track.unit, key)
                .then_some(failed.retry_at)
        });
        let prunable = |name: &UnitName| !self.prunable(name).0.is_empty();
        let prunes = self.units.iter().filter(|(name, _)| prunable(name));
        let prunes = prunes.map(|(_, unit)| unit.prunes.wait_until.unwrap_or(now));
        let work = retries.chain(prunes).filter(|_| self.read && !paused);
        let next = work.chain(self.reload).min();
        next.map_or(IDLE_CHECK, |at| at.saturating_duration_since(now))
            .min(IDLE_CHECK)
    }
}

fn kind_name(key: &ObjectKey) -> KindName {
    (key.group.clone(), key.kind.clone())
}

#[cfg(test)]
mod tests;
