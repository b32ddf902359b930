//! What is counted about requests. It outlives a client, because a rotated token makes a new one.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters that share their values with all clones.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    requests: Family<Request, Counter>,
    remaining: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: String,
    resource: String,
    /// The HTTP status, or `none` when no answer came.
    status: String,
}

impl Metrics {
    /// Under names that begin with the registry's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "hetzner_requests",
            "Requests to Hetzner's API",
            self.requests.clone(),
        );
        registry.register(
            "hetzner_rate_limit_remaining",
            "Requests that Hetzner has left for this project, as of its last answer",
            self.remaining.clone(),
        );
    }

    pub(crate) fn count(&self, method: &str, resource: &str, status: Option<u16>) {
        let labels = Request {
            method: method.to_owned(),
            resource: resource.to_owned(),
            status: status.map_or_else(|| "none".to_owned(), |s| s.to_string()),
        };
        self.requests.get_or_create(&labels).inc();
    }

    pub(super) fn remaining(&self, requests: u64) {
        self.remaining
            .set(i64::try_from(requests).unwrap_or(i64::MAX));
    }
}
