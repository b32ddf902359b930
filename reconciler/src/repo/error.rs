//! What can go wrong between us and a git repository, and the way out of each.

use std::path::PathBuf;

use fabrik_core::diagnostic::{Diagnostic, Place};
use fabrik_core::id::CommitId;

/// One variant a cause that a person would treat differently. `detail` is what gix, `ssh` or `git` said.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// The `[repository]` table makes no sense.
    #[error("repository.{field}: {problem}. {remedy}")]
    Config {
        field: &'static str,
        problem: String,
        remedy: String,
    },
    /// A file that the `[repository]` table names can't be read.
    #[error("repository.{field}: can't read {}: {reason}. Put it there, readable by fabrik", path.display())]
    CredentialFile {
        field: &'static str,
        path: PathBuf,
        reason: String,
    },
    /// Another process has the directory of the clone.
    #[error("{} is in use by another fabrik. Stop that one, or give this one a state-dir of its own", dir.display())]
    InUse { dir: PathBuf },
    /// The directory of the clone can't be written.
    #[error("can't {action} {}: {reason}. Check the directory's owner, its mode and the free space", path.display())]
    Disk {
        action: &'static str,
        path: PathBuf,
        reason: String,
    },
    /// Nobody answered at that address, or the connection broke.
    #[error(
        "can't reach {url}: {detail}. Check the address, the name server and the firewall; fabrik tries again"
    )]
    Unreachable { url: String, detail: String },
    /// `ssh`: no pinned key for this host.
    #[error(
        "{url}: this host's key is not in {}: {stderr}. Add the key that the host's operator publishes (ssh-keyscan shows what is offered)",
        known_hosts.display()
    )]
    HostKeyUnknown {
        url: String,
        known_hosts: PathBuf,
        stderr: String,
    },
    /// `ssh`: the host shows another key than the pinned one.
    #[error(
        "{url}: the host shows ANOTHER KEY than the one in {}: {stderr}. Nothing was read. If its operator announced a new key, put that one in the file; else someone stands in between",
        known_hosts.display()
    )]
    HostKeyChanged {
        url: String,
        known_hosts: PathBuf,
        stderr: String,
    },
    /// The other side does not accept our key or token, or wants one and we have none.
    #[error("{url} does not let us in: {detail}. {remedy}")]
    NotAccepted {
        url: String,
        detail: String,
        remedy: &'static str,
    },
    /// There is no git repository at that place, or it is hidden from us.
    #[error(
        "{url} is no git repository that we may see: {detail}. Check repository.url, and that the key or token may read it"
    )]
    NotARepository { url: String, detail: String },
    /// The repository has no such branch.
    #[error("{url} has no branch `{branch}`. Push it, or set repository.branch")]
    BranchMissing { url: String, branch: String },
    /// The other side took too long.
    #[error(
        "{url} did not answer in full within {seconds} s{}. fabrik tries again",
        after_colon(stderr)
    )]
    Timeout {
        url: String,
        seconds: u64,
        stderr: String,
    },
    /// A program that we need is not installed.
    #[error("can't run `{program}`, which {url} needs: {reason}. Install it and have it in PATH")]
    Program {
        program: &'static str,
        url: String,
        reason: String,
    },
    /// Nothing has been fetched into the clone yet.
    #[error("nothing has been fetched into {} yet. Wait for the first fetch", dir.display())]
    NotFetched { dir: PathBuf },
    /// The clone does not have this commit.
    #[error(
        "commit {commit} is not in {place}. Fetch first; if the branch was rewritten, push it back"
    )]
    UnknownCommit { commit: CommitId, place: String },
    /// A revision that names no commit.
    #[error("`{revision}` names no commit in {}: {reason}. Give a branch, a tag or a commit id", dir.display())]
    UnknownRevision {
        revision: String,
        dir: PathBuf,
        reason: String,
    },
    /// Objects are missing or broken.
    #[error("the git repository in {} is damaged: {reason}. If it is fabrik's clone, it is made anew at the next fetch", dir.display())]
    Damaged { dir: PathBuf, reason: String },
    /// A commit or directory with too many files.
    #[error(
        "{place} holds more than {max} files and folders. Keep only what belongs to the cluster in it"
    )]
    TooManyFiles { place: String, max: usize },
    /// What somebody says to be the repository's root has no `cluster.toml`.
    #[error("{} has no cluster.toml, so it is no repository of a cluster. Name the repository's root", dir.display())]
    NotARoot { dir: PathBuf },
    /// The `cluster.toml` of a directory will be in no commit.
    #[error(
        "git ignores {}, so no commit has it. `git check-ignore -v cluster.toml` names the rule: take it out, or \
         `git add --force cluster.toml`",
        path.display()
    )]
    IgnoredSpec { path: PathBuf },
    #[error("{} is no directory. Name the repository's root", dir.display())]
    NoSuchDirectory { dir: PathBuf },
    /// No such file.
    #[error("{path} is not in the repository. Add it, or correct what refers to it")]
    NoSuchFile { path: String },
    /// A file above the limit.
    #[error(
        "{path} has {bytes} bytes; fabrik reads files up to {max}. Split it, or keep it elsewhere"
    )]
    FileTooBig { path: String, bytes: u64, max: u64 },
    /// A symlink or a submodule where a file is needed.
    #[error("{path} is a {kind}, and fabrik reads plain files only. Replace it by the file itself")]
    NotAFile { path: String, kind: &'static str },
    /// A path that no file system takes.
    #[error("the path {path} has more than {max} bytes. Shorten it")]
    PathTooLong { path: String, max: usize },
    /// A path that is not UTF-8.
    #[error("the path {path} is not UTF-8. Rename it")]
    PathNotUtf8 { path: String },
    /// A defect of fabrik.
    #[error("{url}: fetching broke down: {reason}. This is a defect of fabrik; please report it")]
    Internal { url: String, reason: String },
}

impl RepoError {
    /// A fault of the commit as a diagnostic.
    ///
    /// # Errors
    /// The error itself where the commit is not to blame.
    pub fn into_diagnostic(self) -> Result<Diagnostic, Self> {
        let (file, problem, remedy) = match self {
            Self::TooManyFiles { max, .. } => (
                ".".to_owned(),
                format!("there are more than {max} files and folders"),
                "keep only what belongs to the cluster in the repository",
            ),
            Self::FileTooBig { path, bytes, max } => (
                path,
                format!("has {bytes} bytes, and fabrik reads files of up to {max}"),
                "split it, or keep it elsewhere",
            ),
            Self::NotAFile { path, kind } => (
                path,
                format!("is a {kind}, which fabrik does not follow"),
                "replace it by what it stands for",
            ),
            Self::NotARoot { dir } => (
                "cluster.toml".to_owned(),
                format!(
                    "is not in {}, which is no repository of a cluster",
                    dir.display()
                ),
                "write it (docs/spec.md has an example), or name the repository's root",
            ),
            Self::IgnoredSpec { .. } => (
                "cluster.toml".to_owned(),
                "is in no commit: git ignores it".to_owned(),
                "take the rule out that `git check-ignore -v cluster.toml` names, or `git add --force cluster.toml`",
            ),
            Self::PathTooLong { path, max } => (
                path,
                format!("its path has more than {max} bytes"),
                "shorten it",
            ),
            Self::PathNotUtf8 { path } => (path, "its path is not UTF-8".to_owned(), "rename it"),
            other => return Err(other),
        };
        Ok(Diagnostic {
            place: Place::file(&file),
            object: file,
            problem,
            remedy: remedy.to_owned(),
        })
    }
}

fn after_colon(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}
