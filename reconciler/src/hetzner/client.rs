//! One request at a time: token, timeouts, limits, what may be repeated, and what an answer means.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Method, Response, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::absent::Absent;
use super::budget::{Budget, Pace, Pacer};
use super::error::{HetznerError, RequestId};
use super::metrics::Metrics;
use super::refusal::{Refusal, presentable};
use super::token::Token;
use super::wire;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A read is tried this often in all.
const READ_ATTEMPTS: u32 = 4;
/// The wait before the second attempt; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// Hetzner's largest page.
const ENTRIES_PER_PAGE: &str = "50";
/// A list that changes while it is read is read again this often in all.
const LIST_ATTEMPTS: u32 = 3;
const MAX_PAGES: u64 = 1000;
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// Hetzner's API, for one project. Clones share connections, what is known about the rate limit and what was not there.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    token: Token,
    pacer: Arc<Pacer>,
    pub(super) absent: Arc<Absent>,
    metrics: Metrics,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Slows down, and stops before the last requests of the hour are used.
    Observe,
    /// Belongs to an effect and may use them.
    Act,
}

/// A request and how to speak of it.
pub struct Call<'a> {
    pub method: Method,
    /// Below the endpoint; the first part is the metric's `resource`.
    pub path: String,
    pub query: Vec<(&'static str, String)>,
    pub body: Option<&'a Value>,
    pub purpose: Purpose,
    /// Completes "could not …".
    pub what: String,
}

