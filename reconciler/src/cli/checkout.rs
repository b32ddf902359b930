//! The user's own checkout, where a verb runs in one: which commit a name means, and what a commit is about.
//!
//! Only read, and never needed: without a checkout a full commit id does.

use std::path::Path;

use fabrik_core::id::CommitId;

/// A checkout that holds the current directory, if there is one.
pub struct Checkout(gix::Repository);

impl Checkout {
    pub fn here() -> Option<Self> {
        Self::at(Path::new("."))
    }

    pub fn at(dir: &Path) -> Option<Self> {
        gix::discover(dir).ok().map(Self)
    }

    /// The commit that a branch, a tag or a short id means.
    pub fn resolve(&self, rev: &str) -> Option<CommitId> {
        let commit = self.0.rev_parse_single(rev).ok()?.object().ok()?;
        let commit = commit.peel_to_commit().ok()?;
        commit.id.to_string().parse().ok()
    }

    /// The first line of the commit's message.
    pub fn subject(&self, commit: &CommitId) -> Option<String> {
        let commit = self.commit(commit)?;
        let message = commit.message().ok()?;
        Some(message.summary().to_string())
    }

    /// Whether `new` has `old` among its ancestors; `None` where this checkout does not know both.
    pub fn descends(&self, new: &CommitId, old: &CommitId) -> Option<bool> {
        let (new, old) = (self.commit(new)?.id, self.commit(old)?.id);
        let base = self.0.merge_base(new, old).ok()?;
        Some(base.is_some_and(|base| base.detach() == old))
    }

    fn commit(&self, commit: &CommitId) -> Option<gix::Commit<'_>> {
        let id = gix::ObjectId::from_hex(commit.as_str().as_bytes()).ok()?;
        self.0.find_commit(id).ok()
    }
}
