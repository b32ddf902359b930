//! Nodes fetch what was built: over TLS, signed, and nobody else does.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{Request as HttpRequest, State as Shared};
use axum::response::{IntoResponse as _, Response};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use reqwest::{Client, StatusCode};
use tokio::net::TcpListener;

use super::*;
use crate::build::cache::serve;
use crate::tls::Tls;

#[tokio::test]
async fn a_node_fetches_a_system_that_is_signed_and_refuses_it_where_it_is_not() {
    let world = World::new().await;
    let commit = world.bed.commit(&[]);
    let builds = world.build(&commit).await;
    let system = builds.targets(&commit)[&pool("workers")].system.clone();
    let front = world.front(Some(world.node())).await;

    let fetch = |store: &str, key: &str, path: &str| {
        let mut nix = world.bed.command("nix-store");
        nix.arg("--store").arg(world.bed.path(store));
        nix.args(["--option", "substituters", &front]);
        nix.args(["--option", "trusted-public-keys", key]);
        nix.args(["--realise", path]);
        let done = tokio::task::spawn_blocking(move || nix.output().unwrap());
        async { done.await.unwrap() }
    };
    let fetched = fetch("node", &world.bed.public_key, system.output.as_str()).await;
    assert!(fetched.status.success(), "{fetched:?}");
    let hello = world
        .bed
        .path("node")
        .join(&system.output.as_str()[1..])
        .join("hello");
    assert_eq!(std::fs::read_to_string(hello).unwrap(), "hello\n");

    let other = tempfile::tempdir().unwrap();
    let (_, other) = crate::signing::tests::founded(other.path());
    let refused = fetch("wary", &other, system.output.as_str()).await;
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("not signed by any of the keys"), "{said}");

    // The way of a node that can't have the output: it fetches what it takes to build it.
    let derivation = fetch("smith", &world.bed.public_key, system.derivation.as_str()).await;
    assert!(derivation.status.success(), "{derivation:?}");
}

#[tokio::test]
async fn only_a_node_of_this_cluster_is_served() {
    let world = World::new().await;
    let get = |identity: Option<Identity>| {
        let client = world.client(identity);
        let url = format!("https://{}/nix-cache-info", world.address);
        async move { client.get(url).send().await.map(|r| r.status()) }
    };
    assert_eq!(get(Some(world.node())).await.unwrap(), StatusCode::OK);
    assert!(get(None).await.is_err(), "without a certificate");
    let admin = world.ca.issue("system:masters", "system:admin");
    assert!(get(Some(admin)).await.is_err(), "an admin is no node");
    let pretender = world.ca.issue("system:masters", "system:node:web-1");
    assert!(
        get(Some(pretender)).await.is_err(),
        "a name alone is no node"
    );
    let account = world.ca.issue("system:nodes", "system:serviceaccount:a:b");
    assert!(
        get(Some(account)).await.is_err(),
        "a group alone is no node"
    );
    let foreign = Authority::new().issue("system:nodes", "system:node:web-1");
    assert!(get(Some(foreign)).await.is_err(), "another cluster's node");
}

#[tokio::test]
async fn what_was_not_published_is_not_there() {
    let world = World::new().await;
    let commit = world.bed.commit(&[]);
    let builds = world.build(&commit).await;
    let file = world.bed.path("private");
    std::fs::write(&file, "private\n").unwrap();
    let private = world.bed.nix_store(&["--add", file.to_str().unwrap()]);
    let client = world.client(Some(world.node()));
    let get = async |file: String| {
        let url = format!("https://{}/{file}", world.address);
        client.get(url).send().await.unwrap()
    };
    let hash = |path: &str| path["/nix/store/".len()..][..32].to_owned();
    let hidden = hash(&private);
    let shown = hash(
        builds.targets(&commit)[&pool("servers")]
            .system
            .output
            .as_str(),
    );
    for (file, status) in [
        (format!("{shown}.narinfo"), 200),
        (format!("nar/{shown}.nar"), 200),
        (format!("{hidden}.narinfo"), 404),
        (format!("nar/{hidden}.nar"), 404),
        (format!("{shown}.nar"), 404),
        ("nar/../../etc/passwd".to_owned(), 404),
        (String::new(), 404),
    ] {
        assert_eq!(get(file.clone()).await.status(), status, "{file}");
    }
    let narinfo = get(format!("{shown}.narinfo")).await.text().await.unwrap();
    let nar = get(format!("nar/{shown}.nar")).await.bytes().await.unwrap();
    assert!(
        narinfo.contains(&format!("\nNarSize: {}\n", nar.len())),
        "{narinfo}"
    );
}

