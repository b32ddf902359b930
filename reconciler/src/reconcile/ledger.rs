//! The ledger under this leader's hands: read anew for each pass, written by compare-and-swap while its authority lasts.

use std::sync::Arc;

use fabrik_core::ledger::{Change, Ledger};
use fabrik_core::spec::Limits;
use futures::FutureExt as _;
use jiff::Timestamp;
use tokio::sync::{Mutex, watch};
use tracing::error;

use crate::cluster::LedgerStore;
use crate::cluster::lease::Authority;
use crate::cluster::ledger::Version;

/// The ledger as this leader knows it. Another replica's write shows as a conflict.
pub struct Held {
    pub store: LedgerStore,
    pub current: Option<(Ledger, Version)>,
    pub epoch: i64,
}

impl Held {
    /// The newest ledger, remembered for the next write.
    pub async fn read(&mut self) -> Result<Ledger, String> {
        let (ledger, version) = self.store.read().await.map_err(|e| e.to_string())?;
        self.current = Some((ledger.clone(), version));
        Ok(ledger)
    }

    /// Writes `changes` over what was read last. A conflict forgets it, so that the next pass reads again.
    pub async fn write(
        &mut self,
        changes: &[Change],
        now: Timestamp,
        authority: &Authority,
    ) -> Result<Ledger, String> {
        authority.check().map_err(|e| e.to_string())?;
        let Some((mut ledger, version)) = self.current.take() else {
            return Err("the ledger was not read yet".to_owned());
        };
        for change in changes {
            ledger.apply(change, now);
        }
        let version = self
            .store
            .write(&ledger, version, self.epoch)
            .await
            .map_err(|e| e.to_string())?;
        self.current = Some((ledger.clone(), version));
        Ok(ledger)
    }
}

/// Writes prunes into the ledger's history before they happen, as many as the hour allows.
pub fn prune_grant(
    ledger: Arc<Mutex<Held>>,
    authority: Authority,
    limits: watch::Receiver<Limits>,
) -> crate::apply::PruneGrant {
    Arc::new(move |subjects: Vec<String>| {
        let (ledger, authority) = (Arc::clone(&ledger), authority.clone());
        let limits = limits.borrow().clone();
        async move {
            let mut held = ledger.lock().await;
            let now = Timestamp::now();
            let current = held.read().await?;
            let mut allowance = fabrik_core::apply::allowance(&current, &limits, now);
            let prune = |subject: &String| Change::Prune {
                subject: subject.clone(),
                reason: "no longer in the commit".to_owned(),
            };
            let changes: Vec<Change> = subjects.iter().take(allowance.count).map(prune).collect();
            if !changes.is_empty() {
                let after = held
                    .write(&changes, now, &authority)
                    .await
                    .inspect_err(|problem| error!(problem, "prunes wait"))?;
                allowance.more_at = fabrik_core::apply::allowance(&after, &limits, now).more_at;
            }
            Ok(allowance)
        }
        .boxed()
    })
}
