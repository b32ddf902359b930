//! What is taken away of a cluster that is to be no more, and in which order: from all that is in the project, what bears
//! the cluster's id.
//!
//! Level-triggered: whoever carries out the steps looks again and asks again, until nothing is left to do. What bears no id
//! or another one is in no step, whatever it is called and whatever it hangs on.

mod which;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use self::which::{Unclear, must_be_called, which};
use crate::id::{ClusterId, ClusterName};
use crate::observed::Power;

/// Of what kind a resource at Hetzner is. In the order in which a person thinks of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Server,
    LoadBalancer,
    FloatingIp,
    PrimaryIp,
    Volume,
    Snapshot,
    PlacementGroup,
    Firewall,
    Certificate,
    SshKey,
    Network,
}

/// Which resource. Hetzner's ids are unique among those of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    pub id: u64,
}

/// A resource of the project, as far as its end is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "they are facts that are independent of each other"
)]
pub struct Resource {
    pub key: Key,
    /// Of a snapshot, which has none: its description.
    pub name: String,
    /// The value of its label `fabrik.dev/cluster`.
    pub cluster: Option<String>,
    /// The value of its label `fabrik.dev/name`, which snapshots have.
    pub cluster_name: Option<String>,
    /// Hetzner refuses to delete it.
    pub protected: bool,
    /// Of a server; any other kind has none.
    pub power: Option<Power>,
    /// A server that `fabrik run` may be on.
    pub is_control_plane: bool,
    /// Servers and load balancers that it can't go before.
    pub used_by: BTreeSet<Key>,
    /// Servers and networks that it serves: a volume its server, a load balancer its targets and its network.
    pub attached_to: BTreeSet<Key>,
    /// A firewall's label selectors: it can't go while it has one.
    pub selectors: Vec<String>,
    /// A primary IP that Hetzner deletes with what it is assigned to.
    pub goes_with_user: bool,
    /// It looks like what Kubernetes' cloud controller or CSI driver makes.
    pub is_made_by_kubernetes: bool,
}

/// What a person wants gone besides what can be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    pub volumes: bool,
    pub snapshots: bool,
    /// What is protected, too.
    pub protected: bool,
}

/// One request to Hetzner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Unprotect(Key),
    PowerOff(Key),
    Delete(Key),
}

impl Step {
    pub fn key(self) -> Key {
        match self {
            Self::Unprotect(key) | Self::PowerOff(key) | Self::Delete(key) => key,
        }
    }
}

/// Why something that bears the cluster's id is not taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// It holds data, and nobody asked for its end.
    Data,
    Protected,
    /// These stay, and it is in use by them.
    UsedBy(BTreeSet<Key>),
    /// A firewall that is applied by label selectors.
    Selectors(Vec<String>),
}

/// Why something that does not bear the cluster's id is worth a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// It has the cluster's name and another's id.
    OtherCluster(String),
    /// It has the cluster's name and no id.
    NoLabel,
    /// It is attached to these, which are the cluster's.
    AttachedTo(BTreeSet<Key>),
    /// Kubernetes made it, of this cluster or another, and it is attached to nothing.
    OfSomeKubernetes,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What may be done now, in this order.
    pub steps: Vec<Step>,
    /// All that goes in the end.
    pub goes: BTreeSet<Key>,
    /// What Hetzner deletes by itself with something that goes.
    pub goes_along: BTreeMap<Key, BTreeSet<Key>>,
    pub kept: BTreeMap<Key, Kept>,
    pub left: BTreeMap<Key, Left>,
}

impl Plan {
    /// Nothing of the cluster is left but what is kept.
    pub fn is_done(&self) -> bool {
        self.goes.is_empty()
    }
}

