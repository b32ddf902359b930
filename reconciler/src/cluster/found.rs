//! Founding: the one step between a Kubernetes API and `fabrik run`. It makes what is missing and keeps what is there,
//! so it may run again, and on several servers at once: they agree, because the cluster id lives in the cluster.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fabrik_core::id::{ClusterId, ClusterName, NodeName};
use serde::{Deserialize, Serialize};

use super::connect::from_kubeconfig;
use super::credentials;
use super::error::ClusterError;
use super::founding;
use super::lease::{KubeLease, LeaseError};
use crate::config::{self, Config};
use crate::repo::{RepoError, RepositoryConfig};
use crate::secrets::{SecretsError, founding_keys};

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9640);
/// Hetzner's own API.
pub const DEFAULT_HETZNER_ENDPOINT: &str = "https://api.hetzner.cloud/v1";

/// Prepares a cluster and this server for `fabrik run`. Done again, it keeps what config.toml says where no flag says
/// otherwise.
#[derive(Debug, Clone, clap::Args)]
pub struct FoundOptions {
    /// A kubeconfig of a cluster admin. It stays in use only for tokens that are missing or have ended.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Where keys, tokens and config.toml go.
    #[arg(long)]
    pub dir: PathBuf,
    /// The cluster's name, as in cluster.toml.
    #[arg(long)]
    pub name: ClusterName,
    /// The id that resources of the cluster at Hetzner bear already [default: the cluster's own, or a new one].
    #[arg(long, hide = true)]
    pub cluster_id: Option<ClusterId>,
    /// The Node of this server.
    #[arg(long)]
    pub node: NodeName,
    /// The repository: `https://…`, `ssh://…`, `git@host:path`, or a local path.
    #[arg(long)]
    pub repository: String,
    /// The branch to follow [default: main].
    #[arg(long)]
    pub branch: Option<String>,
    /// API servers, tried in order [default: the kubeconfig's].
    #[arg(long = "api-server", value_name = "URL")]
    pub api_servers: Vec<String>,
    /// Where workers join, tried in order; once for each server [default: the API servers].
    #[arg(long = "join-url", value_name = "URL")]
    pub join_urls: Vec<String>,
    /// Pinned host keys of the git server, for SSH.
    #[arg(long)]
    pub known_hosts: Option<PathBuf>,
    /// A file with an access token for the git server, for HTTPS.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Hetzner's API [default: https://api.hetzner.cloud/v1].
    #[arg(long)]
    pub hetzner_endpoint: Option<String>,
    /// Where health, metrics and the webhook are served [default: 127.0.0.1:9640].
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// Where the webhook is served as well, and nothing else, for a git server elsewhere.
    #[arg(long, value_name = "ADDR:PORT")]
    pub webhook_listen: Option<SocketAddr>,
    /// Where k3s keeps its certificates and etcd's [default: /var/lib/rancher/k3s].
    #[arg(long, value_name = "DIR")]
    pub k3s_dir: Option<PathBuf>,
    /// Where `nix` is, if this server is to evaluate and build systems [default: /run/current-system/sw/bin].
    #[arg(long, value_name = "DIR")]
    pub nix_dir: Option<PathBuf>,
    /// Where nodes fetch what was built here [default: 0.0.0.0:9642].
    #[arg(long, value_name = "ADDR:PORT")]
    pub cache_listen: Option<SocketAddr>,
    /// Where new servers of the control plane ask for their keys [default: 0.0.0.0:9643].
    #[arg(long, value_name = "ADDR:PORT")]
    pub join_listen: Option<SocketAddr>,
    /// Where the bare clone goes [default: `state` in --dir].
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
    /// How often the branch is looked at [default: 15s].
    #[arg(long, value_parser = config::duration::parse)]
    pub poll: Option<Duration>,
    /// When the others may take the lead [default: 12s].
    #[arg(long, value_parser = config::duration::parse)]
    pub lease_duration: Option<Duration>,
    /// When a leader that could not renew stops acting [default: 8s].
    #[arg(long, value_parser = config::duration::parse)]
    pub renew_deadline: Option<Duration>,
    /// How often the lead is renewed or asked for [default: 1s].
    #[arg(long, value_parser = config::duration::parse)]
    pub retry_period: Option<Duration>,
}

