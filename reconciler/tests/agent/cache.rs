//! A server of a folder's files over TLS, for clients with a certificate of its authority: what a server's cache is to
//! a node. And the kubeconfig of such a client.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::serve::Listener;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn issue(&self) -> (rcgen::Certificate, KeyPair) {
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Of a node whose certificate is by `issuer`, and who believes servers of this authority.
    pub fn write_kubeconfig(&self, issuer: &Self, file: &Path) {
        let (certificate, key) = issuer.issue();
        let base64 = |pem: String| STANDARD.encode(pem);
        let text = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {
                "server": "https://127.0.0.1:1",
                "certificate-authority-data": base64(self.certificate.pem()),
            }}],
            "users": [{"name": "u", "user": {
                "client-certificate-data": base64(certificate.pem()),
                "client-key-data": base64(key.serialize_pem()),
            }}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        std::fs::write(file, text.to_string()).unwrap();
    }

    /// Serves the files of `folder`; where.
    pub async fn serve(&self, folder: PathBuf) -> (String, Arc<AtomicU32>) {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .build()
            .unwrap();
        let (certificate, key) = self.issue();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let listener = Tls {
            tcp: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
        };
        let url = format!("https://{}", listener.tcp.local_addr().unwrap());
        let served = Arc::new(AtomicU32::new(0));
        let router = Router::new()
            .fallback(file)
            .with_state((folder, Arc::clone(&served)));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, served)
    }
}

async fn file(
    State((folder, served)): State<(PathBuf, Arc<AtomicU32>)>,
    uri: Uri,
) -> Result<Vec<u8>, StatusCode> {
    let file = folder.join(uri.path().trim_start_matches('/'));
    let bytes = std::fs::read(file).map_err(|_| StatusCode::NOT_FOUND)?;
    served.fetch_add(1, Ordering::Relaxed);
    Ok(bytes)
}

struct Tls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.tcp.accept().await else {
                continue;
            };
            // Who has no certificate is not served.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
