//! What is there: Hetzner's resources, Nodes, pods, the ledger and the inventories, as read in one pass.
//!
//! It holds no secret, so the leader may publish it for `fabrik plan`.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::desired::Inventory;
use crate::disruption::Blocker;
use crate::id::{
    AgeRecipient, BootId, IntentId, NodeName, PoolName, SecretsDigest, ServerId, StorePath, Uid,
    UnitName,
};
use crate::join::Asked;
use crate::ledger::Ledger;
use crate::quorum;
use crate::system::{Order, Report, Retirement};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    pub at: Timestamp,
    pub hetzner: Hetzner,
    pub nodes: BTreeMap<NodeName, Node>,
    /// Pods of the nodes that held a ticket when they were read. A node that is missing here was not asked, or what is
    /// attached to it could not be read: it is not known to be empty.
    pub pods: BTreeMap<NodeName, Vec<Pod>>,
    /// Volumes that are attached to those of them that have no pod to move, in words; such as are there for pods that
    /// stay are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attached: BTreeMap<NodeName, Vec<String>>,
    /// How many pods of each check of the user's are Ready, wherever they run; read while a node tries a system. Of a
    /// check that is missing nothing is known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ready_pods: BTreeMap<String, u32>,
    /// Nodes that a bound local PersistentVolume is pinned to.
    pub pinned: BTreeSet<NodeName>,
    /// Join tokens that exist, by the intent each was made for.
    pub tokens: BTreeSet<IntentId>,
    pub units: BTreeMap<UnitName, Inventory>,
    pub ledger: Ledger,
    /// What members run, and what they were told to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub systems: BTreeMap<NodeName, NodeSystem>,
    /// Which secrets lie ready for each node that was given some. `None` where that could not be read: nothing is
    /// handed out then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<BTreeMap<NodeName, SecretsDigest>>,
    #[serde(default)]
    pub datastore: Datastore,
    /// The server whose fabrik leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<NodeName>,
    /// Numbers of the tickets that a person takes away from nodes that are stuck.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub released: BTreeSet<u64>,
    /// Whom a person is installing as a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// Pods of any node that a PodDisruptionBudget keeps where they are. Looked for now and then, and for people alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<Blocker>,
    /// Why all effects are paused, if they are.
    pub paused: Option<String>,
}

/// A member's `FabrikNode`, and what else says whether its system is well.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSystem {
    /// What it was told to fetch.
    pub aim: Option<StorePath>,
    pub order: Option<Order>,
    /// That it is to leave for good, where it was told so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retirement: Option<Retirement>,
    pub report: Option<Report>,
    /// What its agent says that nothing is decided by: why it can't fetch, for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// The key that a person says it has by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepts: Option<AgeRecipient>,
    /// Pods of system DaemonSets on it that are not ready, as `namespace/name`.
    pub unready_daemons: Vec<String>,
    /// Since when it has been Ready with nothing missing, as the leader saw it.
    pub well: Option<Well>,
}

/// A node was seen to be well under one system and one boot: what was seen before says nothing of those after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Well {
    pub since: Timestamp,
    pub running: StorePath,
    pub boot: BootId,
    /// What `Node.heard` said when this was first seen: a renewal that is none since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Timestamp>,
}

impl Node {
    /// Not Ready, and its kubelet was not heard of for this long at `at`, as far as that is known.
    pub fn is_silent(&self, at: Timestamp, for_secs: i64) -> bool {
        let limit = SignedDuration::from_secs(for_secs);
        let long_ago = |heard: Timestamp| at.duration_since(heard) > limit;
        !self.ready && !self.lease_unread && self.heard.is_none_or(long_ago)
    }
}

/// What keeps the control plane's data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Datastore {
    /// It could not be found out: no server may go.
    #[default]
    Unread,
    /// SQLite, or a database outside of the cluster: there is no quorum to keep.
    Other,
    Etcd(Etcd),
}

impl Hetzner {
    /// What is seen where there is no project to ask for: nothing, so nothing that is known is believed gone.
    pub fn unseen(ledger: &Ledger) -> Self {
        Self {
            missing: ledger.known_servers().collect(),
            ..Self::default()
        }
    }
}

impl Datastore {
    pub fn etcd(&self) -> Option<&Etcd> {
        match self {
            Self::Etcd(etcd) => Some(etcd),
            Self::Unread | Self::Other => None,
        }
    }
}

