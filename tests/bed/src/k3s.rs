//! A stand-in for `k3s server` on a machine that is a server by what is on its disk: it reads k3s' configuration there, makes a
//! cluster or joins one, and writes what others read of k3s.
//!
//! Its API server and its supervisor have ports of their own (6443 and 9345), where k3s has one for both.

mod config;
mod member;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use self::config::Config;
use self::member::Etcdctl;
use crate::clusters::Clusters;
use crate::control_plane::{ControlPlane, EtcdCluster, Trust};
use crate::join;
use crate::kubeconfig::{self, Endpoint};
use crate::machine::Root;
use crate::namespaces::Entrance;
use crate::parts::Parts;
use crate::pki::{self, Subject};
use crate::process::Dirs;
use crate::rights;
use crate::supervisor::{self, ApiServers, Supervisor};
use crate::{control_plane, join::JoinError};

/// Where k3s has its data.
pub const DIR: &str = "var/lib/rancher/k3s/server";
const ADMIN: &str = "etc/rancher/k3s/k3s.yaml";
/// Of nixos/k3s.nix: this server has had the data of a cluster.
const MARK: &str = "etc/rancher/k3s/fabrik-had-data";
/// Of `fabrik agent`: it was taken out of its cluster for good.
const RETIRED: &str = "var/lib/fabrik-agent/retired";
const DEADLINE: Duration = Duration::from_secs(120);

/// Where k3s has what this stand-in has elsewhere in the same folder.
const LINKS: [(&str, &str); 10] = [
    ("tls/server-ca.crt", "../ca.crt"),
    ("tls/client-ca.crt", "../ca.crt"),
    ("tls/serving-kube-apiserver.crt", "../apiserver.crt"),
    ("tls/serving-kube-apiserver.key", "../apiserver.key"),
    ("tls/etcd/server-ca.crt", "../../etcd-ca.crt"),
    ("tls/etcd/client.crt", "../../etcd.crt"),
    ("tls/etcd/client.key", "../../etcd.key"),
    ("db/etcd", "../etcd"),
    ("db/snapshots", "../snapshots"),
    ("node-token", "token"),
];

/// What it is started with.
pub struct Settings<'a> {
    pub root: &'a Root,
    pub parts: &'a Arc<Parts>,
    pub clusters: &'a Clusters,
    /// Of a machine with a network of its own.
    pub dirs: Dirs,
    pub network: Entrance,
    /// `1.36.3+k3s1`
    pub version: &'a str,
    pub node_monitor_grace_period: Duration,
}

/// Runs until it is dropped.
pub struct K3s {
    pub control_plane: ControlPlane,
    pub trust: Arc<Trust>,
    pub config: Config,
    pub address: Ipv4Addr,
    _supervisor: Supervisor,
}

/// How its etcd comes to its data.
enum Start {
    Found,
    Join { server: String },
    Data,
}

impl K3s {
    /// Starts it; returns when its API server is ready and its files are written.
    pub async fn start(settings: &Settings<'_>) -> Result<Self> {
        let root = settings.root;
        let config = Config::load(root.dir())?;
        let start = guard(root, &config)?;
        let address = config
            .node_ip
            .context("k3s' configuration has no node-ip")?;
        let (trust, token) = trust(settings, &config, &start).await?;
        let control_plane = control_plane(settings, &config, address, &trust)?;
        write_links(
            &control_plane,
            &join::ca_hash(trust.cluster.certificate_pem()),
            &token,
        )?;
        add_program(settings, &control_plane)?;
        if let Some(server) = &config.server {
            let etcd = Etcdctl {
                program: &settings.parts.etcdctl,
                network: settings.network,
                certificates: control_plane.dir(),
                endpoint: format!("https://{}:2379", host(server)?),
            };
            match start {
                Start::Data => member::resume(&etcd, &control_plane).await?,
                Start::Found | Start::Join { .. } => member::join(&etcd, &control_plane).await?,
            }
        }
        control_plane.start_all(DEADLINE).await?;
        fs::write(
            root.path(MARK),
            "this server has had the data of a cluster\n",
        )?;
        let client = control_plane
            .client("bed-supervisor", Some("system:masters"))
            .await?;
        rights::grant_all(&client).await?;
        let supervisor = Supervisor::start(supervisor::Settings {
            address,
            trust: Arc::clone(&trust),
            client,
            api_servers: ApiServers::Nodes,
            server_token: Some(token),
        });
        let supervisor = supervisor.await.context("starting the supervisor")?;
        let admin = trust
            .cluster
            .issue(&Subject::client("system:admin", Some("system:masters")))?;
        let endpoint = Endpoint {
            url: format!("https://127.0.0.1:{}", control_plane::API_PORT),
            through_balancer: false,
        };
        let admin = kubeconfig::text(&endpoint, trust.cluster.certificate_pem(), &admin);
        pki::write_private(&root.path(ADMIN), admin.as_bytes())?;
        Ok(Self {
            control_plane,
            trust,
            config,
            address,
            _supervisor: supervisor,
        })
    }
}

/// Whether there is anything to start: else why not.
pub fn may_start(root: &Root) -> Result<()> {
    guard(root, &Config::load(root.dir())?).map(drop)
}

/// As nixos/k3s.nix: a server that has no data, no server to join and no order to found would found a cluster of its own.
fn guard(root: &Root, config: &Config) -> Result<Start> {
    if root.path(RETIRED).exists() {
        bail!("k3s waits: this server was taken out of its cluster for good ({RETIRED})");
    }
    if root.path(DIR).join("etcd/member/wal").exists() {
        return Ok(Start::Data);
    }
    match &config.server {
        Some(server) => Ok(Start::Join {
            server: server.clone(),
        }),
        None if !config.cluster_init => {
            bail!("k3s waits: no file in /etc/rancher/k3s/config.yaml.d says which server to join")
        }
        None if root.path(MARK).exists() => bail!(
            "k3s waits: this server's data are gone, and `cluster-init: true` would found a second cluster"
        ),
        None => Ok(Start::Found),
    }
}

