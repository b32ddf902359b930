//! The agent's files: its journal, and how the last command ended. Both are on the disk, whole, before the agent goes on.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fabrik_core::agent::{Command, Journal, Outcome, Try};
use fabrik_core::system::Phase;
use serde::{Deserialize, Serialize};

use super::NodeError;
use crate::delivery::Sealed;

/// The folder of the agent's files.
#[derive(Debug, Clone)]
pub struct State {
    dir: PathBuf,
}

/// What the leader has encrypted to this node's key.
const SECRETS: &str = "secrets.json";

/// nixos/k3s.nix looks for it.
const RETIRED: &str = "retired";

#[derive(Serialize, Deserialize)]
struct Kept {
    /// In base64.
    ciphertext: String,
    signature: String,
}

/// A command that was begun, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    pub ticket: u64,
    pub phase: Phase,
    pub attempt: u32,
    pub command: Command,
}

/// What a command leaves behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trace {
    Ended(Outcome),
    /// All is done but the reboot, which has been called for.
    Rebooting {
        ticket: u64,
        phase: Phase,
        attempt: u32,
    },
}

impl State {
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Links to systems, which keep them from collection.
    pub fn roots(&self) -> PathBuf {
        self.dir.join("roots")
    }

    /// What the last command wrote.
    pub fn log(&self) -> PathBuf {
        self.dir.join("activation.log")
    }

    /// An empty journal where there is none yet.
    pub fn journal(&self) -> Result<Journal, NodeError> {
        let path = self.dir.join("journal.json");
        match read(&path)? {
            None => Ok(Journal::default()),
            Some(text) => {
                Journal::read(&text).map_err(|source| NodeError::Journal { path, source })
            }
        }
    }

    pub fn write_journal(&self, journal: &Journal) -> Result<(), NodeError> {
        self.write("journal.json", journal)
    }

    /// What was left by the command that `current` has begun.
    pub fn trace(&self, current: &Try) -> Result<Option<Trace>, NodeError> {
        let Some(text) = read(&self.dir.join("outcome.json"))? else {
            return Ok(None);
        };
        // One that can't be read is no word: the command is begun again.
        let trace: Option<Trace> = serde_json::from_str(&text).ok();
        Ok(trace.filter(|trace| trace.is_of(current)))
    }

    pub fn write_trace(&self, trace: &Trace) -> Result<(), NodeError> {
        self.write("outcome.json", trace)
    }

    /// From now on the unit of k3s does not start (nixos/k3s.nix): this server leaves its cluster for good.
    pub fn retire(&self) -> Result<(), NodeError> {
        if self.is_retired() {
            return Ok(());
        }
        let said = "this server was taken out of its cluster, and k3s starts here no more\n";
        let path = self.dir.join(RETIRED);
        write_durably(&self.dir, &path, said.as_bytes()).map_err(NodeError::io(path))
    }

    pub fn is_retired(&self) -> bool {
        self.dir.join(RETIRED).exists()
    }

    /// The secrets of this node, as they came.
    pub fn secrets(&self) -> Result<Option<Sealed>, NodeError> {
        let path = self.dir.join(SECRETS);
        let Some(text) = read(&path)? else {
            return Ok(None);
        };
        let malformed = |problem: String| NodeError::Malformed {
            path: path.clone(),
            problem,
        };
        let kept: Kept = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        let ciphertext = STANDARD.decode(&kept.ciphertext);
        Ok(Some(Sealed {
            ciphertext: ciphertext.map_err(|e| malformed(e.to_string()))?,
            signature: kept.signature,
        }))
    }

    pub fn write_secrets(&self, sealed: &Sealed) -> Result<(), NodeError> {
        let kept = Kept {
            ciphertext: STANDARD.encode(&sealed.ciphertext),
            signature: sealed.signature.clone(),
        };
        self.write(SECRETS, &kept)
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), NodeError> {
        let path = self.dir.join(name);
        let text = serde_json::to_vec(value).map_err(|error| NodeError::Malformed {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        write_durably(&self.dir, &path, &text).map_err(NodeError::io(path))
    }
}

impl Work {
    pub fn of(current: &Try, command: Command) -> Self {
        Self {
            ticket: current.ticket,
            phase: current.phase,
            attempt: current.attempts,
            command,
        }
    }

    pub fn ended(&self, result: Result<(), String>) -> Outcome {
        Outcome {
            ticket: self.ticket,
            phase: self.phase,
            attempt: self.attempt,
            result,
            nothing_ran: false,
        }
    }
}

impl Trace {
    fn is_of(&self, current: &Try) -> bool {
        let (ticket, phase, attempt) = match self {
            Self::Ended(outcome) => (outcome.ticket, outcome.phase, outcome.attempt),
            Self::Rebooting {
                ticket,
                phase,
                attempt,
            } => (*ticket, *phase, *attempt),
        };
        (ticket, phase, attempt) == (current.ticket, current.phase, current.attempts)
    }
}

pub(crate) fn read(path: &Path) -> Result<Option<String>, NodeError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NodeError::io(path)(error)),
    }
}

/// After a crash at any point there is the old file or the new one, whole.
pub(crate) fn write_durably(dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    new.write_all(bytes)?;
    new.as_file().sync_all()?;
    new.persist(path).map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_retires_does_so_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(&dir.path().join("state"));
        assert!(!state.is_retired());
        state.retire().unwrap();
        state.retire().unwrap();
        assert!(State::new(&dir.path().join("state")).is_retired());
    }

    #[test]
    fn a_journal_reads_back_and_one_that_does_not_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(&dir.path().join("state"));
        assert_eq!(state.journal().unwrap(), Journal::default());
        let journal = Journal {
            ticket: 7,
            ..Journal::default()
        };
        state.write_journal(&journal).unwrap();
        assert_eq!(state.journal().unwrap(), journal);
        let path = dir.path().join("state/journal.json");
        fs::write(&path, "{\"schema\":1,").unwrap();
        let error = state.journal().unwrap_err().to_string();
        assert!(error.contains("journal.json: the journal can't be read"));
        assert!(error.contains("remove the file and restart fabrik-agent"));
    }
}
