//! What is written down: inventories before objects, statuses after, reports for the others in this process.

use fabrik_core::apply::{PENDING, waits_for};
use fabrik_core::desired::{Inventory, ObjectKey};
use fabrik_core::id::UnitName;
use fabrik_core::manifest::Object;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use tokio::sync::watch;

use super::super::inventory::{Stored, Written};
use super::super::{UnitsReport, status};
use super::{CONCURRENT_REQUESTS, Run};

impl Run {
    /// Writes ahead: every object that may be sent is in its unit's inventory first. What could not be written is not
    /// sent.
    pub(super) async fn announce(&mut self) {
        let mut writes = Vec::new();
        for (name, objects) in &self.wanted.units {
            let unit = self.units.get(name);
            let Some(unit) = unit.filter(|_| !self.rests(name)) else {
                continue;
            };
            let stored = &unit.stored;
            let mut union = stored.inventory.clone();
            for object in objects {
                union
                    .entry(object.key.clone())
                    .or_insert_with(|| PENDING.to_owned());
            }
            if union.len() > stored.inventory.len() || stored.version.is_none() {
                let written = Written {
                    inventory: union,
                    commit: stored.commit.clone(),
                    status: if stored.status.is_object() {
                        stored.status.clone()
                    } else {
                        let report = self.report(name);
                        status::render(&report, objects.len(), &stored.status, Timestamp::now())
                    },
                };
                writes.push((name.clone(), stored.clone(), written));
            }
        }
        self.write(writes).await;
    }

    pub(super) fn is_announced(&self, name: &UnitName, key: &ObjectKey) -> bool {
        let unit = self.units.get(name);
        unit.is_some_and(|u| u.stored.inventory.contains_key(key)) && !self.rests(name)
    }

    /// In the unit's inventory, and wanted by no unit at all.
    pub(super) fn candidates(&self, name: &UnitName) -> Vec<ObjectKey> {
        let Some(unit) = self.units.get(name) else {
            return Vec::new();
        };
        let left = unit.stored.inventory.keys();
        left.filter(|key| !self.tracks.contains_key(key) && !unit.gone.contains(key))
            .cloned()
            .collect()
    }

    /// Candidates that may be looked at now, and how many wait for an object of the unit that is missing.
    pub(super) fn prunable(&self, name: &UnitName) -> (Vec<ObjectKey>, usize) {
        let mut candidates = self.candidates(name);
        if candidates.is_empty() || self.rests(name) {
            return (Vec::new(), 0);
        }
        let all = candidates.len();
        let missing: Vec<&ObjectKey> = self.missing(name).map(|object| &object.key).collect();
        candidates.retain(|candidate| !missing.iter().any(|m| waits_for(candidate, m)));
        let waiting = all - candidates.len();
        (candidates, waiting)
    }

    /// Wanted objects of the unit that were never applied as they are wanted now, by this leader or one before it.
    pub(super) fn missing(&self, name: &UnitName) -> impl Iterator<Item = &Object> {
        let stored = self.units.get(name).map(|unit| &unit.stored.inventory);
        let wanted = self.wanted.units.get(name).into_iter().flatten();
        wanted.filter(move |object| {
            let track = self.tracks.get(&object.key);
            let before = stored.and_then(|inventory| inventory.get(&object.key));
            !track.is_some_and(|t| t.was_applied(&object.digest)) && before != Some(&object.digest)
        })
    }

    fn unapplied(&self, name: &UnitName) -> usize {
        let objects = self.wanted.units.get(name).into_iter().flatten();
        objects
            .filter(|object| {
                let track = self.tracks.get(&object.key);
                !track.is_some_and(|t| t.is_applied(&object.digest))
            })
            .count()
    }

    /// Brings what is stored up to date, and tells the rest of the process.
    pub(super) async fn publish(&mut self, reports: &watch::Sender<UnitsReport>) {
        if self.read {
            self.settle().await;
        }
        let units: Vec<&UnitName> = self.units.keys().collect();
        let pending = |name: &&UnitName| self.pending(name) > 0;
        let report = UnitsReport {
            commit: self.read.then(|| self.wanted.commit.clone()),
            applied: self.read && !units.iter().copied().any(|u| pending(&u)),
            units: units
                .into_iter()
                .map(|u| (u.clone(), self.report(u)))
                .collect(),
            holds: self.troubles.clone(),
        };
        reports.send_if_modified(|old| {
            let changed = *old != report;
            if changed {
                *old = report;
            }
            changed
        });
    }

