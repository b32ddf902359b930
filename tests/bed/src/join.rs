//! The agent's side of joining, as k3s does it: the CA is trusted for its hash in the token, then
//! token, node name and node password buy a certificate for the kubelet.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair};

use crate::pki::Certified;
use crate::supervisor::PORT;

/// What a machine keeps on its disk between boots.
#[derive(Clone)]
pub struct Disk {
    /// Made at the first boot, never changed.
    pub node_password: String,
    /// Of the last successful join.
    pub kubelet: Option<Certified>,
}

/// What an agent brings to the supervisor.
#[derive(Clone, Debug)]
pub struct Request {
    /// `https://127.N.0.1:9345` and so on
    pub servers: Vec<String>,
    /// `K10<sha256 of the CA>::<id>.<secret>`
    pub token: String,
    pub node_name: String,
}

/// What an agent has after joining.
pub struct Joined {
    pub ca_pem: String,
    pub kubelet: Certified,
    pub api_servers: Vec<SocketAddr>,
}

#[derive(Debug)]
pub enum JoinError {
    /// The supervisor answered, and its answer was no.
    Refused(String),
    /// Nobody answered properly; trying again may help.
    Unavailable(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for JoinError {
    fn from(error: E) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Joins, or comes back by the certificate that is on the disk, at the first server that answers. A refusal is an
/// answer.
pub async fn join(request: &Request, disk: &Disk) -> Result<Joined, JoinError> {
    let mut unavailable = anyhow::anyhow!("the user data names no server");
    for server in &request.servers {
        match join_at(server, request, disk).await {
            Err(JoinError::Unavailable(error)) => {
                unavailable = error.context(format!("joining at {server}"));
            }
            answer => return answer,
        }
    }
    Err(JoinError::Unavailable(unavailable))
}

async fn join_at(server: &str, request: &Request, disk: &Disk) -> Result<Joined, JoinError> {
    let (ca_hash, token) = parse_token(&request.token)?;
    let ca_pem = trusted_ca(server, ca_hash).await?;
    let mut builder =
        builder().tls_certs_only([reqwest::Certificate::from_pem(ca_pem.as_bytes())?]);
    if let Some(own) = &disk.kubelet {
        let pem = format!("{}{}", own.key_pem, own.certificate_pem);
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes())?);
    }
    let http = builder.build()?;
    let post = |path: &str, body: String| {
        http.post(format!("{server}{path}"))
            .bearer_auth(token)
            .header("k3s-Node-Name", &request.node_name)
            .header("k3s-Node-Password", &disk.node_password)
            .body(body)
    };
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default()
        .serialize_request(&key)?
        .pem()?;
    answer(post("/v1-k3s/serving-kubelet.crt", csr.clone())).await?;
    let certificate_pem = answer(post("/v1-k3s/client-kubelet.crt", csr)).await?;
    let servers = http
        .get(format!("{server}/v1-k3s/apiservers"))
        .bearer_auth(token);
    let servers: Vec<SocketAddr> = serde_json::from_str(&answer(servers).await?)?;
    let kubelet = Certified {
        certificate_pem,
        key_pem: key.serialize_pem(),
    };
    Ok(Joined {
        ca_pem,
        kubelet,
        api_servers: servers,
    })
}

/// The API servers that there are now, as the supervisor beside one of those that were known tells a node.
pub async fn api_servers(known: &[SocketAddr], joined: &Joined) -> Result<Vec<SocketAddr>> {
    let own = &joined.kubelet;
    let identity = format!("{}{}", own.key_pem, own.certificate_pem);
    let http = builder()
        .tls_certs_only([reqwest::Certificate::from_pem(joined.ca_pem.as_bytes())?])
        .identity(reqwest::Identity::from_pem(identity.as_bytes())?)
        .build()?;
    let mut last = anyhow::anyhow!("no server is known");
    for server in known {
        let url = format!("https://{}:{PORT}/v1-k3s/apiservers", server.ip());
        let told = http.get(url).send().await;
        match told.and_then(reqwest::Response::error_for_status) {
            Ok(told) => return Ok(serde_json::from_str(&told.text().await?)?),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// Shows a server token to a supervisor, as a server that joins; returns the cluster's authority. Without a hash in it the
/// supervisor is believed, as k3s does.
pub async fn bootstrap(supervisor: &str, token: &str) -> Result<String, JoinError> {
    let pinned = token.strip_prefix("K10").and_then(|t| t.split_once("::"));
    let (hash, credentials) = pinned.map_or((None, token), |(hash, rest)| (Some(hash), rest));
    let password = credentials.strip_prefix("server:").unwrap_or(credentials);
    let ca_pem = match hash {
        Some(hash) => trusted_ca(supervisor, hash).await?,
        None => offered_ca(supervisor).await?,
    };
    let ca = reqwest::Certificate::from_pem(ca_pem.as_bytes())?;
    let http = builder().tls_certs_only([ca]).build()?;
    let request = http.get(format!("{supervisor}/v1-k3s/server-bootstrap"));
    answer(request.basic_auth("server", Some(password))).await
}

/// The hash of the CA and the bootstrap token in a join token.
fn parse_token(token: &str) -> Result<(&str, &str), JoinError> {
    let parts = token
        .strip_prefix("K10")
        .and_then(|rest| rest.split_once("::"));
    parts.ok_or_else(|| {
        JoinError::Refused("the token is not of the form K10<CA hash>::<id>.<secret>".to_owned())
    })
}

async fn trusted_ca(server: &str, wanted_hash: &str) -> Result<String, JoinError> {
    let ca_pem = offered_ca(server).await?;
    let hash = ca_hash(&ca_pem);
    if hash == wanted_hash {
        Ok(ca_pem)
    } else {
        Err(JoinError::Refused(format!(
            "token CA hash does not match the Cluster CA certificate hash: {wanted_hash} != {hash}"
        )))
    }
}

async fn offered_ca(server: &str) -> Result<String, JoinError> {
    let http = builder().tls_danger_accept_invalid_certs(true).build()?;
    answer(http.get(format!("{server}/cacerts"))).await
}

async fn answer(request: reqwest::RequestBuilder) -> Result<String, JoinError> {
    let response = request.send().await?;
    let status = response.status();
    let body = response.text().await?;
    if status.is_success() {
        Ok(body)
    } else if status.is_client_error() {
        Err(JoinError::Refused(format!("{status}: {body}")))
    } else {
        Err(JoinError::Unavailable(anyhow::anyhow!("{status}: {body}")))
    }
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10))
}

/// k3s hashes the file, not the certificate in it.
pub(crate) fn ca_hash(ca_pem: &str) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, ca_pem.as_bytes()).as_ref())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Random bytes as hex, for names and passwords of a bed.
pub(crate) fn random_hex(bytes: usize) -> Result<String> {
    let mut buffer = vec![0; bytes];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut buffer)
        .ok()
        .context("no randomness")?;
    Ok(hex(&buffer))
}
