//! The API server's audit log: who asked for what, whatever the client says about it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;

/// One request, from the log at level Metadata.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// `ResponseStarted`, `ResponseComplete` or `Panic`.
    pub stage: String,
    pub verb: String,
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    pub user: User,
    #[serde(default)]
    pub user_agent: String,
    pub object_ref: Option<ObjectRef>,
    pub response_status: Option<ResponseStatus>,
    pub request_received_timestamp: Timestamp,
}

#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// Empty for who could not say who he is.
    #[serde(default)]
    pub username: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub api_group: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ResponseStatus {
    pub code: u16,
}

/// All events so far. A last line that is still being written is left out.
pub fn read(log: &Path) -> Result<Vec<Event>> {
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse = |line: &str| serde_json::from_str(line).with_context(|| format!("reading {line}"));
    whole.lines().map(parse).collect()
}
