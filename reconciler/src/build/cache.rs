//! A binary cache of what was built here, for the nodes of this cluster alone.
//!
//! It speaks TLS with the API server's certificate, to whoever has a kubelet's certificate of this cluster, and answers
//! for published paths only.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::warn;

use super::nix::tail;
use super::published::Published;
use crate::tls::{self, Tls};

/// After the caches of the world (cache.nixos.org has 40): etcd lives here.
const CACHE_INFO: &str = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 50\n";
/// So many archives are made at once; the others wait.
const MAX_ARCHIVES: usize = 8;
/// How long a node waits for its turn: it asks again, or asks another server.
const TURN: Duration = Duration::from_secs(30);
/// A node that takes nothing for so long is given up: others wait.
const STALLED: Duration = Duration::from_secs(60);
const CHUNK_BYTES: usize = 128 * 1024;

/// A part of an archive; `None` comes last, so that what was given up is not taken for the whole.
type Part = Option<io::Result<Bytes>>;

#[derive(Clone)]
struct Cache {
    published: Arc<Published>,
    archives: Arc<Semaphore>,
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, tls: Tls, published: Arc<Published>) -> io::Result<()> {
    axum::serve(tls::Listener::new(listener, tls), router(published)).await
}

fn router(published: Arc<Published>) -> Router {
    let archives = Arc::new(Semaphore::new(MAX_ARCHIVES));
    Router::new()
        .route("/nix-cache-info", get(async || CACHE_INFO))
        .route("/{file}", get(narinfo))
        .route("/nar/{file}", get(nar))
        .with_state(Cache {
            published,
            archives,
        })
}

async fn narinfo(State(cache): State<Cache>, Path(file): Path<String>) -> Response {
    let info = file
        .strip_suffix(".narinfo")
        .and_then(|hash| cache.published.find(hash));
    match info {
        Some(info) => (
            [(header::CONTENT_TYPE, "text/x-nix-narinfo")],
            cache.published.narinfo(&info),
        )
            .into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn nar(State(cache): State<Cache>, Path(file): Path<String>) -> Response {
    let info = file
        .strip_suffix(".nar")
        .and_then(|hash| cache.published.find(hash));
    let Some(info) = info else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let turn = tokio::time::timeout(TURN, Arc::clone(&cache.archives).acquire_owned());
    let Ok(Ok(permit)) = turn.await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let args = ["store", "dump-path", info.path.as_str()].map(Into::into);
    match Archive::start(&cache, &args, permit) {
        Ok(archive) => {
            let path = info.path;
            let chunks = stream::try_unfold(archive, Archive::next)
                .inspect_err(move |error| warn!(%path, %error, "an archive was not sent whole"));
            let (to, parts) = mpsc::channel(1);
            tokio::spawn(pass_on(Box::pin(chunks), to));
            let kind = [(header::CONTENT_TYPE, "application/x-nix-nar")];
            (kind, Body::from_stream(body(parts))).into_response()
        }
        Err(error) => {
            warn!(path = %info.path, error, "an archive can't be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Takes the chunks out of Nix' hands whether or not the node does: dropping them ends Nix, and lets the next one have its
/// turn.
async fn pass_on(
    mut chunks: impl Stream<Item = io::Result<Bytes>> + Unpin,
    to: mpsc::Sender<Part>,
) {
    loop {
        let part = chunks.next().await;
        let is_last = !matches!(part, Some(Ok(_)));
        if to.send_timeout(part, STALLED).await.is_err() || is_last {
            return;
        }
    }
}

fn body(parts: mpsc::Receiver<Part>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(parts, async |mut parts| match parts.recv().await {
        Some(Some(chunk)) => chunk.map(|chunk| Some((chunk, parts))),
        Some(None) => Ok(None),
        None => Err(io::Error::other("the node took nothing for too long")),
    })
}

/// An archive on its way from Nix to a node: never whole in memory.
struct Archive {
    child: tokio::process::Child,
    stdout: tokio::process::ChildStdout,
    _permit: OwnedSemaphorePermit,
}

impl Archive {
    fn start(
        cache: &Cache,
        args: &[std::ffi::OsString],
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, String> {
        let nix = cache.published.nix();
        let mut child = nix.stream("nix", args).map_err(|e| e.to_string())?;
        let stdout = child.stdout.take().ok_or("its pipe is missing")?;
        Ok(Self {
            child,
            stdout,
            _permit: permit,
        })
    }

    /// An error after the first chunk cuts the connection, so that no node takes a part for the whole.
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let mut buffer = Vec::with_capacity(CHUNK_BYTES);
        if self.stdout.read_buf(&mut buffer).await? > 0 {
            return Ok(Some((buffer.into(), self)));
        }
        let said = match self.child.stderr.take() {
            Some(stderr) => tail(stderr).await,
            None => String::new(),
        };
        let status = self.child.wait().await?;
        if status.success() {
            return Ok(None);
        }
        Err(io::Error::other(said.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: Bytes = Bytes::from_static(b"x");

    #[tokio::test(start_paused = true)]
    async fn a_node_that_takes_nothing_is_given_up_and_has_not_got_it_whole() {
        let (to, parts) = mpsc::channel(1);
        pass_on(stream::repeat_with(|| Ok(CHUNK)), to).await;
        let got: Vec<_> = body(parts).collect().await;
        assert!(matches!(got.as_slice(), [Ok(_), Err(_)]), "{got:?}");
    }

    #[tokio::test]
    async fn what_nix_says_whole_arrives_whole_and_an_error_as_one() {
        for (last, whole) in [(None, true), (Some(Err(io::Error::other("no"))), false)] {
            let (to, parts) = mpsc::channel(1);
            let chunks = stream::iter([Ok(CHUNK), Ok(CHUNK)].into_iter().chain(last));
            let (got, ()) = tokio::join!(body(parts).collect::<Vec<_>>(), pass_on(chunks, to));
            assert_eq!(got.iter().all(Result::is_ok), whole);
            assert_eq!(got.iter().filter(|part| part.is_ok()).count(), 2);
        }
    }
}
