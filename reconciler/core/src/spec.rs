//! What a user wrote in `cluster.toml`, checked and typed.
//!
//! A `Spec` is consistent: `parse` let it in. It says what is wanted and nothing about what is there.

mod cidr;
mod kubernetes_syntax;
mod near;
mod notes;
mod parse;
mod place;
mod reader;
mod secret;
mod selector;
mod version;

use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::cidr::Cidr;
pub use self::notes::{notes, of_ways_in};
pub use self::parse::{parse, token_reference, zone_of};
pub use self::place::{place_of, text_of};
pub use self::secret::{FileMode, NodeSecret};
pub use self::selector::{Pattern, Pods, Selector};
pub use self::version::{K3sRelease, K3sVersion};
use crate::id::{ClusterName, MachineName, NodeName, PoolName, SecretName};
use crate::window::Window;

/// The whole of `cluster.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub name: ClusterName,
    pub kubernetes: Kubernetes,
    /// Its project at Hetzner; without it nothing there is the cluster's, and all machines are a person's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hetzner: Option<Hetzner>,
    pub network: Network,
    pub firewall: Firewall,
    #[serde(default)]
    pub api: Api,
    /// Public keys by the name that their resource at Hetzner gets.
    pub ssh_keys: BTreeMap<String, String>,
    /// The control plane's machines, where fabrik makes them; without it they are a person's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<Servers>,
    /// The control plane's machines that are the user's own. fabrik makes none of them and takes none away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub own_servers: BTreeMap<MachineName, Machine>,
    /// What these are, in Nix' words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_servers_system: Option<String>,
    pub pools: BTreeMap<PoolName, Pool>,
    pub limits: Limits,
    #[serde(default)]
    pub update: Update,
    #[serde(default)]
    pub nix: Nix,
    /// Files that nodes get, each by its name under `/run/fabrik/secrets`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<SecretName, NodeSecret>,
}

/// Whom the leader's Nix trusts and has help from, beside what the machine's own configuration of Nix says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Nix {
    /// URLs of binary caches.
    pub substituters: Vec<String>,
    /// Keys that what comes from them is signed with, as `NAME:BASE64`.
    pub trusted_public_keys: Vec<String>,
    /// Machines that build for it, each as Nix' setting `builders` has it.
    pub builders: Vec<String>,
}

/// How a new system reaches the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The node that goes first of those of its role.
    pub canary: Option<NodeName>,
    /// How long a node must be well on its new system before it keeps it.
    pub soak: Duration,
    /// How long a node may take from its order until it is well; then it goes back by itself.
    pub try_deadline: Duration,
    /// When a step may begin. None: always.
    pub windows: Vec<Window>,
    /// Nodes that a person keeps out, and why.
    pub held: BTreeMap<NodeName, String>,
    /// Lets the only server, or one of two, go down.
    pub allow_control_plane_downtime: bool,
    /// What else has to be true before a node keeps its new system, each by a name of the user's.
    #[serde(default)]
    pub checks: BTreeMap<String, Check>,
    /// Pods that may be deleted in spite of their budgets when the deadline of a drain is over.
    #[serde(default)]
    pub force: Vec<Pods>,
    /// Why no node begins an update, if none does. Those that are being updated end it.
    #[serde(default)]
    pub paused: Option<String>,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            canary: None,
            soak: Duration::from_secs(30),
            try_deadline: Duration::from_secs(900),
            windows: Vec::new(),
            held: BTreeMap::new(),
            allow_control_plane_downtime: false,
            checks: BTreeMap::new(),
            force: Vec::new(),
            paused: None,
        }
    }
}

/// Pods that have to be Ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub pods: Pods,
    /// How many of them, wherever they run. `None`: all those that run on the node.
    pub ready: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    /// The k3s version, as `1.36.3+k3s1`, or a minor of it, as `1.36`.
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hetzner {
    pub token: SecretRef,
}

/// A value inside a SOPS file of the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRef {
    pub file: String,
    pub key: String,
}

/// Ranges in CIDR notation. All of them are fixed when the first commit is admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The private network at Hetzner.
    pub range: String,
    /// The subnet of `range` that servers are in.
    pub nodes: String,
    /// Hetzner's network zone, `eu-central` for one.
    pub zone: String,
    pub pods: String,
    pub services: String,
}

/// Whom the firewall lets in from the public side, in CIDR notation. Empty: nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Firewall {
    pub ssh_from: Vec<String>,
    pub api_from: Vec<String>,
}

impl Firewall {
    /// Whether somebody there may come by SSH.
    pub fn opens_ssh_to(&self, address: IpAddr) -> bool {
        let ranges = self
            .ssh_from
            .iter()
            .filter_map(|text| Cidr::parse(text).ok());
        ranges.into_iter().any(|range| range.holds(address))
    }

    /// What was left of an example, with its key: nobody comes from there.
    pub fn examples(&self) -> Vec<(&'static str, &str)> {
        let ssh = self.ssh_from.iter().map(|text| ("ssh-from", text));
        let api = self.api_from.iter().map(|text| ("api-from", text));
        let is_example = |text: &str| Cidr::parse(text).is_ok_and(Cidr::is_documentation);
        ssh.chain(api)
            .map(|(key, text)| (key, text.as_str()))
            .filter(|(_, text)| is_example(text))
            .collect()
    }

    /// Whether SSH is open to private networks and to nobody else.
    pub fn opens_ssh_to_private_alone(&self) -> bool {
        let is_private = |text: &String| Cidr::parse(text).is_ok_and(Cidr::is_private);
        !self.ssh_from.is_empty() && self.ssh_from.iter().all(is_private)
    }
}

