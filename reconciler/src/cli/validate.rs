//! `fabrik validate`: all that is wrong with a repository, before it is pushed.

mod nixos;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::spec;
use serde_json::{Value, json};

use super::init::keys::CLUSTER_KEY_FILE;
use super::{Failure, Output, say};
use crate::gate::{Access, Candidate, Faulty, read_commit};
use crate::repo::Tree;
use crate::secrets::{Sops, users_age_key_file};

/// What fabrik looks at in a repository's root, beside `cluster.toml`.
const LOOKED_AT: [&str; 6] = [
    ".sops.yaml",
    "flake.lock",
    "flake.nix",
    "manifests",
    "nixos",
    "secrets",
];

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
    let sops = key.map(|file| Sops::of_person(file, None));
    let (result, unchecked) = match super::tree_of_root(&options.dir) {
        Ok(tree) => {
            let read = read_commit(&tree, Access::of_person(sops.as_ref())).await?;
            let read = with_nixos(read, &tree)?;
            let unchecked = unchecked(&tree, read.as_ref().ok());
            (read, unchecked)
        }
        Err(error) => (Err(Faulty::of(error.into_diagnostic()?)), Vec::new()),
    };
    match options.output {
        Output::Json => say(serde_json::to_string_pretty(&document(
            &result, &unchecked,
        ))?)?,
        Output::Human => match &result {
            Ok(candidate) => say(checked(candidate, &unchecked))?,
            Err(faulty) => print_faults(&faulty.diagnostics),
        },
    }
    Ok(if result.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn with_nixos(
    read: Result<Candidate, Faulty>,
    tree: &Tree,
) -> Result<Result<Candidate, Faulty>, Failure> {
    let spec = match &read {
        Ok(candidate) => Some(&candidate.spec),
        Err(faulty) => faulty.spec.as_ref(),
    };
    let faults = nixos::faults(tree, spec)?;
    if faults.is_empty() {
        return Ok(read);
    }
    let mut faulty = read.map_or_else(
        |faulty| faulty,
        |candidate| Faulty {
            diagnostics: Vec::new(),
            spec: Some(candidate.spec),
            text: candidate.text,
        },
    );
    faulty.diagnostics.extend(faults);
    faulty.diagnostics.sort();
    Ok(Err(faulty))
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
fn checked(candidate: &Candidate, unchecked: &[String]) -> String {
    let objects: usize = candidate.units.values().map(Vec::len).sum();
    let mut lines = format!(
        "ok: {}, {} with {}, {} opened",
        counted(candidate.spec.pools.len(), "pool"),
        counted(candidate.units.len(), "unit"),
        counted(objects, "object"),
        counted(candidate.opened, "secret"),
    );
    for note in spec::notes(&candidate.spec) {
        let _infallible = write!(lines, "\nnote: {note}");
    }
    // It is `fabrik seed`'s and `fabrik found`'s to open, which makes it no failing here.
    let unopened = candidate.unopened.iter().map(String::as_str);
    let (own, others): (Vec<_>, Vec<_>) = unopened.partition(|path| *path == CLUSTER_KEY_FILE);
    if !others.is_empty() {
        lines.push_str("\nnot opened (no key for them here, or fabrik does not use them), checked for their shape only: ");
        lines.push_str(&others.join(", "));
    }
    if !own.is_empty() {
        let _infallible = write!(
            lines,
            "\nnot opened, and need not be: {CLUSTER_KEY_FILE}, the cluster's own key (`fabrik seed` opens it)"
        );
    }
    for what in unchecked {
        let _infallible = write!(lines, "\nnot checked: {what}");
    }
    lines
}

/// What only others can tell, of a repository with these files.
fn unchecked(tree: &Tree, candidate: Option<&Candidate>) -> Vec<String> {
    let mut unchecked = Vec::new();
    if tree.file("flake.nix").is_some() {
        unchecked.push(
            "flake.nix and nixos/: `fabrik plan` evaluates them where Nix is on PATH, and the leader does".to_owned(),
        );
        unchecked.push(match tree.file("flake.lock") {
            Some(_) => "flake.lock: whether it locks all that flake.nix asks for".to_owned(),
            None => "flake.lock, which is not there: `nix flake lock` makes it. The leader refuses inputs that are not locked".to_owned(),
        });
    }
    // Of the rest (`.direnv`, `result`) fabrik would look at nothing.
    let is_looked_at = |path: &&String| {
        let top = path.split('/').next().unwrap_or_default();
        LOOKED_AT.contains(&top)
    };
    let ignored = tree.ignored().iter().filter(is_looked_at).cloned();
    let ignored: Vec<String> = ignored.collect();
    if !ignored.is_empty() {
        let ignored = ignored.join(", ");
        unchecked.push(format!("{ignored}: git ignores this, so no commit has it"));
    }
    let at_hetzner = candidate.is_none_or(|candidate| candidate.spec.hetzner.is_some());
    unchecked.push(format!(
        "whether {}the API server takes these objects",
        if at_hetzner {
            "Hetzner has these types, locations and images, and "
        } else {
            ""
        }
    ));
    // A snapshot has a number and no name.
    let is_snapshot = |image: &str| image.bytes().all(|b| b.is_ascii_digit());
    for (name, pool) in candidate.iter().flat_map(|c| &c.spec.pools) {
        let image = pool.image.as_ref().filter(|image| !is_snapshot(image));
        if let Some(image) = image.filter(|_| pool.count > 0) {
            unchecked.push(format!(
                "pool {name}: whether servers of `{image}` join by their user data. Hetzner's own images don't; \
                 docs/nixos.md, \"The disk\", says how to make one that does"
            ));
        }
    }
    unchecked
}

fn document(result: &Result<Candidate, Faulty>, unchecked: &[String]) -> Value {
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
            "notes": spec::notes(&candidate.spec),
            "unchecked": unchecked,
        }),
    }
}
