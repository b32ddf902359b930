//! The clusters of a bed by their certificate authority: what k3s encrypts with its token and keeps in etcd, and hands to each
//! server that shows the token, is kept here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::control_plane::Trust;
use crate::join;

/// All of a bed.
#[derive(Default)]
pub struct Clusters {
    by_ca_hash: Mutex<BTreeMap<String, Arc<Trust>>>,
}

impl Clusters {
    pub fn add(&self, trust: &Arc<Trust>) {
        let hash = join::ca_hash(trust.cluster.certificate_pem());
        self.lock(|all| all.insert(hash, Arc::clone(trust)));
    }

    /// The cluster whose certificate authority this is.
    pub fn of(&self, ca_pem: &str) -> Option<Arc<Trust>> {
        self.with_hash(&join::ca_hash(ca_pem))
    }

    pub fn with_hash(&self, ca_hash: &str) -> Option<Arc<Trust>> {
        self.lock(|all| all.get(ca_hash).cloned())
    }

    fn lock<T>(&self, work: impl FnOnce(&mut BTreeMap<String, Arc<Trust>>) -> T) -> T {
        work(
            &mut self
                .by_ca_hash
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}
