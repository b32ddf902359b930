//! `fabrik run`: what a control-plane node runs, and the leader's loop within it.
//!
//! Decisions come from `fabrik-core`; what is here fetches, observes, asks the core, carries out and reports, and it
//! asks for authority before each act.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use fabrik_core::names::RECONCILE_ANNOTATION;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use ring::rand::SecureRandom as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::build::cache;
use crate::build::{Builder, Published};
use crate::cluster::lease::{Candidate, KubeLease, Leadership};
use crate::cluster::resources::FabrikCluster;
use crate::cluster::{Clients, ClusterError, credentials, founding};
use crate::config::Config;
use crate::join;
use crate::repo::{RepoError, Repository};
use crate::report::{Endpoints, Health, Metrics, Webhook};
use crate::secrets::{Secret, Sops};
use crate::signing::KeyError;
use crate::tls::Tls;

mod admission;
mod builds;
mod delivery;
mod evictions;
mod execute;
mod leader;
pub mod ledger;
mod observe;
mod pace;
mod publish;
mod status;
mod tell;

use leader::Leader;

/// Why `fabrik run` could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Repository(#[from] RepoError),
    #[error(transparent)]
    Token(#[from] crate::cluster::tokens::TokenError),
    #[error("can't listen on {address}: {source}. Is another fabrik running on this node?")]
    Listen {
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
    #[error(
        "can't read the webhook's secret {file}: {source}. Run `fabrik found` on this server again"
    )]
    WebhookSecret {
        file: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    SigningKey(#[from] KeyError),
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// What every replica has, whether it leads or not.
pub struct Replica {
    pub config: Config,
    pub clients: Clients,
    pub repository: Repository,
    pub sops: Sops,
    /// Makes systems, where the configuration says how.
    pub builder: Option<Arc<Builder>>,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    /// Somebody asks for a fetch now.
    pub fetch_asked: Notify,
    /// The observation as it was published last, for `/observed`.
    pub observed: watch::Sender<Option<axum::body::Bytes>>,
    leading: watch::Sender<bool>,
    /// Judges who may join the control plane, while this replica leads and knows Hetzner's token.
    pub(crate) join_desk: watch::Sender<Option<join::Judge>>,
    /// The ticket for its own server that this replica gave up the lead for.
    pub(crate) handed_over: AtomicU64,
}

/// Runs one replica until it is told to stop (SIGTERM, SIGINT).
pub async fn run(config: Config) -> Result<(), RunError> {
    credentials::ensure_tokens(&config).await?;
    let replica = Arc::new(Replica::new(config).await?);
    let mut services = start_services(&replica).await?;
    let mut stop = pin!(stop_signal());
    let mut candidate = stand(&replica)?;

    info!(node = %replica.config.node, "ready to lead");
    loop {
        let leadership = tokio::select! {
            () = &mut stop => break,
            () = stay_ready(&replica) => unreachable!("it never ends"),
            leadership = candidate.acquire() => leadership,
        };
        // On the heap: it is big.
        let stopped = Box::pin(lead(&replica, leadership, &mut stop)).await?;
        if stopped {
            break;
        }
    }
    info!("stopping");
    services.shutdown().await;
    Ok(())
}

impl Replica {
    async fn new(config: Config) -> Result<Self, RunError> {
        let clients = Clients::connect(&config).await?;
        let repository = Repository::open(
            config.repository.clone(),
            &config.state_dir.join("repository"),
        )?;
        let sops = Sops::new(config.secrets.age_key_file.clone(), None);
        let builder = config.nix.as_ref().map(|nix| {
            Builder::new(nix, &config.state_dir, config.cluster.id.clone()).map(Arc::new)
        });
        Ok(Self {
            config,
            clients,
            repository,
            sops,
            builder: builder.transpose()?,
            metrics: Arc::new(Metrics::new()),
            health: Arc::new(Health::starting()),
            fetch_asked: Notify::new(),
            observed: watch::Sender::new(None),
            leading: watch::Sender::new(false),
            join_desk: watch::Sender::new(None),
            handed_over: AtomicU64::new(0),
        })
    }

    /// Has the leader fetch: this replica, or by way of the `FabrikCluster` whoever leads.
    async fn ask_for_fetch(&self) -> Result<(), String> {
        if *self.leading.borrow() {
            self.fetch_asked.notify_one();
            return Ok(());
        }
        let api: Api<FabrikCluster> = Api::all(self.clients.leader.clone());
        let asked = json!({"metadata": {"annotations": {RECONCILE_ANNOTATION: Timestamp::now()}}});
        let name = self.config.cluster.name.as_str();
        api.patch(name, &PatchParams::default(), &Patch::Merge(&asked))
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    }
}

/// Leads until leadership is lost or the process is told to stop; returns whether the latter.
async fn lead(
    replica: &Arc<Replica>,
    leadership: Leadership<KubeLease>,
    stop: &mut (impl Future<Output = ()> + Unpin),
) -> Result<bool, RunError> {
    let authority = leadership.authority.clone();
    let mut leader = Leader::new(Arc::clone(replica), authority.clone())?;
    replica.leading.send_replace(true);
    replica.metrics.set_leader(true);
    let stopped = tokio::select! {
        biased;
        () = authority.lost() => false,
        () = &mut *stop => true,
        () = authority.covers(leader.run()) => false,
    };
    let hands_over = leader.hands_over();
    if hands_over {
        info!("this server is next: another one leads meanwhile");
    } else if !stopped {
        warn!(epoch = authority.epoch, "leadership was lost");
    }
    drop(leader);
    replica.join_desk.send_replace(None);
    replica.leading.send_replace(false);
    replica.metrics.forget_cluster();
    leadership.release().await;
    if stopped || !hands_over {
        return Ok(stopped);
    }
    // The others need a moment to take it. Where there is none, this one leads again, and goes on by itself.
    let pause = replica.config.leader_election.lease_duration;
    Ok(tokio::select! {
        () = &mut *stop => true,
        () = tokio::time::sleep(pause) => false,
    })
}

fn stand(replica: &Replica) -> Result<Candidate<KubeLease>, RunError> {
    let mut bytes = [0_u8; 4];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| RunError::NoRandomness)?;
    let identity = format!("{}_{:08x}", replica.config.node, u32::from_be_bytes(bytes));
    let timing = replica.config.leader_election;
    let lease = KubeLease::new(replica.clients.leader_once.clone(), timing.lease_duration);
    Ok(Candidate::new(lease, identity, timing))
}

/// Keeps this replica's clone fresh, so that it can lead also when git can't be reached then.
async fn stay_ready(replica: &Replica) {
    loop {
        replica.health.beat();
        let reached = replica.clients.choose_server().await;
        replica
            .health
            .kubernetes(reached.map_err(|e| e.to_string()));
        let fetched = replica.repository.fetch().await;
        replica
            .health
            .repository(fetched.map(drop).map_err(|e| e.to_string()));
        tokio::time::sleep(replica.config.repository.poll).await;
    }
}

async fn start_services(replica: &Arc<Replica>) -> Result<JoinSet<()>, RunError> {
    let mut services = JoinSet::new();
    let listener = bind(replica.config.listen).await?;
    let endpoints = Endpoints {
        metrics: Arc::clone(&replica.metrics),
        health: Arc::clone(&replica.health),
        observed: replica.observed.subscribe(),
        webhook: webhook(replica)?,
    };
    if let Some(address) = replica.config.webhook.as_ref().and_then(|w| w.listen) {
        let (listener, endpoints) = (bind(address).await?, endpoints.clone());
        services.spawn(async move {
            if let Err(error) = crate::report::serve_webhook(listener, endpoints).await {
                warn!(%error, "the webhook's HTTP server stopped");
            }
        });
    }
    if let (Some(cache), Some(builder)) = (&replica.config.cache, &replica.builder) {
        let listener = bind(cache.listen).await?;
        let tls = Tls::for_nodes(cache);
        services.spawn(serve_cache(listener, tls, builder.published()));
    }
    if let Some(join) = &replica.config.join {
        let listener = bind(join.listen).await?;
        let ca_file = replica.config.kubernetes.ca_file.clone();
        let desk = replica.join_desk.subscribe();
        let served = join::serve(listener, Tls::for_anybody(join), ca_file, desk);
        services.spawn(async move {
            if let Err(error) = served.await {
                warn!(%error, "new servers can't ask here any more");
            }
        });
    }
    services.spawn(async move {
        if let Err(error) = crate::report::serve(listener, endpoints, std::future::pending()).await
        {
            warn!(%error, "the HTTP server stopped");
        }
    });
    services.spawn({
        let replica = Arc::clone(replica);
        async move {
            let clients = &replica.clients;
            credentials::keep_renewed(&replica.config, &clients.leader, &clients.applier_once)
                .await;
        }
    });
    services.spawn({
        let replica = Arc::clone(replica);
        async move { founding::keep_up(&replica.config).await }
    });
    services.spawn({
        let replica = Arc::clone(replica);
        async move { replica.clients.keep_healthy().await }
    });
    services.spawn({
        let replica = Arc::clone(replica);
        async move { publish::follow(&replica).await }
    });
    Ok(services)
}

/// Serves to nodes what was built here, also by an earlier leader.
async fn serve_cache(listener: TcpListener, tls: Tls, published: Arc<Published>) {
    if let Err(error) = published.refresh().await {
        warn!(%error, "what was built before is not served until something is built");
    }
    if let Err(error) = cache::serve(listener, tls, published).await {
        warn!(%error, "the cache stopped");
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, RunError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| RunError::Listen { address, source })
}

fn webhook(replica: &Arc<Replica>) -> Result<Webhook, RunError> {
    let secret = replica.config.webhook.as_ref().map(|webhook| {
        let file = &webhook.secret_file;
        let explain = |source| RunError::WebhookSecret {
            file: file.display().to_string(),
            source,
        };
        std::fs::read(file)
            .map(|bytes| Secret::new(bytes).trimmed())
            .map_err(explain)
    });
    let secret = secret.transpose()?;
    let asker = Arc::clone(replica);
    Ok(Webhook {
        verify: Arc::new(move |headers, body| match &secret {
            None => Err("no webhook secret is configured".to_owned()),
            Some(secret) => {
                let header = |name: &str| headers.get(name).map(axum::http::HeaderValue::as_bytes);
                crate::repo::webhook::verify(secret, header, body).map_err(|e| e.to_string())
            }
        }),
        ask_for_fetch: Arc::new(move || -> BoxFuture<'static, Result<(), String>> {
            let replica = Arc::clone(&asker);
            async move { replica.ask_for_fetch().await }.boxed()
        }),
    })
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        warn!("signals can't be caught; the lease will end by itself when this process is killed");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
