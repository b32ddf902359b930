//! What listens by TLS for nodes: with certificates that k3s renews under our feet, to nodes alone or to whoever comes.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};
use x509_parser::prelude::{AttributeTypeAndValue, FromDer as _, X509Certificate};

use crate::config;

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// So many handshakes run at once; others wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 64;
/// The group and the names of kubelets (kubernetes.io, "Using Node Authorization").
const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// The files that say who we are and whom we believe. They are read for each connection: k3s replaces them.
#[derive(Debug, Clone)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    /// Who signs the certificates of nodes; `None`: whoever comes is served.
    client_ca: Option<PathBuf>,
}

impl Tls {
    /// Nodes of this cluster are served, by the kubelet's certificate, and nobody else.
    pub fn for_nodes(config: &config::Cache) -> Self {
        Self {
            certificate: config.certificate_file.clone(),
            key: config.key_file.clone(),
            client_ca: Some(config.client_ca_file.clone()),
        }
    }

    /// Whoever comes is served, and has to be known by what is said.
    pub fn for_anybody(config: &config::Join) -> Self {
        Self {
            certificate: config.certificate_file.clone(),
            key: config.key_file.clone(),
            client_ca: None,
        }
    }

    /// # Errors
    /// A file can't be read, or they do not belong together.
    fn load(&self) -> Result<Arc<ServerConfig>, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(at(&self.certificate))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(file)? {
                    roots.add(certificate).map_err(at(file))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(at(file))?)
            }
        };
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(at(&self.key))?;
        let chain = certificates(&self.certificate)?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(at(&self.certificate))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file)
        .map_err(at(file))?
        .collect();
    all.map_err(at(file))
}

fn at<E: std::fmt::Display>(file: &Path) -> impl Fn(E) -> String {
    move |error| format!("{}: {error}", file.display())
}

/// Accepts connections, where only nodes are served those whose other end has proved to be one.
pub struct Listener {
    tcp: TcpListener,
    tls: Tls,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl Listener {
    pub fn new(tcp: TcpListener, tls: Tls) -> Self {
        Self {
            tcp,
            tls,
            handshakes: JoinSet::new(),
        }
    }
}

/// Shakes hands, and finds out whose it was. `None`: the connection is closed.
async fn welcome(
    tls: Tls,
    tcp: TcpStream,
    from: SocketAddr,
) -> Option<(TlsStream<TcpStream>, SocketAddr)> {
    let only_nodes = tls.client_ca.is_some();
    let loaded = tokio::task::spawn_blocking(move || tls.load()).await;
    let config = match loaded.map_err(|panic| panic.to_string()).flatten() {
        Ok(config) => config,
        Err(problem) => {
            warn!(problem, "nodes can't be served");
            return None;
        }
    };
    let handshake = TlsAcceptor::from(config).accept(tcp);
    let stream = match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(%from, %error, "the handshake failed");
            return None;
        }
        Err(_elapsed) => return None,
    };
    if !only_nodes {
        return Some((stream, from));
    }
    let Some(node) = node_of(&stream) else {
        warn!(%from, "somebody came with a certificate that is no node's");
        return None;
    };
    debug!(%from, node, "a node asks");
    Some((stream, from))
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => if let Ok(Some(connection)) = done {
                    return connection;
                },
                accepted = self.tcp.accept(), if self.handshakes.len() < MAX_HANDSHAKES => {
                    match accepted {
                        Ok((tcp, from)) => {
                            self.handshakes.spawn(welcome(self.tls.clone(), tcp, from));
                        }
                        // Out of file descriptors, for one: that passes.
                        Err(error) => {
                            warn!(%error, "a connection can't be accepted");
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

/// The name of the node at the other end, by its certificate: one of the cluster's CA, as the handshake has proved.
fn node_of(stream: &TlsStream<TcpStream>) -> Option<String> {
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates()?.first()?;
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let mut organizations = subject
        .iter_organization()
        .map(AttributeTypeAndValue::as_str);
    if !organizations.any(|o| o == Ok(NODES)) {
        return None;
    }
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    Some(name.strip_prefix(NODE_PREFIX)?.to_owned())
}
