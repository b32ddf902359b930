//! Git: what the branch upstream points at, and the files of a commit.
//!
//! Nothing here decides whether a commit may be obeyed; admission does. A rewind is therefore fetched like any other
//! push, and told apart by [`Repository::descends`]. The clone is bare: files are read from its objects, never from a
//! checkout. HTTP(S) is spoken by gix alone; SSH runs `ssh`, a local path runs `git upload-pack`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fabrik_core::id::CommitId;

mod clone;
mod config;
mod error;
mod fetch;
mod tree;
mod upstream;
mod watch;
pub mod webhook;

pub use config::{Location, RepositoryConfig, holds_lone_user};
pub use error::RepoError;
pub use tree::{BlobId, File, FileKind, MAX_BLOB_BYTES, MAX_FILES, Tree};
pub use watch::Changes;

/// A fetch that has not ended by then is given up.
pub const FETCH_DEADLINE: Duration = Duration::from_secs(30);

/// The cluster's repository: its place upstream and our bare clone of it. Cheap to clone.
///
/// Each operation opens the clone anew, because a git handle that lives long runs out of slots for pack indices.
#[derive(Debug, Clone)]
pub struct Repository(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: RepositoryConfig,
    location: Location,
    clones: clone::Clones,
    /// Held while objects or refs of the clone change, on a blocking thread only.
    writing: Mutex<()>,
}

impl Repository {
    /// Takes `dir` for the clone; it is created, and filled by the first [`fetch`](Self::fetch). What an interrupted
    /// process left there is cleaned up. Nothing is asked of the network.
    ///
    /// # Errors
    /// The URL or its credentials make no sense, the directory can't be written, or another process has it.
    pub fn open(config: RepositoryConfig, dir: &Path) -> Result<Self, RepoError> {
        let location = config.location()?;
        let clones = clone::Clones::open(dir)?;
        Ok(Self(Arc::new(Inner {
            config,
            location,
            clones,
            writing: Mutex::new(()),
        })))
    }

    pub fn config(&self) -> &RepositoryConfig {
        &self.0.config
    }

    /// Brings what is new upstream and returns the head of the branch there, wherever it went: forward, back or aside.
    ///
    /// Safe to drop: the work is then told to stop, and its child process is killed.
    ///
    /// # Errors
    /// All but [`RepoError::UnknownCommit`] and those of reading files. After [`FETCH_DEADLINE`], a timeout.
    pub async fn fetch(&self) -> Result<CommitId, RepoError> {
        let inner = Arc::clone(&self.0);
        let stop = upstream::Stop::default();
        let _stop_when_dropped = stop.guard();
        let work = tokio::task::spawn_blocking({
            let stop = stop.clone();
            move || inner.fetch(&stop)
        });
        match tokio::time::timeout(FETCH_DEADLINE, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(RepoError::Internal {
                url: self.0.location.to_string(),
                reason: panic.to_string(),
            }),
            Err(_elapsed) => Err(RepoError::Timeout {
                url: self.0.location.to_string(),
                seconds: FETCH_DEADLINE.as_secs(),
                stderr: stop.stderr(),
            }),
        }
    }

    /// Keeps the objects of `commit`, also when the branch upstream no longer contains it.
    ///
    /// # Errors
    /// The clone does not have the commit or can't be written.
    pub fn pin(&self, commit: &CommitId) -> Result<(), RepoError> {
        self.0.pin(commit)
    }

    /// The commit that was last pinned in this clone; `None` in a new one.
    pub fn pinned(&self) -> Result<Option<CommitId>, RepoError> {
        match self.0.clones.open_current() {
            Ok(repo) => clone::pinned(&repo),
            Err(RepoError::NotFetched { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether `new` is `from` or has it among its ancestors. What is not in the clone at all is no ancestor, because
    /// ancestors are fetched with a commit. Blocks on the disk for some milliseconds.
    ///
    /// # Errors
    /// The clone has not got `new`.
    pub fn descends(&self, new: &CommitId, from: &CommitId) -> Result<bool, RepoError> {
        let repo = self.0.clones.open_current()?;
        let new = clone::commit(&repo, new)?;
        let from = match clone::commit(&repo, from) {
            Err(RepoError::UnknownCommit { .. }) => return Ok(false),
            from => from?,
        };
        match repo.merge_base(new.id, from.id) {
            Ok(base) => Ok(base.is_some_and(|base| base.detach() == from.id)),
            Err(error) => Err(clone::damaged(&repo, &error)),
        }
    }

    /// Where the bare clone is now. A later fetch may make another one, and keeps this one until the next.
    ///
    /// # Errors
    /// Nothing was fetched yet, or the directory can't be read.
    pub fn clone_dir(&self) -> Result<PathBuf, RepoError> {
        Ok(self.0.clones.open_current()?.git_dir().to_owned())
    }

    /// The files of a commit. Blocks on the disk.
    ///
    /// # Errors
    /// The clone has not got the commit, or it holds more than [`MAX_FILES`].
    pub fn tree(&self, commit: &CommitId) -> Result<Tree, RepoError> {
        Tree::of_commit(self.0.clones.open_current()?, commit)
    }

    /// Hints that the branch may have moved. Only a repository at a local path gives any; they are no substitute for
    /// polling.
    pub fn changes(&self) -> Changes {
        let local: Option<PathBuf> = match &self.0.location {
            Location::Local(path) => Some(path.clone()),
            Location::Http(_) | Location::Ssh(_) => None,
        };
        Changes::of(local.as_deref())
    }
}

#[cfg(test)]
mod tests;
