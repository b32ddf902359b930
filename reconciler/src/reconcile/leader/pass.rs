//! One look at all that there is, what the core makes of it, and what becomes of that.

use std::collections::BTreeSet;

use fabrik_core::desired::Desired;
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::NodeName;
use fabrik_core::ledger::Ledger;
use fabrik_core::observed::Observed;
use fabrik_core::rollout;
use fabrik_core::step::{Step, step};
use jiff::Timestamp;
use tracing::info;

use super::{InForce, Leader};
use crate::cluster::wishes::{self, Wishes};
use crate::reconcile::execute::Executor;
use crate::reconcile::observe::{self, Seen};
use crate::reconcile::publish::{self, Pass};
use crate::reconcile::{status, tell};

/// How often a pass may change the ledger before it acts. A tenth of it is usual.
const MAX_ROUNDS: u32 = 50;

/// How often a pass may look: by what was seen at Hetzner a moment ago, and by what is there.
const MAX_LOOKS: u32 = 2;

/// A decision of the core's.
type Decide = fn(&Desired, &Observed, Timestamp) -> Step;

/// A pass that saw too little, or could not write down what it was about to do.
#[derive(Debug)]
pub struct GivenUp {
    pub problem: String,
    /// The status says so already.
    pub is_told: bool,
}

impl From<String> for GivenUp {
    fn from(problem: String) -> Self {
        Self {
            problem,
            is_told: false,
        }
    }
}

impl Leader {
    /// Observes, does what may be done, and reports. Returns whether something is under way.
    pub(super) async fn pass(&mut self) -> Result<bool, GivenUp> {
        for _ in 0..MAX_LOOKS {
            if let Some(busy) = Box::pin(self.act_on_a_look()).await? {
                return Ok(busy);
            }
            // The next look asks Hetzner.
            self.hetzner = None;
        }
        let problem = format!(
            "after {MAX_LOOKS} looks at Hetzner the last one is too old already; that is a fault in fabrik, and this pass \
             does nothing more"
        );
        Err(problem.into())
    }

    /// Observes once. `None` where Hetzner has to be asked anew before what is to be done may be done.
    async fn act_on_a_look(&mut self) -> Result<Option<bool>, GivenUp> {
        let in_force = self.in_force.clone();
        let Seen {
            mut observed,
            blind,
            hetzner_is_old,
        } = match self.look(in_force.as_deref()).await {
            Ok(seen) => seen,
            Err(problem) => {
                self.replica.health.kubernetes(Err(problem.clone()));
                return Err(problem.into());
            }
        };
        self.replica.health.kubernetes(Ok(()));
        if let (Some(problem), Some(in_force)) = (blind, &in_force) {
            self.finish(in_force, observed, &problem).await?;
            return Err(GivenUp {
                problem,
                is_told: true,
            });
        }
        let Some(in_force) = in_force else {
            publish::cluster(self, Pass::of(observed));
            return Ok(Some(self.refusal.is_none()));
        };
        let desired = self.with_systems(&in_force, &observed);
        let next = self
            .record_until_settled(step, &desired, &mut observed, hetzner_is_old)
            .await?;
        let Some(next) = next else {
            return Ok(None);
        };
        if next.begins_or_ends() || observed.ledger.changes_servers() {
            self.hetzner = None;
        }
        let failures = Executor::new(self, &in_force)
            .carry_out(&next.effects)
            .await;
        let busy = !next.effects.is_empty() || status::is_moving(&observed);
        let pass = Pass {
            desired: Some(desired),
            holds: [next.holds, failures].concat(),
            idle: next.effects.is_empty(),
            ..Pass::of(observed)
        };
        publish::cluster(self, pass);
        Ok(Some(busy))
    }

    /// What was begun with nodes ends also where Hetzner can't be read, and is told.
    async fn finish(
        &mut self,
        in_force: &InForce,
        mut observed: Observed,
        problem: &str,
    ) -> Result<(), String> {
        let desired = self.with_systems(in_force, &observed);
        let next = self
            .record_until_settled(rollout::finish, &desired, &mut observed, false)
            .await?
            .unwrap_or_default();
        let failures = Executor::new(self, in_force).carry_out(&next.effects).await;
        let blind = Hold {
            about: "everything".to_owned(),
            reason: HoldReason::Refused,
            message: "nothing is begun while Hetzner's API can't be read".to_owned(),
        };
        let pass = Pass {
            desired: Some(desired),
            holds: [next.holds, failures, vec![blind]].concat(),
            idle: false,
            blind: Some(problem.to_owned()),
            ..Pass::of(observed)
        };
        publish::cluster(self, pass);
        Ok(())
    }

    /// What is there. The engine hears of a pause and of new manifests first: neither may wait for Hetzner.
    async fn look(&mut self, in_force: Option<&InForce>) -> Result<Seen, String> {
        let (wishes, ledger) = tokio::join!(self.read_wishes(), self.read_ledger());
        self.hear(wishes?);
        Box::pin(observe::observe(self, in_force, ledger?)).await
    }

    pub(super) async fn read_wishes(&self) -> Result<Wishes, String> {
        let client = &self.replica.clients.leader;
        let name = self.replica.config.cluster.name.as_str();
        let wishes = wishes::read(client, name).await;
        wishes.map_err(|e| e.to_string())
    }

    pub(super) fn hear(&mut self, wishes: Wishes) {
        self.wishes = wishes;
        let paused = self.wishes.paused.is_some();
        self.replica.metrics.set_paused(paused);
        if paused {
            self.evictions.keep_to(&[]);
        }
        if let Some(in_force) = self.in_force.clone() {
            self.send_to_engine(&in_force);
        }
    }

    /// Steps and writes down, until a step wants nothing more written: then its effects may be carried out. `None` where
    /// the last look at Hetzner does not do for it.
    async fn record_until_settled(
        &mut self,
        step: Decide,
        desired: &Desired,
        observed: &mut Observed,
        hetzner_is_old: bool,
    ) -> Result<Option<Step>, String> {
        for _ in 0..MAX_ROUNDS {
            let now = Timestamp::now();
            let next = step(desired, observed, now);
            self.evictions.keep_to(&next.effects);
            if hetzner_is_old && next.begins_or_ends() {
                return Ok(None);
            }
            if next.changes.is_empty() {
                return Ok(Some(next));
            }
            observed.ledger = self
                .ledger
                .lock()
                .await
                .write(&next.changes, now, &self.authority)
                .await?;
            for change in &next.changes {
                info!(?change, "recorded");
                tell::change(&self.events, change, &observed.ledger);
            }
        }
        Err(format!(
            "after {MAX_ROUNDS} changes of the ledger there is always another one; that is a fault in fabrik, and this \
             pass does nothing"
        ))
    }

    /// Each pod that goes from one of these is a reason to look.
    pub(in super::super) fn watch_pods_of(&self, nodes: &BTreeSet<NodeName>) {
        self.drained.send_if_modified(|drained| {
            let changed = drained != nodes;
            drained.clone_from(nodes);
            changed
        });
    }

    async fn read_ledger(&self) -> Result<Ledger, String> {
        let ledger = self.ledger.lock().await.read().await?;
        let ours = &self.replica.config.cluster.id;
        if ledger.cluster == *ours {
            return Ok(ledger);
        }
        Err(format!(
            "the configuration is of the cluster with id {ours}, and the ledger of {}: this config.toml belongs to \
             another founding. Run `fabrik found` on this server again; nothing is done meanwhile",
            ledger.cluster
        ))
    }
}
