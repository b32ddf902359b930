//! The leader's cache on loopback: Nix speaks plain HTTP here, and this speaks TLS with the servers, as the node.
//!
//! It passes reads on and understands nothing: what Nix gets is signed, and Nix checks that.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::error::causes;
use super::identity::Identity;
use super::{AgentConfig, NodeError};
use crate::cluster::resources::FabrikNode;

pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that says nothing for so long is left for the next.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Front {
    kubeconfig: PathBuf,
    /// What the node was made with.
    urls: Arc<[String]>,
    /// What it is told by now: servers come and go.
    seen: watch::Receiver<Option<FabrikNode>>,
    /// The identity that the client was made with.
    client: Arc<Mutex<Option<(Identity, reqwest::Client)>>>,
}

/// Serves until dropped.
pub async fn serve(
    config: &AgentConfig,
    seen: watch::Receiver<Option<FabrikNode>>,
) -> Result<(), NodeError> {
    let address = config.front;
    let failed = |source| NodeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let front = Front {
        kubeconfig: config.kubeconfig.clone(),
        urls: config.cache.urls.clone().into(),
        seen,
        client: Arc::default(),
    };
    let router = Router::new().fallback(pass_on).with_state(front);
    axum::serve(listener, router).await.map_err(failed)
}

async fn pass_on(State(front): State<Front>, method: Method, uri: Uri) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    match front.ask(&method, uri.path()).await {
        Ok(Some(response)) => response,
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => {
            tracing::debug!(%error, path = uri.path(), "no cache answers");
            (StatusCode::BAD_GATEWAY, error).into_response()
        }
    }
}

impl Front {
    /// Where those that are there now can't say whether they have it, those that the node was made with are asked.
    async fn ask(&self, method: &Method, path: &str) -> Result<Option<Response>, String> {
        let seen = self.seen.borrow().clone();
        let told = seen.map(|node| node.spec.caches).unwrap_or_default();
        if !told.is_empty()
            && let Ok(found) = self.ask_each(&told, method, path).await
        {
            return Ok(found);
        }
        self.ask_each(&self.urls, method, path).await
    }

    /// The first cache that has it; `None` where all say that they have not.
    async fn ask_each(
        &self,
        urls: &[String],
        method: &Method,
        path: &str,
    ) -> Result<Option<Response>, String> {
        let client = self.client().map_err(|error| error.to_string())?;
        let mut silent = None;
        for url in urls {
            let url = format!("{}{path}", url.trim_end_matches('/'));
            match client.request(method.clone(), &url).send().await {
                Ok(answer) if answer.status() == StatusCode::OK => return Ok(Some(stream(answer))),
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {}
                Ok(answer) => silent = Some(format!("{url}: {}", answer.status())),
                Err(error) => silent = Some(causes(&error)),
            }
        }
        silent.map_or(Ok(None), Err)
    }

    /// Made anew when the certificate was.
    fn client(&self) -> Result<reqwest::Client, NodeError> {
        let identity = Identity::read(&self.kubeconfig)?;
        let mut cached = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, client)) = cached.as_ref()
            && *of == identity
        {
            return Ok(client.clone());
        }
        let client = identity.cache_client()?;
        *cached = Some((identity, client.clone()));
        Ok(client)
    }
}

/// As it arrives: a system's parts are larger than this process may be.
fn stream(answer: reqwest::Response) -> Response {
    let mut response = Response::builder().status(StatusCode::OK);
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        if let Some(value) = answer.headers().get(&name) {
            response = response.header(name, value);
        }
    }
    let chunks = stream::try_unfold(answer, |mut answer| async move {
        let chunk = answer.chunk().await?;
        Ok::<_, reqwest::Error>(chunk.map(|chunk| (chunk, answer)))
    });
    response
        .body(Body::from_stream(chunks))
        .unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response())
}
