//! What is told of a unit.

use std::collections::BTreeSet;

use fabrik_core::desired::ObjectKey;
use fabrik_core::diagnostic::Place;
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::UnitName;

use super::super::{UnitReport, status};
use super::Run;

impl Run {
    pub(super) fn report(&self, name: &UnitName) -> UnitReport {
        let Some(unit) = self.units.get(name) else {
            return UnitReport::default();
        };
        let mut report = UnitReport {
            commit: unit.stored.commit.clone(),
            inventory: unit.stored.inventory.clone(),
            ..UnitReport::default()
        };
        let mut seen = BTreeSet::new();
        for object in self.wanted.units.get(name).into_iter().flatten() {
            let track = self.tracks.get(&object.key).filter(|t| t.unit == *name);
            let Some(track) = track.filter(|_| seen.insert(&object.key)) else {
                continue;
            };
            report.objects += 1;
            if let Some(failed) = &track.failed {
                let diagnostic = failed.failure.diagnostic(&object.key, track.place.clone());
                status::tell(&failed.failure, &object.key, diagnostic, &mut report);
            } else if track.is_applied(&object.digest) {
                match status::unhealthy(&track.health, &object.key) {
                    Some(hold) => report.holds.push(hold),
                    None => report.ready += 1,
                }
            }
        }
        for (key, failure) in &unit.prunes.failures {
            let place = Place::file(format!("manifests/{name}"));
            let diagnostic = failure.diagnostic(key, place);
            status::tell(failure, key, diagnostic, &mut report);
        }
        report.holds.extend(self.resting(name).cloned());
        report.holds.extend(unit.prunes.holds.iter().cloned());
        report.holds.extend(self.waiting(name));
        if let Some(reason) = &self.wanted.paused {
            report.holds.push(paused(name, reason));
        }
        report
    }

    /// What keeps prunes waiting, once it has been tried.
    fn waiting(&self, name: &UnitName) -> Option<Hold> {
        let (_, waiting) = self.prunable(name);
        if waiting == 0 {
            return None;
        }
        let tried = |key: &ObjectKey| self.tracks.get(key).is_some_and(|t| t.failed.is_some());
        let missing = self.missing(name).find(|object| tried(&object.key))?;
        Some(fabrik_core::apply::waiting(name, waiting, &missing.key))
    }
}

fn paused(name: &UnitName, reason: &str) -> Hold {
    Hold {
        about: format!("unit {name}"),
        reason: HoldReason::Paused,
        message: format!("nothing is applied or pruned: {reason}. `fabrik resume` goes on"),
    }
}
