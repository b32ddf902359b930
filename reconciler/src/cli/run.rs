//! `fabrik run`: one replica, on a control-plane node.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use crate::config::Config;
use crate::reconcile;

#[derive(Debug, Args)]
pub struct Options {
    /// The file that `fabrik found` wrote.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let config = Config::load(&options.config)?;
    Box::pin(reconcile::run(config)).await?;
    Ok(ExitCode::SUCCESS)
}
