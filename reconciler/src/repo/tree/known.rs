//! What git knows of a directory in a work tree: its index, and what it is told to ignore.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gix::index::entry::Mode;
use gix::worktree::stack::state::ignore::Source;

/// The repository that a directory lies in.
pub struct Known {
    repo: gix::Repository,
    index: gix::worktree::Index,
    /// The directory, from the top of the work tree.
    below: PathBuf,
}

impl Known {
    /// `None` where `root` is in no work tree, or in a part of one that it ignores, which is as good as none.
    pub fn of(root: &Path) -> Option<Self> {
        let repo = gix::discover(root).ok()?;
        let top = repo.workdir()?.canonicalize().ok()?;
        let below = root.strip_prefix(&top).ok()?.to_owned();
        let index = repo.index_or_empty().ok()?;
        let known = Self { repo, index, below };
        let is_top = known.below.as_os_str().is_empty();
        let is_ignored = !is_top && known.rules()?.ignore(Path::new(""), true);
        (!is_ignored).then_some(known)
    }

    pub fn rules(&self) -> Option<Rules<'_>> {
        let source = Source::WorktreeThenIdMappingIfNotSkipped;
        let stack = self.repo.excludes(&self.index, None, source).ok()?;
        Some(Rules { known: self, stack })
    }

    /// Also one that is not checked out and looks like an empty folder.
    pub fn is_submodule(&self, path: &Path) -> bool {
        let path = self.below.join(path);
        let entry = self.index.entry_by_path(bytes(&path).into());
        entry.is_some_and(|entry| entry.mode == Mode::COMMIT)
    }

    /// Whether the index has it, or of a folder something in it.
    fn tracks(&self, path: &Path, is_dir: bool) -> bool {
        let path = bytes(path);
        if self.index.entry_by_path(path.into()).is_some() {
            return true;
        }
        let inside = [path, b"/"].concat();
        is_dir
            && self
                .index
                .prefixed_entries(inside.as_slice().into())
                .is_some()
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// `.gitignore` and its like.
pub struct Rules<'a> {
    known: &'a Known,
    stack: gix::AttributeStack<'a>,
}

impl Rules<'_> {
    /// Whether no commit will have what is at `path`: it is ignored, and not tracked. Rules that can't be read ignore
    /// nothing.
    pub fn ignore(&mut self, path: &Path, is_dir: bool) -> bool {
        // Joined to nothing, a path would end with a slash.
        let below = &self.known.below;
        let path = if path.as_os_str().is_empty() {
            below.clone()
        } else {
            below.join(path)
        };
        if self.known.tracks(&path, is_dir) {
            return false;
        }
        let mode = is_dir.then_some(Mode::DIR);
        let place = self.stack.at_path(&path, mode);
        place.is_ok_and(|place| place.is_excluded())
    }
}
