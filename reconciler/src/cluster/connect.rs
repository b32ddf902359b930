//! Connections to the API servers: one client for each identity and temper, all of which move to another server
//! together when one stops answering.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use kube::Client;
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::error::ClusterError;
use crate::config::Config;

/// How long a server may take to say that it is ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the server in use is asked.
const PROBE_PERIOD: Duration = Duration::from_secs(3);
/// The API server itself gives up a request after a minute.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The clients of one replica.
#[derive(Clone)]
pub struct Clients {
    /// Reads and watches Nodes, leases, fabrik's own objects.
    pub leader: Client,
    /// As `leader`, and never repeats a request by itself: for evictions, where a refusal is an answer, and for
    /// compare-and-swap, where a repeated write meets its own first try.
    pub leader_once: Client,
    /// Applies and prunes units.
    pub applier: Client,
    pub applier_once: Client,
    servers: Arc<Servers>,
}

impl Clients {
    /// Prepares the clients of `config`, whose token files exist, and picks the first server that is ready.
    pub async fn connect(config: &Config) -> Result<Self, ClusterError> {
        let leader = &config.kubernetes.leader_token_file;
        let applier = &config.kubernetes.applier_token_file;
        let probes = each_server(config, leader, Retry::Never)?;
        let servers = Arc::new(Servers {
            urls: config.kubernetes.servers.clone(),
            probes,
            current: AtomicUsize::new(0),
        });
        let client = |token: &Path, retry| -> Result<Client, ClusterError> {
            Ok(Servers::client(
                &servers,
                each_server(config, token, retry)?,
            ))
        };
        let clients = Self {
            leader: client(leader, Retry::Patient)?,
            leader_once: client(leader, Retry::Never)?,
            applier: client(applier, Retry::Patient)?,
            applier_once: client(applier, Retry::Never)?,
            servers,
        };
        clients.choose_server().await?;
        Ok(clients)
    }

    /// Uses the first API server that is ready.
    ///
    /// # Errors
    /// None is.
    pub async fn choose_server(&self) -> Result<(), ClusterError> {
        self.servers.choose().await
    }

    /// Watches over the server in use and moves on when it is not ready. Runs until dropped.
    pub async fn keep_healthy(&self) {
        let mut reachable = true;
        loop {
            tokio::time::sleep(PROBE_PERIOD).await;
            match self.choose_server().await {
                Ok(()) => reachable = true,
                Err(error) if reachable => {
                    tracing::warn!(%error, "no API server is ready");
                    reachable = false;
                }
                Err(_) => {}
            }
        }
    }
}

/// What is wrong with a kubeconfig, without a word of it: there are keys in it.
pub fn unreadable(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(error) => {
            let at = error.location().map(|at| format!(" (line {})", at.line()));
            format!("it is no YAML of one{}", at.unwrap_or_default())
        }
        error => error.to_string(),
    }
}

/// A client of a kubeconfig file, as founding uses it.
pub async fn from_kubeconfig(path: &Path) -> Result<(Client, kube::Config), ClusterError> {
    let problem = |error: String| ClusterError::Credentials {
        problem: format!("{}: {error}", path.display()),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(|e| problem(unreadable(&e)))?;
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|e| problem(e.to_string()))?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // A definition that was just made answers 429 until its storage is there.
    config.default_retry = true;
    let client = Client::try_from(config.clone()).map_err(|e| problem(e.to_string()))?;
    Ok((client, config))
}

#[derive(Clone, Copy, PartialEq)]
enum Retry {
    /// kube's own: 429, 503 and 504 are tried again, as the server says.
    Patient,
    Never,
}

struct Servers {
    urls: Vec<String>,
    probes: Vec<Client>,
    current: AtomicUsize,
}

impl Servers {
    /// A client that sends each request to the server in use at that moment. A request that fails on its way is not
    /// sent again; the next one goes to the next server.
    fn client(servers: &Arc<Self>, each: Vec<Client>) -> Client {
        let servers = Arc::clone(servers);
        let each = Arc::new(each);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (servers, each) = (Arc::clone(&servers), Arc::clone(&each));
            async move {
                let used = servers.current.load(Ordering::Relaxed);
                let client = each
                    .get(used)
                    .or_else(|| each.first())
                    .ok_or("no API server is configured")?;
                // A watch answers at once as well: its events are the body.
                let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.send(request)).await;
                if !matches!(answer, Ok(Ok(_))) {
                    servers.leave(used);
                }
                answer
                    .map_err(|_| format!("no answer within {ANSWER_TIMEOUT:?}"))?
                    .map_err(tower::BoxError::from)
            }
        });
        Client::new(service, "default")
    }

    /// Takes the first server that is ready. If none is, the one in use stays.
    async fn choose(&self) -> Result<(), ClusterError> {
        let mut problem = String::new();
        for (index, probe) in self.probes.iter().enumerate() {
            match ready(probe).await {
                Ok(()) => {
                    if self.current.swap(index, Ordering::Relaxed) != index {
                        let server = self.urls.get(index).map_or("", String::as_str);
                        tracing::info!(server, "using another API server");
                    }
                    return Ok(());
                }
                Err(why) => problem = why,
            }
        }
        Err(ClusterError::Unreachable {
            servers: self.urls.join(", "),
            problem,
        })
    }

    fn leave(&self, used: usize) {
        let next = (used + 1) % self.urls.len().max(1);
        // Only the first of many failures moves on.
        let _ = self
            .current
            .compare_exchange(used, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

async fn ready(probe: &Client) -> Result<(), String> {
    let request = Request::get("/readyz")
        .body(Vec::new())
        .map_err(|e| e.to_string())?;
    match tokio::time::timeout(PROBE_TIMEOUT, probe.request_text(request)).await {
        Ok(Ok(_)) => Ok(()),
        // A server that knows us badly is a server that answers; the credentials are another's care.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {PROBE_TIMEOUT:?}")),
    }
}

/// A client for each server of `config`, with the token in `token_file`, which is read again as it is renewed.
fn each_server(
    config: &Config,
    token_file: &Path,
    retry: Retry,
) -> Result<Vec<Client>, ClusterError> {
    let roots = certificates(&config.kubernetes.ca_file)?;
    let client = |server: &String| {
        let url = server.parse().map_err(|_| ClusterError::Malformed {
            object: format!("the API server's URL `{server}`"),
            problem: "it is no URL".to_owned(),
        })?;
        let mut kube_config = kube::Config::new(url);
        kube_config.root_cert = Some(roots.clone());
        kube_config.connect_timeout = Some(CONNECT_TIMEOUT);
        kube_config.default_retry = retry == Retry::Patient;
        kube_config.auth_info = AuthInfo {
            token_file: Some(token_file.display().to_string()),
            ..AuthInfo::default()
        };
        Client::try_from(kube_config).map_err(|error| ClusterError::Credentials {
            problem: error.to_string(),
        })
    };
    config.kubernetes.servers.iter().map(client).collect()
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, ClusterError> {
    let pem = std::fs::read(path).map_err(|source| ClusterError::File {
        path: path.to_owned(),
        source,
    })?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem)
        .map(|certificate| certificate.map(|c| c.as_ref().to_vec()))
        .collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(ClusterError::Malformed {
            object: path.display().to_string(),
            problem: "it holds no PEM certificate".to_owned(),
        }),
    }
}
