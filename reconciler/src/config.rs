//! The configuration file of `fabrik run`: what founding wrote for this control-plane node.
//!
//! It names files that hold secrets and holds none itself. An unknown key is an error, so that a typing mistake is no
//! silent default.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fabrik_core::diagnostic::Place;
use fabrik_core::id::{ClusterId, ClusterName, NodeName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::repo::RepositoryConfig;

pub mod duration;
mod nix;

pub use nix::{Cache, Nix, Size};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The Node that this replica runs on.
    pub node: NodeName,
    /// Holds the bare clone, and what is known and kept of systems that were built. May be emptied at any time.
    pub state_dir: PathBuf,
    /// Where health, metrics, the observation and the webhook are served.
    pub listen: SocketAddr,
    pub cluster: Cluster,
    pub kubernetes: Kubernetes,
    pub repository: RepositoryConfig,
    pub secrets: Secrets,
    pub hetzner: Hetzner,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Where the control plane keeps its data in etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<Etcd>,
    #[serde(default)]
    pub leader_election: LeaderElection,
    /// How systems are evaluated and built; without it, no commit changes what nodes run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nix: Option<Nix>,
    /// How what was built here is served to nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Where new servers of the control plane ask for their keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Cluster {
    pub name: ClusterName,
    pub id: ClusterId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Kubernetes {
    /// API servers, tried in order; any of them serves.
    pub servers: Vec<String>,
    /// The CA of the API servers. Its bytes are also what join tokens pin.
    pub ca_file: PathBuf,
    pub leader_token_file: PathBuf,
    pub applier_token_file: PathBuf,
    /// Used only to make the two tokens when they are missing or have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_kubeconfig: Option<PathBuf>,
    /// Supervisors that a worker joins at: it tries them in order, and again until one answers.
    pub join_urls: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Secrets {
    pub age_key_file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Hetzner {
    pub endpoint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Webhook {
    pub secret_file: PathBuf,
    /// An address for `/webhook` alone, for a git server that is elsewhere: `listen` shows what not everybody should see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

/// How this server's etcd is asked, and where its snapshots are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Etcd {
    pub endpoint: String,
    pub ca_file: PathBuf,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    pub snapshot_dir: PathBuf,
}

/// Where a server that fabrik made asks for its keys, with what the API server identifies itself by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Join {
    pub listen: SocketAddr,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    /// What k3s' servers join with, in its secure format.
    pub k3s_token_file: PathBuf,
}

/// How long leadership lasts. `renew-deadline` is shorter than `lease-duration`, so that a leader stops before
/// another one may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LeaderElection {
    /// How long a lease that does not change is left alone.
    #[serde(with = "duration")]
    pub lease_duration: Duration,
    /// How long after a renewal began the leader may still act.
    #[serde(with = "duration")]
    pub renew_deadline: Duration,
    /// How often the lease is renewed, or looked at.
    #[serde(with = "duration")]
    pub retry_period: Duration,
}

impl Default for LeaderElection {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(12),
            renew_deadline: Duration::from_secs(8),
            retry_period: Duration::from_secs(1),
        }
    }
}

impl LeaderElection {
    /// The faults of these durations, in words.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        // The Lease object counts whole seconds.
        if self.lease_duration < Duration::from_secs(1) || self.lease_duration.subsec_nanos() != 0 {
            faults.push("lease-duration must be whole seconds, at least 1s".to_owned());
        }
        if self.renew_deadline >= self.lease_duration {
            faults.push(
                "renew-deadline must be shorter than lease-duration: a leader has to stop before another starts"
                    .to_owned(),
            );
        }
        if self.retry_period.is_zero() || self.retry_period * 2 > self.renew_deadline {
            faults.push(
                "retry-period must be more than 0s and at most half of renew-deadline".to_owned(),
            );
        }
        faults
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: the configuration can't be read: {source}. {writer} writes it", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
        writer: &'static str,
    },
    #[error("{place}: {problem}")]
    Invalid { place: Place, problem: String },
    #[error("{file}: {}", faults.join("; "))]
    Contradictory { file: String, faults: Vec<String> },
}