#[tokio::test]
async fn a_certificate_that_was_renewed_is_used_without_a_restart() {
    let world = World::new().await;
    let renewed = Authority::new();
    let node = renewed.issue("system:nodes", "system:node:web-1");
    assert!(
        world
            .client(Some(node.clone()))
            .get(world.info())
            .send()
            .await
            .is_err()
    );
    world.install(&renewed);
    let client = client_of(&renewed, Some(node));
    assert_eq!(client.get(world.info()).send().await.unwrap().status(), 200);
}

/// A cache over what a builder has built.
struct World {
    bed: Bed,
    ca: Authority,
    running: Running,
    address: SocketAddr,
}

/// A certificate and its key, as PEM.
type Identity = String;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, organization: &str, name: &str) -> Identity {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let subject = &mut params.distinguished_name;
        subject.push(DnType::OrganizationName, organization);
        subject.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        format!("{}{}", certificate.pem(), key.serialize_pem())
    }
}

impl World {
    async fn new() -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let bed = Bed::new();
        let running = bed.start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let file = |name: &str| bed.path("keys").join(name);
        let tls = Tls::for_nodes(&config::Cache {
            listen: address,
            certificate_file: file("serving.crt"),
            key_file: file("serving.key"),
            client_ca_file: file("client-ca.crt"),
        });
        let published = Arc::clone(&running.published);
        let world = Self {
            ca: Authority::new(),
            running,
            address,
            bed,
        };
        world.install(&world.ca);
        tokio::spawn(serve(listener, tls, published));
        world
    }

    /// Makes `ca` the one that nodes and server have their certificates from.
    fn install(&self, ca: &Authority) {
        let serving = ca.issue("system:masters", "kube-apiserver");
        for (name, content) in [
            ("serving.crt", &serving),
            ("serving.key", &serving),
            ("client-ca.crt", &ca.0.pem()),
        ] {
            std::fs::write(self.bed.path("keys").join(name), content).unwrap();
        }
    }

    fn info(&self) -> String {
        format!("https://{}/nix-cache-info", self.address)
    }

    async fn build(&self, commit: &CommitId) -> Builds {
        self.running.ask(self.bed.request(commit));
        let mut builds = self.running.builds.clone();
        let all = |b: &Builds| b.targets(commit).len() == 2;
        let waited = tokio::time::timeout(DEADLINE, builds.wait_for(all)).await;
        waited.unwrap().unwrap().clone()
    }

    fn node(&self) -> Identity {
        self.ca.issue("system:nodes", "system:node:web-1")
    }

    fn client(&self, identity: Option<Identity>) -> Client {
        client_of(&self.ca, identity)
    }

    /// What an agent has on loopback: plain HTTP that it passes on. Nix knows nothing of client certificates.
    async fn front(&self, identity: Option<Identity>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = (self.client(identity), format!("https://{}", self.address));
        let router = Router::new().fallback(pass_on).with_state(state);
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }
}

fn client_of(ca: &Authority, identity: Option<Identity>) -> Client {
    let root = reqwest::Certificate::from_pem(ca.0.pem().as_bytes()).unwrap();
    let mut client = Client::builder().no_proxy().tls_certs_only([root]);
    if let Some(pem) = identity {
        client = client.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
    }
    client.build().unwrap()
}

async fn pass_on(
    Shared((client, cache)): Shared<(Client, String)>,
    asked: HttpRequest,
) -> Response {
    let url = format!("{cache}{}", asked.uri().path());
    let answer = client.get(url).send().await.unwrap();
    let status = answer.status();
    (status, answer.bytes().await.unwrap()).into_response()
}
