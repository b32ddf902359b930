//! The Lease object of the Kubernetes API.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use super::{LeaseError, LeaseStore, Record};

/// The name of fabrik's Lease, in its namespace.
const NAME: &str = "fabrik-leader";

/// `leases/fabrik-leader` through a client that repeats nothing on its own.
pub struct KubeLease {
    api: Api<Lease>,
    /// For people who read the object; no decision rests on it.
    lease_duration_secs: i32,
}

impl KubeLease {
    pub fn new(client: kube::Client, lease_duration: std::time::Duration) -> Self {
        let lease_duration_secs = i32::try_from(lease_duration.as_secs()).unwrap_or(i32::MAX);
        Self {
            api: Api::namespaced(client, fabrik_core::names::NAMESPACE),
            lease_duration_secs,
        }
    }

    fn lease(&self, holder: Option<&str>, transitions: u64, before: Option<&Record>) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
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
    async fn read(&self) -> Result<Option<Record>, LeaseError> {
        Ok(self
            .api
            .get_opt(NAME)
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
            Some(_) => self.api.replace(NAME, &PostParams::default(), &lease).await,
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
    }
}

fn explain(error: &kube::Error) -> LeaseError {
    match error {
        kube::Error::Api(status) if status.code == 409 => LeaseError::Conflict,
        error => LeaseError::Unreachable {
            name: format!("{}/{NAME}", fabrik_core::names::NAMESPACE),
            reason: error.to_string(),
        },
    }
}