    fn pending(&self, name: &UnitName) -> usize {
        let unknown = usize::from(self.rests(name));
        self.unapplied(name) + self.candidates(name).len() + unknown
    }

    async fn settle(&mut self) {
        let mut writes = Vec::new();
        let mut finished = Vec::new();
        let mut same_as_stored = Vec::new();
        for (name, unit) in &self.units {
            if self.rests(name) {
                continue;
            }
            let inventory = self.inventory(name);
            if inventory.is_empty() && !self.wanted.units.contains_key(name) {
                finished.push(name.clone());
                continue;
            }
            let stored = &unit.stored;
            let pending = self.pending(name);
            let report = self.report(name);
            let status = status::render(&report, pending, &stored.status, Timestamp::now());
            let same = stored.commit.is_some() && inventory == stored.inventory;
            let commit = if same {
                stored.commit.clone()
            } else {
                Some(self.wanted.commit.clone())
            };
            if !same || status != stored.status {
                let written = Written {
                    inventory,
                    commit,
                    status,
                };
                writes.push((name.clone(), stored.clone(), written));
            } else {
                same_as_stored.push(name.clone());
            }
        }
        for name in same_as_stored {
            if let Some(unit) = self.units.get_mut(&name) {
                unit.fault = None;
            }
        }
        self.write(writes).await;
        for name in finished {
            self.retire(&name).await;
        }
    }

    /// Forgets a unit whose folder is gone and that has nothing left.
    async fn retire(&mut self, name: &UnitName) {
        let Some(unit) = self.units.get(name) else {
            return;
        };
        if unit.stored.version.is_some() {
            if self.check().is_err() {
                return;
            }
            if let Err(error) = self.store.delete(name, &unit.stored).await {
                self.fault(name, &error);
                return;
            }
        }
        self.units.remove(name);
    }

    async fn write(&mut self, writes: Vec<(UnitName, Stored, Written)>) {
        if writes.is_empty() {
            return;
        }
        let (store, authority) = (self.store.clone(), self.authority.clone());
        let (store, authority) = (&store, &authority);
        let requests = writes.into_iter().map(|(name, before, after)| async move {
            if authority.as_ref()().is_err() {
                return None;
            }
            let written = store.write(&name, &before, after).await;
            Some((name, written))
        });
        let requests: Vec<_> = requests.collect();
        let mut answers = stream::iter(requests).buffer_unordered(CONCURRENT_REQUESTS);
        while let Some(answer) = answers.next().await {
            match answer {
                Some((name, Ok(stored))) => {
                    if let Some(unit) = self.units.get_mut(&name) {
                        unit.gone.retain(|key| stored.inventory.contains_key(key));
                        unit.stored = stored;
                        unit.fault = None;
                    }
                }
                Some((name, Err(error))) => self.fault(&name, &error),
                None => {}
            }
        }
    }

    /// What is or may be in the cluster of this unit: the wanted objects, each at the digest that was applied last, and
    /// those that are not gone yet.
    fn inventory(&self, name: &UnitName) -> Inventory {
        let mut inventory = Inventory::new();
        let Some(unit) = self.units.get(name) else {
            return inventory;
        };
        let stored = &unit.stored.inventory;
        let wanted = self.wanted.units.get(name).into_iter().flatten();
        for object in wanted {
            let applied = self
                .tracks
                .get(&object.key)
                .and_then(|t| t.applied.as_ref());
            let digest = applied
                .map(|a| &a.digest)
                .or_else(|| stored.get(&object.key));
            let digest = digest.map_or(PENDING, String::as_str);
            inventory.insert(object.key.clone(), digest.to_owned());
        }
        for (key, digest) in stored {
            let gone = unit.gone.contains(key) || self.has_moved(name, key);
            if !gone && !inventory.contains_key(key) {
                inventory.insert(key.clone(), digest.clone());
            }
        }
        inventory
    }

    /// Another unit wants it and has it in its stored inventory.
    fn has_moved(&self, from: &UnitName, key: &ObjectKey) -> bool {
        let Some(track) = self.tracks.get(key) else {
            return false;
        };
        track.unit != *from && self.is_announced(&track.unit, key)
    }
}