/// How people and programs from outside reach the API servers. Nodes know each server by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Api {
    pub load_balancer: Option<LoadBalancer>,
    pub floating_ip: Option<FloatingIp>,
    /// A DNS name of the user's that leads there; the servers' certificates bear it.
    pub name: Option<String>,
}

/// A load balancer of Hetzner's before the API servers, in the cluster's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// Hetzner's word for its size, `lb11` for one.
    pub kind: String,
    pub location: String,
    /// Whether it can be reached from the internet, by everybody: Hetzner's firewalls stand before servers alone
    /// (docs.hetzner.com, "Firewalls", FAQ).
    pub public: bool,
    /// What it came to be reached by: the servers' certificates bear it.
    pub address: Option<IpAddr>,
}

/// An address of Hetzner's that one server has, and another one when that one goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloatingIp {
    pub family: IpFamily,
    /// Where it is at home: any server of the same network zone may have it.
    pub location: String,
    /// What it came to be: the servers take it for theirs, and their certificates bear it.
    pub address: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    Ipv4,
    Ipv6,
}

impl IpFamily {
    /// Hetzner's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// The servers of the control plane, all alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Servers {
    /// Odd: etcd with an even number of members bears the loss of no more of them (etcd.io, FAQ, "Why an odd number of
    /// cluster members?").
    pub count: u32,
    /// Tried in order when stock runs out; the first is what is wanted.
    pub server_types: Vec<String>,
    /// Tried in order, for each server type.
    pub locations: Vec<String>,
    pub placement: PlacementStrategy,
    /// A commit with a smaller count takes servers away. Without this word it is refused.
    pub may_shrink: bool,
}

/// Workers that are all alike: at Hetzner, where fabrik makes them, or machines of the user's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Of servers at Hetzner. A pool of machines has none there.
    pub count: u32,
    /// The user's own, which fabrik neither makes nor powers nor deletes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub machines: BTreeMap<MachineName, Machine>,
    /// What they are, in Nix' words; servers at Hetzner are what their types are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Tried in order when stock runs out; the first is what is wanted.
    pub server_types: Vec<String>,
    /// Tried in order, for each server type.
    pub locations: Vec<String>,
    /// A name or an id at Hetzner; `None`: the newest snapshot that was made for the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub placement: PlacementStrategy,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<String>,
    /// How many nodes of this pool may be unavailable at once, for whatever reason (S2).
    pub max_unavailable: u32,
    pub local_data: LocalData,
    /// How long a drain may take before the node is uncordoned and left for later.
    pub drain_deadline: Duration,
    #[serde(default)]
    pub drain_policy: DrainPolicy,
    /// A node that is off is no fault: it takes nothing of `max_unavailable` and holds nobody up (S2).
    #[serde(default)]
    pub may_be_off: bool,
}

/// A machine that is there already, and how it is reached to be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Machine {
    /// Where its sshd is reached from a person's laptop: an IP address or a DNS name.
    pub address: String,
    pub port: u16,
    /// Who may be root there, without being asked.
    pub user: String,
    /// The public half of its host key, `ssh-ed25519` and base64: to nobody else anything is said.
    pub host_key: String,
    /// What installing wipes, a path below `/dev`.
    pub disk: String,
    /// Its address among nodes.
    pub node_ip: Ipv4Addr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlacementStrategy {
    /// Never two servers of a placement group on one host: Hetzner's `spread`, ten servers a group.
    Spread,
    Anywhere,
}

/// What a drain may cost. kubectl asks for it by `--delete-emptydir-data` and `--force`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainPolicy {
    /// What pods have in an emptyDir.
    pub empty_dir_data: Loss,
    /// Pods that no controller would bring back.
    pub unmanaged_pods: Loss,
}

/// Every tool that drains by itself gives up what is in an emptyDir: nearly all pods have one, and expect to lose it.
impl Default for DrainPolicy {
    fn default() -> Self {
        Self {
            empty_dir_data: Loss::Discard,
            unmanaged_pods: Loss::Keep,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// The pod is not evicted, and its node is not drained.
    Keep,
    /// It is given up.
    Discard,
}

/// What becomes of a bound local PersistentVolume when its node is removed (S5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalData {
    /// A node that such a volume is pinned to is not removed.
    Keep,
    Discard,
}

/// Brakes, so that a mistake is slow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub creations_per_hour: u32,
    pub deletions_per_hour: u32,
    pub prunes_per_hour: u32,
    /// A commit that prunes more objects than this of one unit is held.
    pub max_prune: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            creations_per_hour: 20,
            deletions_per_hour: 10,
            prunes_per_hour: 100,
            max_prune: 25,
        }
    }
}

/// What can never change once the first commit is admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Foundation {
    pub name: String,
    pub network_range: String,
    pub pods: String,
    pub services: String,
}

impl Pool {
    /// Whether it is to have no nodes.
    pub fn is_empty(&self) -> bool {
        self.size() == 0
    }

    /// How many nodes it is to have.
    pub fn size(&self) -> u32 {
        let machines = u32::try_from(self.machines.len()).unwrap_or(u32::MAX);
        self.count.saturating_add(machines)
    }

    /// Whether its servers are made from the newest snapshot that there is for it.
    pub fn boots_snapshot(&self) -> bool {
        self.image.is_none() && self.machines.is_empty()
    }
}

impl Spec {
    pub fn foundation(&self) -> Foundation {
        Foundation {
            name: self.name.to_string(),
            network_range: self.network.range.clone(),
            pods: self.network.pods.clone(),
            services: self.network.services.clone(),
        }
    }
}
