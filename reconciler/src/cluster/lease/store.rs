//! The Lease object of the Kubernetes API.

use std::time::Duration;

use fabrik_core::names::NAMESPACE;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use super::{LeaseError, LeaseStore, Record};
use crate::cluster::LedgerStore;

/// The name of fabrik's Lease, in its namespace.
pub const LEASE_NAME: &str = "fabrik-leader";

/// `leases/fabrik-leader` through a client that repeats nothing on its own.
pub struct KubeLease {
    api: Api<Lease>,
    ledger: LedgerStore,
    lease_duration_secs: i32,
}

impl KubeLease {
    pub fn new(client: kube::Client, lease_duration: Duration) -> Self {
        let lease_duration_secs = i32::try_from(lease_duration.as_secs()).unwrap_or(i32::MAX);
        Self {
            ledger: LedgerStore::new(client.clone()),
            api: Api::namespaced(client, NAMESPACE),
            lease_duration_secs,
        }
    }

    /// Makes the Lease, given back, where nobody has led yet: the first leader needs not wait whether another one is
    /// about to renew it.
    pub async fn make_for_the_first_leader(&self) -> Result<(), LeaseError> {
        if self.last_epoch().await? > 0 || self.read().await?.is_some() {
            return Ok(());
        }
        match self.write(None, 0, None).await {
            Ok(_) | Err(LeaseError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn lease(&self, holder: Option<&str>, transitions: u64, before: Option<&Record>) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(LEASE_NAME.to_owned()),
                resource_version: before.map(|r| r.version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                // The API refuses an empty string; a Lease that nobody holds has no holder.
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: Some(self.lease_duration_secs),
                lease_transitions: i32::try_from(transitions).ok(),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        }
    }
}

impl LeaseStore for KubeLease {
    async fn last_epoch(&self) -> Result<u64, LeaseError> {
        let epoch = self.ledger.last_epoch().await;
        let epoch = epoch.map_err(|error| LeaseError::Unreachable {
            name: format!("{NAMESPACE}/{LEASE_NAME}"),
            reason: error.to_string(),
        })?;
        Ok(u64::try_from(epoch).unwrap_or(0))
    }

    async fn read(&self) -> Result<Option<Record>, LeaseError> {
        Ok(self
            .api
            .get_opt(LEASE_NAME)
            .await
            .map_err(|e| explain(&e))?
            .map(record))
    }

    async fn write(
        &self,
        holder: Option<&str>,
        transitions: u64,
        before: Option<&Record>,
    ) -> Result<Record, LeaseError> {
        let lease = self.lease(holder, transitions, before);
        let written = match before {
            None => self.api.create(&PostParams::default(), &lease).await,
            Some(_) => {
                self.api
                    .replace(LEASE_NAME, &PostParams::default(), &lease)
                    .await
            }
        };
        written.map(record).map_err(|e| explain(&e))
    }
}

fn record(lease: Lease) -> Record {
    let spec = lease.spec.unwrap_or_default();
    Record {
        holder: spec.holder_identity.filter(|h| !h.is_empty()),
        transitions: spec
            .lease_transitions
            .and_then(|t| u64::try_from(t).ok())
            .unwrap_or(0),
        version: lease.metadata.resource_version.unwrap_or_default(),
        duration: spec
            .lease_duration_seconds
            .and_then(|secs| u64::try_from(secs).ok())
            .map_or(Duration::ZERO, Duration::from_secs),
    }
}

fn explain(error: &kube::Error) -> LeaseError {
    match error {
        // Deleted in between counts as changed.
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => LeaseError::Conflict,
        error => LeaseError::Unreachable {
            name: format!("{NAMESPACE}/{LEASE_NAME}"),
            reason: error.to_string(),
        },
    }
}
