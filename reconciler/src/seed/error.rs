//! What can go wrong with a seed, and what to do about it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use fabrik_core::id::{ClusterName, MachineName};
use fabrik_core::seed::Stop;

use crate::cli::git::GitError;
use crate::hetzner::HetznerError;
use crate::machine::MachineError;
use crate::repo::RepoError;
use crate::secrets::SecretsError;

/// The same command goes on, whichever it was: it says so only where something else has to be done first.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "another `fabrik seed` of {cluster} runs on this machine ({} is locked). Wait for it, or end it", path.display()
    )]
    Running { cluster: ClusterName, path: PathBuf },
    #[error(
        "{} is about a cluster of the same name in {known}, and this repository is pushed to {asked}. If it is that one and has \
         moved, say --repository {known}. Else give one of them another name, or, if that other one was never seeded, remove the \
         folder", path.display()
    )]
    OtherRepository {
        path: PathBuf,
        known: String,
        asked: String,
    },
    #[error(
        "{} is no git repository, and servers follow one: `git init` it, commit, and push it to where they can read it",
        dir.display()
    )]
    NoRepository { dir: PathBuf },
    #[error(
        "nothing is committed in {} yet, and servers follow what is pushed: `git add .`, `git commit`, and push it to where they \
         can read it", dir.display()
    )]
    NoCommit { dir: PathBuf },
    /// One sentence.
    #[error("{0}")]
    NoPlace(String),
    #[error("{}: it holds what this fabrik can't read ({problem}). A newer one may have written it", path.display())]
    Unreadable { path: PathBuf, problem: String },
    #[error("neither XDG_STATE_HOME nor HOME is set, so there is no place for what has to be kept")]
    NoHome,
    #[error("this machine gives no random numbers: check its kernel")]
    NoRandomness,
    #[error("{program} can't be run: {source}. Install it and have it in PATH")]
    Missing {
        program: &'static str,
        source: std::io::Error,
    },
    #[error(
        "building the image of {pool} failed (see above). Mend it, or name a disk that was built elsewhere by --image"
    )]
    Build { pool: String },
    #[error(
        "{}: Nix built {found} disks there, and one was to be found. Name it by --image", dir.display()
    )]
    BuiltElse { dir: PathBuf, found: usize },
    #[error("{}: it is no disk that can be written: {problem}", file.display())]
    Image { file: PathBuf, problem: String },
    #[error(
        "Hetzner has no server type with {gigabytes} GB of disk to write the image of {pool} with, in stock"
    )]
    NoTypeForImage { pool: String, gigabytes: u64 },
    #[error(
        "the disk of the temporary server does not hold what was sent: {found} instead of {wanted}. Nothing was made of it; the \
         same command writes it again"
    )]
    Corrupted { wanted: String, found: String },
    #[error(
        "Hetzner has been at work with {what} for {} s, and does not end. Look at it in Hetzner's console; the same command waits \
         on, and where it stays like this, delete it there and repeat the command", waited.as_secs()
    )]
    Stuck { what: String, waited: Duration },
    #[error("{about} has no public IPv4 address, which this laptop needs to reach it")]
    NoAddress { about: String },
    #[error("{about} does not answer at {address}: {said}. {advice}")]
    Unreachable {
        about: &'static str,
        address: String,
        said: String,
        advice: String,
    },
    #[error(
        "{address} answers with ANOTHER HOST KEY than the first server has. Nothing was sent. Somebody stands in between, or the \
         machine was made anew: if so, remove it, and seed again"
    )]
    HostKey { address: String },
    #[error(
        "the rescue system does not prove that its host key is the temporary server's: {said}. Nothing was written. Somebody may \
         stand in between: repeat this from another network. If it is the metadata service that can't be asked there, and you \
         trust this network, --trust-rescue goes on"
    )]
    Unproven { said: String },
    #[error(
        "the temporary server sees this laptop as {address}, which is in no range of [firewall] ssh-from: the first server would not \
         let it in. Put \"{address}/32\" there, or the network that it is in, push, and repeat this"
    )]
    ShutOut { address: IpAddr },
    #[error(
        "{machine} is not what it was when you agreed. Nothing was changed on it. Look at it, and repeat this"
    )]
    Changed { machine: MachineName },
    #[error("`{command}` on {about} failed: {said}")]
    Remote {
        about: &'static str,
        command: String,
        said: String,
    },
    #[error(
        "`{command}` on the first server answered what this fabrik can't read: use one fabrik for laptop and image"
    )]
    Answer { command: String },
    #[error(
        "the cluster runs, and the commit is not carried out (see above). Push what mends it, and repeat this; `fabrik status` \
         tells more, with {}", kubeconfig.display()
    )]
    NotCarriedOut { kubeconfig: PathBuf },
    #[error("the cluster's age key was not opened, so nothing was handed over")]
    NoAgeKey,
    #[error("nobody can be asked here whether to go on: say it by --yes {cluster}")]
    NobodyAgrees { cluster: ClusterName },
    #[error("`{said}` is not the cluster's name, `{cluster}`: nothing was made")]
    NotAgreed { cluster: ClusterName, said: String },
    #[error(
        "{cluster} was seeded before, and that makes no image of {}: `fabrik seed --image-only --image {}` does",
        file.display(), file.display()
    )]
    ImageAlone { cluster: ClusterName, file: PathBuf },
    #[error("{0}")]
    Stopped(#[from] Stop),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Hetzner(#[from] HetznerError),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    Repo(#[from] RepoError),
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Output(#[from] std::io::Error),
}

impl SeedError {
    /// For `map_err` on what is done to the file at `path`.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// Whether the same may well go better a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Hetzner(error) if error.is_transient())
    }

    /// For a program that could not be started.
    pub fn missing(program: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Missing { program, source }
    }
}

/// The last line of what a program said, without what could mislead a terminal.
pub fn last_line(said: &[u8]) -> String {
    const MAX_CHARS: usize = 500;
    let text = String::from_utf8_lossy(said);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    let line = line.unwrap_or("it said nothing").trim();
    let shown = line.chars().filter(|c| !c.is_control());
    shown.take(MAX_CHARS).collect()
}
