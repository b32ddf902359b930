//! The files of a commit or of a directory, listed and read the same way, so that whoever checks a commit can check a
//! working directory by the same code.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fabrik_core::id::CommitId;

use super::{RepoError, clone};

mod directory;
mod known;
mod listing;

/// A bigger file is listed, but not read.
pub const MAX_BLOB_BYTES: u64 = 5 * 1024 * 1024;
/// A tree with more files and folders is refused.
pub const MAX_FILES: usize = 20_000;
/// Linux's own limit (`PATH_MAX`): what is longer can't be checked out.
const MAX_PATH_BYTES: usize = 4096;
const SHOWN_PATH_BYTES: usize = 60;

/// The id that git gives to a file's content (SHA-1 over `blob LENGTH\0CONTENT`). Equal ids mean equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(gix::ObjectId);

impl BlobId {
    /// The id of these bytes.
    pub fn of(content: &[u8]) -> Self {
        Self::of_reader(content.len() as u64, content)
            .unwrap_or(Self(gix::ObjectId::null(gix::hash::Kind::Sha1)))
    }

    fn of_reader(bytes: u64, mut content: impl Read) -> std::io::Result<Self> {
        let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
        hasher.update(format!("blob {bytes}\0").as_bytes());
        let mut buffer = vec![0_u8; 64 * 1024];
        loop {
            let count = content.read(&mut buffer)?;
            let Some(part @ [_, ..]) = buffer.get(..count) else {
                break;
            };
            hasher.update(part);
        }
        hasher
            .try_finalize()
            .map(Self)
            .map_err(std::io::Error::other)
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

/// What an entry of a tree is. Only plain files can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    Plain,
    Executable,
    /// Reported, never followed. Its blob is the target's path.
    Symlink,
    /// A commit of another repository; what it holds is not here.
    Submodule,
}

impl FileKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plain | Self::Executable => "file",
            Self::Symlink => "symlink",
            Self::Submodule => "submodule",
        }
    }
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct File {
    /// Relative to the root, with `/`.
    pub path: String,
    pub blob: BlobId,
    pub kind: FileKind,
}

impl File {
    /// # Errors
    /// It is a symlink or a submodule, which nothing reads.
    pub fn must_be_plain(&self) -> Result<(), RepoError> {
        match self.kind {
            FileKind::Plain | FileKind::Executable => Ok(()),
            FileKind::Symlink | FileKind::Submodule => Err(RepoError::NotAFile {
                path: self.path.clone(),
                kind: self.kind.as_str(),
            }),
        }
    }
}

/// The files of one commit, or of one directory at one moment. Cheap to clone.
#[derive(Clone)]
pub struct Tree {
    files: Arc<[File]>,
    ignored: Arc<[String]>,
    source: Arc<Source>,
}

enum Source {
    Objects(Box<gix::ThreadSafeRepository>),
    Directory(PathBuf),
}

impl Tree {
    /// The files of a revision in somebody's checkout: what is committed there, not what lies in the directory.
    ///
    /// # Errors
    /// `dir` is in no repository, or `revision` names no commit.
    pub fn of_checkout_revision(dir: &Path, revision: &str) -> Result<(CommitId, Self), RepoError> {
        let repo = gix::discover(dir).map_err(|error| RepoError::NotARepository {
            url: dir.display().to_string(),
            detail: error.to_string(),
        })?;
        let unknown = |reason: String| RepoError::UnknownRevision {
            revision: revision.to_owned(),
            dir: dir.to_owned(),
            reason,
        };
        let commit = repo
            .rev_parse_single(revision)
            .and_then(|id| id.object())
            .and_then(|object| object.peel_to_kind(gix::object::Kind::Commit))
            .map_err(|error| unknown(clone::chain(&error)))?;
        let id = commit
            .id
            .to_string()
            .parse()
            .map_err(|_| unknown("no SHA-1 repository".to_owned()))?;
        drop(commit);
        let tree = Self::of_commit(repo, &id)?;
        Ok((id, tree))
    }

    /// The files of a directory as they are now, but for `.git`, and for what git ignores and does not track: no commit will
    /// have it. What git takes for a submodule there is one entry, as in a commit.
    ///
    /// # Errors
    /// Something can't be read, is not UTF-8, leads out of the directory, or is too much.
    pub fn of_directory(dir: &Path) -> Result<Self, RepoError> {
        let listing = directory::list(dir)?;
        let tree = Self::new(listing.files, Source::Directory(listing.root));
        Ok(Self {
            ignored: listing.ignored.into(),
            ..tree
        })
    }