/// The cluster's authorities and its server token.
async fn trust(
    settings: &Settings<'_>,
    config: &Config,
    start: &Start,
) -> Result<(Arc<Trust>, String)> {
    let (root, clusters) = (settings.root, settings.clusters);
    let told = || {
        let file = config.token_file.as_deref();
        let file = root.path(&file.context("k3s has no token-file")?.to_string_lossy());
        let text = fs::read_to_string(&file);
        let text = text.with_context(|| format!("reading {}", file.display()))?;
        anyhow::Ok(text.trim().to_owned())
    };
    match start {
        Start::Found => {
            let token = match config.token_file {
                Some(_) => told()?,
                None => join::random_hex(16)?,
            };
            let trust = Arc::new(Trust::new()?);
            clusters.add(&trust);
            Ok((trust, password(&token).to_owned()))
        }
        Start::Join { server } => {
            let token = told()?;
            let supervisor = format!("https://{}:{}", host(server)?, supervisor::PORT);
            let ca_pem = match join::bootstrap(&supervisor, &token).await {
                Ok(ca_pem) => ca_pem,
                Err(JoinError::Refused(reason)) => bail!("{server} refuses this server: {reason}"),
                Err(JoinError::Unavailable(error)) => {
                    return Err(error.context(format!("{server} does not answer")));
                }
            };
            let trust = clusters.of(&ca_pem);
            let trust = trust.with_context(|| format!("{server} is of no cluster of this bed"))?;
            Ok((trust, password(&token).to_owned()))
        }
        Start::Data => {
            let dir = root.path(DIR);
            let trust = clusters.of(&fs::read_to_string(dir.join("ca.crt"))?);
            let token = fs::read_to_string(dir.join("token"))?;
            let trust = trust.context("the data on this disk are of no cluster of this bed")?;
            Ok((trust, password(token.trim()).to_owned()))
        }
    }
}

/// `K10HASH::server:PASSWORD`, or the password alone (docs.k3s.io, "k3s token").
fn password(token: &str) -> &str {
    let credentials = token.split_once("::").map_or(token, |(_, after)| after);
    credentials.strip_prefix("server:").unwrap_or(credentials)
}

fn host(url: &str) -> Result<IpAddr> {
    let host = url.strip_prefix("https://").and_then(|rest| {
        let rest = rest.trim_end_matches('/');
        rest.rsplit_once(':')
            .map_or(rest, |(host, _)| host)
            .parse()
            .ok()
    });
    host.with_context(|| format!("k3s' server: {url} is no https:// URL with an address"))
}

fn control_plane(
    settings: &Settings<'_>,
    config: &Config,
    address: Ipv4Addr,
    trust: &Arc<Trust>,
) -> Result<ControlPlane> {
    let dir = settings.root.path(DIR);
    let version = settings.version;
    let version = version
        .split_once('+')
        .map_or(version, |(version, _)| version);
    // As k3s calls them: the Node's name and eight digits, which stay.
    let file = dir.join("member");
    let member = match fs::read_to_string(&file) {
        Ok(member) => member,
        Err(_) => format!("{}-{}", config.node_name, join::random_hex(4)?),
    };
    fs::create_dir_all(&dir)?;
    fs::write(&file, &member)?;
    ControlPlane::new(
        control_plane::Settings {
            name: config.node_name.clone(),
            member: member.clone(),
            address,
            at_all_addresses: true,
            balancer: config.node_external_ip.unwrap_or(address),
            kubernetes_version: version.to_owned(),
            dir,
            dirs: settings.dirs.clone(),
            node_monitor_grace_period: settings.node_monitor_grace_period,
        },
        Arc::clone(settings.parts),
        Arc::clone(trust),
        EtcdCluster {
            members: format!("{member}=https://{address}:2380"),
            existing: false,
        },
    )
}

fn write_links(control_plane: &ControlPlane, ca_hash: &str, token: &str) -> Result<()> {
    let dir = control_plane.dir();
    for (link, target) in LINKS {
        let link = dir.join(link);
        fs::create_dir_all(parent(&link)?)?;
        if !link.is_symlink() {
            symlink(target, &link)?;
        }
    }
    let token = format!("K10{ca_hash}::server:{token}\n");
    pki::write_private(&dir.join("token"), token.as_bytes())
}

fn add_program(settings: &Settings<'_>, control_plane: &ControlPlane) -> Result<()> {
    let root = settings.root;
    let etcdctl = settings.parts.etcdctl.display().to_string();
    let text = include_str!("../stand-ins/k3s");
    let places = control_plane.places(etcdctl);
    root.add_program(&root.server_programs(), "k3s", text, &places)
}

fn parent(file: &Path) -> Result<PathBuf> {
    Ok(file.parent().context("a folder")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_in_both_its_forms() {
        assert_eq!(password("K10abc::server:secret"), "secret");
        assert_eq!(password("secret"), "secret");
    }

    #[test]
    fn a_server_is_named_by_its_address() {
        let address = IpAddr::from([10, 0, 1, 1]);
        assert_eq!(host("https://10.0.1.1:6443").unwrap(), address);
        assert_eq!(host("https://10.0.1.1").unwrap(), address);
        assert!(host("http://10.0.1.1:6443").is_err());
    }
}
