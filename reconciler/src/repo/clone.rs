//! The directory that holds our bare clone.
//!
//! A clone is `clone-N.git`; the highest N counts. gix adds a pack with each fetch and never merges packs, so now and
//! then a fresh clone becomes N+1. The one before stays until the next change of N, for readers that still have it open.

use std::fs;
use std::path::{Path, PathBuf};

use fabrik_core::id::CommitId;
use gix::refs::transaction::PreviousValue;

use super::RepoError;

/// The branch upstream, wherever it went.
pub(super) const UPSTREAM_REF: &str = "refs/fabrik/upstream";
/// The commit in force; keeps its objects when upstream drops them.
pub(super) const ADMITTED_REF: &str = "refs/fabrik/admitted";

const UNFINISHED: &str = "clone-unfinished.git";
const LOCK_FILE: &str = "clone.lock";

/// All clones in a directory, of which one counts. The directory is ours as long as this lives.
#[derive(Debug)]
pub(super) struct Clones {
    dir: PathBuf,
    _lock: fs::File,
}

impl Clones {
    pub(super) fn open(dir: &Path) -> Result<Self, RepoError> {
        fs::create_dir_all(dir).map_err(disk("create", dir))?;
        let lock_path = dir.join(LOCK_FILE);
        let lock = fs::File::create(&lock_path).map_err(disk("create", &lock_path))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => RepoError::InUse {
                dir: dir.to_owned(),
            },
            fs::TryLockError::Error(error) => disk("lock", &lock_path)(error),
        })?;
        let clones = Self {
            dir: dir.to_owned(),
            _lock: lock,
        };
        clones.remove(&clones.unfinished())?;
        if let Some((newest, path)) = clones.newest()? {
            clones.remove_older_than(newest)?;
            remove_leftovers(&path)?;
        }
        Ok(clones)
    }

    /// The clone that counts, opened.
    pub(super) fn open_current(&self) -> Result<gix::Repository, RepoError> {
        match self.newest()? {
            Some((_, path)) => open_at(&path),
            None => Err(RepoError::NotFetched {
                dir: self.dir.clone(),
            }),
        }
    }

    /// An empty clone that does not count yet.
    pub(super) fn start(&self) -> Result<gix::Repository, RepoError> {
        let path = self.unfinished();
        self.remove(&path)?;
        gix::ThreadSafeRepository::init_opts(
            &path,
            gix::create::Kind::Bare,
            gix::create::Options::default(),
            options(),
        )
        .map(|repo| repo.to_thread_local())
        .map_err(|error| RepoError::Disk {
            action: "make a git repository in",
            path,
            reason: chain(&error),
        })
    }

    /// Makes the started clone the one that counts. The last one stays readable; those before it go.
    pub(super) fn finish(&self) -> Result<(), RepoError> {
        let last = self.newest()?.map_or(0, |(number, _)| number);
        let from = self.unfinished();
        fs::rename(&from, self.numbered(last + 1)).map_err(disk("rename", &from))?;
        self.remove_older_than(last)
    }

    /// Throws a started clone away.
    pub(super) fn abandon(&self) -> Result<(), RepoError> {
        self.remove(&self.unfinished())
    }

    fn newest(&self) -> Result<Option<(u64, PathBuf)>, RepoError> {
        Ok(self
            .numbers()?
            .into_iter()
            .max()
            .map(|number| (number, self.numbered(number))))
    }

    fn numbers(&self) -> Result<Vec<u64>, RepoError> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(disk("list", &self.dir))? {
            let name = entry.map_err(disk("list", &self.dir))?.file_name();
            let number: Option<u64> = name.to_str().and_then(|name| {
                name.strip_prefix("clone-")?
                    .strip_suffix(".git")?
                    .parse()
                    .ok()
            });
            numbers.extend(number);
        }
        Ok(numbers)
    }

    fn remove_older_than(&self, keep: u64) -> Result<(), RepoError> {
        for number in self.numbers()?.into_iter().filter(|number| *number < keep) {
            self.remove(&self.numbered(number))?;
        }
        Ok(())
    }

    #[allow(clippy::unused_self, reason = "only what is ours is removed")]
    fn remove(&self, path: &Path) -> Result<(), RepoError> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(disk("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    fn numbered(&self, number: u64) -> PathBuf {
        self.dir.join(format!("clone-{number}.git"))
    }

    fn unfinished(&self) -> PathBuf {
        self.dir.join(UNFINISHED)
    }
}