/// What founding tells, on standard output as JSON. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Founded {
    pub cluster_id: ClusterId,
    /// For `.sops.yaml`.
    pub age_recipient: String,
    /// For the git server.
    pub deploy_key: String,
    pub signing_key: String,
    pub config: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "this cluster was founded as `{founded}`, and --name says `{asked}`. \
         A cluster keeps its name; use --name {founded}"
    )]
    OtherName { founded: String, asked: String },
    #[error(
        "FabrikCluster {name} says cluster id {stated}, the ledger says {ledger}. \
         One of them was restored or copied from another cluster; fabrik does not guess which"
    )]
    OtherId {
        name: String,
        stated: String,
        ledger: String,
    },
    #[error(
        "this server was made for the cluster with id {known}, and the cluster that answers here has id {found}: nothing \
         was changed in it"
    )]
    OtherCluster { found: String, known: String },
    #[error(
        "the secrets of this cluster are encrypted to {stated}, and {}. \
         Copy {} from a server that was founded before, and repeat this. If the cluster is to have another key from now \
         on, say so first: kubectl patch fabrikcluster {name} --type merge -p '{{\"spec\":{{\"ageRecipient\":\"age1…\"}}}}'",
        opened_by(path, found),
        path.display()
    )]
    OtherAgeKey {
        name: String,
        stated: String,
        path: PathBuf,
        /// Whom the key file is for; none if there is no such file.
        found: Vec<String>,
    },
    #[error("{what} within {deadline:?}: {last}")]
    Timeout {
        what: String,
        deadline: Duration,
        last: String,
    },
    #[error("{}: the kubeconfig names no CA for its server; fabrik and join tokens need one", path.display())]
    NoCa { path: PathBuf },
    #[error(transparent)]
    Repository(#[from] RepoError),
    #[error("the configuration can't be written as TOML: {0}")]
    Render(#[from] toml::ser::Error),
}

/// Founds the cluster, or joins this server to one that was founded.
pub async fn found(options: FoundOptions) -> Result<Founded, FoundError> {
    let dir = absolute(&options.dir)?;
    founding::private_dir(&dir).map_err(at(&dir))?;
    let kubeconfig = absolute(&options.kubeconfig)?;
    let (admin, kube_config) = from_kubeconfig(&kubeconfig).await?;

    founding::wait_for_api(&admin).await?;
    founding::apply_manifests(&admin).await?;
    let cluster_id = founding::cluster_id(&admin, options.cluster_id.as_ref()).await?;
    let clusters = founding::Clusters::of(&admin, &options.name);
    let age_key = dir.join(founding_keys::AGE_KEY_FILE);
    // Looked at before a key is made: one that the cluster's secrets are not encrypted to is worse than none.
    if let Some(stated) = clusters.age_recipient().await? {
        founding::expect_age_key(&options.name, stated, &age_key)?;
    }
    let keys = founding_keys::ensure(&dir, &options.name)?;
    let stated = clusters.ensure(&cluster_id, &keys.age_recipient).await?;
    founding::expect_age_key(&options.name, stated.clone(), &age_key)?;

    let ca_file = dir.join("ca.crt");
    let ca = founding::ca_of(&kubeconfig)?;
    founding::replace_file(&ca_file, &ca).map_err(at(&ca_file))?;
    let path = dir.join("config.toml");
    let mut config = configuration(&options, &dir, kubeconfig, cluster_id.clone())?;
    if path.exists() {
        config = unless_told(&options, Config::load(&path)?, config);
    }
    // `fabrik run` refuses it as well, and by then a password in it would be in the file.
    config.repository.location()?;
    if config.kubernetes.servers.is_empty() {
        let server = kube_config.cluster_url.to_string();
        config
            .kubernetes
            .servers
            .push(server.trim_end_matches('/').to_owned());
    }
    if config.kubernetes.join_urls.is_empty() {
        config.kubernetes.join_urls = config.kubernetes.servers.clone();
    }
    let text = config.render()?;
    // What is written must read back.
    Config::parse("the command line", &text)?;

    KubeLease::new(admin.clone(), config.leader_election.lease_duration)
        .make_for_the_first_leader()
        .await?;
    credentials::ensure_tokens(&config).await?;
    founding::wait_for_policies(&admin, &config).await?;

    founding::replace_file(&path, text.as_bytes()).map_err(at(&path))?;
    Ok(Founded {
        cluster_id,
        age_recipient: stated,
        deploy_key: keys.deploy_key,
        signing_key: keys.signing_key,
        config: path,
    })
}

fn configuration(
    options: &FoundOptions,
    dir: &Path,
    kubeconfig: PathBuf,
    id: ClusterId,
) -> Result<Config, FoundError> {
    let known_hosts_file = options.known_hosts.as_deref().map(absolute).transpose()?;
    let token_file = options.token_file.as_deref().map(absolute).transpose()?;
    let repository = RepositoryConfig::at(options.repository.clone());
    let timing = config::LeaderElection::default();
    let places = founding::Places {
        k3s: options.k3s_dir.as_deref(),
        nix: options.nix_dir.as_deref(),
        cache: options.cache_listen,
        join: options.join_listen,
    };
    let own = founding::sections(places, &dir.join(founding_keys::SIGNING_KEY_FILE));
    Ok(Config {
        node: options.node.clone(),
        state_dir: match &options.state_dir {
            Some(state) => absolute(state)?,
            None => dir.join("state"),
        },
        listen: options.listen.unwrap_or(DEFAULT_LISTEN),
        cluster: config::Cluster {
            name: options.name.clone(),
            id,
        },
        kubernetes: config::Kubernetes {
            servers: options.api_servers.clone(),
            ca_file: dir.join("ca.crt"),
            leader_token_file: dir.join("leader.token"),
            applier_token_file: dir.join("applier.token"),
            admin_kubeconfig: Some(kubeconfig),
            join_urls: options.join_urls.clone(),
        },
        repository: RepositoryConfig {
            branch: options.branch.clone().unwrap_or(repository.branch),
            deploy_key_file: Some(dir.join(founding_keys::DEPLOY_KEY_FILE)),
            known_hosts_file,
            token_file,
            poll: options.poll.unwrap_or(repository.poll),
            url: repository.url,
        },
        secrets: config::Secrets {
            age_key_file: dir.join(founding_keys::AGE_KEY_FILE),
        },
        hetzner: config::Hetzner {
            endpoint: match &options.hetzner_endpoint {
                Some(endpoint) => endpoint.clone(),
                None => DEFAULT_HETZNER_ENDPOINT.to_owned(),
            },
        },
        webhook: Some(config::Webhook {
            secret_file: dir.join(founding_keys::WEBHOOK_SECRET_FILE),
            listen: options.webhook_listen,
        }),
        etcd: own.etcd,
        leader_election: config::LeaderElection {
            lease_duration: options.lease_duration.unwrap_or(timing.lease_duration),
            renew_deadline: options.renew_deadline.unwrap_or(timing.renew_deadline),
            retry_period: options.retry_period.unwrap_or(timing.retry_period),
        },
        nix: own.nix,
        cache: own.cache,
        join: own.join,
    })
}

/// What the file of an earlier founding says, and `new` where a flag does.
fn unless_told(options: &FoundOptions, old: Config, new: Config) -> Config {
    let timing = old.leader_election;
    Config {
        node: new.node,
        state_dir: either(options.state_dir.is_some(), new.state_dir, old.state_dir),
        listen: options.listen.unwrap_or(old.listen),
        cluster: new.cluster,
        kubernetes: config::Kubernetes {
            servers: either(
                !options.api_servers.is_empty(),
                new.kubernetes.servers,
                old.kubernetes.servers,
            ),
            admin_kubeconfig: new.kubernetes.admin_kubeconfig,
            join_urls: either(
                !options.join_urls.is_empty(),
                new.kubernetes.join_urls,
                old.kubernetes.join_urls,
            ),
            ..old.kubernetes
        },
        repository: RepositoryConfig {
            url: new.repository.url,
            branch: options.branch.clone().unwrap_or(old.repository.branch),
            deploy_key_file: old.repository.deploy_key_file,
            known_hosts_file: new
                .repository
                .known_hosts_file
                .or(old.repository.known_hosts_file),
            token_file: new.repository.token_file.or(old.repository.token_file),
            poll: options.poll.unwrap_or(old.repository.poll),
        },
        secrets: old.secrets,
        hetzner: either(options.hetzner_endpoint.is_some(), new.hetzner, old.hetzner),
        // One that a person took out stays out, unless a flag wants it.
        webhook: match options.webhook_listen {
            Some(_) => old.webhook.or(new.webhook),
            None => old.webhook,
        }
        .map(|webhook| config::Webhook {
            listen: options.webhook_listen.or(webhook.listen),
            ..webhook
        }),
        etcd: old.etcd.or(new.etcd),
        leader_election: config::LeaderElection {
            lease_duration: options.lease_duration.unwrap_or(timing.lease_duration),
            renew_deadline: options.renew_deadline.unwrap_or(timing.renew_deadline),
            retry_period: options.retry_period.unwrap_or(timing.retry_period),
        },
        nix: old.nix.or(new.nix),
        cache: old.cache.or(new.cache).map(|cache| config::Cache {
            listen: options.cache_listen.unwrap_or(cache.listen),
            ..cache
        }),
        join: old.join.or(new.join).map(|join| config::Join {
            listen: options.join_listen.unwrap_or(join.listen),
            ..join
        }),
    }
}

fn either<T>(told: bool, new: T, old: T) -> T {
    if told { new } else { old }
}

fn opened_by(path: &Path, recipients: &[String]) -> String {
    match recipients {
        [] => format!("there is no {}", path.display()),
        recipients => format!("{} is the key of {}", path.display(), recipients.join(", ")),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, FoundError> {
    std::path::absolute(path).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> FoundError {
    let path = path.to_owned();
    move |source| FoundError::File { path, source }
}
