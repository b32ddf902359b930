//! Who leads, by the Lease: what the last leader wrote of itself stays when it dies.

use fabrik_core::names::NAMESPACE;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::Api;

use super::access::{Access, AccessError, asked_to};
use crate::cluster::lease::LEASE_NAME;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leader {
    /// The replica on this Node.
    Leads(String),
    /// None leads; when the last one was heard of, if there was one.
    None(Option<Timestamp>),
}

pub async fn read(access: &Access, now: Timestamp) -> Result<Leader, AccessError> {
    let leases: Api<Lease> = Api::namespaced(access.client.clone(), NAMESPACE);
    let lease = leases.get_opt(LEASE_NAME).await;
    let lease = lease.map_err(asked_to(format!("read Lease {NAMESPACE}/{LEASE_NAME}")))?;
    Ok(leader(lease.and_then(|l| l.spec).unwrap_or_default(), now))
}

/// A Lease that was not renewed for twice its length has ended: clocks that differ by no more than that length agree on
/// it.
fn leader(lease: LeaseSpec, now: Timestamp) -> Leader {
    let since = lease.renew_time.map(|time| time.0);
    let length = SignedDuration::from_secs(lease.lease_duration_seconds.unwrap_or(0).into());
    let renewed = since.is_some_and(|at| now.duration_since(at) <= length * 2);
    match lease.holder_identity.filter(|holder| !holder.is_empty()) {
        // The Node's name, an underscore, and what tells this process from the next.
        Some(holder) if renewed => {
            let node = holder.rsplit_once('_').map(|(node, _)| node.to_owned());
            Leader::Leads(node.unwrap_or(holder))
        }
        _ => Leader::None(since),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    #[test]
    fn a_lease_that_nobody_renews_has_no_leader() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let lease = |holder: Option<&str>| LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(12),
            renew_time: Some(MicroTime(at(1000))),
            ..LeaseSpec::default()
        };
        let leads = Leader::Leads("server-1".to_owned());
        assert_eq!(leader(lease(Some("server-1_0a1b2c3d")), at(1024)), leads);
        let none = Leader::None(Some(at(1000)));
        assert_eq!(leader(lease(Some("server-1_0a1b2c3d")), at(1025)), none);
        assert_eq!(leader(lease(None), at(1001)), none);
        assert_eq!(leader(LeaseSpec::default(), at(1001)), Leader::None(None));
    }
}
