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
    #[serde(with = "friendly")]
    pub lease_duration: Duration,
    /// How long after a renewal began the leader may still act.
    #[serde(with = "friendly")]
    pub renew_deadline: Duration,
    /// How often the lease is renewed, or looked at.
    #[serde(with = "friendly")]
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

/// A duration as people write it: `15s`, `1h 30m`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text
        .parse()
        .map_err(|_| format!("`{text}` is no duration; write `15s`, `5m` or `1h`"))?;
    duration
        .try_into()
        .map_err(|_| format!("`{text}` is a negative duration"))
}

pub(crate) mod friendly {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let signed = jiff::SignedDuration::try_from(*duration).map_err(ser::Error::custom)?;
        serializer.collect_str(&format_args!("{signed:#}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_duration(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub const GOOD: &str = r#"
node = "server-1"
state-dir = "/var/lib/fabrik"
listen = "127.0.0.1:9640"
[cluster]
name = "demo"
id = "abcdefgh01234567"
[kubernetes]
servers = ["https://127.20.0.1:6443"]
ca-file = "/f/ca.crt"
leader-token-file = "/f/leader.token"
applier-token-file = "/f/applier.token"
admin-kubeconfig = "/f/admin"
join-urls = ["https://127.20.0.1:9345", "https://127.20.0.2:9345"]
[repository]
url = "git@host:path"
poll = "90s"
[secrets]
age-key-file = "/f/age.key"
[hetzner]
endpoint = "https://api.hetzner.cloud/v1"
[leader-election]
lease-duration = "3s"
renew-deadline = "2s"
retry-period = "250ms"
"#;

    const ETCD: &str = "
[etcd]
endpoint = 'https://127.0.0.1:2379'
ca-file = '/e/ca'
certificate-file = '/e/c'
key-file = '/e/k'
snapshot-dir = '/e/s'
";
    const NIX: &str = "
[nix]
program-dir = '/n'
store = '/s'
signing-key-file = '/k'
";
    const CACHE: &str = "
[cache]
listen = '10.0.0.2:9642'
certificate-file = '/c'
key-file = '/k'
client-ca-file = '/a'
";
    const JOIN: &str = "
[join]
listen = '10.0.0.2:9643'
certificate-file = '/c'
key-file = '/k'
k3s-token-file = '/t'
";

    #[test]
    fn what_is_rendered_reads_back_the_same() {
        let config = Config::parse("f", GOOD).unwrap();
        assert_eq!(config.repository.poll, Duration::from_secs(90));
        assert_eq!(config.repository.branch, "main");
        let rendered = config.render().unwrap();
        assert_eq!(Config::parse("f", &rendered).unwrap(), config);
    }

    #[test]
    fn an_error_names_the_line() {
        let text = GOOD.replace("poll = \"90s\"", "pol = \"90s\"");
        let error = Config::parse("config.toml", &text).unwrap_err().to_string();
        assert!(
            error.starts_with("config.toml:17:1: unknown field `pol`"),
            "{error}"
        );
        let text = GOOD.replace("90s", "soon");
        let error = Config::parse("config.toml", &text).unwrap_err().to_string();
        assert!(error.starts_with("config.toml:17:"), "{error}");
        assert!(error.contains("`soon` is no duration"), "{error}");
    }

    #[test]
    fn a_leader_that_could_outlive_its_lease_is_refused_with_every_reason() {
        let text = GOOD
            .replace("renew-deadline = \"2s\"", "renew-deadline = \"3s\"")
            .replace("https://127.20.0.1:6443", "http://a");
        let error = Config::parse("f", &text).unwrap_err().to_string();
        assert!(error.contains("renew-deadline must be shorter"), "{error}");
        assert!(error.contains("`http://a` is no https:// URL"), "{error}");
    }

    /// The module knows its keys and no others: one that it lacks can't be set on NixOS.
    #[test]
    fn the_nixos_module_has_an_option_for_each_key() {
        let module = include_str!("../../nixos/fabrik.nix");
        let text = format!("{GOOD}[webhook]\nsecret-file = '/w'\n{ETCD}{NIX}{CACHE}{JOIN}");
        let rendered = Config::parse("f", &text).unwrap().render().unwrap();
        let config: toml::Table = rendered.parse().unwrap();
        for (key, value) in &config {
            assert!(module.contains(&format!("\n      {key} = ")), "{key}");
            for inner in value.as_table().into_iter().flat_map(toml::Table::keys) {
                let options = [format!("        {inner} = "), format!("options.{inner} = ")];
                assert!(options.iter().any(|o| module.contains(o)), "{key}.{inner}");
            }
        }
        assert_eq!(config.len(), 14, "a section is left out above");
    }

    #[test]
    fn etcd_is_asked_over_tls_only() {
        let etcd = |endpoint: &str| {
            let etcd = ETCD.replace("https://127.0.0.1:2379", endpoint);
            Config::parse("f", &format!("{GOOD}{etcd}"))
        };
        let config = etcd("https://127.0.0.1:2379").unwrap();
        let rendered = config.render().unwrap();
        assert_eq!(Config::parse("f", &rendered).unwrap(), config);
        let error = etcd("http://127.0.0.1:2379").unwrap_err().to_string();
        assert!(error.contains("etcd.endpoint"), "{error}");
    }

    #[test]
    fn the_caches_are_beside_the_supervisors() {
        let mut config = Config::parse("f", GOOD).unwrap();
        assert!(config.cache_urls().is_empty());
        config.cache = Some(Cache {
            listen: "10.0.0.2:9642".parse().unwrap(),
            certificate_file: "/c".into(),
            key_file: "/k".into(),
            client_ca_file: "/a".into(),
        });
        config
            .kubernetes
            .join_urls
            .push("https://[fd00::1]:9345".to_owned());
        assert_eq!(
            config.cache_urls(),
            [
                "https://127.20.0.1:9642",
                "https://127.20.0.2:9642",
                "https://[fd00::1]:9642"
            ]
        );
        let now = ["10.0.0.3", "fd00::3"].map(|address| address.parse().unwrap());
        assert_eq!(
            config.caches_at(now.into_iter()),
            ["https://10.0.0.3:9642", "https://[fd00::3]:9642"]
        );
    }

    #[test]
    fn a_worker_needs_somewhere_to_join() {
        let refused = |urls: &str| {
            let all = r#"["https://127.20.0.1:9345", "https://127.20.0.2:9345"]"#;
            let text = GOOD.replace(all, urls);
            Config::parse("f", &text).unwrap_err().to_string()
        };
        let error = refused("[]");
        assert!(
            error.contains("join-urls must name at least one"),
            "{error}"
        );
        let error = refused(r#"["https://127.20.0.1:9345", "http://b"]"#);
        assert!(
            error.contains("join-urls: `http://b` is no https:// URL"),
            "{error}"
        );
    }
}