impl Client {
    /// A client for the project that `token` belongs to. Nothing is sent yet.
    ///
    /// `endpoint` is `https://api.hetzner.cloud/v1` or an emulator's; plain HTTP is for this machine only.
    pub fn new(endpoint: &str, token: Token) -> Result<Self, HetznerError> {
        token.header()?;
        let endpoint = parse_endpoint(endpoint).map_err(|problem| HetznerError::Setup {
            problem: format!("the Hetzner endpoint `{endpoint}` {problem}"),
        })?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("fabrik/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| HetznerError::Setup {
                problem: format!("no HTTP client can be made for Hetzner: {}", causes(&error)),
            })?;
        Ok(Self {
            http,
            endpoint,
            token,
            pacer: Arc::default(),
            absent: Arc::default(),
            metrics: Metrics::default(),
        })
    }

    /// The share of the hour's requests that is left, from 0 to 1; `None` before the first answer.
    pub fn remaining_share(&self) -> Option<f64> {
        self.pacer.remaining_share(Timestamp::now())
    }

    /// Counts into `metrics` from here on.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// All entries of a list. The answer is complete or it is an error.
    pub(super) async fn list<T: wire::Resource>(
        &self,
        filter: Option<(&'static str, String)>,
        purpose: Purpose,
    ) -> Result<Vec<T>, HetznerError> {
        let mut problem = String::new();
        for _ in 0..LIST_ATTEMPTS {
            match self.list_once(filter.as_ref(), purpose).await? {
                Ok(entries) => return Ok(entries),
                Err(gap) => problem = gap,
            }
        }
        Err(HetznerError::IncompleteList {
            what: format!("list {}", words(T::PATH)),
            problem,
        })
    }

    /// One by its id; `None` only when Hetzner says that there is none.
    pub(super) async fn get<T: wire::Resource>(
        &self,
        id: u64,
        purpose: Purpose,
    ) -> Result<Option<T>, HetznerError> {
        let call = Call {
            method: Method::GET,
            path: format!("{}/{id}", T::PATH),
            query: Vec::new(),
            body: None,
            purpose,
            what: format!("read {} {id}", words(T::KIND)),
        };
        match self.send(&call).await {
            Ok(answer) => answer.field(T::KIND).map(Some),
            Err(HetznerError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request; a read that fails for a passing reason is repeated, a write never is.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Answer, HetznerError> {
        let attempts = if call.method == Method::GET {
            READ_ATTEMPTS
        } else {
            1
        };
        let mut backoff = FIRST_BACKOFF;
        let mut attempt = 1;
        loop {
            self.await_turn(call).await?;
            match self.send_once(call).await {
                Err(error) if error.is_transient() && attempt < attempts => {
                    tracing::debug!(%error, attempt, "reading from Hetzner again");
                    tokio::time::sleep(backoff).await;
                    backoff *= 2;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// `Ok(Err(gap))`: every page came, and they don't add up.
    async fn list_once<T: wire::Resource>(
        &self,
        filter: Option<&(&'static str, String)>,
        purpose: Purpose,
    ) -> Result<Result<Vec<T>, String>, HetznerError> {
        let mut entries: Vec<T> = Vec::new();
        let mut totals = BTreeSet::new();
        let mut page = 1;
        loop {
            let mut query = vec![
                ("page", page.to_string()),
                ("per_page", ENTRIES_PER_PAGE.to_owned()),
            ];
            query.extend(filter.cloned());
            let call = Call {
                method: Method::GET,
                path: T::PATH.to_owned(),
                query,
                body: None,
                purpose,
                what: format!("list {}", words(T::PATH)),
            };
            let answer = self.send(&call).await?;
            entries.extend(answer.field::<Vec<T>>(T::PATH)?);
            let pagination = answer.field::<wire::Meta>("meta")?.pagination;
            totals.extend(pagination.total_entries);
            match pagination.next_page {
                None => break,
                Some(next) if next == page + 1 && next <= MAX_PAGES => page = next,
                Some(next) => return Ok(Err(format!("page {page} is followed by page {next}"))),
            }
        }
        let ids: BTreeSet<_> = entries.iter().map(wire::Resource::id).collect();
        let came = ids.len();
        let adds_up = totals
            .iter()
            .all(|total| usize::try_from(*total) == Ok(came));
        Ok(if adds_up && came == entries.len() {
            Ok(entries)
        } else {
            let totals: Vec<_> = totals.iter().map(ToString::to_string).collect();
            let distinct = format!("{} entries came, {came} of them distinct", entries.len());
            Err(format!("{distinct}, of {}", totals.join(" or ")))
        })
    }

    async fn await_turn(&self, call: &Call<'_>) -> Result<(), HetznerError> {
        if call.purpose == Purpose::Act {
            return Ok(());
        }
        match self.pacer.turn(Timestamp::now()) {
            Pace::Go => Ok(()),
            Pace::Wait(wait) => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            Pace::Refuse { until } => Err(HetznerError::RateLimited {
                what: call.what.clone(),
                until,
                id: RequestId::default(),
            }),
        }
    }

    async fn send_once(&self, call: &Call<'_>) -> Result<Answer, HetznerError> {
        let resource = call.path.split('/').next().unwrap_or_default();
        let count = |status| self.metrics.count(call.method.as_str(), resource, status);
        let unreachable = |error: reqwest::Error| HetznerError::Unreachable {
            what: call.what.clone(),
            problem: self.token.redact(&causes(&error.without_url())),
            id: RequestId::default(),
        };

        let url = format!("{}/{}", self.endpoint, call.path);
        let mut request = self
            .http
            .request(call.method.clone(), url)
            .query(&call.query)
            .header(AUTHORIZATION, self.token.header()?);
        if let Some(body) = call.body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| {
            count(None);
            unreachable(error)
        })?;
        let (status, headers) = (response.status(), response.headers().clone());
        count(Some(status.as_u16()));
        if let Some(budget) = Budget::of(&headers, Timestamp::now()) {
            self.metrics.remaining(budget.remaining);
            self.pacer.learn(budget);
        }
        let id = self.correlation_id(&headers);
        let body = read_body(response).await.map_err(|problem| match problem {
            BodyError::Lost(error) => unreachable(error),
            BodyError::TooLong => HetznerError::Malformed {
                what: call.what.clone(),
                problem: format!("it is longer than {MAX_BODY_BYTES} bytes"),
                id: id.clone(),
            },
        })?;
        if status.is_success() {
            Answer::parse(&body, call.what.clone(), id)
        } else {
            let refusal = Refusal {
                what: call.what.clone(),
                status,
                headers: &headers,
                body: &body,
                id,
            };
            Err(refusal.meaning(&self.token))
        }
    }

    fn correlation_id(&self, headers: &HeaderMap) -> RequestId {
        let text = headers
            .get("x-correlation-id")
            .and_then(|v| v.to_str().ok());
        RequestId(text.map(|id| presentable(id, &self.token)))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint.as_str())
            .finish_non_exhaustive()
    }
}

/// The body of a success.
pub struct Answer {
    body: Value,
    what: String,
    pub id: RequestId,
}

impl Answer {
    fn parse(body: &[u8], what: String, id: RequestId) -> Result<Self, HetznerError> {
        if body.is_empty() {
            let body = Value::Null;
            return Ok(Self { body, what, id });
        }
        match serde_json::from_slice(body) {
            Ok(body) => Ok(Self { body, what, id }),
            Err(error) => Err(HetznerError::Malformed {
                what,
                problem: format!("no JSON: line {}, column {}", error.line(), error.column()),
                id,
            }),
        }
    }

    /// What the answer holds under `key`. The error says where it differs and never what is there: an answer may
    /// hold a root password.
    pub fn field<T: DeserializeOwned>(&self, key: &str) -> Result<T, HetznerError> {
        T::deserialize(&self.body[key]).map_err(|_| HetznerError::Malformed {
            what: self.what.clone(),
            problem: format!("`{key}` is missing or has another shape than documented"),
            id: self.id.clone(),
        })
    }
}

enum BodyError {
    Lost(reqwest::Error),
    TooLong,
}

async fn read_body(mut response: Response) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Lost)? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(BodyError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn parse_endpoint(text: &str) -> Result<Url, &'static str> {
    let url: Url = text
        .trim_end_matches('/')
        .parse()
        .map_err(|_| "is no URL; Hetzner's own is https://api.hetzner.cloud/v1")?;
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let local = host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    if !url.username().is_empty() || url.password().is_some() {
        Err("must not hold a user or a password")
    } else if url.scheme() == "https" || (url.scheme() == "http" && local) {
        Ok(url)
    } else {
        Err(
            "must begin with https:// (http:// shows the token to the network, \
             and is for addresses of this machine only)",
        )
    }
}

/// An error with all that caused it, on one line.
fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |e| e.source());
    let texts: Vec<_> = chain.map(ToString::to_string).collect();
    texts.join(": ")
}

/// `ssh_keys` as people write it.
fn words(key: &str) -> String {
    key.replace('_', " ").replace("ssh", "SSH")
}
