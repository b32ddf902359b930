//! `fabrik plan`: what a commit will do, before it is pushed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use fabrik_core::admit;
use fabrik_core::desired::Desired;
use fabrik_core::id::CommitId;
use fabrik_core::plan::{Plan, plan};
use fabrik_core::spec::Spec;
use jiff::Timestamp;
use serde_json::json;

use super::access::ClusterOptions;
use super::checkout::Checkout;
use super::validate::print_faults;
use super::{Failure, Output, say};
use crate::gate::{Access, Candidate, SPEC_FILE, read_commit};
use crate::repo::{RepoError, Tree};
use crate::report::observed::{Document, Truncation};
use crate::secrets::{Sops, users_age_key_file};
use render::{Facts, render_plan};

pub mod render;
pub mod source;
mod systems;

#[derive(Debug, Args)]
pub struct Options {
    /// A directory as it is now, or a branch, tag or commit of the checkout that you are in.
    #[arg(value_name = "DIR|REV", default_value = ".")]
    what: String,
    /// The leader's observation: a file or a URL; else `$FABRIK_OBSERVED`, else the cluster is asked.
    #[arg(long, value_name = "FILE|URL")]
    observed: Option<String>,
    /// Opens encrypted manifests; else your key where `sops` looks for it.
    #[arg(long, value_name = "FILE")]
    age_key_file: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
    #[command(flatten)]
    cluster: ClusterOptions,
}

impl Options {
    /// For a directory as it is now.
    pub fn of_directory(dir: &Path, observed: Option<String>, cluster: ClusterOptions) -> Self {
        Self {
            what: dir.display().to_string(),
            observed,
            age_key_file: None,
            output: Output::Human,
            cluster,
        }
    }
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let (commit, tree) = tree(&options.what)?;
    let key = options.age_key_file.or_else(users_age_key_file);
    let sops = key.map(|file| Sops::of_person(file, None));
    let candidate = match read_commit(&tree, Access::of_person(sops.as_ref())).await? {
        Ok(candidate) => candidate,
        Err(faulty) => {
            print_faults(&faulty.diagnostics);
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut document = source::read(options.observed, &options.cluster).await?;
    if let Err(faults) = admissible(&document, commit.as_ref(), &candidate) {
        print_faults(&faults);
        return Ok(ExitCode::FAILURE);
    }
    let now = Timestamp::now();
    let dir = match commit {
        Some(_) => Path::new("."),
        None => Path::new(&options.what),
    };
    let in_force = document.in_force.as_ref();
    let systems = systems::evaluate(dir, commit.as_ref(), &tree, &candidate.spec, in_force).await;
    systems.foresee(&mut document.observed);
    let desired = Desired {
        commit: commit.clone().unwrap_or_else(uncommitted),
        spec: candidate.spec.clone(),
        units: candidate.inventories(),
        targets: systems.targets,
        sources: candidate.node_secrets.sources.clone(),
    };
    let plan = planned(&document, &desired, now);
    let failed = systems.failed;
    let facts = Facts {
        now,
        observed_at: document.observed.at,
        in_force: document.in_force,
        truncated: document.truncated,
        unread: candidate.unplanned,
        notes: systems.notes,
        in_directory: commit.is_none(),
    };
    match options.output {
        Output::Human => say(render_plan(&plan, &facts).trim_end())?,
        Output::Json => say(serde_json::to_string_pretty(&json!({
            "plan": plan, "observedAt": facts.observed_at, "inForce": facts.in_force,
            "truncated": facts.truncated, "unplanned": facts.unread, "notes": facts.notes,
        }))?)?,
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What is in a directory has no commit yet.
fn tree(what: &str) -> Result<(Option<CommitId>, Tree), RepoError> {
    if Path::new(what).is_dir() {
        return Ok((None, super::tree_of_root(Path::new(what))?));
    }
    let (commit, tree) = Tree::of_checkout_revision(Path::new("."), what)?;
    Ok((Some(commit), tree))
}

fn planned(document: &Document, desired: &Desired, now: Timestamp) -> Plan {
    let mut plan = plan(desired, &document.observed, now);
    if document.truncated.contains(&Truncation::Inventories) {
        plan.manifests.clear();
    }
    plan
}

/// Admission as far as it can be told here: a directory, or a commit whose ancestors this checkout does not know, is
/// taken to descend from the commit in force.
fn admissible(
    document: &Document,
    commit: Option<&CommitId>,
    candidate: &Candidate,
) -> Result<(), Vec<fabrik_core::diagnostic::Diagnostic>> {
    let in_force = document.in_force.as_ref();
    let descends = commit
        .zip(in_force)
        .and_then(|(new, old)| Checkout::here()?.descends(new, old));
    let old = in_force.and_then(spec_of);
    let none = uncommitted();
    let candidate = admit::Candidate {
        commit: commit.unwrap_or(&none),
        founded: None,
        descends: descends.unwrap_or(true),
        spec: Some(&candidate.spec),
        text: &candidate.text,
        in_force: old.as_ref(),
    };
    admit::against(&document.observed.ledger, &candidate)
}

/// What a commit of this checkout says, if it is here and reads.
fn spec_of(commit: &CommitId) -> Option<Spec> {
    let (_, tree) = Tree::of_checkout_revision(Path::new("."), commit.as_str()).ok()?;
    let text = String::from_utf8(tree.read(SPEC_FILE).ok()?).ok()?;
    fabrik_core::spec::parse(SPEC_FILE, &text).ok()
}

/// Git's own name for no commit.
fn uncommitted() -> CommitId {
    match "0".repeat(40).parse() {
        Ok(id) => id,
        Err(_) => unreachable!("forty zeros are a commit id"),
    }
}
