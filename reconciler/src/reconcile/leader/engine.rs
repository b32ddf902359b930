//! What the leader tells the apply engine, and what it hears of it.

use std::sync::Arc;

use fabrik_core::hold::Hold;
use tokio::sync::watch;
use tracing::warn;

use super::{InForce, Leader};
use crate::apply::{Engine, UnitsReport, Wanted};
use crate::reconcile::ledger;

impl Leader {
    /// Hands the units to the engine when they, or the pause, are new. The first ones start it.
    pub(super) fn send_to_engine(&mut self, in_force: &InForce) {
        let same =
            |w: &Wanted| w.commit == in_force.desired.commit && w.paused == self.wishes.paused;
        if self
            .wanted
            .as_ref()
            .is_some_and(|wanted| same(&wanted.borrow()))
        {
            return;
        }
        let limits = in_force.desired.spec.limits.clone();
        self.limits.send_replace(limits.clone());
        let wanted = Arc::new(Wanted {
            commit: in_force.desired.commit.clone(),
            units: in_force.objects.clone(),
            limits,
            paused: self.wishes.paused.clone(),
        });
        match &self.wanted {
            Some(engine) => {
                engine.send_replace(wanted);
            }
            None => self.wanted = Some(self.start_engine(wanted)),
        }
    }

    fn start_engine(&mut self, first: Arc<Wanted>) -> watch::Sender<Arc<Wanted>> {
        let (commands, to_engine) = watch::channel(first);
        let grant = ledger::prune_grant(
            Arc::clone(&self.ledger),
            self.authority.clone(),
            self.limits.subscribe(),
        );
        let engine = Engine::new(self.replica.clients.applier_once.clone(), grant);
        let engine = engine.telling(self.events.clone());
        let authority = self.authority.clone();
        let may_act = Arc::new(move || authority.check().map_err(|_| crate::apply::Lost));
        let reports = self.tell.clone();
        self.beside.spawn(async move {
            if let Err(lost) = engine.run(to_engine, reports, may_act).await {
                warn!(%lost, "applying stops");
            }
        });
        commands
    }

    pub(in super::super) fn units(&self) -> UnitsReport {
        self.reports.borrow().clone()
    }

    pub(in super::super) fn holds_of_units(&self) -> Vec<Hold> {
        let report = self.units();
        let units = report.units.into_iter();
        let of_units = units.flat_map(|(name, unit)| {
            let failing = unit.failing(&name);
            failing.into_iter().chain(unit.holds)
        });
        of_units.chain(report.holds).collect()
    }
}
