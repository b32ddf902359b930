//! `fabrik validate`: all that is wrong with a repository, before it is pushed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use fabrik_core::diagnostic::Diagnostic;
use serde_json::{Value, json};

use super::{Failure, Output, say};
use crate::gate::{Access, Candidate, Faulty, read_commit};
use crate::secrets::{Sops, users_age_key_file};

#[derive(Debug, Args)]
pub struct Options {
    /// The repository's root, as it is now.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Opens what is encrypted to it; else your key where `sops` looks for it. Without one, secrets are checked for
    /// their shape.
    #[arg(long, value_name = "FILE")]
    age_key_file: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let key = options.age_key_file.or_else(users_age_key_file);
    let sops = key.map(|file| Sops::new(file, None));
    let result = match super::tree_of_root(&options.dir) {
        Ok(tree) => read_commit(&tree, Access::of_person(sops.as_ref())).await?,
        Err(error) => Err(Faulty::of(error.into_diagnostic()?)),
    };
    match options.output {
        Output::Json => say(serde_json::to_string_pretty(&document(&result))?)?,
        Output::Human => match &result {
            Ok(candidate) => say(checked(candidate))?,
            Err(faulty) => print_faults(&faulty.diagnostics),
        },
    }
    Ok(if result.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub fn print_faults(faults: &[Diagnostic]) {
    for fault in faults {
        eprintln!("{fault}");
    }
    eprintln!(
        "{}: fabrik would refuse this.",
        counted(faults.len(), "fault")
    );
}

fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// What was looked at, and what could not be.
fn checked(candidate: &Candidate) -> String {
    let objects: usize = candidate.units.values().map(Vec::len).sum();
    let mut lines = format!(
        "ok: {}, {} with {}, {} opened",
        counted(candidate.spec.pools.len(), "pool"),
        counted(candidate.units.len(), "unit"),
        counted(objects, "object"),
        counted(candidate.opened, "secret"),
    );
    if !candidate.unopened.is_empty() {
        lines.push_str(
            "\nnot opened, for want of a key of theirs, and checked for their shape only: ",
        );
        lines.push_str(&candidate.unopened.join(", "));
    }
    lines
}

fn document(result: &Result<Candidate, Faulty>) -> Value {
    match result {
        Err(faulty) => json!({"valid": false, "diagnostics": faulty.diagnostics}),
        Ok(candidate) => json!({
            "valid": true,
            "diagnostics": [],
            "pools": candidate.spec.pools.len(),
            "units": candidate.units.len(),
            "objects": candidate.units.values().map(Vec::len).sum::<usize>(),
            "secretsOpened": candidate.opened,
            "secretsUnopened": candidate.unopened,
        }),
    }
}
