//! `fabrik agent` on a machine: its configuration, and the process, which a service manager would
//! start again when it ends.

use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::machine::Root;
use crate::pki;
use crate::process::{Dirs, Process, Spec};

/// Where the leader's cache is found on the machine itself.
const FRONT_PORT: u16 = 9644;

/// The cluster, as a node is told about it.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub name: String,
    pub id: String,
    /// Half of the cluster's signing key, as Nix writes keys.
    pub public_key: String,
    pub cache_urls: Vec<String>,
}

/// What an agent is started with.
pub struct Settings<'a> {
    pub program: &'a Path,
    pub node: &'a str,
    pub address: Ipv4Addr,
    pub root: &'a Root,
    /// With the node's own certificate in it.
    pub kubeconfig: &'a str,
    pub cluster: &'a Cluster,
    pub dirs: &'a Dirs,
}

/// Writes the configuration and starts the process.
pub fn start(settings: &Settings<'_>) -> Result<Process> {
    let root = settings.root;
    let kubeconfig = root.path("var/lib/rancher/k3s/agent/kubelet.kubeconfig");
    let config = root.path("etc/fabrik/agent.toml");
    for file in [&kubeconfig, &config] {
        file.parent().map(fs::create_dir_all).transpose()?;
    }
    pki::write_private(&kubeconfig, settings.kubeconfig.as_bytes())?;
    fs::write(&config, configuration(settings, &kubeconfig))?;
    let spec = Spec::new(
        &format!("{}-agent", settings.node),
        settings.program,
        settings.dirs,
    )
    .args([OsString::from("agent"), "--config".into(), config.into()])
    .env("PATH", path(root))
    .env("HOME", root.path("var/lib/fabrik-agent").into_os_string());
    Process::start(spec)
}

/// The stand-ins first, then what every machine has.
pub(crate) fn path(root: &Root) -> OsString {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = [root.programs()]
        .into_iter()
        .chain(std::env::split_paths(&inherited));
    std::env::join_paths(folders).unwrap_or(inherited)
}

fn configuration(settings: &Settings<'_>, kubeconfig: &Path) -> String {
    let (root, cluster) = (settings.root, settings.cluster);
    // TOML's strings and lists of strings are JSON's.
    let text = |value: &dyn std::fmt::Display| json!(value.to_string());
    format!(
        "node = {}\nstate-dir = {}\nroot = {}\nkubeconfig = {}\nfront = {}\n\n\
         [cluster]\nname = {}\nid = {}\npublic-key = {}\n\n\
         [cache]\nurls = {}\n\n\
         [nix]\nprogram-dir = {}\nstore = {}\n",
        text(&settings.node),
        text(&root.path("var/lib/fabrik-agent").display()),
        text(&root.dir().display()),
        text(&kubeconfig.display()),
        text(&format!("{}:{FRONT_PORT}", settings.address)),
        text(&cluster.name),
        text(&cluster.id),
        text(&cluster.public_key),
        json!(cluster.cache_urls),
        text(&root.programs().display()),
        text(&root.dir().display()),
    )
}
