//! `fabrik agent`: on every node, follows the leader's orders about the system that the node runs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use crate::node::state::Work;
use crate::node::{AgentConfig, activate, run, secrets};

#[derive(Debug, Args)]
pub struct Options {
    /// The file that the NixOS module wrote.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Places the secrets that this node was given before, and ends: for units that start before the agent does.
    #[arg(long, conflicts_with = "carry_out")]
    place_secrets: bool,
    /// What the agent itself starts in a unit of its own: one command, which it has written in its journal.
    #[arg(long, value_name = "WORK", hide = true)]
    carry_out: Option<String>,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    if options.place_secrets {
        let config = AgentConfig::load(&options.config)?;
        secrets::place_once(&config);
        return Ok(ExitCode::SUCCESS);
    }
    let Some(work) = options.carry_out else {
        run::run(&options.config).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let config = AgentConfig::load(&options.config)?;
    let work: Work = serde_json::from_str(&work)?;
    tokio::task::spawn_blocking(move || activate::carry_out(&config, &work)).await??;
    Ok(ExitCode::SUCCESS)
}
