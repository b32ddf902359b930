//! The files of a directory, listed as git would list them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gix::index::entry::Mode;

use super::{BlobId, Count, File, FileKind, disk, utf8};
use crate::repo::RepoError;

/// The directory's own path, and its files.
pub fn list(dir: &Path) -> Result<(PathBuf, Vec<File>), RepoError> {
    let root = dir
        .canonicalize()
        .map_err(|error| disk("open", dir, &error))?;
    let submodules = submodules(&root);
    let mut count = Count::of(root.display().to_string());
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
            if !kind.is_dir() && !kind.is_file() && !kind.is_symlink() {
                continue;
            }
            let relative = path.strip_prefix(&root).unwrap_or(&path);
            count.one_more(relative.as_os_str().as_bytes())?;
            if !kind.is_dir() {
                files.push(file_in(&root, &path)?);
            } else if submodules.contains(relative) || path.join(".git").exists() {
                files.push(File {
                    path: utf8(relative.as_os_str().as_bytes())?,
                    blob: BlobId(gix::ObjectId::null(gix::hash::Kind::Sha1)),
                    kind: FileKind::Submodule,
                });
            } else {
                dirs.push(path);
            }
        }
    }
    Ok((root, files))
}

/// The submodules that the index of the directory's repository knows, also those that are not checked out and look like
/// an empty folder. None where it is in no repository.
fn submodules(root: &Path) -> BTreeSet<PathBuf> {
    let known = || {
        let repo = gix::discover(root).ok()?;
        let top = repo.workdir()?.canonicalize().ok()?;
        let index = repo.index_or_empty().ok()?;
        let commits = index.entries().iter().filter(|e| e.mode == Mode::COMMIT);
        let paths = commits.filter_map(|entry| {
            let path = top.join(gix::path::from_bstr(entry.path(&index)).ok()?);
            path.strip_prefix(root).map(Path::to_owned).ok()
        });
        Some(paths.collect())
    };
    known().unwrap_or_default()
}

fn file_in(root: &Path, on_disk: &Path) -> Result<File, RepoError> {
    let relative = on_disk.strip_prefix(root).unwrap_or(on_disk);
    let path = utf8(relative.as_os_str().as_bytes())?;
    let failed = |error: std::io::Error| disk("read", on_disk, &error);
    let metadata = fs::symlink_metadata(on_disk).map_err(failed)?;
    if metadata.is_symlink() {
        // As in a commit: it is listed, and nobody looks where it leads.
        let target = fs::read_link(on_disk).map_err(failed)?;
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
