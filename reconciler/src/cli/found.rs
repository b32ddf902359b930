//! `fabrik found`: makes a cluster into one that fabrik runs. Idempotent.

use std::process::ExitCode;

use super::{Failure, say};
use crate::cluster::found::{self, FoundOptions};

pub async fn run(options: FoundOptions) -> Result<ExitCode, Failure> {
    let founded = found::found(options).await?;
    say(serde_json::to_string(&founded)?)?;
    Ok(ExitCode::SUCCESS)
}