/// Reads the file at `path`, which `writer` writes.
pub fn read(path: &Path, writer: &'static str) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
        writer,
    })
}

/// Reads `text`, and asks `faults` what is wrong with what it says; `file` is what errors call it.
pub fn parse<T: DeserializeOwned>(
    file: &str,
    text: &str,
    faults: impl FnOnce(&T) -> Vec<String>,
) -> Result<T, ConfigError> {
    let config: T = toml::from_str(text).map_err(|error| ConfigError::Invalid {
        place: error.span().map_or_else(
            || Place::file(file),
            |span| Place::of_offset(file, text, span.start),
        ),
        problem: error.message().to_owned(),
    })?;
    let faults = faults(&config);
    if faults.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError::Contradictory {
            file: file.to_owned(),
            faults,
        })
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path, "`fabrik found`")?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Reads and checks `text`; `file` is what errors call it.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        parse(file, text, Self::faults)
    }

    /// The file that reads back as this configuration, with a line on what it is.
    pub fn render(&self) -> Result<String, toml::ser::Error> {
        let mut text = String::from("# Written by `fabrik found`; read by `fabrik run`.\n");
        let _ = write!(text, "{}", toml::to_string(self)?);
        Ok(text)
    }

    /// Where nodes find the caches: beside each supervisor, on the port of this server's. None where there is no cache.
    pub fn cache_urls(&self) -> Vec<String> {
        self.beside_supervisors(self.cache.as_ref().map(|cache| cache.listen))
    }

    /// Where the caches of servers at these addresses are, likewise.
    pub fn caches_at(&self, addresses: impl Iterator<Item = IpAddr>) -> Vec<String> {
        let port = self.cache.as_ref().map(|cache| cache.listen.port());
        let at = |address| Some(format!("https://{}", SocketAddr::new(address, port?)));
        addresses.filter_map(at).collect()
    }

    /// Where new servers ask for their keys, likewise.
    pub fn join_desk_urls(&self) -> Vec<String> {
        self.beside_supervisors(self.join.as_ref().map(|join| join.listen))
    }

    fn beside_supervisors(&self, listen: Option<SocketAddr>) -> Vec<String> {
        let Some(port) = listen.map(|listen| listen.port()) else {
            return Vec::new();
        };
        let urls = self.kubernetes.join_urls.iter();
        let hosts = urls.filter_map(|url| {
            let uri: http::Uri = url.parse().ok()?;
            Some(format!("https://{}:{port}", uri.host()?))
        });
        hosts.collect()
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = self.leader_election.faults();
        if self.kubernetes.servers.is_empty() {
            faults.push("kubernetes.servers must name at least one API server".to_owned());
        }
        if self.kubernetes.join_urls.is_empty() {
            faults.push("kubernetes.join-urls must name at least one supervisor".to_owned());
        }
        for (key, urls) in [
            ("servers", &self.kubernetes.servers),
            ("join-urls", &self.kubernetes.join_urls),
        ] {
            for url in urls {
                if !url.starts_with("https://") || url.parse::<http::Uri>().is_err() {
                    faults.push(format!("kubernetes.{key}: `{url}` is no https:// URL"));
                }
            }
        }
        if let Some(etcd) = &self.etcd
            && (!etcd.endpoint.starts_with("https://")
                || etcd.endpoint.parse::<http::Uri>().is_err())
        {
            faults.push(format!(
                "etcd.endpoint: `{}` is no https:// URL",
                etcd.endpoint
            ));
        }
        if self.cache.is_some() && self.nix.is_none() {
            faults.push("[cache] serves what [nix] built: add [nix], or remove [cache]".to_owned());
        }
        if self.repository.poll < Duration::from_secs(1) {
            faults.push("repository.poll must be at least 1s".to_owned());
        }
        faults
    }
}

#[cfg(test)]
pub(crate) mod tests;