    pub(super) fn of_commit(repo: gix::Repository, id: &CommitId) -> Result<Self, RepoError> {
        let files = listing::files(&repo, id)?;
        Ok(Self::new(
            files,
            Source::Objects(Box::new(repo.into_sync())),
        ))
    }

    fn new(mut files: Vec<File>, source: Source) -> Self {
        files.sort_unstable();
        Self {
            files: files.into(),
            ignored: Arc::default(),
            source: Arc::new(source),
        }
    }

    /// All entries, sorted by path.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.files.iter()
    }

    /// The entry at a path.
    pub fn file(&self, path: &str) -> Option<&File> {
        let index = self
            .files
            .binary_search_by(|file| file.path.as_str().cmp(path))
            .ok()?;
        self.files.get(index)
    }

    /// What a directory has and no commit of it will: git ignores these files and folders. Sorted.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Whether a directory has this, or a folder that it lies in, among what git ignores.
    pub fn is_ignored(&self, path: &str) -> bool {
        let mut above = Path::new(path).ancestors();
        above.any(|above| self.ignored.iter().any(|it| Path::new(it) == above))
    }

    /// The content of a plain file. Blocks on the disk.
    ///
    /// # Errors
    /// There is no such file, it is no plain one, or it exceeds [`MAX_BLOB_BYTES`].
    pub fn read(&self, path: &str) -> Result<Vec<u8>, RepoError> {
        let file = self.file(path).ok_or_else(|| RepoError::NoSuchFile {
            path: path.to_owned(),
        })?;
        file.must_be_plain()?;
        match self.source.as_ref() {
            Source::Objects(repo) => read_blob(&repo.to_thread_local(), file),
            Source::Directory(root) => read_file(&root.join(path), path),
        }
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree")
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

fn read_blob(repo: &gix::Repository, file: &File) -> Result<Vec<u8>, RepoError> {
    let broken = |error: gix::Error| clone::damaged(repo, &error);
    let bytes = repo.find_header(file.blob.0).map_err(broken)?.size();
    check_size(&file.path, bytes)?;
    let mut object = repo.find_object(file.blob.0).map_err(broken)?;
    Ok(std::mem::take(&mut object.data))
}

fn read_file(on_disk: &Path, path: &str) -> Result<Vec<u8>, RepoError> {
    let mut content = Vec::new();
    fs::File::open(on_disk)
        .and_then(|file| file.take(MAX_BLOB_BYTES + 1).read_to_end(&mut content))
        .map_err(|error| disk("read", on_disk, &error))?;
    check_size(path, content.len() as u64)?;
    Ok(content)
}

fn check_size(path: &str, bytes: u64) -> Result<(), RepoError> {
    if bytes > MAX_BLOB_BYTES {
        return Err(RepoError::FileTooBig {
            path: path.to_owned(),
            bytes,
            max: MAX_BLOB_BYTES,
        });
    }
    Ok(())
}

/// Refuses what is too much while it is counted: the little that a push sends may be a tree without end.
struct Count {
    entries: usize,
    /// What is listed, for errors.
    place: String,
}

impl Count {
    fn of(place: String) -> Self {
        Self { entries: 0, place }
    }

    fn one_more(&mut self, path: &[u8]) -> Result<(), RepoError> {
        self.entries += 1;
        if self.entries > MAX_FILES {
            return Err(self.too_many());
        }
        if path.len() > MAX_PATH_BYTES {
            let begin = path.get(..SHOWN_PATH_BYTES).unwrap_or(path);
            return Err(RepoError::PathTooLong {
                path: format!("{}…", begin.escape_ascii()),
                max: MAX_PATH_BYTES,
            });
        }
        Ok(())
    }

    fn too_many(&self) -> RepoError {
        RepoError::TooManyFiles {
            place: self.place.clone(),
            max: MAX_FILES,
        }
    }
}

fn utf8(path: &[u8]) -> Result<String, RepoError> {
    String::from_utf8(path.to_vec()).map_err(|_| RepoError::PathNotUtf8 {
        path: path.escape_ascii().to_string(),
    })
}

fn disk(action: &'static str, path: &Path, error: &std::io::Error) -> RepoError {
    RepoError::Disk {
        action,
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
