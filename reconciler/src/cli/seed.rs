//! `fabrik seed`: from a repository that was pushed to a cluster that follows it.

use std::process::ExitCode;

use super::Failure;
use super::validate::print_faults;
use crate::seed::{self, Ending, SeedOptions};

/// Something has to be done elsewhere before the same command goes on.
const REPEAT: u8 = 2;

pub async fn run(options: SeedOptions) -> Result<ExitCode, Failure> {
    Ok(match seed::seed(options).await? {
        Ending::Done => ExitCode::SUCCESS,
        Ending::Refused(faults) => {
            print_faults(&faults);
            ExitCode::FAILURE
        }
        Ending::Wrong => {
            eprintln!("Mend what is wrong, and repeat this.");
            ExitCode::FAILURE
        }
        Ending::WaitsForKey => ExitCode::from(REPEAT),
    })
}
