//! The emulator over HTTP: `/v1` is Hetzner's API, `/_emulator` is the control API.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use crate::call::Reply;
use crate::connection::Knife;
use crate::control;
use crate::error::ApiError;
use crate::gate::{Gate, Incoming, Outcome};
use crate::random;

const MAX_BODY_BYTES: usize = 1024 * 1024;
const CORRELATION_ID_CHARS: usize = 16;

/// The emulator's state as all handlers share it.
pub struct Shared {
    gate: Mutex<Gate>,
    /// The number of the last event.
    events: watch::Sender<u64>,
    /// Rung when an action may have begun, so that [`keep_time`] looks again when the next one ends.
    bell: Notify,
}

impl Shared {
    pub fn new(gate: Gate) -> Arc<Self> {
        let events = watch::Sender::new(gate.project.events.last_seq());
        Arc::new(Self {
            gate: Mutex::new(gate),
            events,
            bell: Notify::new(),
        })
    }

    /// Works on the state as of now, and lets those know who wait for events.
    pub fn with<T>(&self, work: impl FnOnce(&mut Gate) -> T) -> T {
        let mut gate = self.lock();
        gate.project.settle(Timestamp::now());
        let result = work(&mut gate);
        let last = gate.project.events.last_seq();
        drop(gate);
        self.events
            .send_if_modified(|seq| std::mem::replace(seq, last) != last);
        self.bell.notify_one();
        result
    }

    pub fn watch_events(&self) -> watch::Receiver<u64> {
        self.events.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Gate> {
        // A panic in one request must not take the others with it.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .nest("/_emulator", control::router())
        .fallback(api)
        .with_state(shared)
}

/// Ends actions when their time has come, also while nobody asks.
pub async fn keep_time(shared: Arc<Shared>, stop: impl Future<Output = ()>) {
    tokio::pin!(stop);
    loop {
        let next = shared.lock().project.next_deadline();
        // A deadline that has passed gives no Duration: then there is nothing to wait for.
        let wait = next.map(|at| {
            Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
        });
        tokio::select! {
            () = &mut stop => return,
            () = shared.bell.notified() => {}
            () = sleep(wait) => shared.with(|_| ()),
        }
    }
}

async fn api(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(knife): ConnectInfo<Knife>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        let error = ApiError::new(413, "json_error", "request body is too large or incomplete");
        return respond(&parts.uri, &parts.headers, &Outcome::refused(error));
    };
    let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
    let incoming = Incoming {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        raw_query: parts.uri.query().map(str::to_owned),
        query: query.map(|Query(pairs)| pairs).unwrap_or_default(),
        authorization: text(&parts.headers, &header::AUTHORIZATION).map(str::to_owned),
        host: text(&parts.headers, &header::HOST).map(str::to_owned),
        body: body.to_vec(),
    };
    let outcome = shared.with(|gate| {
        if incoming.path.starts_with("/v1/") {
            let now = gate.project.now;
            gate.handle(&incoming, now)
        } else {
            Outcome::refused(ApiError::no_such_route())
        }
    });
    if !outcome.delay.is_zero() {
        tokio::time::sleep(outcome.delay).await;
    }
    if outcome.lost {
        knife.cut();
    }
    respond(&parts.uri, &parts.headers, &outcome)
}

fn respond(uri: &Uri, request: &HeaderMap, outcome: &Outcome) -> Response {
    let (status, body, links) = match &outcome.answer {
        Ok(Reply {
            status,
            body,
            links,
        }) => (*status, body.clone(), links.as_slice()),
        Err(error) => (error.status, Some(error.body()), [].as_slice()),
    };
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    set("x-correlation-id", random::text(CORRELATION_ID_CHARS));
    if let Some(budget) = outcome.budget {
        set("ratelimit-limit", budget.limit.to_string());
        set("ratelimit-remaining", budget.remaining.to_string());
        set("ratelimit-reset", budget.reset.to_string());
    }
    if !links.is_empty() {
        let host = text(request, &header::HOST).unwrap_or("localhost");
        let link = |(rel, page): &(&str, usize)| {
            format!(
                "<http://{host}{}?{}>; rel=\"{rel}\"",
                uri.path(),
                at_page(uri.query(), *page)
            )
        };
        set(
            "link",
            links.iter().map(link).collect::<Vec<_>>().join(", "),
        );
    }
    if body.is_some() {
        set("content-type", "application/json".to_owned());
    }
    let mut response =
        Response::new(body.map_or_else(Body::empty, |body| Body::from(body.to_string())));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}

/// The query of the same list at another page.
fn at_page(query: Option<&str>, page: usize) -> String {
    let others = query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty());
    let others = others.filter(|pair| !pair.starts_with("page="));
    others
        .map(str::to_owned)
        .chain([format!("page={page}")])
        .collect::<Vec<_>>()
        .join("&")
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