impl NodeSystem {
    /// Since when it is well, now that it is: as before, if it is the same system and boot. `heard` is its Node's.
    pub fn well_now(&self, heard: Option<Timestamp>, now: Timestamp) -> Option<Well> {
        let report = self.report.as_ref()?;
        let same = |w: &&Well| w.running == report.running && w.boot == report.boot;
        let before = self.well.as_ref().filter(same);
        Some(Well {
            since: before.map_or(now, |w| w.since),
            running: report.running.clone(),
            boot: report.boot.clone(),
            heard: before.map_or(heard, |w| w.heard),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Etcd {
    pub members: quorum::Members,
    /// Names of the snapshots that are complete.
    pub snapshots: BTreeSet<String>,
}

/// More servers than this don't vanish at once by themselves: what is done about them waits for a person.
pub const FEW_MISSING: usize = 3;

/// This cluster's resources at Hetzner: those whose label bears its id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hetzner {
    pub servers: BTreeMap<ServerId, Server>,
    /// Servers that the ledger knows, or a Node of an intent's name alone (`arrival::left`), that the lists did not show, and that
    /// GET by id answered with 404 for.
    pub gone: BTreeSet<ServerId>,
    /// Servers that the ledger knows and that the lists lack, where those are more than a few: none of them is believed
    /// gone. Empty where the lists can be believed.
    #[serde(default)]
    pub missing: BTreeSet<ServerId>,
    pub network: Option<Resource>,
    pub firewall: Option<FirewallResource>,
    /// By name in the spec.
    pub ssh_keys: BTreeMap<String, SshKeyResource>,
    /// By name.
    pub placement_groups: BTreeMap<String, PlacementGroup>,
    /// The one before the API servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floating_ip: Option<FloatingIp>,
    /// Snapshots that servers can be made from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Image>,
    /// Names that we want and that somebody else's resource has: what it is and whose.
    pub taken: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    pub id: u64,
    pub name: String,
    /// Hetzner's word for its size.
    pub kind: String,
    pub location: String,
    pub public: bool,
    /// What it is reached by: its public address, or the one in the network where it has no public one.
    pub address: Option<String>,
    /// It sends port 6443 to the cluster's servers, by the network.
    pub leads_to_servers: bool,
}

/// The address that leads to the API servers by way of the server that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FloatingIp {
    pub id: u64,
    pub name: String,
    /// Hetzner's word: `ipv4` or `ipv6`.
    pub family: String,
    pub location: String,
    /// Of an IPv6 network the first one.
    pub address: Option<IpAddr>,
    pub server: Option<ServerId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    pub id: u64,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallResource {
    pub id: u64,
    pub name: String,
    pub rules: Vec<FirewallRule>,
}

/// An inbound rule. Order does not matter; `port` is empty for ICMP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FirewallRule {
    pub protocol: String,
    pub port: String,
    pub source_ips: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshKeyResource {
    pub id: u64,
    /// Without the comment: type and base64.
    pub public_key: String,
    /// False for a key that was in the project already under another label: used, never touched.
    pub ours: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementGroup {
    pub id: u64,
    pub name: String,
    pub servers: BTreeSet<ServerId>,
}

/// A snapshot of this cluster's that is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub id: u64,
    /// The pool that it was made for.
    pub pool: PoolName,
    /// Hetzner's word: `x86` or `arm`.
    pub architecture: String,
    pub created: Timestamp,
    /// The minor of k3s on it, where its label says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k3s: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    pub id: ServerId,
    pub name: String,
    pub role: Role,
    pub pool: Option<PoolName>,
    pub intent: Option<IntentId>,
    pub power: Power,
    /// In the private network, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    pub server_type: String,
    pub location: String,
    pub created: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Server,
    Agent,
    /// No role label, or one that we do not know.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    Running,
    /// Hetzner's `off`: no process of it runs.
    Off,
    /// Anything between, and what we do not know.
    Changing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact that Kubernetes reports on its own"
)]
pub struct Node {
    pub name: NodeName,
    pub uid: Uid,
    pub provider_id: Option<String>,
    pub control_plane: bool,
    pub ready: bool,
    pub unschedulable: bool,
    /// Our mark: set when it was us who cordoned.
    pub cordoned_under: Option<String>,
    pub deleting: bool,
    /// When its kubelet last renewed its Lease, by the node's own clock. A machine that has died is Ready for 40 s more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Timestamp>,
    /// Whether its Lease was to be read, and could not be: then it is not known when the kubelet was heard of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lease_unread: bool,
    pub kubelet_version: String,
    pub labels: BTreeMap<String, String>,
    /// Label keys that are ours by server-side apply.
    pub our_labels: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact that Kubernetes reports on its own"
)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: Uid,
    pub node: NodeName,
    pub kind: PodKind,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether its condition `Ready` is true.
    #[serde(default)]
    pub ready: bool,
    /// Whether a controller would bring it back.
    #[serde(default = "yes")]
    pub managed: bool,
    /// Whether it has an emptyDir.
    #[serde(default)]
    pub empty_dir: bool,
    /// Evicted or deleted, and not gone yet.
    pub terminating: bool,
    /// When its grace period is over, if it is `terminating`.
    #[serde(default)]
    pub ends: Option<Timestamp>,
    /// What refused the last eviction, with the PodDisruptionBudget's name.
    pub blocked: Option<String>,
}

/// Pods that kubectl tells apart when it drains a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodKind {
    /// Evicted, unless its pool keeps what is lost by that.
    Ordinary,
    /// Run by a DaemonSet: stays, ends with the node.
    DaemonSet,
    /// A static pod's mirror: stays, ends with the node.
    Mirror,
    /// Succeeded or failed, whoever ran it: evicted, for nothing is lost by that.
    Finished,
}

fn yes() -> bool {
    true
}
