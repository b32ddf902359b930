//! TLS in front of axum, with the client's certificate told to the handlers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::pki::Certified;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// The common name of its verified certificate; `None` when it showed none.
    pub user: Option<String>,
}

/// Accepts connections and shakes hands with several clients at once.
pub struct TlsListener {
    local: SocketAddr,
    incoming: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    accepting: JoinHandle<()>,
}

impl TlsListener {
    const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

    /// Clients may show a certificate of the authority; another one is refused.
    pub async fn bind(listen: SocketAddr, own: &Certified, client_ca_pem: &str) -> Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(configuration(own, client_ca_pem)?));
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("listening on {listen}"))?;
        let (sender, incoming) = mpsc::channel(16);
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, address)) = listener.accept().await else {
                    continue;
                };
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    let handshake = acceptor.accept(stream);
                    match tokio::time::timeout(Self::HANDSHAKE_TIMEOUT, handshake).await {
                        // The server may have been dropped in between.
                        Ok(Ok(stream)) => drop(sender.send((stream, address)).await),
                        Ok(Err(error)) => tracing::debug!(%address, %error, "handshake failed"),
                        Err(_) => tracing::debug!(%address, "handshake timed out"),
                    }
                });
            }
        });
        Ok(Self {
            local: listen,
            incoming,
            accepting,
        })
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.incoming.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.local)
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        let certificates = stream.io().get_ref().1.peer_certificates();
        let user = certificates
            .and_then(|all| all.first())
            .and_then(common_name);
        Self {
            address: *stream.remote_addr(),
            user,
        }
    }
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

fn configuration(own: &Certified, client_ca_pem: &str) -> Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(client_ca_pem.as_bytes())?)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
    let chain = vec![CertificateDer::from_pem_slice(
        own.certificate_pem.as_bytes(),
    )?];
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes())?;
    Ok(rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?)
}
