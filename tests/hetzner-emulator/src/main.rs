//! Runs the emulator until it is interrupted.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use hetzner_emulator::{Emulator, Options};
use ipnet::Ipv4Net;
use tracing_subscriber::EnvFilter;

/// Emulates the Hetzner Cloud API for tests.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8780")]
    listen: SocketAddr,
    /// A token to accept; can be given more than once [default: any token is accepted]
    #[arg(long = "token", value_name = "TOKEN")]
    tokens: Vec<String>,
    /// Where servers get their public IPv4 addresses from
    #[arg(long, value_name = "RANGE", default_value = "127.20.1.0/24")]
    ipv4_pool: Ipv4Net,
    /// How long an action takes, such as 300ms or 2s
    #[arg(long, value_name = "DURATION", default_value = "300ms", value_parser = duration)]
    action_duration: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let emulator = Emulator::start(Options {
        listen: arguments.listen,
        tokens: arguments.tokens,
        ipv4_pool: arguments.ipv4_pool,
        action_duration: arguments.action_duration,
    })
    .await
    .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    tracing::info!(endpoint = emulator.endpoint(), "serving");
    interrupted().await?;
    emulator.shutdown().await;
    Ok(())
}

/// SIGINT or SIGTERM.
async fn interrupted() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from(parsed).map_err(|_| "must not be negative".to_owned())
}
