//! The log, on stderr: for people or as JSON lines. `FABRIK_LOG` filters it (`debug`, `fabrik::hetzner=trace`).

use std::io::{IsTerminal, stderr};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Human,
    Json,
}

/// Without a filter: what fabrik says from `info` on, what libraries say from `warn` on.
const OF_SERVICES: &str = "warn,fabrik=info,fabrik_core=info";
/// A person is told by the verb what failed, and need not read it in the words of a library before.
const OF_PEOPLE: &str = "warn,fabrik=info,fabrik_core=info,kube_client=off";

pub fn init(format: Format, is_service: bool) {
    let default = if is_service { OF_SERVICES } else { OF_PEOPLE };
    let filter = EnvFilter::try_from_env("FABRIK_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    match format {
        Format::Human => log.with_ansi(stderr().is_terminal()).init(),
        Format::Json => log.json().flatten_event(true).init(),
    }
}
