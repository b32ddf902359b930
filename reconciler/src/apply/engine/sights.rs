//! What the watches see, and what must be asked because of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use fabrik_core::desired::ObjectKey;
use futures::stream::StreamExt;
use tokio::sync::{mpsc, watch};

use super::super::watch::Sight;
use super::super::{Wanted, object};
use super::{CONCURRENT_REQUESTS, KindName, Run, kind_name};

impl Run {
    /// Watches the kinds of what is wanted or may be pruned.
    pub(super) fn watch_kinds(&mut self) {
        let wanted = self.tracks.keys();
        let stored = self.units.values().flat_map(|u| u.stored.inventory.keys());
        let used: BTreeSet<KindName> = wanted.chain(stored).map(kind_name).collect();
        self.kinds.retain(|name, _| used.contains(name));
        self.watches.keep(&self.kinds);
    }

    /// Takes in one sight and all others that wait behind it.
    pub(super) fn see(&mut self, first: Sight, more: &mut mpsc::Receiver<Sight>) {
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

    /// Asks until a newer commit comes; what has no answer by then is asked again.
    pub(super) async fn ask_health(&mut self, commands: &watch::Receiver<Arc<Wanted>>) {
        let client = self.client.clone();
        self.stale.retain(|key| self.tracks.contains_key(key));
        let known = self.stale.iter().filter_map(|key| {
            let kind = self.kinds.get(&kind_name(key)).cloned()?;
            let (client, key) = (&client, key.clone());
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
                    self.stale.remove(&key);
                    if let Some(track) = self.tracks.get_mut(&key) {
                        track.health = health;
                    }
                }
                // Its deletion is a sight of its own.
                Ok(None) => {
                    self.stale.remove(&key);
                }
                Err(failure) => tracing::debug!(object = %key, %failure, "health not known"),
            }
            if self.stops(commands) {
                return;
            }
        }
    }
}
