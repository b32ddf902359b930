//! The small HTTP server of `fabrik run`: health, readiness, metrics, the published observation and the webhook.
//!
//! It answers from what it is given and changes nothing. A webhook only asks for a fetch; nothing of its body is
//! believed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::health::Health;
use super::metrics::{self, Metrics};

/// No git server sends more than this about a push that matters here.
const MAX_WEBHOOK_BYTES: usize = 1024 * 1024;
/// Who is slower than this to send its webhook is cut off.
const WEBHOOK_DEADLINE: Duration = Duration::from_secs(10);

/// What the server answers from.
#[derive(Clone)]
pub struct Endpoints {
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
    /// The packed observation, as the leader published it.
    pub observed: watch::Receiver<Option<Bytes>>,
    pub webhook: Webhook,
}

type Verify = dyn Fn(&HeaderMap, &[u8]) -> Result<(), String> + Send + Sync;

/// What to do with a webhook's call.
#[derive(Clone)]
pub struct Webhook {
    /// Whether the call comes from a holder of our secret, or why that can't be said.
    pub verify: Arc<Verify>,
    /// Sees to it that the leader fetches.
    pub ask_for_fetch: Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

/// Serves `/webhook` and nothing else, for the world to reach.
pub async fn serve_webhook(listener: TcpListener, endpoints: Endpoints) -> io::Result<()> {
    let router = Router::new().route("/webhook", post(webhook));
    axum::serve(listener, router.with_state(endpoints)).await
}

/// Serves until `stop` is ready; then the requests at hand are answered to the end.
pub async fn serve(
    listener: TcpListener,
    endpoints: Endpoints,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(endpoints))
        .with_graceful_shutdown(stop)
        .await
}

fn router(endpoints: Endpoints) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .route("/observed", get(observed))
        .route("/webhook", post(webhook))
        .with_state(endpoints)
}

async fn healthz(State(at): State<Endpoints>) -> Response {
    verdict(at.health.alive())
}

async fn readyz(State(at): State<Endpoints>) -> Response {
    verdict(at.health.ready())
}

fn verdict(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn scrape(State(at): State<Endpoints>) -> Response {
    match at.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics can't be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The packed document as a file, so that it can be kept and given to `fabrik plan --observed`.
async fn observed(State(at): State<Endpoints>) -> Response {
    let document = at.observed.borrow().clone();
    match document {
        Some(packed) => ([(header::CONTENT_TYPE, "application/gzip")], packed).into_response(),
        None => (
            StatusCode::NOT_FOUND,
            "the leader has not published an observation yet\n",
        )
            .into_response(),
    }
}

async fn webhook(State(at): State<Endpoints>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = match read(body).await {
        Ok(body) => body,
        Err((status, why)) => return (status, why).into_response(),
    };
    if let Err(why) = (at.webhook.verify)(&head.headers, &body) {
        tracing::debug!(why, "a webhook's call was not believed");
        return (StatusCode::UNAUTHORIZED, format!("{why}\n")).into_response();
    }
    match (at.webhook.ask_for_fetch)().await {
        Ok(()) => (StatusCode::ACCEPTED, "fetching\n").into_response(),
        Err(why) => {
            tracing::warn!(why, "the leader could not be asked to fetch");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
        }
    }
}

async fn read(body: Body) -> Result<Bytes, (StatusCode, &'static str)> {
    match tokio::time::timeout(WEBHOOK_DEADLINE, to_bytes(body, MAX_WEBHOOK_BYTES)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err((
            StatusCode::PAYLOAD_TOO_LARGE,
            "a webhook of more than 1 MiB\n",
        )),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body took too long\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use reqwest::Client;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn the_pages_answer_what_they_were_given() {
        let bed = Bed::start().await;
        assert_eq!(bed.get("/healthz").await, (200, "ok\n".to_owned()));
        assert_eq!(bed.get("/readyz").await.0, 503);
        bed.endpoints.health.kubernetes(Ok(()));
        bed.endpoints.health.repository(Ok(()));
        assert_eq!(bed.get("/readyz").await.0, 200);
        assert!(bed.get("/metrics").await.1.contains("fabrik_build_info"));
        assert_eq!(bed.get("/observed").await.0, 404);
        bed.publish
            .send_replace(Some(Bytes::from_static(b"packed")));
        assert_eq!(bed.get("/observed").await, (200, "packed".to_owned()));
        assert_eq!(bed.get("/webhook").await.0, 405);
        bed.stop().await;
    }

    #[tokio::test]
    async fn the_webhook_s_own_address_shows_nothing_else() {
        let bed = Bed::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(serve_webhook(listener, bed.endpoints.clone()));
        let other = Bed { url: own, ..bed };
        for page in ["/observed", "/metrics", "/healthz"] {
            assert_eq!(other.get(page).await.0, 404, "{page}");
        }
        assert_eq!(other.post("right", b"{}".to_vec()).await.0, 202);
        server.abort();
        other.stop().await;
    }

    #[tokio::test]
    async fn only_a_verified_webhook_asks_for_a_fetch() {
        let bed = Bed::start().await;
        assert_eq!(bed.post("wrong", Vec::new()).await.0, 401);
        assert_eq!(
            bed.post("right", vec![b'x'; MAX_WEBHOOK_BYTES + 1]).await.0,
            413
        );
        assert_eq!(bed.fetches.load(Ordering::SeqCst), 0);
        assert_eq!(bed.post("right", b"{}".to_vec()).await.0, 202);
        assert_eq!(bed.fetches.load(Ordering::SeqCst), 1);
        bed.stop().await;
    }

    struct Bed {
        url: String,
        client: Client,
        endpoints: Endpoints,
        publish: watch::Sender<Option<Bytes>>,
        fetches: Arc<AtomicU32>,
        stop: oneshot::Sender<()>,
        server: tokio::task::JoinHandle<io::Result<()>>,
    }

    impl Bed {
        async fn start() -> Self {
            rustls::crypto::ring::default_provider()
                .install_default()
                .ok();
            let (publish, observed) = watch::channel(None);
            let fetches = Arc::new(AtomicU32::new(0));
            let asked = Arc::clone(&fetches);
            let endpoints = Endpoints {
                metrics: Arc::new(Metrics::new()),
                health: Arc::new(Health::starting()),
                observed,
                webhook: Webhook {
                    verify: Arc::new(|headers, _| match headers.get("x-test") {
                        Some(proof) if proof == "right" => Ok(()),
                        _ => Err("unknown".to_owned()),
                    }),
                    ask_for_fetch: Arc::new(move || {
                        asked.fetch_add(1, Ordering::SeqCst);
                        Box::pin(async { Ok(()) })
                    }),
                },
            };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let (stop, stopped) = oneshot::channel();
            let server = tokio::spawn(serve(listener, endpoints.clone(), async {
                stopped.await.ok();
            }));
            let client = Client::builder().no_proxy().build().unwrap();
            Self {
                url,
                client,
                endpoints,
                publish,
                fetches,
                stop,
                server,
            }
        }

        async fn get(&self, path: &str) -> (u16, String) {
            let answer = self
                .client
                .get(format!("{}{path}", self.url))
                .send()
                .await
                .unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }

        async fn post(&self, proof: &str, body: Vec<u8>) -> (u16, String) {
            let request = self.client.post(format!("{}/webhook", self.url));
            let answer = request
                .header("x-test", proof)
                .body(body)
                .send()
                .await
                .unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }

        async fn stop(self) {
            self.stop.send(()).unwrap();
            drop(self.client);
            self.server.await.unwrap().unwrap();
        }
    }
}
