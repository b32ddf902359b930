//! What is kept of each commit's systems: what its evaluation said, and links that keep what was built from collection.
//!
//! `systems/COMMIT/NAME.json` is the evaluation, `NAME` a link to the system and `NAME.drv` one to its derivation. All of
//! it can be made again. NAME is a pool, or `POOL.first`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fabrik_core::id::{CommitId, StorePath};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A revert finds its systems still there.
const KEPT_COMMITS: usize = 3;

#[derive(Debug, Clone)]
pub struct Systems {
    dir: PathBuf,
}

/// A system that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub output: StorePath,
    pub derivation: StorePath,
}

impl Systems {
    pub fn new(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.join("systems"),
        }
    }

    /// Where the links of a commit are; made if it is missing.
    pub fn of(&self, commit: &CommitId) -> Result<PathBuf, String> {
        let dir = self.dir.join(commit.as_str());
        fs::create_dir_all(&dir).map_err(|e| disk(&dir, &e))?;
        Ok(dir)
    }

    /// What was noted before; nothing where it can't be read any more.
    pub fn noted<T: DeserializeOwned>(&self, commit: &CommitId, name: &str) -> Option<T> {
        let file = self.dir.join(commit.as_str()).join(format!("{name}.json"));
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    pub fn note<T: Serialize>(
        &self,
        commit: &CommitId,
        name: &str,
        value: &T,
    ) -> Result<(), String> {
        let dir = self.of(commit)?;
        let file = dir.join(format!("{name}.json"));
        let text = serde_json::to_vec(value).map_err(|e| e.to_string())?;
        let written = tempfile::NamedTempFile::new_in(&dir).and_then(|mut temporary| {
            std::io::Write::write_all(&mut temporary, &text)?;
            temporary.persist(&file)?;
            Ok(())
        });
        written.map_err(|e| disk(&file, &e))
    }

    /// All systems that were built and are kept.
    pub fn kept(&self) -> Vec<Kept> {
        let mut kept = Vec::new();
        for dir in self.commits() {
            for link in entries(&dir.path) {
                let Some(target) =
                    store_path(&link).filter(|_| link.extension().is_none_or(|e| e != "drv"))
                else {
                    continue;
                };
                let mut derivation = link.into_os_string();
                derivation.push(".drv");
                if let Some(derivation) = store_path(Path::new(&derivation)) {
                    kept.push(Kept {
                        output: target,
                        derivation,
                    });
                }
            }
        }
        kept
    }

    /// Lets go of all commits but the newest, one of which is `current`. Nix may then collect what only they had.
    pub fn prune(&self, current: &CommitId) -> Result<(), String> {
        let mut commits = self.commits();
        commits.retain(|commit| !commit.path.ends_with(current.as_str()));
        commits.sort_by_key(|commit| std::cmp::Reverse(commit.changed));
        for old in commits.into_iter().skip(KEPT_COMMITS - 1) {
            fs::remove_dir_all(&old.path).map_err(|e| disk(&old.path, &e))?;
        }
        Ok(())
    }

    fn commits(&self) -> Vec<Commit> {
        let paths = entries(&self.dir).into_iter();
        let commits = paths.filter_map(|path| {
            let _: CommitId = path.file_name()?.to_str()?.parse().ok()?;
            let changed = fs::metadata(&path).and_then(|m| m.modified()).ok()?;
            Some(Commit { path, changed })
        });
        commits.collect()
    }
}

struct Commit {
    path: PathBuf,
    changed: SystemTime,
}

/// Sorted; empty where there is no such directory.
fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    paths
}

fn store_path(link: &Path) -> Option<StorePath> {
    fs::read_link(link).ok()?.to_str()?.parse().ok()
}

fn disk(path: &Path, error: &std::io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::StorageFull => ". The disk is full",
        _ => "",
    };
    format!("{} can't be written: {error}{remedy}", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn commit(digit: char) -> CommitId {
        digit.to_string().repeat(40).parse().unwrap()
    }

    fn store(name: &str) -> String {
        format!("/nix/store/{}-{name}", "0".repeat(32))
    }

    #[test]
    fn a_system_is_kept_once_it_is_built() {
        let dir = tempfile::tempdir().unwrap();
        let systems = Systems::new(dir.path());
        assert_eq!(systems.kept(), []);
        let of = systems.of(&commit('1')).unwrap();
        symlink(store("a.drv"), of.join("workers.drv")).unwrap();
        systems.note(&commit('1'), "workers", &7).unwrap();
        assert_eq!(systems.kept(), [], "its derivation alone is not it");
        symlink(store("a"), of.join("workers")).unwrap();
        let kept = Kept {
            output: store("a").parse().unwrap(),
            derivation: store("a.drv").parse().unwrap(),
        };
        assert_eq!(systems.kept(), [kept]);
        assert_eq!(systems.noted(&commit('1'), "workers"), Some(7));
        assert_eq!(systems.noted::<u32>(&commit('2'), "workers"), None);
    }

    #[test]
    fn the_newest_commits_stay_and_the_current_one_always() {
        let dir = tempfile::tempdir().unwrap();
        let systems = Systems::new(dir.path());
        for (seconds, digit) in ('1'..='5').enumerate() {
            let of = systems.of(&commit(digit)).unwrap();
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds as u64);
            fs::File::open(of).unwrap().set_modified(at).unwrap();
        }
        systems.prune(&commit('1')).unwrap();
        let left: Vec<_> = entries(&dir.path().join("systems"));
        let left = left
            .iter()
            .map(|p| p.file_name().unwrap().to_str().unwrap());
        let expected = ['1', '4', '5'].map(commit);
        assert!(left.eq(expected.iter().map(CommitId::as_str)));
    }
}
