//! Reads the fields of a request body and collects everything that is wrong with them, so that the
//! caller gets one `invalid_input` that names all fields.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::{Map, Value};

use crate::error::{ApiError, FieldError};
use crate::labels::{self, Labels};

/// A body under inspection. Call the readers, then [`Input::finish`].
pub struct Input<'a> {
    body: &'a Map<String, Value>,
    errors: BTreeMap<String, Vec<String>>,
}

/// A resource named by its number or by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdOrName {
    Id(u64),
    Name(String),
}

impl std::fmt::Display for IdOrName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => write!(f, "'{name}'"),
        }
    }
}

impl<'a> Input<'a> {
    pub fn new(body: &'a Map<String, Value>) -> Self {
        Self {
            body,
            errors: BTreeMap::new(),
        }
    }

    pub fn reject(&mut self, field: &str, message: impl Into<String>) {
        self.errors
            .entry(field.to_owned())
            .or_default()
            .push(message.into());
    }

    /// All errors found, as one refusal.
    pub fn finish(self) -> Result<(), ApiError> {
        if self.errors.is_empty() {
            return Ok(());
        }
        let fields: Vec<_> = self
            .errors
            .into_iter()
            .map(|(name, messages)| FieldError { name, messages })
            .collect();
        Err(ApiError::invalid_fields(&fields))
    }

    /// The raw value; JSON `null` counts as absent.
    pub fn value(&self, field: &str) -> Option<&'a Value> {
        self.body.get(field).filter(|value| !value.is_null())
    }

    pub fn text(&mut self, field: &str) -> Option<String> {
        let value = self.value(field)?;
        let text = value.as_str().map(str::to_owned);
        if text.is_none() {
            self.reject(field, "must be a string");
        }
        text
    }

    pub fn required_text(&mut self, field: &str) -> String {
        self.require(field);
        self.text(field).unwrap_or_default()
    }

    pub fn boolean(&mut self, field: &str) -> Option<bool> {
        let value = self.value(field)?;
        let boolean = value.as_bool();
        if boolean.is_none() {
            self.reject(field, "must be a boolean");
        }
        boolean
    }

    pub fn id(&mut self, field: &str) -> Option<u64> {
        let value = self.value(field)?;
        let id = value.as_u64();
        if id.is_none() {
            self.reject(field, "must be a positive integer");
        }
        id
    }

    pub fn required_id(&mut self, field: &str) -> u64 {
        self.require(field);
        self.id(field).unwrap_or_default()
    }

    /// Hetzner takes a number, a name, or a number written as text.
    pub fn id_or_name(&mut self, field: &str) -> Option<IdOrName> {
        match self.value(field)? {
            Value::Number(number) if number.is_u64() => number.as_u64().map(IdOrName::Id),
            Value::String(text) => Some(
                text.parse()
                    .map_or_else(|_| IdOrName::Name(text.clone()), IdOrName::Id),
            ),
            _ => {
                self.reject(field, "must be an ID or a name");
                None
            }
        }
    }

    pub fn ids_or_names(&mut self, field: &str) -> Vec<IdOrName> {
        let mut found = Vec::new();
        for value in self.list(field) {
            match value {
                Value::Number(number) if number.is_u64() => {
                    found.extend(number.as_u64().map(IdOrName::Id));
                }
                Value::String(text) => found.push(
                    text.parse()
                        .map_or_else(|_| IdOrName::Name(text.clone()), IdOrName::Id),
                ),
                _ => self.reject(field, "must be a list of IDs or names"),
            }
        }
        found
    }

    pub fn list(&mut self, field: &str) -> &'a [Value] {
        match self.value(field) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.reject(field, "must be a list");
                &[]
            }
        }
    }

    pub fn object(&mut self, field: &str) -> Option<&'a Map<String, Value>> {
        let value = self.value(field)?;
        let object = value.as_object();
        if object.is_none() {
            self.reject(field, "must be an object");
        }
        object
    }

    /// Labels of the body, checked; `None` when the body has none.
    pub fn labels(&mut self) -> Option<Labels> {
        let object = self.object("labels")?;
        match labels::parse(object) {
            Ok(labels) => Some(labels),
            Err(messages) => {
                for message in messages {
                    self.reject("labels", message);
                }
                None
            }
        }
    }

    pub fn ipv4(&mut self, field: &str) -> Option<Ipv4Addr> {
        let address = self.text(field)?.parse().ok();
        if address.is_none() {
            self.reject(field, "must be an IPv4 address");
        }
        address
    }

    /// An IPv4 range in CIDR notation without host bits.
    pub fn ipv4_range(&mut self, field: &str) -> Option<Ipv4Net> {
        let range = self
            .text(field)?
            .parse::<Ipv4Net>()
            .ok()
            .filter(|net| net.trunc() == *net);
        if range.is_none() {
            self.reject(
                field,
                "must be an IPv4 range in CIDR notation without host bits",
            );
        }
        range
    }

    pub fn required_ipv4_range(&mut self, field: &str) -> Option<Ipv4Net> {
        self.require(field);
        self.ipv4_range(field)
    }

    pub fn require(&mut self, field: &str) {
        if self.value(field).is_none() {
            self.reject(field, "missing data for required field");
        }
    }
}
