//! What tickets go through is on the map of the stages.

use fabrik_core::rollout::ways::{GRANTED, leads};
use fabrik_core::rollout::{Rollout, stage};

use super::World;

impl World {
    /// Where each ticket is now, after where it was at the last look.
    pub fn follow_the_ways(&mut self) {
        let rollout = Rollout {
            desired: &self.desired,
            observed: &self.observed,
            now: self.now,
        };
        for (id, ticket) in &self.observed.ledger.tickets {
            let Some(update) = ticket.update() else {
                continue;
            };
            let now = stage(&rollout, id, ticket, update).name();
            let before = self.stages.insert(update.number, now).unwrap_or(GRANTED);
            assert!(
                before == now || leads(before, now),
                "{}: {before} → {now} is on no map:\n{}",
                ticket.node,
                self.log.join("\n")
            );
        }
    }
}
