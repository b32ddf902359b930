//! What an admitted commit wants.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{CommitId, PoolName, SecretName, UnitName};
use crate::pool::DEFAULT_DRAIN_DEADLINE;
use crate::spec::{DrainPolicy, Spec};
use crate::system::Target;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    pub commit: CommitId,
    pub spec: Spec,
    pub units: BTreeMap<UnitName, Inventory>,
    /// What the nodes of each pool should run; the control plane's pool is `servers`. A pool that is missing is left as
    /// it is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub targets: BTreeMap<PoolName, Target>,
    /// Which blob of git each secret for nodes is in: an id of what is encrypted there tells nothing of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<SecretName, String>,
}

impl Desired {
    /// How long a drain of a node of that pool may take.
    pub fn drain_deadline(&self, pool: &PoolName) -> Duration {
        let pool = self.spec.pools.get(pool);
        pool.map_or(DEFAULT_DRAIN_DEADLINE, |p| p.drain_deadline)
    }

    /// What a drain of a node of that pool may cost.
    pub fn drain_policy(&self, pool: &PoolName) -> DrainPolicy {
        let pool = self.spec.pools.get(pool);
        pool.map_or_else(DrainPolicy::default, |p| p.drain_policy)
    }
}

/// The objects of a unit, each with the digest of its source: the bytes of its document in git, before decryption, so
/// that a digest tells nothing of a secret.
pub type Inventory = BTreeMap<ObjectKey, String>;

/// Which object, whatever the version of its API: what an inventory remembers and prunes by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey {
    /// Empty for the core group.
    pub group: String,
    pub kind: String,
    /// Empty for a cluster-scoped object.
    pub namespace: String,
    pub name: String,
}

/// `Deployment.apps/web/shop`, `Namespace//web`: kind, group, namespace and name, unambiguous.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        write!(f, "/{}/{}", self.namespace, self.name)
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> String {
        key.to_string()
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = text.splitn(3, '/');
        let (Some(kind), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("`{text}` is no KIND.GROUP/NAMESPACE/NAME"));
        };
        let (kind, group) = kind.split_once('.').unwrap_or((kind, ""));
        Ok(Self {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}
