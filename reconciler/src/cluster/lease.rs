//! Who may act: one Lease, held by one replica at a time (S10).
//!
//! Nobody compares another machine's wall clock with its own: a candidate remembers when, on its own monotonic clock, it
//! last saw the Lease change. A leader trusts itself for `renew-deadline` from the moment it *began* its last renewal,
//! which is shorter than the `lease-duration` that the others wait. The Lease is changed by compare-and-swap only.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::config::LeaderElection;

mod store;

pub use store::{KubeLease, LEASE_NAME};

/// The Lease as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `None` after the holder stopped in order.
    pub holder: Option<String>,
    /// How often the holder changed: the epoch of a leadership.
    pub transitions: u64,
    /// Changes with each write (`resourceVersion`).
    pub version: String,
    /// For how long the holder may trust itself at most.
    pub duration: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody wrote the Lease in between.
    #[error("the Lease was changed by somebody else")]
    Conflict,
    #[error("the Lease {name} can't be reached: {reason}")]
    Unreachable { name: String, reason: String },
}

/// Where the Lease is kept; both writes are compare-and-swap.
pub trait LeaseStore: Send + Sync + 'static {
    /// The newest epoch that anything was written under. A Lease that was made anew goes on from it.
    fn last_epoch(&self) -> impl Future<Output = Result<u64, LeaseError>> + Send;
    fn read(&self) -> impl Future<Output = Result<Option<Record>, LeaseError>> + Send;
    /// Writes over what `before` says is there (`None`: nothing), or fails with `Conflict`.
    fn write(
        &self,
        holder: Option<&str>,
        transitions: u64,
        before: Option<&Record>,
    ) -> impl Future<Output = Result<Record, LeaseError>> + Send;
}

/// This replica's leadership has ended, or can't be sure of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("leadership was lost; another replica may be acting")]
pub struct Lost;

/// Permission to act, asked right before each act. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Authority {
    until: watch::Receiver<Option<Instant>>,
    /// The number of this leadership; a later one is higher.
    pub epoch: u64,
}

impl Authority {
    /// One that no other replica can end.
    #[cfg(test)]
    pub fn unlimited() -> Self {
        let far = Duration::from_secs(3600);
        let (_, until) = watch::channel(Some(Instant::now() + far));
        Self { until, epoch: 1 }
    }

    /// # Errors
    /// `Lost` from the renew deadline on, measured from the start of the last renewal that succeeded.
    pub fn check(&self) -> Result<(), Lost> {
        let until = *self.until.borrow();
        if until.is_some_and(|until| Instant::now() < until) {
            Ok(())
        } else {
            Err(Lost)
        }
    }

    /// Runs `work` until it ends or [`check`](Self::check) fails, which is asked each time before `work` goes on. A process
    /// that was frozen for longer than its lease wakes up in the middle of `work`: it must not go on there, not even with
    /// an answer that has come meanwhile.
    pub async fn covers(&self, work: impl Future<Output = ()>) {
        let mut work = pin!(work);
        poll_fn(|context| match self.check() {
            Ok(()) => work.as_mut().poll(context),
            Err(Lost) => Poll::Ready(()),
        })
        .await;
    }

