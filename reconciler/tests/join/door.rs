//! A door with certificates of an authority of its own, and what is answered at it.

use std::fs;
use std::path::PathBuf;

use age::x25519::Identity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fabrik::cluster::tokens::ca_hash_of;
use fabrik::config::Join;
use fabrik::handover::{Bundle, Cluster, Repository, VERSION};
use fabrik::join::{Judge, Request, serve};
use fabrik::secrets::Secret;
use fabrik::tls::Tls;
use fabrik_core::id::AgeRecipient;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use reqwest::{Certificate, Client, Response};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub const NONCE: &str = "planted-nonce-of-the-user-data";

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn hash(&self) -> String {
        ca_hash_of(self.0.pem().as_bytes())
    }
}

pub struct Door {
    address: std::net::SocketAddr,
    serving: JoinHandle<()>,
    _desk: watch::Sender<Option<Judge>>,
    _files: TempDir,
}

impl Door {
    pub async fn open(authority: &Authority, judge: Option<Judge>) -> Self {
        Self::open_showing(authority, authority, judge).await
    }

    /// With a certificate of `authority`, and the file of `shown`.
    pub async fn open_showing(
        authority: &Authority,
        shown: &Authority,
        judge: Option<Judge>,
    ) -> Self {
        let files = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| -> PathBuf {
            let path = files.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority.0).unwrap();
        let tls = Tls::for_anybody(&Join {
            listen: ([127, 0, 0, 1], 0).into(),
            certificate_file: file("crt", certificate.pem()),
            key_file: file("key", key.serialize_pem()),
            k3s_token_file: PathBuf::new(),
        });
        let ca = file("ca", shown.0.pem());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let desk = watch::Sender::new(judge);
        let served = serve(listener, tls, ca, desk.subscribe());
        let serving = tokio::spawn(async move { served.await.unwrap() });
        Self {
            address,
            serving,
            _desk: desk,
            _files: files,
        }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub async fn post(&self, authority: &Authority, body: String) -> Response {
        let ca = Certificate::from_pem(authority.0.pem().as_bytes()).unwrap();
        let client = Client::builder()
            .tls_certs_only([ca])
            .no_proxy()
            .build()
            .unwrap();
        let url = format!("{}/v1/join", self.url());
        client.post(url).body(body).send().await.unwrap()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub fn request(identity: &Identity) -> Request {
    Request {
        nonce: Secret::new(NONCE.as_bytes().to_vec()),
        node_name: "demo-servers-abc234".parse().unwrap(),
        age_recipient: recipient(identity),
    }
}

pub fn recipient(identity: &Identity) -> AgeRecipient {
    identity.to_public().to_string().parse().unwrap()
}

pub fn sealed_to(recipient: &AgeRecipient, bundle: &Bundle) -> Vec<u8> {
    let whom: age::x25519::Recipient = recipient.as_str().parse().unwrap();
    age::encrypt(&whom, bundle.text().expose()).unwrap()
}

/// A cluster's key in Nix's format, as others know it and as it is.
pub fn signing_key(seed: u8) -> (String, Secret) {
    let seed = [seed; 32];
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let public = pair.public_key().as_ref();
    let text = |bytes: &[u8]| format!("fabrik-demo-1:{}", STANDARD.encode(bytes));
    let secret = text(&[&seed, public].concat());
    (text(public), Secret::new(secret.into_bytes()))
}

pub fn bundle() -> Bundle {
    let secret = |name: &str| Secret::new(format!("planted-{name}").into_bytes());
    Bundle {
        fabrik: VERSION,
        cluster: Cluster {
            name: "demo".parse().unwrap(),
            id: "abcdefgh01234567".parse().unwrap(),
        },
        repository: Repository {
            url: "https://git.example.com/demo.git".to_owned(),
            branch: "main".to_owned(),
            known_hosts: None,
            token: Some(secret("access")),
        },
        age_key: secret("age"),
        deploy_key: secret("deploy"),
        signing_key: signing_key(1).1,
        webhook_secret: secret("webhook"),
        k3s_token: secret("k3s"),
        hetzner_endpoint: None,
        k3s_server_urls: vec!["https://10.0.1.9:6443".to_owned()],
    }
}
