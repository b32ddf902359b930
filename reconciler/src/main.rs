//! The command line of fabrik: parses, sets up the log, calls one function, prints one report.

use std::process::ExitCode;

use fabrik::cli::{self, logging};

#[tokio::main]
async fn main() -> ExitCode {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let cli = cli::parse();
    logging::init(cli.log_format, cli.verb.is_service());
    match Box::pin(cli::run(cli.verb)).await {
        Ok(code) => code,
        Err(failure) if cli::is_read_enough(&failure) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", cli::readable(&error));
            ExitCode::FAILURE
        }
    }
}
