//! The door: TLS, limits, and the way of a request to the desk of whoever leads.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use fabrik_core::join::{Claim, hash};
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::{CA_PATH, JOIN_PATH, Request};
use crate::tls::{Listener, Tls};

/// A request is some hundred bytes.
const MAX_REQUEST_BYTES: usize = 4096;
/// How long one may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(5);
/// So many claims are judged at once: each is a request to Hetzner.
const MAX_AT_ONCE: usize = 4;
/// In each minute, from one address and from all: a machine asks twice for each of its tries, which are seconds apart.
const MINUTE: Duration = Duration::from_secs(60);
const MAX_FROM_ONE: u32 = 60;
const MAX_FROM_ALL: u32 = 600;

/// What the desk says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Encrypted to the machine.
    Answer(Vec<u8>),
    Refused(String),
    /// The nonce was shown by two.
    Alarm(String),
    /// Nothing was decided: it is to ask again.
    Trouble(String),
}

/// Asks the desk.
pub type Judge = Arc<dyn Fn(Claim) -> BoxFuture<'static, Reply> + Send + Sync>;

#[derive(Clone)]
struct Room {
    /// `None`: this replica does not lead.
    desk: watch::Receiver<Option<Judge>>,
    ca_file: Arc<PathBuf>,
    turns: Arc<Semaphore>,
    visits: Arc<Mutex<Visits>>,
}

/// Serves for ever.
pub async fn serve(
    listener: TcpListener,
    tls: Tls,
    ca_file: PathBuf,
    desk: watch::Receiver<Option<Judge>>,
) -> io::Result<()> {
    let room = Room {
        desk,
        ca_file: Arc::new(ca_file),
        turns: Arc::new(Semaphore::new(MAX_AT_ONCE)),
        visits: Arc::default(),
    };
    let router = Router::new()
        .route(CA_PATH, get(ca))
        .route(JOIN_PATH, post(join))
        .with_state(room);
    let service = router.into_make_service_with_connect_info::<Peer>();
    axum::serve(Listener::new(listener, tls), service).await
}

/// Who is at the other end, as the connection has it and no header.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        let from: &SocketAddr = stream.remote_addr();
        // A listener for both families shows IPv4 as IPv6.
        Self(from.ip().to_canonical())
    }
}

/// To anybody: a machine believes it for its hash.
async fn ca(State(room): State<Room>, ConnectInfo(Peer(from)): ConnectInfo<Peer>) -> Response {
    if let Some(refused) = room.too_many(from) {
        return refused;
    }
    match tokio::fs::read(room.ca_file.as_path()).await {
        Ok(ca) => ca.into_response(),
        Err(error) => said(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

async fn join(
    State(room): State<Room>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    body: Body,
) -> Response {
    if let Some(refused) = room.too_many(from) {
        return refused;
    }
    let desk = room.desk.borrow().clone();
    let Some(desk) = desk else {
        let words = "this server's fabrik does not lead: ask another one";
        return said(StatusCode::SERVICE_UNAVAILABLE, words.to_owned());
    };
    let body = match timeout(ARRIVAL, to_bytes(body, MAX_REQUEST_BYTES)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return said(StatusCode::PAYLOAD_TOO_LARGE, "it is too long".to_owned()),
        Err(_elapsed) => return said(StatusCode::REQUEST_TIMEOUT, "it is too slow".to_owned()),
    };
    // What it is not is not quoted: it may be a nonce with a comma too much.
    let Ok(request) = serde_json::from_slice::<Request>(&body) else {
        return said(
            StatusCode::BAD_REQUEST,
            "it is no request to join".to_owned(),
        );
    };
    let Ok(_turn) = room.turns.try_acquire() else {
        let words = "others are being judged: ask again";
        return said(StatusCode::SERVICE_UNAVAILABLE, words.to_owned());
    };
    let claim = Claim {
        hash: hash(request.nonce.expose()),
        node: request.node_name,
        recipient: request.age_recipient,
        source: from,
    };
    match desk(claim).await {
        Reply::Answer(sealed) => sealed.into_response(),
        Reply::Refused(why) => said(StatusCode::FORBIDDEN, why),
        Reply::Alarm(why) => said(StatusCode::CONFLICT, why),
        Reply::Trouble(_) => said(
            StatusCode::SERVICE_UNAVAILABLE,
            "it can't be judged now: ask again".to_owned(),
        ),
    }
}

fn said(status: StatusCode, words: String) -> Response {
    (status, words).into_response()
}

impl Room {
    fn too_many(&self, from: IpAddr) -> Option<Response> {
        let mut visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = visits.allow(from, Instant::now());
        (!allowed).then(|| said(StatusCode::TOO_MANY_REQUESTS, "ask later".to_owned()))
    }
}

/// Who came in this minute.
#[derive(Debug, Default)]
struct Visits {
    since: Option<Instant>,
    all: u32,
    of: BTreeMap<IpAddr, u32>,
}

impl Visits {
    fn allow(&mut self, from: IpAddr, now: Instant) -> bool {
        if self.since.is_none_or(|since| now - since >= MINUTE) {
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
        if self.all >= MAX_FROM_ALL {
            return false;
        }
        let count = self.of.entry(from).or_default();
        if *count >= MAX_FROM_ONE {
            return false;
        }
        *count += 1;
        self.all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_comes_more_often_than_a_machine_has_to() {
        let mut visits = Visits::default();
        let now = Instant::now();
        let from = |number: u32| IpAddr::from(number.to_be_bytes());
        let allowed = (0..100).filter(|_| visits.allow(from(1), now)).count();
        assert_eq!(allowed, MAX_FROM_ONE as usize);
        assert!(visits.allow(from(2), now), "another one is not kept out");
        let allowed = (0..2000)
            .filter(|n| visits.allow(from(n + 10), now))
            .count();
        assert_eq!(allowed, (MAX_FROM_ALL - MAX_FROM_ONE - 1) as usize);
        assert!(visits.allow(from(1), now + MINUTE));
    }
}
