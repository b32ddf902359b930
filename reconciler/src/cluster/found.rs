//! Founding: the one step between a Kubernetes API and `fabrik run`. It makes what is missing and keeps what is there,
//! so it may run again, and on several servers at once: they agree, because the cluster id lives in the cluster.

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
use crate::repo::RepositoryConfig;
use crate::secrets::{SecretsError, founding_keys};

/// Prepares a cluster and this server for `fabrik run`.
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
    /// The Node of this server.
    #[arg(long)]
    pub node: NodeName,
    /// The repository: `https://…`, `ssh://…`, `git@host:path`, or a local path.
    #[arg(long)]
    pub repository: String,
    #[arg(long, default_value = "main")]
    pub branch: String,
    /// API servers, tried in order [default: the kubeconfig's].
    #[arg(long = "api-server", value_name = "URL")]
    pub api_servers: Vec<String>,
    /// Where workers join, tried in order; once for each server [default: the API servers].
    #[arg(long = "join-url", value_name = "URL")]
    pub join_urls: Vec<String>,
    /// Pinned host keys of the git server, for SSH.
    #[arg(long)]
    pub known_hosts: Option<PathBuf>,
    #[arg(long, default_value = "https://api.hetzner.cloud/v1")]
    pub hetzner_endpoint: String,
    /// Where health, metrics and the webhook are served.
    #[arg(long, default_value = "127.0.0.1:9640")]
    pub listen: std::net::SocketAddr,
    /// Where the bare clone goes [default: `state` in --dir].
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
    #[arg(long, default_value = "15s", value_parser = config::parse_duration)]
    pub poll: Duration,
    #[arg(long, default_value = "12s", value_parser = config::parse_duration)]
    pub lease_duration: Duration,
    #[arg(long, default_value = "8s", value_parser = config::parse_duration)]
    pub renew_deadline: Duration,
    #[arg(long, default_value = "1s", value_parser = config::parse_duration)]
    pub retry_period: Duration,
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
    #[error("{what} within {deadline:?}: {last}")]
    Timeout {
        what: String,
        deadline: Duration,
        last: String,
    },
    #[error("{}: the kubeconfig names no CA for its server; fabrik and join tokens need one", path.display())]
    NoCa { path: PathBuf },
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
    let cluster_id = founding::cluster_id(&admin).await?;
    founding::ensure_cluster(&admin, &options.name, &cluster_id).await?;
    KubeLease::new(admin.clone(), options.lease_duration)
        .make_for_the_first_leader()
        .await?;

    let keys = founding_keys::ensure(&dir, &options.name)?;
    let ca_file = dir.join("ca.crt");
    let ca = founding::ca_of(&kubeconfig)?;
    founding::replace_file(&ca_file, &ca).map_err(at(&ca_file))?;
    let mut config = configuration(&options, &dir, kubeconfig, cluster_id.clone())?;
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

    credentials::ensure_tokens(&config).await?;
    founding::wait_for_policies(&admin, &config).await?;

    let path = dir.join("config.toml");
    founding::replace_file(&path, text.as_bytes()).map_err(at(&path))?;
    Ok(Founded {
        cluster_id,
        age_recipient: keys.age_recipient,
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
    Ok(Config {
        node: options.node.clone(),
        state_dir: match &options.state_dir {
            Some(state) => absolute(state)?,
            None => dir.join("state"),
        },
        listen: options.listen,
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
            url: options.repository.clone(),
            branch: options.branch.clone(),
            deploy_key_file: Some(dir.join(founding_keys::DEPLOY_KEY_FILE)),
            known_hosts_file,
            token_file: None,
            poll: options.poll,
        },
        secrets: config::Secrets {
            age_key_file: dir.join(founding_keys::AGE_KEY_FILE),
        },
        hetzner: config::Hetzner {
            endpoint: options.hetzner_endpoint.clone(),
        },
        webhook: Some(config::Webhook {
            secret_file: dir.join(founding_keys::WEBHOOK_SECRET_FILE),
        }),
        leader_election: config::LeaderElection {
            lease_duration: options.lease_duration,
            renew_deadline: options.renew_deadline,
            retry_period: options.retry_period,
        },
    })
}

fn absolute(path: &Path) -> Result<PathBuf, FoundError> {
    std::path::absolute(path).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> FoundError {
    let path = path.to_owned();
    move |source| FoundError::File { path, source }
}
