//! The files of a commit or of a directory, listed and read the same way, so that whoever checks a commit can check a
//! working directory by the same code.

use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fabrik_core::id::CommitId;
use gix::objs::tree::EntryKind;

use super::{RepoError, clone};

/// A bigger file is listed, but not read.
pub const MAX_BLOB_BYTES: u64 = 5 * 1024 * 1024;
/// A tree with more entries is refused.
pub const MAX_FILES: usize = 20_000;

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

/// The files of one commit, or of one directory at one moment. Cheap to clone.
#[derive(Clone)]
pub struct Tree {
    files: Arc<[File]>,
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

    /// The files of a directory as they are now, but for `.git`.
    ///
    /// # Errors
    /// Something can't be read, is not UTF-8, leads out of the directory, or is too much.
    pub fn of_directory(dir: &Path) -> Result<Self, RepoError> {
        let root = dir
            .canonicalize()
            .map_err(|error| disk("open", dir, &error))?;
        let mut files = Vec::new();
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).map_err(|error| disk("list", &dir, &error))? {
                let entry = entry.map_err(|error| disk("list", &dir, &error))?;
                let path = entry.path();
                if entry.file_name() == ".git" {
                    continue;
                }
                let kind = entry
                    .file_type()
                    .map_err(|error| disk("read", &path, &error))?;
                if kind.is_dir() {
                    dirs.push(path);
                } else if kind.is_file() || kind.is_symlink() {
                    files.push(file_in(&root, &path)?);
                    check_count(files.len(), || root.display().to_string())?;
                }
            }
        }
        Ok(Self::new(files, Source::Directory(root)))
    }

    pub(super) fn of_commit(repo: gix::Repository, id: &CommitId) -> Result<Self, RepoError> {
        let entries = {
            let broken = |error: gix::Error| clone::damaged(&repo, &error);
            let tree = clone::commit(&repo, id)?.tree().map_err(broken)?;
            tree.traverse().breadthfirst.files().map_err(broken)?
        };
        let mut files = Vec::new();
        for entry in entries {
            let kind = match entry.mode.kind() {
                EntryKind::Tree => continue,
                EntryKind::Blob => FileKind::Plain,
                EntryKind::BlobExecutable => FileKind::Executable,
                EntryKind::Link => FileKind::Symlink,
                EntryKind::Commit => FileKind::Submodule,
            };
            let path = utf8(entry.filepath.as_ref())?;
            files.push(File {
                path,
                blob: BlobId(entry.oid),
                kind,
            });
            check_count(files.len(), || format!("commit {id}"))?;
        }
        Ok(Self::new(
            files,
            Source::Objects(Box::new(repo.into_sync())),
        ))
    }

    fn new(mut files: Vec<File>, source: Source) -> Self {
        files.sort_unstable();
        Self {
            files: files.into(),
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

    /// The content of a plain file. Blocks on the disk.
    ///
    /// # Errors
    /// There is no such file, it is no plain one, or it exceeds [`MAX_BLOB_BYTES`].
    pub fn read(&self, path: &str) -> Result<Vec<u8>, RepoError> {
        let file = self.file(path).ok_or_else(|| RepoError::NoSuchFile {
            path: path.to_owned(),
        })?;
        if !matches!(file.kind, FileKind::Plain | FileKind::Executable) {
            return Err(RepoError::NotAFile {
                path: path.to_owned(),
                kind: file.kind.as_str(),
            });
        }
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

fn check_count(count: usize, place: impl Fn() -> String) -> Result<(), RepoError> {
    if count > MAX_FILES {
        return Err(RepoError::TooManyFiles {
            place: place(),
            max: MAX_FILES,
        });
    }
    Ok(())
}

fn file_in(root: &Path, on_disk: &Path) -> Result<File, RepoError> {
    let relative = on_disk.strip_prefix(root).unwrap_or(on_disk);
    let path = utf8(relative.as_os_str().as_bytes())?;
    let failed = |error: std::io::Error| disk("read", on_disk, &error);
    let metadata = fs::symlink_metadata(on_disk).map_err(failed)?;
    if metadata.is_symlink() {
        let target = fs::read_link(on_disk).map_err(failed)?;
        let end = on_disk
            .canonicalize()
            .unwrap_or_else(|_| lexical(root, relative, &target));
        if !end.starts_with(root) {
            return Err(RepoError::SymlinkLeaves {
                path,
                target: target.display().to_string(),
            });
        }
        let blob = BlobId::of(target.as_os_str().as_bytes());
        return Ok(File {
            path,
            blob,
            kind: FileKind::Symlink,
        });
    }
    let blob = fs::File::open(on_disk)
        .and_then(|file| BlobId::of_reader(metadata.len(), file))
        .map_err(failed)?;
    let executable = metadata.permissions().mode() & 0o100 != 0;
    let kind = if executable {
        FileKind::Executable
    } else {
        FileKind::Plain
    };
    Ok(File { path, blob, kind })
}

/// Where a dangling link leads, by its text alone.
fn lexical(root: &Path, link: &Path, target: &Path) -> PathBuf {
    let mut end = root.join(link);
    end.pop();
    for part in target.components() {
        match part {
            std::path::Component::ParentDir => {
                end.pop();
            }
            std::path::Component::CurDir => {}
            other => end.push(other),
        }
    }
    end
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
