//! The files of a directory, listed as git would list them.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::known::Known;
use super::{BlobId, Count, File, FileKind, disk, utf8};
use crate::repo::RepoError;

/// A directory as a commit of it would be.
pub struct Listing {
    /// Its own path.
    pub root: PathBuf,
    pub files: Vec<File>,
    /// What git ignores there and does not track: files, and folders as a whole.
    pub ignored: Vec<String>,
}

/// Lists what git does not ignore. Where there is no work tree, that is everything.
pub fn list(dir: &Path) -> Result<Listing, RepoError> {
    let root = dir
        .canonicalize()
        .map_err(|error| disk("open", dir, &error))?;
    let known = Known::of(&root);
    let mut rules = known.as_ref().and_then(Known::rules);
    let is_submodule = |path: &Path| known.as_ref().is_some_and(|known| known.is_submodule(path));
    let mut count = Count::of(root.display().to_string());
    let (mut files, mut ignored) = (Vec::new(), Vec::new());
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
            if rules
                .as_mut()
                .is_some_and(|rules| rules.ignore(relative, kind.is_dir()))
            {
                ignored.push(relative.to_string_lossy().into_owned());
                continue;
            }
            count.one_more(relative.as_os_str().as_bytes())?;
            if !kind.is_dir() {
                files.push(file_in(&root, &path)?);
            } else if is_submodule(relative) || path.join(".git").exists() {
                files.push(submodule(relative)?);
            } else {
                dirs.push(path);
            }
        }
    }
    ignored.sort_unstable();
    Ok(Listing {
        root,
        files,
        ignored,
    })
}

fn submodule(relative: &Path) -> Result<File, RepoError> {
    Ok(File {
        path: utf8(relative.as_os_str().as_bytes())?,
        blob: BlobId(gix::ObjectId::null(gix::hash::Kind::Sha1)),
        kind: FileKind::Submodule,
    })
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
