//! What goes wrong while a server is made the whole of etcd again.

use std::path::{Path, PathBuf};

use fabrik_core::restore::Refusal;

use crate::cluster::error::ClusterError;
use crate::config::ConfigError;

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("nothing was restored:{}", lines(.0))]
    Refused(Vec<Refusal>),
    #[error(
        "this is no server of a cluster: {} is not there. When a quorum of the control plane is lost for good, `fabrik restore` makes \
         one server that is left the whole of etcd again. Run it there, as root (`ssh root@ADDRESS fabrik restore --plan` shows \
         what it would do); docs/restore.md says when", .0.display()
    )]
    NotHere(PathBuf),
    #[error(
        "this server keeps no etcd: {} has no [etcd]. Run this on a server of the control plane; `fabrik found` writes \
         that section", .0.display()
    )]
    NoEtcd(PathBuf),
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("another `fabrik restore` is at work here: wait for it")]
    Busy,
    #[error(
        "{}: it does not read ({problem}). It says how far a restore went. Look at the folder beside it, and if nothing in \
         it is needed, move it away", path.display()
    )]
    Journal { path: PathBuf, problem: String },
    #[error(
        "{} has {free} MiB free, and {needed} MiB are needed to keep a copy of etcd's data and to restore. Make room, \
         and repeat this", path.display()
    )]
    NoRoom {
        path: PathBuf,
        free: u64,
        needed: u64,
    },
    #[error(
        "{}: it is no whole snapshot of etcd: {problem}. Name another one by --snapshot",
        path.display()
    )]
    Snapshot { path: PathBuf, problem: String },
    #[error("`{command}` failed: {said}")]
    Program { command: String, said: String },
    #[error(
        "what k3s is started with can't be read: {0}. Is there a unit k3s.service on this server?"
    )]
    Unit(String),
    #[error("meanwhile etcd answers on {0}: nothing was reset. Repeat this when it is off or gone")]
    CameBack(String),
    #[error(
        "k3s did not reset etcd: {said}\nWhat was there before is in {}. Repeat this to try it again; with \
         --snapshot FILE, if etcd can't be started from this server's own data", copy.display()
    )]
    NotReset { said: String, copy: PathBuf },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("no restore was begun here")]
    NothingBegun,
    #[error(
        "the API server has not become ready in {minutes} minutes: {problem}. `journalctl -u k3s` says why; then repeat \
         this"
    )]
    NotReady { minutes: u64, problem: String },
    #[error("say that you mean it: --yes {0}, or answer at a terminal. Nothing was changed")]
    NotConfirmed(String),
}

/// Completes a `map_err` on `path`.
pub fn at(path: &Path) -> impl FnOnce(std::io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::File { path, source }
}

fn lines(refusals: &[Refusal]) -> String {
    let lines = refusals.iter().map(|refusal| format!("\n  {refusal}"));
    lines.collect()
}
