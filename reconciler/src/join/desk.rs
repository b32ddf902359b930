//! The leader's desk: judges a claim by the newest ledger and by Hetzner, writes down that the nonce is used, and only then
//! answers. A leader that ends in between has answered nobody: the machine asks the next one, and gets the same.

use std::sync::Arc;

use fabrik_core::join::{Claim, Machine, Refusal, Verdict, invited, judge};
use fabrik_core::ledger::{Change, Ledger};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::answer;
use super::serve::Reply;
use crate::cluster::events::Events;
use crate::cluster::lease::Authority;
use crate::config::Config;
use crate::hetzner;
use crate::reconcile::ledger::Held;

/// Another writer of the ledger is rare, and one that writes each time rarer.
const ATTEMPTS: u32 = 3;

/// Of the replica that leads, while it leads.
pub struct Desk {
    pub config: Arc<Config>,
    pub ledger: Arc<Mutex<Held>>,
    pub authority: Authority,
    /// Of the project where servers are made; without one nobody is invited.
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
        let machines = match (invited(&ledger, &claim.hash), &self.hetzner) {
            (Ok((id, _, _)), Some(client)) => {
                let found = hetzner::claimants(client, &self.config.cluster.id, id);
                found.await.map_err(|error| error.to_string())?
            }
            (Ok(_), None) | (Err(_), _) => Vec::new(),
        };
        let mut held = self.ledger.lock().await;
        let ledger = held.read().await?;
        self.carry_out(&mut held, claim, &ledger, &machines).await
    }

    async fn carry_out(
        &self,
        held: &mut Held,
        claim: &Claim,
        ledger: &Ledger,
        machines: &[Machine],
    ) -> Result<Reply, String> {
        let now = Timestamp::now();
        match judge(claim, ledger, machines, now) {
            Verdict::Answer { change, .. } => {
                // Before the nonce is used: what can't be answered uses none.
                let sealed = answer::sealed(&self.config, &claim.recipient)?;
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
                     and another one is made. Whoever has what it was answered has the cluster: see docs/security.md"
                );
                warn!(%node, %first, %second, "two machines have shown one nonce");
                self.events.warning("JoinAlarm", "join", &note);
                Ok(Reply::Alarm(
                    "this nonce was shown before: its server is deleted".to_owned(),
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