/// What is to be done next with `project`, which is everything that the project holds.
pub fn plan(project: &[Resource], cluster: &ClusterId, name: &ClusterName, asked: Asked) -> Plan {
    let there: BTreeMap<Key, &Resource> = project.iter().map(|r| (r.key, r)).collect();
    let mut plan = Plan::default();
    let (ours, others): (Vec<&Resource>, Vec<&Resource>) =
        there.values().copied().partition(|r| r.is_of(cluster));
    // Users first, so that what they stand for is known of what they use.
    let (users, used): (Vec<&Resource>, Vec<&Resource>) =
        ours.into_iter().partition(|r| r.used_by.is_empty());
    for resource in users.into_iter().chain(used) {
        let stays = |user: &&Key| there.contains_key(user) && !plan.goes.contains(user);
        if let Some(why) = kept(resource, asked, stays) {
            plan.kept.insert(resource.key, why);
        } else {
            plan.goes.insert(resource.key);
        }
    }
    for resource in others {
        let with: BTreeSet<Key> = resource
            .attached_to
            .iter()
            .filter(|key| there.get(key).is_some_and(|r| r.is_of(cluster)))
            .copied()
            .collect();
        if resource.goes_with_user && !with.is_empty() {
            // Those of a server that stays, stay.
            if !with.is_disjoint(&plan.goes) {
                plan.goes_along.insert(resource.key, with);
            }
        } else if let Some(why) = left(resource, name, with) {
            plan.left.insert(resource.key, why);
        }
    }
    plan.steps = steps(&there, &plan.goes);
    plan
}

/// Why a resource of the cluster stays, if it does.
fn kept(resource: &Resource, asked: Asked, stays: impl Fn(&&Key) -> bool) -> Option<Kept> {
    let is_wanted = match resource.key.kind {
        Kind::Volume => asked.volumes,
        Kind::Snapshot => asked.snapshots,
        _ => true,
    };
    if !is_wanted {
        return Some(Kept::Data);
    }
    if resource.protected && !asked.protected {
        return Some(Kept::Protected);
    }
    let users: BTreeSet<Key> = resource.used_by.iter().filter(stays).copied().collect();
    if !users.is_empty() {
        return Some(Kept::UsedBy(users));
    }
    let selectors = &resource.selectors;
    (!selectors.is_empty()).then(|| Kept::Selectors(selectors.clone()))
}

fn left(resource: &Resource, name: &ClusterName, with: BTreeSet<Key>) -> Option<Left> {
    if !with.is_empty() {
        return Some(Left::AttachedTo(with));
    }
    if resource.bears_name(name) {
        return Some(match &resource.cluster {
            Some(id) => Left::OtherCluster(id.clone()),
            None => Left::NoLabel,
        });
    }
    let is_orphan = resource.cluster.is_none() && resource.attached_to.is_empty();
    (is_orphan && resource.is_made_by_kubernetes).then_some(Left::OfSomeKubernetes)
}

/// In the order of the rules: fabrik ends before anything else does, or it would make what is missing again; what uses goes
/// before what is used; and the network is last, for by it the cluster's id is known when this is done again.
fn steps(there: &BTreeMap<Key, &Resource>, goes: &BTreeSet<Key>) -> Vec<Step> {
    let going = || goes.iter().filter_map(|key| there.get(key));
    let runs = |r: &&&Resource| r.is_control_plane && r.power != Some(Power::Off);
    let control_plane: Vec<_> = going().filter(runs).collect();
    if !control_plane.is_empty() {
        return control_plane.into_iter().filter_map(|r| step(r)).collect();
    }
    let is_last = |key: &Key| key.kind == Kind::Network;
    let only_networks = goes.iter().all(is_last);
    let free = |r: &&&Resource| {
        let is_used = r.used_by.iter().any(|user| there.contains_key(user));
        !is_used && (only_networks || !is_last(&r.key))
    };
    going().filter(free).filter_map(|r| step(r)).collect()
}

/// The next step of a resource that nothing uses. None while Hetzner is at work on it.
fn step(resource: &Resource) -> Option<Step> {
    let key = resource.key;
    if resource.protected {
        return Some(Step::Unprotect(key));
    }
    match resource.power {
        Some(Power::Running) => Some(Step::PowerOff(key)),
        Some(Power::Changing) => None,
        Some(Power::Off) | None => Some(Step::Delete(key)),
    }
}

impl Resource {
    fn is_of(&self, cluster: &ClusterId) -> bool {
        self.cluster.as_deref() == Some(cluster.as_str())
    }

    /// Whether it is called as fabrik calls what it makes: the cluster's name, or that and more.
    fn bears_name(&self, name: &ClusterName) -> bool {
        let rest = self.name.strip_prefix(name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Server => "server",
            Self::LoadBalancer => "load balancer",
            Self::FloatingIp => "floating IP",
            Self::PrimaryIp => "primary IP",
            Self::Volume => "volume",
            Self::Snapshot => "snapshot",
            Self::PlacementGroup => "placement group",
            Self::Firewall => "firewall",
            Self::Certificate => "certificate",
            Self::SshKey => "SSH key",
            Self::Network => "network",
        })
    }
}

#[cfg(test)]
mod tests;
