//! Nix' own clones of git repositories, in the cache that is fabrik's alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where Nix keeps them, from the home that it is given.
const CLONES: &str = ".cache/nix/gitv3";

/// Removes the lock files of a git that was killed. When Nix ends it kills its git, which leaves `shallow.lock` behind, and
/// with that in place no later commit is ever fetched. A clone that another Nix works on at this moment is left alone:
/// then it is to be done again, and `false` comes back.
pub fn forget_dead_locks(home: &Path) -> bool {
    let Ok(entries) = fs::read_dir(home.join(CLONES)) else {
        return true;
    };
    let mut all = true;
    for clone in entries.flatten().map(|entry| entry.path()) {
        if !clone.is_dir() {
            continue;
        }
        let mut lock = clone.clone().into_os_string();
        lock.push(".lock");
        let Ok(lock) = File::open(lock) else { continue };
        if lock.try_lock().is_err() {
            all = false;
            continue;
        }
        for dead in locks(&clone) {
            let removed = fs::remove_file(&dead);
            tracing::warn!(file = %dead.display(), ?removed, "a git that was killed left its lock");
        }
    }
    all
}

/// git's own lock files: beside what they guard, and below `refs`.
fn locks(clone: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![clone.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir && (dir != clone || entry.file_name() == "refs") {
                dirs.push(path);
            } else if !is_dir && path.extension().is_some_and(|end| end == "lock") {
                found.push(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locks_of_a_dead_git_go_and_those_of_a_running_nix_stay() {
        let home = tempfile::tempdir().unwrap();
        let clones = home.path().join(CLONES);
        let put = |path: &str| {
            let path = clones.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let files = [
            "a/shallow.lock",
            "a/refs/fabrik/upstream.lock",
            "a/refs/fabrik/upstream",
            "a/objects/pack/x.lock",
            "b/shallow.lock",
        ];
        files
            .iter()
            .chain(&["a.lock", "b.lock"])
            .for_each(|path| put(path));
        let busy = File::open(clones.join("b.lock")).unwrap();
        busy.lock().unwrap();
        assert!(!forget_dead_locks(home.path()), "b is in use");
        let left = files.map(|path| clones.join(path).exists());
        assert_eq!(left, [false, false, true, true, true]);
        drop(busy);
        assert!(forget_dead_locks(home.path()));
        assert!(!clones.join("b/shallow.lock").exists());
        assert!(forget_dead_locks(&home.path().join("nowhere")));
    }
}