/// How many packs a clone has.
pub(super) fn packs(repo: &gix::Repository) -> usize {
    let dir = repo.objects.store_ref().path().join("pack");
    fs::read_dir(dir).map_or(0, |entries| {
        let is_pack = |name: &Path| {
            name.extension()
                .is_some_and(|extension| extension == "pack")
        };
        entries
            .flatten()
            .filter(|entry| is_pack(&entry.path()))
            .count()
    })
}

/// The commit object, or [`RepoError::UnknownCommit`].
pub(super) fn commit<'repo>(
    repo: &'repo gix::Repository,
    id: &CommitId,
) -> Result<gix::Commit<'repo>, RepoError> {
    let unknown = || RepoError::UnknownCommit {
        commit: id.clone(),
        place: repo.path().display().to_string(),
    };
    let object_id = gix::ObjectId::from_hex(id.as_str().as_bytes()).map_err(|_| unknown())?;
    match repo.try_find_object(object_id) {
        Ok(Some(object)) => object.try_into_commit().map_err(|_| unknown()),
        Ok(None) => Err(unknown()),
        Err(error) => Err(damaged(repo, &error)),
    }
}

pub(super) fn pin(repo: &gix::Repository, id: &CommitId) -> Result<(), RepoError> {
    let commit = commit(repo, id)?;
    repo.reference(ADMITTED_REF, commit.id, PreviousValue::Any, "admitted")
        .map(|_| ())
        .map_err(|error| damaged(repo, &error))
}

pub(super) fn pinned(repo: &gix::Repository) -> Result<Option<CommitId>, RepoError> {
    let reference = repo
        .try_find_reference(ADMITTED_REF)
        .map_err(|error| damaged(repo, &error))?;
    Ok(reference.and_then(|reference| reference.try_id()?.to_string().parse().ok()))
}

pub(super) fn damaged(repo: &gix::Repository, error: &gix::Error) -> RepoError {
    RepoError::Damaged {
        dir: repo.path().to_owned(),
        reason: chain(error),
    }
}

/// All messages of an error, from the outermost to the cause.
pub(super) fn chain(error: &gix::Error) -> String {
    let mut messages: Vec<String> = Vec::new();
    for cause in error.iter_errors() {
        let message = cause.to_string();
        if !messages.iter().any(|earlier| earlier.contains(&message)) {
            messages.push(message);
        }
    }
    messages.join(": ")
}

pub(super) fn open_at(path: &Path) -> Result<gix::Repository, RepoError> {
    options()
        .open_path_as_is(true)
        .open(path)
        .map(|repo| repo.to_thread_local())
        .map_err(|error| RepoError::Damaged {
            dir: path.to_owned(),
            reason: chain(&error),
        })
}

/// No configuration of the machine or of a user, and no environment variable, changes what the clone does.
fn options() -> gix::open::Options {
    gix::open::Options::isolated()
        .config_overrides(["user.name=fabrik", "user.email=fabrik@localhost"])
}

/// What a process that was killed leaves behind: locks would block every later fetch, half packs fill the disk.
fn remove_leftovers(clone: &Path) -> Result<(), RepoError> {
    let mut dirs = vec![clone.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).map_err(disk("list", &dir))? {
            let path = entry.map_err(disk("list", &dir))?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if is_leftover(&path) {
                fs::remove_file(&path).map_err(disk("remove", &path))?;
            }
        }
    }
    Ok(())
}

fn is_leftover(path: &Path) -> bool {
    let in_pack_dir = path
        .parent()
        .is_some_and(|dir| dir.ends_with("objects/pack"));
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension == Some("lock")
        || in_pack_dir && !matches!(extension, Some("pack" | "idx" | "keep" | "rev"))
}

fn disk(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> RepoError {
    move |error| RepoError::Disk {
        action,
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
