//! Locks the inputs of a flake: on a person's machine, with their own Nix.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::evaluate::checkout_url;
use super::nix::{Nix, NixError, Task};

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("nix is not on PATH")]
    NoNix,
    #[error("{}: {source}", dir.display())]
    Dir {
        dir: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Nix(#[from] NixError),
}

/// Why this is no lock file, if it is none: the manual of Nix, "flake lock files": a version, a root, and the nodes of which it
/// is one.
pub fn fault(content: &[u8]) -> Option<String> {
    let lock: Value = match serde_json::from_slice(content) {
        Err(error) => return Some(format!("is no JSON: {error}")),
        Ok(lock) => lock,
    };
    let root = lock["root"].as_str().unwrap_or_default();
    let is_whole = lock["version"].is_u64() && lock["nodes"][root].is_object();
    (!is_whole).then(|| "is no lock file of a flake: it has no root".to_owned())
}

/// Writes `flake.lock` into the root of a git work tree. It takes a network, and its time.
///
/// # Errors
/// There is no Nix, or an input can't be fetched.
pub async fn lock(dir: &Path) -> Result<(), LockError> {
    let nix = Nix::on_path().ok_or(LockError::NoNix)?;
    lock_with(&nix, dir).await
}

pub(super) async fn lock_with(nix: &Nix, dir: &Path) -> Result<(), LockError> {
    let dir = std::fs::canonicalize(dir).map_err(|source| LockError::Dir {
        dir: dir.to_owned(),
        source,
    })?;
    let flake = checkout_url(&dir);
    let task = Task {
        what: "locking the inputs of flake.nix".to_owned(),
        program: "nix",
        args: ["flake", "lock", &flake].map(OsString::from).into(),
        limits: None,
        source: None,
    };
    nix.run(task).await?;
    Ok(())
}
