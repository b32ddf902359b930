//! `fabrik secrets`: what is encrypted in a repository, looked at with a person's own key.

use std::io::{Write as _, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Failure, say};
use crate::gate::{Access, check_node_secrets};
use crate::secrets::{Sops, Verdict, check, closed_to_some, decrypt_file, users_age_key_file};

#[derive(Debug, Subcommand)]
pub enum Secrets {
    /// Checks all SOPS files: opens those that your key opens, and the others' shape. And that what `[secrets]` gives
    /// nodes is in them.
    Check(CheckOptions),
    /// Prints what `sops decrypt FILE` prints.
    Decrypt(DecryptOptions),
}

#[derive(Debug, Args)]
pub struct CheckOptions {
    /// The repository's root.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Your age key; else where `sops` looks for it.
    #[arg(long, value_name = "FILE")]
    age_key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DecryptOptions {
    file: PathBuf,
    /// Your age key; else where `sops` looks for it.
    #[arg(long, value_name = "FILE")]
    age_key_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "no age key: give one by --age-key-file or SOPS_AGE_KEY_FILE, or keep it where sops looks for it"
)]
struct NoKey;

pub async fn run(verb: Secrets) -> Result<ExitCode, Failure> {
    match verb {
        Secrets::Check(options) => check_all(options).await,
        Secrets::Decrypt(options) => decrypt(options).await,
    }
}

async fn check_all(options: CheckOptions) -> Result<ExitCode, Failure> {
    let tree = super::tree_of_root(&options.dir)?;
    let sops = sops(options.age_key_file);
    let result = check(&tree, sops.as_ref()).await?;
    for (path, verdict) in &result.files {
        let words = match verdict {
            Verdict::Opened => "opened",
            Verdict::WellFormed => "well-formed, not opened: encrypted to others, or no key given",
            Verdict::Faulty => "FAULTY",
        };
        say(format_args!("{path}: {words}"))?;
    }
    // Faults of a file are among both.
    let mut diagnostics = result.diagnostics;
    diagnostics.extend(closed_to_some(&tree)?);
    diagnostics.extend(check_node_secrets(&tree, Access::of_person(sops.as_ref())).await?);
    diagnostics.sort();
    diagnostics.dedup();
    for diagnostic in &diagnostics {
        eprintln!("{diagnostic}");
    }
    Ok(if diagnostics.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn decrypt(options: DecryptOptions) -> Result<ExitCode, Failure> {
    let sops = sops(options.age_key_file).ok_or(NoKey)?;
    let plaintext = decrypt_file(&sops, &options.file).await?;
    stdout().write_all(plaintext.expose())?;
    stdout().flush()?;
    Ok(ExitCode::SUCCESS)
}

fn sops(age_key_file: Option<PathBuf>) -> Option<Sops> {
    let file = age_key_file.or_else(users_age_key_file)?;
    Some(Sops::of_person(file, None))
}
