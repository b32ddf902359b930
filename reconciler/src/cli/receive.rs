//! `fabrik receive`: what a new server of the control plane is told over SSH. For machines: `fabrik seed` runs it there.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Failure, say};
use crate::handover;

#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    step: Step,
    /// Where the machine's files are.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/",
        hide = true,
        global = true
    )]
    root: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Prints the public half of the host key that this machine made itself.
    HostKey {
        /// Puts it in the place of the one from the user data.
        #[arg(long = "use")]
        in_use: bool,
    },
    /// Takes the cluster's keys from standard input, and founds the cluster with them; prints what `found` prints.
    Identity,
    /// Founds this server with what it was given, and starts fabrik; prints what `found` prints.
    Start,
    /// Lets the one who made this machine in no more.
    Done,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let root = &options.root;
    match options.step {
        Step::HostKey { in_use: false } => say(handover::host_key(root)?)?,
        Step::HostKey { in_use: true } => {
            handover::use_host_key(root).await?;
            say(handover::host_key(root)?)?;
        }
        Step::Identity => {
            let founded = handover::identity(root, std::io::stdin().lock()).await?;
            say(serde_json::to_string(&founded)?)?;
        }
        Step::Start => say(serde_json::to_string(&handover::start(root).await?)?)?,
        Step::Done => handover::done(root)?,
    }
    Ok(ExitCode::SUCCESS)
}
