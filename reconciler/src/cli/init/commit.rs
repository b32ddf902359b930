//! What `fabrik init --commit` commits.

use std::collections::BTreeSet;
use std::path::Path;

use super::keys::{CLUSTER_KEY_FILE, TOKEN_FILE};
use super::record::{RECORD_FILE, Record};
use super::{InitError, LOCK_FILE};
use crate::cli::git;
use crate::secrets::{Shape, shape};

/// Commits what this run made, and what an earlier one made and could not commit. Says whether there was anything. What a
/// person has changed since it was committed is left to them.
pub fn commit(dir: &Path, record: &Record, made: &[String]) -> Result<bool, InitError> {
    let ours = ours(dir, record);
    let ignored = git::ignored(dir, &ours)?;
    if !ignored.is_empty() {
        return Err(InitError::Ignored { paths: ignored });
    }
    let changes = git::changes(dir, &ours)?;
    let is_due = |change: &git::Pending| {
        let ours = change.path == RECORD_FILE || made.contains(&change.path);
        (change.is_new || ours) && dir.join(&change.path).symlink_metadata().is_ok()
    };
    let due = changes.into_iter().filter(is_due).map(|change| change.path);
    let due: Vec<String> = due.collect();
    if due.is_empty() {
        return Ok(false);
    }
    git::add(dir, &due)?;
    let name = &record.answers.name;
    let message = format!("Begin the cluster {name}, by fabrik init");
    git::commit(dir, &message, &due)?;
    Ok(true)
}

/// What a run has written by the record, and what is made beside it. Secrets only where they are encrypted: a person may have
/// put one there in the clear.
fn ours(dir: &Path, record: &Record) -> Vec<String> {
    let known = record.files.keys().map(String::as_str);
    let is_encrypted = |path: &&str| {
        let content = std::fs::read(dir.join(path)).unwrap_or_default();
        matches!(shape(path, &content), Shape::Sops(_))
    };
    let secrets = [TOKEN_FILE, CLUSTER_KEY_FILE].into_iter();
    let paths: BTreeSet<&str> = known
        .chain(secrets.filter(is_encrypted))
        .chain([RECORD_FILE, LOCK_FILE])
        .collect();
    paths.into_iter().map(str::to_owned).collect()
}
