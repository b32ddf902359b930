//! `fabrik identify`: at each boot of a node, before k3s.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::Failure;
use crate::node::identify::{self, ByHand};

#[derive(Debug, Args)]
pub struct Options {
    /// Where Hetzner's metadata service is.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://169.254.169.254/hetzner/v1"
    )]
    metadata: String,
    /// Where the machine's files are.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// A machine whose user data is not fabrik's is a person's: it is left as it is.
    #[arg(long)]
    or_by_hand: bool,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let by_hand = if options.or_by_hand {
        ByHand::Allowed
    } else {
        ByHand::Refused
    };
    identify::run(&options.metadata, &options.root, by_hand).await?;
    Ok(ExitCode::SUCCESS)
}
