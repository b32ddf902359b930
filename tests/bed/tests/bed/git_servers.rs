//! The repository is reached by path, HTTP and SSH, and a push by HTTP calls webhooks.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use fabrik_bed::git::Webhook;
use fabrik_bed::repository::{self, DefaultRepository};
use fabrik_bed::{Bed, Options};
use tokio::sync::mpsc;

/// A public key of age; the private one is thrown away.
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

#[tokio::test]
async fn a_push_is_seen_by_every_transport() -> Result<()> {
    let bed = Bed::start(Options {
        servers: 0,
        ..Options::default()
    })
    .await?;
    let wanted = DefaultRepository {
        cluster: "demo",
        kubernetes_version: "1.36.3",
        count: 2,
        age_recipient: RECIPIENT,
        hetzner_token: "planted-token",
    };
    repository::write(bed.git(), bed.parts(), &wanted)?;
    let secret = bed.git().read(repository::TOKEN_FILE)?;
    assert!(
        secret.contains(RECIPIENT) && !secret.contains("planted-token"),
        "{secret}"
    );
    let (sender, mut calls) = mpsc::channel(4);
    bed.git_servers().set_webhooks(vec![Webhook {
        url: receiver(sender).await?,
        secret: b"secret".to_vec(),
    }]);

    let first = bed.git().commit_and_push("Have two workers")?;
    let call = tokio::time::timeout(Duration::from_secs(10), calls.recv()).await?;
    let (signature, body) = call.context("no call")?;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"secret");
    ring::hmac::verify(&key, &body, &signature)
        .ok()
        .context("the signature is wrong")?;

    let servers = bed.git_servers();
    let key = bed.dir().join("client_key");
    let made = Command::new("ssh-keygen")
        .args(["-qt", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .status()?;
    assert!(made.success());
    let ssh = format!(
        "ssh -F none -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o BatchMode=yes \
         -o UserKnownHostsFile={}",
        key.display(),
        servers.known_hosts().display(),
    );
    assert!(
        remote_head(&servers.ssh_url(), &ssh).is_err(),
        "nobody authorized this key yet"
    );
    servers.authorize(&std::fs::read_to_string(key.with_extension("pub"))?)?;
    let path = servers.path().display().to_string();
    for url in [servers.ssh_url(), servers.http_url(), path] {
        assert_eq!(remote_head(&url, &ssh)?, first, "{url}");
    }

    // History can be rewritten, if only by force.
    bed.git().git(&[
        "commit",
        "--quiet",
        "--amend",
        "--message",
        "Have three workers",
    ])?;
    assert!(bed.git().push().is_err());
    bed.git().force_push()?;
    assert_eq!(remote_head(&servers.http_url(), &ssh)?, bed.git().head()?);
    bed.shutdown().await;
    Ok(())
}

/// Where `main` stands, as `git ls-remote` sees it.
fn remote_head(url: &str, ssh: &str) -> Result<String> {
    let output = Command::new("git")
        .args(["ls-remote", url, "refs/heads/main"])
        .env("GIT_SSH_COMMAND", ssh)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("no_proxy", "127.0.0.0/8")
        .output()?;
    if !output.status.success() {
        bail!("{url}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .split_whitespace()
        .next()
        .context("no main")?
        .to_owned())
}

type Calls = mpsc::Sender<(Vec<u8>, Bytes)>;

/// Receives webhooks, as signature and body.
async fn receiver(sender: Calls) -> Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/webhook", listener.local_addr()?);
    let router = Router::new()
        .route("/webhook", post(receive))
        .with_state(sender);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(url)
}

async fn receive(State(sender): State<Calls>, headers: HeaderMap, body: Bytes) {
    let header = headers
        .get("x-hub-signature-256")
        .and_then(|value| value.to_str().ok());
    let hex = header
        .and_then(|value| value.strip_prefix("sha256="))
        .unwrap_or_default();
    let bytes = (0..hex.len())
        .step_by(2)
        .filter_map(|at| hex.get(at..at + 2));
    let signature = bytes
        .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    // The test has what it waited for when nobody receives any more.
    let _ = sender.send((signature, body)).await;
}
