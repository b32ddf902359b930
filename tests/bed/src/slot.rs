//! A place for one bed on this machine: a network 127.N.0.0/16 that no other bed has, and a folder.
//!
//! The network belongs to whoever holds the lock on its file under the system's temporary folder;
//! the kernel drops the lock with its holder. The file names the holder's folder, so that the next
//! holder can clear away what a crashed bed left, wherever it was.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{Dirs, kill_recorded};

/// Second octets that beds may take. 127.0 to 127.19 are left to others.
const NETWORKS: std::ops::RangeInclusive<u8> = 20..=219;

/// A network and a folder, for as long as this value lives.
#[derive(Debug)]
pub struct Slot {
    number: u8,
    dir: PathBuf,
    /// Unlocked by the kernel when it is closed.
    _lock: File,
}

impl Slot {
    /// Takes the first free network, and clears away what its last owner left behind.
    pub fn take() -> Result<Self> {
        let locks = std::env::temp_dir().join("fabrik-beds");
        fs::create_dir_all(&locks).with_context(|| format!("creating {}", locks.display()))?;
        for number in NETWORKS {
            let path = locks.join(format!("127.{number}"));
            let mut lock = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .with_context(|| format!("opening {}", path.display()))?;
            if lock.try_lock().is_err() {
                continue;
            }
            let mut last_dir = String::new();
            lock.read_to_string(&mut last_dir)?;
            if !last_dir.is_empty() {
                clear(Path::new(&last_dir))?;
            }
            let dir = beds_dir().join(number.to_string());
            clear(&dir)?;
            fs::create_dir_all(dir.join("run"))?;
            fs::create_dir_all(dir.join("logs"))?;
            lock.set_len(0)?;
            lock.rewind()?;
            lock.write_all(dir.as_os_str().as_encoded_bytes())?;
            return Ok(Self {
                number,
                dir,
                _lock: lock,
            });
        }
        bail!(
            "all networks of {NETWORKS:?} are taken by other beds (see {})",
            locks.display()
        )
    }

    /// The N of 127.N.0.0/16.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// 127.N.`third`.`fourth`.
    pub fn address(&self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.number, third, fourth)
    }

    /// Everything of this bed that is on disk.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn dirs(&self) -> Dirs {
        Dirs {
            logs: self.dir.join("logs"),
            run: self.dir.join("run"),
            inside: None,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // A bed that failed may be looked at afterwards: FABRIK_BED_KEEP leaves its folder until
        // the next bed takes the network.
        if std::env::var_os("FABRIK_BED_KEEP").is_none()
            && let Err(error) = clear(&self.dir)
        {
            tracing::warn!(dir = %self.dir.display(), %error, "the bed's folder is not removed");
        }
    }
}

/// Kills what is recorded as running in `dir`, and removes it.
fn clear(dir: &Path) -> Result<()> {
    let run = dir.join("run");
    if let Ok(records) = fs::read_dir(&run) {
        for record in records.flatten() {
            if let Err(error) = kill_recorded(&record.path()) {
                tracing::debug!(record = %record.path().display(), %error, "unreadable record");
            }
        }
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// `target/bed`, of the target folder that the running program was built into.
fn beds_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("FABRIK_BED_DIR") {
        return dir.into();
    }
    target_dir().join("bed")
}

/// The folder that cargo marked with CACHEDIR.TAG above the running program.
pub(crate) fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let marked = program
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file());
    marked.map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        Path::to_owned,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_slots_have_two_networks_and_two_folders() {
        let (one, two) = (Slot::take().unwrap(), Slot::take().unwrap());
        assert_ne!(one.number(), two.number());
        assert_ne!(one.dir(), two.dir());
        let dir = one.dir().to_owned();
        assert!(dir.is_dir());
        drop(one);
        assert!(!dir.exists());
    }
}
