//! The machine's side: it asks whoever may lead, again and again, tells nobody who has no certificate of the authority that
//! its user data names, and believes nobody who does not have the cluster's signing key.

use std::time::Duration;

use age::x25519::Identity;
use reqwest::{Certificate, Client, ClientBuilder, Response};
use tokio::time::sleep;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{CA_PATH, JOIN_PATH, MAX_ANSWER_BYTES, Request};
use crate::cluster::tokens::ca_hash_of;
use crate::handover::{Bundle, HandoverError};
use crate::node::error::causes;
use crate::signing::SigningKey;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The desk asks Hetzner and writes to the cluster.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Between two rounds; it doubles up to the second.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// One certificate or a few.
const MAX_CA_BYTES: usize = 64 * 1024;

/// Where to ask, and by what to know who answers.
#[derive(Debug, Clone, Copy)]
pub struct Door<'a> {
    pub urls: &'a [String],
    /// SHA-256 in hex of the authority's file.
    pub ca_hash: &'a str,
    /// The public half of the cluster's signing key, where it has one.
    pub public_key: Option<&'a str>,
}

/// Why one of them gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("it does not answer: {problem}")]
    Unreachable { problem: String },
    #[error(
        "it shows an authority with hash {found}, and the user data name {wanted}: it is not of this cluster, or somebody is \
         in between. It was told nothing"
    )]
    OtherAuthority { found: String, wanted: String },
    #[error("it says {status}: {words}")]
    Refused { status: u16, words: String },
    #[error("its answer is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("its answer is not for this machine: {problem}")]
    NotForUs { problem: String },
    #[error(
        "its answer lacks the cluster's signing key, which the user data name: it is no server of this cluster, and nothing of \
         what it says is used"
    )]
    NotOfTheCluster,
    #[error(transparent)]
    Answer(#[from] HandoverError),
}

/// Asks until somebody answers, however long that takes: without an answer the machine is nothing.
pub async fn ask(door: Door<'_>, request: &Request, identity: &Identity) -> Bundle {
    let mut pause = FIRST_PAUSE;
    let mut said = String::new();
    loop {
        for url in door.urls {
            match ask_one(url, door, request, identity).await {
                Ok(bundle) => {
                    info!(url, "this server was given its keys");
                    return bundle;
                }
                Err(error) => {
                    let words = format!("{url}: {error}");
                    if words != said {
                        warn!(url, %error, "no keys yet");
                        said = words;
                    }
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Asks one of them once.
///
/// # Errors
/// It gave no answer that this machine believes and can open.
pub async fn ask_one(
    url: &str,
    door: Door<'_>,
    request: &Request,
    identity: &Identity,
) -> Result<Bundle, AskError> {
    let url = url.trim_end_matches('/');
    let ca = authority(url, door.ca_hash).await?;
    let ca = Certificate::from_pem_bundle(&ca).map_err(unreachable)?;
    let client = builder().tls_certs_only(ca).build().map_err(unreachable)?;
    // Names and texts: nothing in it has no JSON.
    let body = serde_json::to_vec(request).unwrap_or_default();
    let sent = client.post(format!("{url}{JOIN_PATH}")).body(body).send();
    let answer = sent.await.map_err(unreachable)?;
    let status = answer.status();
    let sealed = whole(answer, MAX_ANSWER_BYTES).await?;
    if !status.is_success() {
        let words = String::from_utf8_lossy(&sealed);
        return Err(AskError::Refused {
            status: status.as_u16(),
            words: words
                .chars()
                .filter(|c| !c.is_control())
                .take(500)
                .collect(),
        });
    }
    let opened = age::decrypt(identity, &sealed).map(Zeroizing::new);
    let opened = opened.map_err(|error| AskError::NotForUs {
        problem: error.to_string(),
    })?;
    let bundle = Bundle::parse(&opened)?;
    is_of_the_cluster(&bundle, door.public_key)?;
    Ok(bundle)
}

/// A certificate of the authority proves a node and no more: k3s signs one for whatever address a node says it has (k3s,
/// `pkg/server/handlers/handlers.go`, `ServingKubeletCert`). Only a server has the other half of this key.
fn is_of_the_cluster(bundle: &Bundle, public_key: Option<&str>) -> Result<(), AskError> {
    let given = SigningKey::parse(&bundle.signing_key).map(|key| key.public_half());
    match public_key {
        Some(known) if given.as_deref() != Some(known) => Err(AskError::NotOfTheCluster),
        _ => Ok(()),
    }
}

/// The authority, believed for its hash alone: nothing is said over this connection, as k3s' agents do it (docs.k3s.io,
/// "k3s token").
async fn authority(url: &str, wanted: &str) -> Result<Vec<u8>, AskError> {
    let client = builder().tls_danger_accept_invalid_certs(true).build();
    let client = client.map_err(unreachable)?;
    let answer = client.get(format!("{url}{CA_PATH}")).send().await;
    let answer = answer.and_then(Response::error_for_status);
    let ca = whole(answer.map_err(unreachable)?, MAX_CA_BYTES).await?;
    let found = ca_hash_of(&ca);
    if found == wanted {
        return Ok(ca);
    }
    Err(AskError::OtherAuthority {
        found,
        wanted: wanted.to_owned(),
    })
}

fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("fabrik/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_LIMIT)
        .timeout(ANSWER_LIMIT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
}

async fn whole(mut answer: Response, limit: usize) -> Result<Vec<u8>, AskError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
        bytes.extend(chunk);
        if bytes.len() > limit {
            return Err(AskError::TooLong { limit });
        }
    }
    Ok(bytes)
}

/// With its causes: reqwest's own words leave out that a certificate was not believed.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreachable(error: reqwest::Error) -> AskError {
    AskError::Unreachable {
        problem: causes(&error),
    }
}