    /// Waits until [`check`](Self::check) fails.
    pub async fn lost(&self) {
        let mut changes = self.until.clone();
        loop {
            let Some(until) = *changes.borrow_and_update() else {
                return;
            };
            if Instant::now() >= until {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// A replica that wants to lead.
pub struct Candidate<S> {
    store: Arc<S>,
    identity: String,
    timing: LeaderElection,
    /// The version that was seen last, and when it was seen first.
    seen: Option<(Option<String>, Instant)>,
}

impl<S: LeaseStore> Candidate<S> {
    /// `identity` is this process's alone: a restart is another candidate.
    pub fn new(store: S, identity: String, timing: LeaderElection) -> Self {
        Self {
            store: Arc::new(store),
            identity,
            timing,
            seen: None,
        }
    }

    /// Waits until this replica leads. Safe to drop.
    pub async fn acquire(&mut self) -> Leadership<S> {
        loop {
            match timeout(self.timing.renew_deadline, self.try_acquire()).await {
                Ok(Ok(Some(leadership))) => return leadership,
                Ok(Ok(None)) => {}
                Ok(Err(LeaseError::Conflict)) => info!("another replica took the lease first"),
                Ok(Err(error)) => warn!(%error, "can't stand for leadership"),
                Err(_elapsed) => {
                    warn!("can't stand for leadership: the API server does not answer");
                }
            }
            sleep(self.timing.retry_period).await;
        }
    }

    async fn try_acquire(&mut self) -> Result<Option<Leadership<S>>, LeaseError> {
        let record = self.store.read().await?;
        if !self.is_free(record.as_ref()) {
            return Ok(None);
        }
        let began = Instant::now();
        let written = self.store.last_epoch().await?;
        let transitions = record.as_ref().map_or(0, |r| r.transitions);
        let transitions = transitions.max(written) + 1;
        let record = self
            .store
            .write(Some(&self.identity), transitions, record.as_ref())
            .await?;
        info!(
            identity = self.identity,
            epoch = record.transitions,
            "leading"
        );
        Ok(Some(self.lead(record, began)))
    }

    /// Its holder gave it back, or it has not changed before our eyes for as long as we, or its holder, call a lease's
    /// length. Where there is none, somebody may have deleted it under a leader that has not noticed yet.
    fn is_free(&mut self, record: Option<&Record>) -> bool {
        if record.is_some_and(|r| r.holder.is_none()) {
            return true;
        }
        let version = record.map(|r| r.version.clone());
        let theirs = record.map_or(Duration::ZERO, |r| r.duration);
        match &self.seen {
            Some((seen, since)) if *seen == version => {
                since.elapsed() >= self.timing.lease_duration.max(theirs)
            }
            _ => {
                self.seen = Some((version, Instant::now()));
                false
            }
        }
    }

    fn lead(&mut self, record: Record, began: Instant) -> Leadership<S> {
        self.seen = None;
        let (publish, until) = watch::channel(Some(began + self.timing.renew_deadline));
        let authority = Authority {
            until,
            epoch: record.transitions,
        };
        let renewal = Renewal {
            store: Arc::clone(&self.store),
            identity: self.identity.clone(),
            timing: self.timing,
            record,
            until: publish,
        };
        Leadership {
            authority,
            stop: watch::channel(false).0,
            renewal: None,
        }
        .start(renewal)
    }
}

/// A leadership under way; it renews itself until it is lost or released. Dropped, it renews no more.
pub struct Leadership<S> {
    pub authority: Authority,
    stop: watch::Sender<bool>,
    renewal: Option<JoinHandle<Renewal<S>>>,
}

struct Renewal<S> {
    store: Arc<S>,
    identity: String,
    timing: LeaderElection,
    record: Record,
    until: watch::Sender<Option<Instant>>,
}

/// How long giving the Lease back may take when the process stops.
const RELEASE_DEADLINE: Duration = Duration::from_secs(2);

impl<S: LeaseStore> Leadership<S> {
    fn start(mut self, renewal: Renewal<S>) -> Self {
        self.renewal = Some(tokio::spawn(renewal.run(self.stop.subscribe())));
        self
    }

    /// Gives the Lease back, so that another replica leads within one retry period. Nothing may be under way any more.
    pub async fn release(mut self) {
        self.stop.send_replace(true);
        let Some(renewal) = self.renewal.take() else {
            return;
        };
        let Ok(renewal) = renewal.await else { return };
        let held = renewal.until.send_replace(None).is_some();
        if !held {
            return;
        }
        let Record { transitions, .. } = renewal.record;
        match timeout(
            RELEASE_DEADLINE,
            renewal
                .store
                .write(None, transitions, Some(&renewal.record)),
        )
        .await
        {
            Ok(Ok(_)) => info!("gave the lease back"),
            Ok(Err(error)) => {
                warn!(%error, "could not give the lease back; the others wait for it to end");
            }
            Err(_elapsed) => {
                warn!("could not give the lease back in time; the others wait for it to end");
            }
        }
    }
}

impl<S> Drop for Leadership<S> {
    fn drop(&mut self) {
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
        }
    }
}

impl<S: LeaseStore> Renewal<S> {
    async fn run(mut self, mut stop: watch::Receiver<bool>) -> Self {
        loop {
            tokio::select! {
                () = sleep(self.timing.retry_period) => {}
                _ = stop.wait_for(|stop| *stop) => return self,
            }
            let Some(until) = *self.until.borrow() else {
                return self;
            };
            let began = Instant::now();
            // A try that hangs must leave time for another one, at another API server.
            let end_of_try = until.min(began + self.timing.renew_deadline / 3);
            match tokio::time::timeout_at(end_of_try, self.renew()).await {
                Ok(Ok(())) => {
                    self.until
                        .send_replace(Some(began + self.timing.renew_deadline));
                }
                Ok(Err(LeaseError::Conflict)) => {
                    warn!("another replica holds the lease");
                    self.until.send_replace(None);
                    return self;
                }
                Ok(Err(error)) if Instant::now() < until => {
                    warn!(%error, "could not renew the lease; trying again");
                }
                Err(_elapsed) if Instant::now() < until => {
                    warn!("renewing the lease takes long; trying again");
                }
                Ok(Err(_)) | Err(_) => {
                    warn!("the lease could not be renewed in time");
                    self.until.send_replace(None);
                    return self;
                }
            }
        }
    }

    /// A conflict with a Lease that still names us is somebody's annotation, or an own write whose reply was lost.
    async fn renew(&mut self) -> Result<(), LeaseError> {
        match self.write().await {
            Err(LeaseError::Conflict) => {}
            result => return result,
        }
        match self.store.read().await? {
            Some(now)
                if now.holder.as_ref() == Some(&self.identity)
                    && now.transitions == self.record.transitions =>
            {
                self.record = now;
                self.write().await
            }
            _ => Err(LeaseError::Conflict),
        }
    }

    async fn write(&mut self) -> Result<(), LeaseError> {
        let Record { transitions, .. } = self.record;
        self.record = self
            .store
            .write(Some(&self.identity), transitions, Some(&self.record))
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
