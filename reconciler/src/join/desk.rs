//! The leader's desk: judges a claim by the newest ledger and by Hetzner, writes down that the nonce is used, and only then
//! answers. A leader that ends in between has answered nobody: the machine asks the next one, and gets the same.

use std::sync::Arc;

use fabrik_core::id::IntentId;
use fabrik_core::join::{Claim, Machine, Refusal, Verdict, invited, judge};
use fabrik_core::ledger::{Change, Ledger};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::serve::Reply;
use super::{answer, for_new_machines};
use crate::cluster::events::Events;
use crate::cluster::lease::Authority;
use crate::config::Config;
use crate::hetzner::{self, HetznerError};
use crate::reconcile::ledger::Held;

/// Another writer of the ledger is rare, and one that writes each time rarer.
const ATTEMPTS: u32 = 3;

/// Of the replica that leads, while it leads.
pub struct Desk {
    pub config: Arc<Config>,
    pub ledger: Arc<Mutex<Held>>,
    pub authority: Authority,
    /// Of the project where servers are made; without one there are machines of the user's own alone.
    pub hetzner: Option<hetzner::Client>,
    pub events: Events,
}

impl Desk {
    pub async fn judge(&self, claim: Claim) -> Reply {
        let mut problem = String::new();
        for _ in 0..ATTEMPTS {
            match self.try_to_judge(&claim).await {
                Ok(reply) => return reply,
                Err(why) => problem = why,
            }
        }
        warn!(node = %claim.node, problem, "a claim to join could not be judged");
        Reply::Trouble(problem)
    }

    /// Errors are passing ones: nothing was answered.
    async fn try_to_judge(&self, claim: &Claim) -> Result<Reply, String> {
        // Hetzner takes its time, and others need the ledger meanwhile.
        let ledger = self.ledger.lock().await.read().await?;
        let (config, machines) = match invited(&ledger, &claim.hash) {
            Ok((id, _, _)) => self.look(id).await.map_err(|error| error.to_string())?,
            Err(unknown) => return Ok(self.refuse(claim, &unknown)),
        };
        let mut held = self.ledger.lock().await;
        let ledger = held.read().await?;
        self.carry_out(&mut held, claim, &ledger, &machines, &config)
            .await
    }

    /// What a machine is told of, and who may speak for an intent.
    async fn look(&self, intent: &IntentId) -> Result<(Config, Vec<Machine>), HetznerError> {
        let Some(client) = &self.hetzner else {
            return Ok(((*self.config).clone(), Vec::new()));
        };
        let config = for_new_machines(&self.config, client).await?;
        let machines = hetzner::claimants(client, &self.config.cluster.id, intent).await?;
        Ok((config, machines))
    }

    async fn carry_out(
        &self,
        held: &mut Held,
        claim: &Claim,
        ledger: &Ledger,
        machines: &[Machine],
        config: &Config,
    ) -> Result<Reply, String> {
        let now = Timestamp::now();
        match judge(claim, ledger, machines, now) {
            Verdict::Answer { change, .. } => {
                // Before the nonce is used: what can't be answered uses none.
                let sealed = answer::sealed(config, &claim.recipient)?;
                self.write(held, change.as_slice(), now).await?;
                info!(node = %claim.node, from = %claim.source, "a server is given its keys");
                Ok(Reply::Answer(sealed))
            }
            Verdict::Refused(refusal) => Ok(self.refuse(claim, &refusal)),
            Verdict::Alarm {
                node,
                change,
                first,
            } => {
                self.write(held, &[change], now).await?;
                let second = claim.source;
                let note = format!(
                    "two machines have shown the nonce of {node}, from {first} and from {second}: its server is deleted, \
                     and another one is made; a machine of yours is not let in, and is yours to power off. Whoever has what it \
                     was answered has the cluster: see docs/security.md"
                );
                warn!(%node, %first, %second, "two machines have shown one nonce");
                self.events.warning("JoinAlarm", "join", &note);
                Ok(Reply::Alarm(
                    "this nonce was shown before: nobody is let in by it any more".to_owned(),
                ))
            }
        }
    }

    async fn write(
        &self,
        held: &mut Held,
        changes: &[Change],
        now: Timestamp,
    ) -> Result<(), String> {
        if changes.is_empty() {
            return self.authority.check().map_err(|lost| lost.to_string());
        }
        held.write(changes, now, &self.authority).await.map(drop)
    }

    fn refuse(&self, claim: &Claim, refusal: &Refusal) -> Reply {
        let (node, from) = (&claim.node, claim.source);
        warn!(%node, %from, %refusal, "a claim to join is refused");
        // Somebody has a nonce that is not theirs.
        if matches!(
            refusal,
            Refusal::OtherAddress { .. } | Refusal::OtherNode { .. } | Refusal::ManyMachines { .. }
        ) {
            let note = format!("{from} was refused as {node}: {refusal}");
            self.events.warning("JoinRefused", "join", &note);
        }
        Reply::Refused(refusal.to_string())
    }
}
