//! How far a restore went, on the disk before the next step: whoever is killed goes on where it was.
//!
//! All is in one folder beside etcd's. While `holds-k3s` is in it, k3s does not start (nixos/k3s.nix): data that are
//! about to be replaced must not take writes, after a reboot neither.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use fabrik_core::id::{NodeName, ServerId};
use fabrik_core::restore::Source;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::{RestoreError, at};
use super::look::Seen;
use crate::cluster::founding::{private_dir, replace_file};

/// The layout of the file; one that is newer is not touched.
const SCHEMA: u32 = 1;

/// The last step that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Decided and confirmed.
    Begun,
    /// k3s is stopped, and etcd's folder is copied.
    Copied,
    /// The reset was begun, and etcd's folder may be anything.
    Resetting,
    /// etcd has one member, and has taken no write since.
    Reset,
    /// k3s serves.
    Started,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Journal {
    pub schema: u32,
    pub begun: Timestamp,
    pub step: Step,
    pub from: Source,
    /// The other servers and their addresses: etcd, which is stopped now, said who they are.
    pub others: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Nobody else was one.
    pub others_are_listed: bool,
    /// Their ids at Hetzner, as the ledger had them.
    pub known: BTreeMap<NodeName, ServerId>,
    /// Servers that Hetzner says are gone: their Nodes go as well.
    pub gone: BTreeMap<NodeName, ServerId>,
    /// etcd was not started from this server's own data when it was tried.
    pub own_failed: bool,
}

impl Journal {
    pub fn new(from: Source, seen: &Seen, now: Timestamp) -> Self {
        Self {
            schema: SCHEMA,
            begun: now,
            step: Step::Begun,
            from,
            others: seen.others.clone(),
            others_are_listed: seen.observed.peers_are_listed,
            known: seen.known.clone(),
            gone: seen.gone.clone(),
            own_failed: false,
        }
    }
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Room {
    dir: PathBuf,
}

impl Room {
    /// Beside etcd's folder, below `db`. Nothing is made yet.
    pub fn beside(db: &Path) -> Self {
        Self {
            dir: db.join("fabrik-restore"),
        }
    }

    /// Makes it, and keeps others out until what comes back is dropped.
    pub fn enter(&self) -> Result<File, RestoreError> {
        private_dir(&self.dir).map_err(at(&self.dir))?;
        let path = self.dir.join("lock");
        let lock = File::create(&path).map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(fs::TryLockError::WouldBlock) => Err(RestoreError::Busy),
            Err(fs::TryLockError::Error(source)) => Err(at(&path)(source)),
        }
    }

    /// etcd's folder as it was.
    pub fn copy(&self) -> PathBuf {
        self.dir.join("etcd")
    }

    /// What k3s is configured by while it resets.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn hold(&self) -> PathBuf {
        self.dir.join("holds-k3s")
    }

    pub fn journal(&self) -> Result<Option<Journal>, RestoreError> {
        let path = self.path();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(at(&path))?,
        };
        let broken = |problem: String| RestoreError::Journal {
            path: path.clone(),
            problem,
        };
        let journal: Journal = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
        if journal.schema > SCHEMA {
            return Err(broken("a newer fabrik wrote it".to_owned()));
        }
        Ok(Some(journal))
    }

    pub fn write(&self, journal: &Journal) -> Result<(), RestoreError> {
        let path = self.path();
        let text = serde_json::to_vec_pretty(journal).map_err(std::io::Error::other);
        text.and_then(|text| replace_file(&path, &text))
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .map_err(at(&path))
    }

    /// All is done: what was there before is kept, under a name that a later restore does not meet.
    pub fn leave(&self, journal: &Journal) -> Result<PathBuf, RestoreError> {
        let kept = format!("fabrik-restore-{}", journal.begun.as_second());
        let kept = self.dir.with_file_name(kept);
        fs::rename(&self.dir, &kept).map_err(at(&self.dir))?;
        Ok(kept)
    }

    fn path(&self) -> PathBuf {
        self.dir.join("journal.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_as_it_was_written_and_a_newer_one_is_left_alone() {
        let db = tempfile::tempdir().unwrap();
        let room = Room::beside(db.path());
        assert_eq!(room.journal().unwrap(), None);
        let lock = room.enter().unwrap();
        assert!(matches!(room.enter(), Err(RestoreError::Busy)));
        let own = Source::OwnData {
            written: Timestamp::UNIX_EPOCH,
        };
        let mut journal = Journal {
            schema: SCHEMA,
            begun: Timestamp::UNIX_EPOCH,
            step: Step::Resetting,
            from: own,
            others: BTreeMap::from([("s-2".to_owned(), BTreeSet::new())]),
            others_are_listed: true,
            known: BTreeMap::new(),
            gone: BTreeMap::from([("s-2".parse().unwrap(), ServerId(2))]),
            own_failed: true,
        };
        room.write(&journal).unwrap();
        assert_eq!(room.journal().unwrap(), Some(journal.clone()));
        drop(lock);
        let kept = room.leave(&journal).unwrap();
        assert_eq!(kept, db.path().join("fabrik-restore-0"));
        assert_eq!(room.journal().unwrap(), None);

        journal.schema = SCHEMA + 1;
        let lock = room.enter().unwrap();
        room.write(&journal).unwrap();
        let error = room.journal().unwrap_err().to_string();
        assert!(error.contains("a newer fabrik wrote it"), "{error}");
        drop(lock);
    }
}
