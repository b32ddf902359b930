//! What can't be read or written of the books: the unit that it is about rests, the others go on, and a hold says so.

use std::time::{Duration, Instant};

use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::UnitName;

use super::super::inventory::{InventoryError, Listed};
use super::super::track::doubling;
use super::Run;

/// After the inventories could not be read.
const RELOAD_AFTER: Duration = Duration::from_secs(1);
/// A `FabrikUnit` that is no unit of ours is looked at again, to see whether it is gone.
const LOOK_AT_STRANGERS: Duration = Duration::from_secs(60);

/// Why nothing of a unit is done.
#[derive(Debug)]
pub(super) struct Fault {
    hold: Hold,
    attempts: u32,
    until: Instant,
    /// From the fault until its unit has been read again after `until`.
    rests: bool,
}

impl Run {
    /// Reads the inventories if they must be read. False as long as they never were: nothing may be done then.
    pub(super) async fn load(&mut self) -> bool {
        if self.reload.is_some_and(|at| at <= Instant::now()) {
            match self.store.load().await {
                Ok(listed) => self.take_in(listed),
                Err(error) => {
                    self.troubles = vec![hold("all units", &error)];
                    self.reload = Some(Instant::now() + RELOAD_AFTER);
                }
            }
        }
        self.read
    }

    pub(super) fn rests(&self, name: &UnitName) -> bool {
        self.resting(name).is_some()
    }

    pub(super) fn resting(&self, name: &UnitName) -> Option<&Hold> {
        let fault = self.units.get(name)?.fault.as_ref()?;
        fault.rests.then_some(&fault.hold)
    }

    /// What is stored of the unit is not what we remember, or can't be known.
    pub(super) fn fault(&mut self, name: &UnitName, error: &InventoryError) {
        let unit = self.units.entry(name.clone()).or_default();
        let attempts = unit.fault.as_ref().map_or(0, |fault| fault.attempts);
        let until = Instant::now() + doubling(attempts);
        let mut hold = hold(&format!("unit {name}"), error);
        hold.message
            .push_str(". Until then nothing of the unit is applied or pruned");
        unit.fault = Some(Fault {
            hold,
            attempts: attempts.saturating_add(1),
            until,
            rests: true,
        });
        self.reload = Some(self.reload.map_or(until, |at| at.min(until)));
    }

    fn take_in(&mut self, listed: Listed) {
        let now = Instant::now();
        for unit in self.units.values_mut() {
            unit.stored = super::Stored::default();
            if let Some(fault) = unit.fault.as_mut().filter(|fault| fault.until <= now) {
                fault.rests = false;
            }
        }
        self.read = true;
        self.troubles.clear();
        self.reload = None;
        for read in listed {
            match read {
                Ok((name, stored)) => self.units.entry(name).or_default().stored = stored,
                Err(InventoryError::Entry {
                    unit,
                    text,
                    problem,
                }) => {
                    let error = InventoryError::Entry {
                        unit: unit.clone(),
                        text,
                        problem,
                    };
                    self.fault(&unit, &error);
                }
                Err(error) => {
                    self.troubles.push(hold("FabrikUnits", &error));
                    self.reload = Some(now + LOOK_AT_STRANGERS);
                }
            }
        }
        let faults = self.units.values().filter_map(|unit| unit.fault.as_ref());
        let rested = faults.filter(|fault| fault.rests).map(|fault| fault.until);
        self.reload = rested.chain(self.reload).min();
    }
}

/// Logged as well: the hold is told only if there is somebody to read it.
fn hold(about: &str, error: &InventoryError) -> Hold {
    tracing::warn!(about, %error, "inventories");
    let reason = match error {
        InventoryError::Entry { .. } | InventoryError::Name(_) => HoldReason::Unexplained,
        InventoryError::Changed(_) | InventoryError::Api(_) => HoldReason::Unhealthy,
    };
    Hold {
        about: about.to_owned(),
        reason,
        message: error.to_string(),
    }
}
