//! `git http-backend` behind axum: a CGI bridge, and webhooks as a forge sends them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::join::hex;

/// A larger push than this is refused.
const MAX_BODY_BYTES: usize = 256 * 1024 * 1024;

/// Who is called after a push, and the secret that signs the call.
#[derive(Clone)]
pub struct Webhook {
    pub url: String,
    pub secret: Vec<u8>,
}

/// Serves until it is dropped.
pub struct Server {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    root: PathBuf,
    backend: PathBuf,
    webhooks: Mutex<Vec<Webhook>>,
    paused: AtomicBool,
}

impl Server {
    pub async fn start(listen: SocketAddr, root: &Path, backend: &Path) -> Result<Self> {
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            backend: backend.to_owned(),
            webhooks: Mutex::default(),
            paused: AtomicBool::new(false),
        });
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("listening on {listen}"))?;
        let router = Router::new()
            .fallback(serve)
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the git server ended");
            }
        });
        Ok(Self { shared, task })
    }

    pub fn set_webhooks(&self, webhooks: Vec<Webhook>) {
        *self
            .shared
            .webhooks
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = webhooks;
    }

    pub fn pause(&self) {
        self.shared.paused.store(true, Ordering::Relaxed);
    }

    pub fn resume(&self) {
        self.shared.paused.store(false, Ordering::Relaxed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    if shared.paused.load(Ordering::Relaxed) {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the git server is paused");
    }
    let pushed = request.method() == "POST" && request.uri().path().ends_with("/git-receive-pack");
    match run_backend(&shared, request).await {
        Ok(response) => {
            if pushed && response.status().is_success() {
                tokio::spawn(call_webhooks(shared));
            }
            response
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}")),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(text.to_owned()));
    *response.status_mut() = status;
    response
}

/// One CGI call (RFC 3875).
async fn run_backend(shared: &Shared, request: Request) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_BODY_BYTES)
        .await
        .context("reading the request")?;
    let mut command = tokio::process::Command::new(&shared.backend);
    command
        .env("GIT_PROJECT_ROOT", &shared.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("REQUEST_METHOD", head.method.as_str())
        .env("PATH_INFO", head.uri.path())
        .env("QUERY_STRING", head.uri.query().unwrap_or_default())
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("REMOTE_USER", "bed")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let passed_on = [
        ("CONTENT_TYPE", header::CONTENT_TYPE.as_str()),
        ("HTTP_CONTENT_ENCODING", header::CONTENT_ENCODING.as_str()),
        ("HTTP_ACCEPT_ENCODING", header::ACCEPT_ENCODING.as_str()),
        ("HTTP_GIT_PROTOCOL", "git-protocol"),
    ];
    for (variable, name) in passed_on {
        if let Some(value) = head.headers.get(name).and_then(|value| value.to_str().ok()) {
            command.env(variable, value);
        }
    }
    let mut child = command.spawn().context("starting git http-backend")?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    // The backend may answer before it has read everything: both ends are served at once.
    let feed = async move {
        let _ = stdin.write_all(&body).await;
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    parse(&output?.stdout)
}

fn parse(output: &[u8]) -> Result<Response<Body>> {
    let mut headers = HeaderMap::new();
    let mut status = StatusCode::OK;
    let mut rest = output;
    loop {
        let end = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .context("no end of the header")?;
        let (line, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        let line = std::str::from_utf8(line)?.trim_end();
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else {
            bail!("not a header: {line}")
        };
        if name.eq_ignore_ascii_case("status") {
            let code = value.split_whitespace().next().context("an empty status")?;
            status = code.parse()?;
        } else {
            headers.append(header::HeaderName::try_from(name)?, value.trim().parse()?);
        }
    }
    let mut response = Response::new(Body::from(Bytes::copy_from_slice(rest)));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

async fn call_webhooks(shared: Arc<Shared>) {
    let webhooks = shared
        .webhooks
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let body = json!({"ref": "refs/heads/main", "repository": {"name": "cluster"}}).to_string();
    for webhook in webhooks {
        if let Err(error) = call(&webhook, &body).await {
            tracing::debug!(url = webhook.url, %error, "webhook not delivered");
        }
    }
}

async fn call(webhook: &Webhook, body: &str) -> Result<()> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &webhook.secret);
    let signature = hex(ring::hmac::sign(&key, body.as_bytes()).as_ref());
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(std::time::Duration::from_secs(5))
        .build()?;
    let request = http
        .post(&webhook.url)
        .header("content-type", "application/json")
        .header("x-github-event", "push")
        .header("x-hub-signature-256", format!("sha256={signature}"))
        .body(body.to_owned());
    request.send().await?.error_for_status()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgi_answer_becomes_a_response() {
        let response = parse(b"Status: 404 Not Found\r\nExpires: never\r\n\r\nbody\n").unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()["expires"], "never");
        assert!(parse(b"").is_err());
        assert!(parse(b"no colon\n\n").is_err());
    }
}
