//! An edit of `cluster.toml` on behalf of a person: comments stay, it is checked and planned like any other, and committed
//! alone. What fails leaves the file as it was.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use fabrik_core::admit;
use fabrik_core::spec::{self, Spec};
use toml_edit::{DocumentMut, TableLike, Value};

use super::access::ClusterOptions;
use super::init::files;
use super::validate::print_faults;
use super::{Failure, git, plan, readable, say, tree_of_root};
use crate::gate::SPEC_FILE;

#[derive(Debug, Args)]
pub struct EditOptions {
    /// The repository's root.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Commits on a new branch of this name, for review.
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// Pushes the commit, once the plan was shown.
    #[arg(long)]
    push: bool,
    /// The leader's observation, for the plan: a file or a URL; else `$FABRIK_OBSERVED`, else the cluster is asked.
    #[arg(long, value_name = "FILE|URL")]
    observed: Option<String>,
    #[command(flatten)]
    cluster: ClusterOptions,
}

#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error(
        "{SPEC_FILE} has changes that are not committed. Commit them, or take them back, first"
    )]
    Changed,
    #[error("{SPEC_FILE} is no TOML: {0}")]
    NotToml(#[from] toml_edit::TomlError),
    #[error("{SPEC_FILE} has no pool `{pool}`; it has {}", some_or_none(known))]
    NoSuchPool { pool: String, known: String },
    #[error(
        "servers are no pool: change `count` in [servers] of {SPEC_FILE}, one, three, five or seven, and push (docs/servers.md)"
    )]
    Servers,
    #[error("{SPEC_FILE}: `{name}` is no table. Write it as one, [{name}]")]
    NoTable { name: &'static str },
    #[error(
        "the commit is made and not pushed, because no plan could be shown: {why}. Push it with `git {push}`, or take it back with \
         `git reset --keep HEAD~1`"
    )]
    NoPlan { why: String, push: String },
    #[error("interrupted; {SPEC_FILE} is as it was")]
    Interrupted,
    #[error(
        "no branch is checked out, so nobody would find the commit. Check one out, or name a new one by --branch"
    )]
    Detached,
}

fn some_or_none(known: &str) -> &str {
    if known.is_empty() { "none" } else { known }
}

/// Sets a value where it stands, with the blanks and the comment around it.
pub fn set(table: &mut dyn TableLike, key: &str, value: Value) {
    match table.get_mut(key).and_then(|item| item.as_value_mut()) {
        Some(there) => {
            let decor = there.decor().clone();
            *there = value;
            *there.decor_mut() = decor;
        }
        None => {
            table.insert(key, toml_edit::Item::Value(value));
        }
    }
}

/// Changes `cluster.toml`, shows the plan of that, and commits it under `message`.
pub async fn run(
    options: EditOptions,
    message: &str,
    change: impl FnOnce(&mut DocumentMut) -> Result<(), EditError>,
) -> Result<ExitCode, Failure> {
    let dir = options.dir;
    let tree = tree_of_root(&dir)?;
    let before = String::from_utf8(tree.read(SPEC_FILE)?)?;
    if git::is_changed(&dir, SPEC_FILE)? {
        return Err(EditError::Changed.into());
    }
    if options.branch.is_none() && git::branch(&dir)?.is_none() {
        return Err(EditError::Detached.into());
    }
    let mut document: DocumentMut = before.parse().map_err(EditError::from)?;
    change(&mut document)?;
    // The library writes line feeds alone.
    let mut after = document.to_string();
    if before.contains("\r\n") {
        after = after.replace("\r\n", "\n").replace('\n', "\r\n");
    }
    if after == before {
        say("nothing to do: it says so already")?;
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = match spec::parse(SPEC_FILE, &after) {
        Ok(spec) => spec,
        Err(faults) => {
            print_faults(&faults);
            return Ok(ExitCode::FAILURE);
        }
    };
    let (known, known_as) = known(&dir, &before)?;
    let path = dir.join(SPEC_FILE);
    files::replace(&path, &after)?;
    let plan = plan::Options::of_directory(&dir, options.observed, options.cluster);
    let planned = tokio::select! {
        planned = plan::run(plan) => planned,
        interrupted = tokio::signal::ctrl_c() => {
            files::replace(&path, &before)?;
            interrupted?;
            return Err(EditError::Interrupted.into());
        }
    };
    let planned = match planned {
        Ok(code) if code != ExitCode::SUCCESS => {
            files::replace(&path, &before)?;
            return Ok(code);
        }
        planned => planned.map(drop),
    };
    // Whoever plans knows what is in force; else what was pushed has to do.
    let skips = |known| admit::upgrade(known, &wanted, &after);
    let known = known.filter(|_| changes_version(&before, &wanted));
    if let (Err(_), Some(fault)) = (&planned, known.as_ref().and_then(skips)) {
        files::replace(&path, &before)?;
        print_faults(&[fault]);
        return Ok(ExitCode::FAILURE);
    }
    if let Err(error) = commit(&dir, options.branch.as_deref(), message) {
        files::replace(&path, &before)?;
        return Err(error.into());
    }
    say(format_args!("committed: {message}"))?;
    let push = git::push_words(options.branch.as_deref()).join(" ");
    match planned {
        Err(failure) if options.push => {
            let why = failure.to_string();
            Err(EditError::NoPlan { why, push }.into())
        }
        Err(failure) => {
            eprintln!(
                "note: no plan was shown. This was checked against {known_as} alone, and not against what is in force and what nodes \
                 run. {}\nnext: git {push}",
                readable(&failure)
            );
            Ok(ExitCode::SUCCESS)
        }
        Ok(()) if options.push => {
            git::push(&dir, options.branch.as_deref())?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(()) => {
            eprintln!("next: git {push}");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What an upgrade is compared with where no cluster can be asked, and what that is called.
fn known(dir: &Path, before: &str) -> Result<(Option<Spec>, &'static str), git::GitError> {
    let parse = |text: &str| spec::parse(SPEC_FILE, text).ok();
    let pushed = git::pushed(dir, SPEC_FILE)?.and_then(|text| parse(&text));
    Ok(match pushed {
        Some(pushed) => (Some(pushed), "what was pushed last"),
        None => (parse(before), "the commit before it"),
    })
}

/// Another version may have been pushed meanwhile, and is no matter to who scales a pool.
fn changes_version(before: &str, wanted: &Spec) -> bool {
    spec::parse(SPEC_FILE, before).map_or(true, |spec| spec.kubernetes != wanted.kubernetes)
}

/// On a new branch, if one is named, which is there only if the commit is.
fn commit(dir: &Path, branch: Option<&str>, message: &str) -> Result<(), git::GitError> {
    if let Some(branch) = branch {
        git::branch_off(dir, branch)?;
    }
    let committed = git::commit(dir, message, &[SPEC_FILE.to_owned()]);
    if let (Err(_), Some(branch)) = (&committed, branch) {
        git::leave_branch(dir, branch)?;
    }
    committed
}
