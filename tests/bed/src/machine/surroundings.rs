//! What a machine finds: the bed around it, and the user data that it was ordered with.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::runtime::Handle;

use crate::clusters::Clusters;
use crate::disks::Disks;
use crate::emulator::Hetzner;
use crate::parts::Parts;
use crate::process::Dirs;
use crate::scripted::Script;
use crate::switch::Switch;
use crate::system::Image;

/// What is the same for all machines of a bed.
pub struct Surroundings {
    /// Where machines live, whoever gives them power.
    pub runtime: Handle,
    pub parts: Arc<Parts>,
    pub hetzner: Hetzner,
    pub dir: PathBuf,
    pub dirs: Dirs,
    pub disks: Disks,
    pub kubelet_version: String,
    /// Who has what certificate authority.
    pub clusters: Clusters,
    /// Hetzner's private networks, in a bed that began empty: there each machine has a network of its own.
    pub switch: Option<Switch>,
    /// Where the bed has its services.
    pub services: Ipv4Addr,
    /// After this long without a sign of life, a node is not ready.
    pub node_monitor_grace_period: Duration,
    /// The cluster's name.
    pub cluster: String,
    /// What disks are made from, in a bed whose machines have systems.
    pub image: Option<Image>,
    /// What runs where a system has the former build of fabrik.
    pub former_fabrik: Option<PathBuf>,
    /// Workers are scripted stand-ins in the place of machines with disks.
    pub script: Option<Script>,
}

/// The user data of a worker.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UserData {
    pub fabrik: u32,
    pub role: String,
    pub node_name: String,
    pub servers: Vec<String>,
    pub token: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub taints: Vec<String>,
    pub pool: Option<String>,
    pub cluster_id: Option<String>,
    pub public_key: Option<String>,
    #[serde(default)]
    pub cache_urls: Vec<String>,
}
