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
const DEFAULT_FILTER: &str = "warn,fabrik=info,fabrik_core=info";

pub fn init(format: Format) {
    let filter =
        EnvFilter::try_from_env("FABRIK_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    match format {
        Format::Human => log.with_ansi(stderr().is_terminal()).init(),
        Format::Json => log.json().flatten_event(true).init(),
    }
}
