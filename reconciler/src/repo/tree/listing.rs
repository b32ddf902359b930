//! The files of a commit, listed from git's objects. Folders are counted as well as files, because git stores a folder
//! that occurs a million times once.

use fabrik_core::id::CommitId;
use gix::objs::tree::EntryKind;

use super::{BlobId, Count, File, FileKind, clone, utf8};
use crate::repo::RepoError;

/// A folder whose object is bigger is not opened: as many names as are let in take less.
const MAX_FOLDER_BYTES: u64 = 8 * 1024 * 1024;

pub fn files(repo: &gix::Repository, id: &CommitId) -> Result<Vec<File>, RepoError> {
    let broken = |error: gix::Error| clone::damaged(repo, &error);
    let mut count = Count::of(format!("commit {id}"));
    let mut files = Vec::new();
    let root = clone::commit(repo, id)?.tree_id().map_err(broken)?;
    let mut folders = vec![(String::new(), root.detach())];
    while let Some((folder, id)) = folders.pop() {
        if repo.find_header(id).map_err(broken)?.size() > MAX_FOLDER_BYTES {
            return Err(count.too_many());
        }
        let tree = repo.find_tree(id).map_err(broken)?;
        for entry in tree.iter() {
            let entry = entry.map_err(broken)?;
            let mut path = folder.clone().into_bytes();
            path.extend_from_slice(entry.filename());
            count.one_more(&path)?;
            let mut path = utf8(&path)?;
            let blob = BlobId(entry.object_id());
            let kind = match entry.kind() {
                EntryKind::Tree => {
                    path.push('/');
                    folders.push((path, entry.object_id()));
                    continue;
                }
                EntryKind::Blob => FileKind::Plain,
                EntryKind::BlobExecutable => FileKind::Executable,
                EntryKind::Link => FileKind::Symlink,
                EntryKind::Commit => FileKind::Submodule,
            };
            files.push(File { path, blob, kind });
        }
    }
    Ok(files)
}
