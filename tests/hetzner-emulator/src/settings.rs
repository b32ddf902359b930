//! What a test may change about the emulator while it runs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Hetzner's own limit: 3600 requests an hour and project, one comes back each second.
const DEFAULT_REQUESTS: u32 = 3600;
const DEFAULT_REFILL_PER_SECOND: f64 = 1.0;
/// Of servers, and of each other kind that has a limit.
const DEFAULT_LIMIT: usize = 10_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long an action takes.
    pub action_duration_ms: u64,
    /// The tokens that are accepted; `None` accepts any. All belong to the one project.
    pub tokens: Option<Vec<String>>,
    /// Tokens that are accepted as well, for reading only.
    pub read_only_tokens: Vec<String>,
    pub rate_limit: RateLimit,
    /// By server type name (`*`: every type), the locations that have none to give.
    pub out_of_stock: BTreeMap<String, Vec<String>>,
    /// Server types that are going or gone, by name.
    pub deprecations: BTreeMap<String, Deprecation>,
    /// How many servers the project may have.
    pub server_limit: usize,
    pub snapshot_limit: usize,
    /// Those that come with servers count too.
    pub primary_ip_limit: usize,
    pub floating_ip_limit: usize,
    pub load_balancer_limit: usize,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    /// The size of the bucket.
    pub limit: u32,
    pub refill_per_second: f64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deprecation {
    pub announced: Timestamp,
    /// From then on the type is in no list and can't be ordered.
    pub unavailable_after: Timestamp,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            action_duration_ms: 300,
            tokens: None,
            read_only_tokens: Vec::new(),
            rate_limit: RateLimit::default(),
            out_of_stock: BTreeMap::new(),
            deprecations: retired_types(),
            server_limit: DEFAULT_LIMIT,
            snapshot_limit: DEFAULT_LIMIT,
            primary_ip_limit: DEFAULT_LIMIT,
            floating_ip_limit: DEFAULT_LIMIT,
            load_balancer_limit: DEFAULT_LIMIT,
        }
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            limit: DEFAULT_REQUESTS,
            refill_per_second: DEFAULT_REFILL_PER_SECOND,
        }
    }
}

impl Settings {
    pub fn accepts(&self, token: &str) -> bool {
        let known = |tokens: &Vec<String>| tokens.iter().any(|known| known == token);
        self.tokens.as_ref().is_none_or(known) || self.may_only_read(token)
    }

    pub fn may_only_read(&self, token: &str) -> bool {
        self.read_only_tokens.iter().any(|known| known == token)
    }

    pub fn in_stock(&self, server_type: &str, location: &str) -> bool {
        [server_type, "*"].iter().all(|name| {
            self.out_of_stock
                .get(*name)
                .is_none_or(|out| !out.iter().any(|l| l == location))
        })
    }
}

/// From the changelog of the API (2024-06-06 and 2025-10-16).
fn retired_types() -> BTreeMap<String, Deprecation> {
    let retired = [
        ("cx21", "2024-06-06T00:00:00Z", "2024-09-06T00:00:00Z"),
        ("cx31", "2024-06-06T00:00:00Z", "2024-09-06T00:00:00Z"),
        ("cpx11", "2025-10-16T00:00:00Z", "2025-12-31T23:59:59Z"),
    ];
    let parse = |text: &str| text.parse::<Timestamp>().ok();
    retired
        .into_iter()
        .filter_map(|(name, announced, gone)| {
            let deprecation = Deprecation {
                announced: parse(announced)?,
                unavailable_after: parse(gone)?,
            };
            Some((name.to_owned(), deprecation))
        })
        .collect()
}
