//! Everything between an HTTP request and the project: token, budget, faults, journal. No IO.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::call::{Answer, Call, Method};
use crate::error::ApiError;
use crate::faults::{Faults, Kind, shorten};
use crate::journal::{Entry, Journal};
use crate::project::Project;
use crate::rate_limit::{Bucket, Budget};
use crate::resources;

pub struct Gate {
    pub project: Project,
    pub faults: Faults,
    pub journal: Journal,
    pub bucket: Bucket,
    /// Tokens seen, so that the journal can tell them apart without naming them.
    tokens: Vec<String>,
}

/// A request to the API as it came in.
pub struct Incoming {
    pub method: String,
    /// Without query.
    pub path: String,
    pub raw_query: Option<String>,
    pub query: Vec<(String, String)>,
    pub authorization: Option<String>,
    pub host: Option<String>,
    pub body: Vec<u8>,
}

impl Incoming {
    fn token(&self) -> Option<&str> {
        let shown = self.authorization.as_deref()?.strip_prefix("Bearer ")?;
        Some(shown.trim()).filter(|token| !token.is_empty())
    }
}

/// What happens to a request.
pub struct Outcome {
    pub answer: Answer,
    pub budget: Option<Budget>,
    /// How long the answer is held back.
    pub delay: Duration,
    /// Whether the connection is closed instead of answering.
    pub lost: bool,
}

impl Outcome {
    /// A refusal from outside the API.
    pub fn refused(error: ApiError) -> Self {
        Self {
            answer: Err(error),
            budget: None,
            delay: Duration::ZERO,
            lost: false,
        }
    }
}

impl Gate {
    pub fn new(project: Project) -> Self {
        let bucket = Bucket::full(project.settings.rate_limit, project.now);
        let tokens = project.settings.tokens.clone().unwrap_or_default();
        Self {
            project,
            faults: Faults::default(),
            journal: Journal::default(),
            bucket,
            tokens,
        }
    }

    /// Empties the project and forgets faults and journal; settings stay.
    pub fn reset(&mut self) {
        self.project.reset();
        self.faults.clear();
        self.journal.clear();
        self.bucket = Bucket::full(self.project.settings.rate_limit, self.project.now);
    }

    /// Newly accepted tokens keep the numbers that the journal gave to known ones.
    pub fn know_tokens(&mut self) {
        let settings = &self.project.settings;
        let mut accepted = settings.tokens.clone().unwrap_or_default();
        accepted.extend(settings.read_only_tokens.iter().cloned());
        for token in accepted {
            self.number_of(&token);
        }
    }

    pub fn handle(&mut self, incoming: &Incoming, now: Timestamp) -> Outcome {
        self.project.settle(now);
        let token = self.token(incoming);
        let (mut budget, mut fault) = (None, None);
        let answer = if let Err(error) = &token {
            Err(error.clone())
        } else {
            let spent = self.bucket.take(self.project.settings.rate_limit, now);
            budget = Some(spent);
            if !spent.granted {
                let message = format!("limit of {} requests per hour reached", spent.limit);
                Err(ApiError::new(429, "rate_limit_exceeded", message))
            } else if self.is_forbidden_write(incoming) {
                let message = "the token is only allowed to perform GET requests";
                Err(ApiError::new(401, "token_readonly", message))
            } else {
                fault = self.faults.strike(&incoming.method, &incoming.path);
                self.work(incoming, fault.as_ref())
            }
        };
        self.note(incoming, &answer, fault.as_ref(), token.ok());
        let delay = match fault {
            Some(Kind::Delay { delay_ms }) => Duration::from_millis(delay_ms),
            _ => Duration::ZERO,
        };
        Outcome {
            answer,
            budget,
            delay,
            lost: fault == Some(Kind::ReplyLost),
        }
    }

    /// The number of the token that the request shows.
    fn token(&mut self, incoming: &Incoming) -> Result<usize, ApiError> {
        match incoming.token() {
            Some(token) if self.project.settings.accepts(token) => Ok(self.number_of(token)),
            _ => {
                let message = "unable to authenticate";
                Err(ApiError::new(401, "unauthorized", message))
            }
        }
    }

    fn is_forbidden_write(&self, incoming: &Incoming) -> bool {
        let settings = &self.project.settings;
        incoming.method != "GET" && incoming.token().is_some_and(|t| settings.may_only_read(t))
    }

    fn number_of(&mut self, token: &str) -> usize {
        self.tokens
            .iter()
            .position(|known| known == token)
            .unwrap_or_else(|| {
                self.tokens.push(token.to_owned());
                self.tokens.len() - 1
            })
    }

    fn work(&mut self, incoming: &Incoming, fault: Option<&Kind>) -> Answer {
        if let Some(refusal) = fault.and_then(Kind::refusal) {
            return Err(refusal);
        }
        let call = Call {
            method: match incoming.method.as_str() {
                "GET" => Method::Get,
                "POST" => Method::Post,
                "PUT" => Method::Put,
                "DELETE" => Method::Delete,
                _ => return Err(ApiError::method_not_allowed()),
            },
            path: incoming
                .path
                .trim_start_matches("/v1")
                .split('/')
                .skip(1)
                .map(str::to_owned)
                .collect(),
            query: incoming.query.clone(),
            body: parse(&incoming.body)?,
        };
        let last_action = self.project.actions.keys().next_back().copied();
        let mut answer = resources::dispatch(&mut self.project, &call);
        match (fault, &mut answer) {
            (Some(Kind::IncompleteList { drop }), Ok(reply)) => shorten(reply, *drop),
            (Some(Kind::ActionFails { code, message }), Ok(_)) => {
                let new = self
                    .project
                    .actions
                    .range_mut(last_action.map_or(0, |id| id + 1)..);
                for (_, action) in new {
                    action.failure = Some(ApiError::operation(code, message));
                }
            }
            _ => {}
        }
        answer
    }

    fn note(
        &mut self,
        incoming: &Incoming,
        answer: &Answer,
        fault: Option<&Kind>,
        token: Option<usize>,
    ) {
        let query = incoming
            .raw_query
            .as_ref()
            .map(|q| format!("?{q}"))
            .unwrap_or_default();
        let body = parse(&incoming.body).ok().filter(|body| !body.is_empty());
        self.journal.push(Entry {
            seq: 0,
            time: self.project.now,
            method: incoming.method.clone(),
            path: format!("{}{query}", incoming.path),
            host: incoming.host.clone(),
            status: answer
                .as_ref()
                .map_or_else(|error| error.status, |reply| reply.status),
            fault: fault.map(Kind::as_str),
            body: body.map(Value::Object),
            token,
        });
    }
}

fn parse(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    let unreadable = |_| ApiError::new(400, "json_error", "invalid JSON in request body");
    serde_json::from_slice(body).map_err(unreadable)
}
