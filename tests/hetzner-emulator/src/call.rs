//! One request to the API and its answer, free of HTTP machinery.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::input::Input;

/// A request whose token was accepted.
#[derive(Debug)]
pub struct Call {
    pub method: Method,
    /// The path below `/v1`, split at the slashes.
    pub path: Vec<String>,
    /// Query parameters in their order; a name may occur more than once.
    pub query: Vec<(String, String)>,
    pub body: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

/// What the API says to a call that it accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub status: u16,
    /// `None` is an empty body (204).
    pub body: Option<Value>,
    /// The pages that a list's `Link` header names: relation and page number.
    pub links: Vec<(&'static str, usize)>,
}

pub type Answer = Result<Reply, ApiError>;

impl Call {
    pub fn input(&self) -> Input<'_> {
        Input::new(&self.body)
    }

    /// The first value of a query parameter; an empty one counts as absent.
    pub fn parameter(&self, name: &'static str) -> Option<&str> {
        self.parameters(name).next()
    }

    /// All values of a query parameter.
    pub fn parameters(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.query
            .iter()
            .filter(move |(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }
}

impl Reply {
    pub fn ok(body: Value) -> Self {
        Self {
            status: 200,
            body: Some(body),
            links: Vec::new(),
        }
    }

    pub fn created(body: Value) -> Self {
        Self {
            status: 201,
            body: Some(body),
            links: Vec::new(),
        }
    }

    pub fn no_content() -> Self {
        Self {
            status: 204,
            body: None,
            links: Vec::new(),
        }
    }
}
