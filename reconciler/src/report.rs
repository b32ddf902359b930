//! What happened, for programs: metrics, health, the published observation, and the HTTP server that shows them.
//!
//! Nothing here decides or changes anything in the cluster, and nothing here has a secret in its hands.

mod health;
mod http;
pub mod metrics;
pub mod observed;

pub use health::Health;
pub use http::{Endpoints, Webhook, serve, serve_webhook};
pub use metrics::{Metrics, Outcome};
