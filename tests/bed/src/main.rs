//! `bed`: the test bed by hand.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Parser, Subcommand};
use fabrik_bed::parts::{FORMER_KUBERNETES_VERSION, KUBERNETES_VERSION, Parts};
use fabrik_bed::{Bed, Options};
use tracing_subscriber::EnvFilter;

/// A whole cluster on this machine: control planes, workers, git servers and a Hetzner emulator.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or build everything that a bed needs
    Parts,
    /// Measure fabrik on a bed: pushes, starts, memory
    Bench,
    /// Measure fabrik while a new kernel goes through many scripted workers
    Rollout(Rollout),
    /// Play the main story: a cluster out of nothing, and what pushes make of it
    Demo(Demo),
    /// Bring a bed up, and take it down again at Ctrl-C
    Up(Up),
}

#[derive(clap::Args)]
struct Demo {
    /// Leave everything running afterwards, until Ctrl-C, and say how to look around
    #[arg(long)]
    keep: bool,
}

#[derive(clap::Args)]
struct Rollout {
    #[arg(long, default_value_t = 100)]
    workers: u32,
    #[arg(long, default_value_t = 10)]
    max_unavailable: u32,
}

#[derive(clap::Args)]
struct Up {
    /// Servers of the control plane: 1 or 3
    #[arg(long, default_value_t = 1)]
    servers: usize,
    /// Found a cluster, run fabrik on each server and push a repository with this many workers
    #[arg(long, value_name = "WORKERS")]
    fabrik: Option<u32>,
    /// Give the machines NixOS systems, built by Nix from the repository's flake
    #[arg(long)]
    systems: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,kube_client=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match carry_out(Arguments::parse().verb).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn carry_out(verb: Verb) -> Result<()> {
    match verb {
        Verb::Parts => {
            tokio::task::spawn_blocking(|| {
                Parts::prepare(&[KUBERNETES_VERSION, FORMER_KUBERNETES_VERSION])?;
                Parts::etcdutl()?;
                Parts::nix()
            })
            .await??;
            println!("All parts are ready.");
            Ok(())
        }
        Verb::Bench => fabrik_bed::bench::run().await,
        Verb::Rollout(rollout) => {
            let Rollout {
                workers,
                max_unavailable,
            } = rollout;
            fabrik_bed::bench::rollout::run(workers, max_unavailable).await
        }
        Verb::Demo(demo) => play(&demo).await,
        Verb::Up(up) => run(up).await,
    }
}

/// Ctrl-C ends it at any time, as a failure while it plays: dropping a bed takes it down.
async fn play(demo: &Demo) -> Result<()> {
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    let bed = tokio::select! {
        bed = fabrik_bed::demo::run() => bed?,
        result = &mut interrupted => return result.and_then(|()| anyhow::bail!("interrupted")),
    };
    let mut result = Ok(());
    if demo.keep {
        result = fabrik_bed::demo::look_around(&bed);
        if result.is_ok() {
            result = interrupted.await;
        }
        eprintln!("Taking everything down.");
    }
    bed.shutdown().await;
    result
}

/// Until SIGINT or SIGTERM, also while it comes up: dropping a bed takes it down.
async fn run(up: Up) -> Result<()> {
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    let started = Instant::now();
    let options = Options {
        servers: up.servers,
        fabrik: up.fabrik.is_some(),
        systems: up.systems,
        ..Options::default()
    };
    let bed = tokio::select! {
        bed = Bed::start(options) => bed?,
        result = &mut interrupted => return result,
    };
    if let Some(workers) = up.fabrik {
        bed.default_repo(workers)?;
    }
    look_around(&bed, started.elapsed());
    let result = interrupted.await;
    eprintln!("Taking the bed down.");
    bed.shutdown().await;
    result
}

async fn interrupted() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => Ok(result?),
        _ = terminate.recv() => Ok(()),
    }
}

fn look_around(bed: &Bed, took: Duration) {
    println!(
        "The bed is up after {:.1} s. Ctrl-C takes it down.\n",
        took.as_secs_f64()
    );
    println!("  folder       {}", bed.dir().display());
    println!(
        "  kubeconfig   export KUBECONFIG={}",
        bed.kubeconfig().display()
    );
    println!("  kubectl      {}", bed.parts().kubectl.display());
    println!(
        "  work tree    {} (git push goes to the cluster)",
        bed.git().dir().display()
    );
    println!("  repository   {}", bed.repository_url());
    println!("  Hetzner      {} (any token)", bed.hetzner().endpoint());
    println!("  logs         {}", bed.logs().display());
}
