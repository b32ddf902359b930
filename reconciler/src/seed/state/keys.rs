//! What is secret in the folder, or of no use once the cluster runs: keys, words, and whom `ssh` knows.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{SeedError, State, write};
use crate::secrets::{Secret, SecretsError, founding_keys};

const TEMPORARY_KEY: &str = "temporary.key";
/// The host key that a first server has by its user data.
const FIRST_HOST_KEY: &str = "first-host.key";
const K3S_TOKEN: &str = "k3s.token";
const RESCUE_HOST: &str = "known_hosts.rescue";
const FIRST_HOST: &str = "known_hosts.first";
const OWN_HOST: &str = "known_hosts.own";
/// What a rescue system proves its host key by.
const RESCUE_WORD: &str = "rescue.word";
const GIT_HOST: &str = "known_hosts.git";
/// All that is removed at the end.
const SECRET: [&str; 11] = [
    TEMPORARY_KEY,
    FIRST_HOST_KEY,
    K3S_TOKEN,
    RESCUE_HOST,
    FIRST_HOST,
    OWN_HOST,
    GIT_HOST,
    RESCUE_WORD,
    founding_keys::DEPLOY_KEY_FILE,
    founding_keys::SIGNING_KEY_FILE,
    founding_keys::WEBHOOK_SECRET_FILE,
];

/// The key that machines let in while a seed is at work: its file, and its public half.
#[derive(Debug)]
pub struct Keys {
    pub temporary: PathBuf,
    pub temporary_public: String,
}

impl State {
    pub(super) fn has_secrets(&self) -> bool {
        SECRET.iter().any(|name| self.dir.join(name).exists())
    }

    /// Makes it, if it is missing.
    pub fn keys(&self) -> Result<Keys, SecretsError> {
        let temporary = self.dir.join(TEMPORARY_KEY);
        let temporary_public = founding_keys::ensure_ssh(&temporary, "fabrik-seed")?;
        Ok(Keys {
            temporary,
            temporary_public,
        })
    }

    /// The key that reads the repository, which is made if it is missing: its file, and its public half.
    pub fn deploy_pair(&self) -> Result<(PathBuf, String), SecretsError> {
        let path = self.dir.join(founding_keys::DEPLOY_KEY_FILE);
        let public = founding_keys::ensure_ssh(&path, &format!("fabrik-{}", self.record.cluster))?;
        Ok((path, public))
    }

    /// The host key that a first server gets by its user data: private half and public half.
    pub fn first_host_key(&self) -> Result<(Secret, String), SecretsError> {
        let path = self.dir.join(FIRST_HOST_KEY);
        let public = founding_keys::ensure_ssh(&path, "fabrik-first-host")?;
        Ok((read(&path)?, public))
    }

    pub fn deploy_key(&self) -> Result<Secret, SecretsError> {
        read(&self.dir.join(founding_keys::DEPLOY_KEY_FILE))
    }

    pub fn signing_key(&self) -> Result<Secret, SecretsError> {
        let path = self.dir.join(founding_keys::SIGNING_KEY_FILE);
        founding_keys::ensure_signing(&path, &self.record.cluster)?;
        read(&path)
    }

    pub fn webhook_secret(&self) -> Result<Secret, SecretsError> {
        self.word(founding_keys::WEBHOOK_SECRET_FILE)
    }

    pub fn k3s_token(&self) -> Result<Secret, SecretsError> {
        self.word(K3S_TOKEN)
    }

    /// What the temporary server can read, and nobody on the way there.
    pub fn rescue_word(&self) -> Result<Secret, SecretsError> {
        self.word(RESCUE_WORD)
    }

    fn word(&self, name: &str) -> Result<Secret, SecretsError> {
        let path = self.dir.join(name);
        founding_keys::ensure_word(&path)?;
        read(&path)
    }

    /// A known_hosts file for one host that `ssh` calls `alias`: with these keys, or, without any, one that learns the first
    /// key it sees and keeps it.
    pub fn known_host(
        &self,
        host: Host,
        alias: &str,
        key: Option<&str>,
    ) -> Result<PathBuf, SeedError> {
        let path = self.dir.join(host.file());
        if let Some(key) = key {
            write(&path, format!("{alias} {key}\n").as_bytes())?;
        }
        Ok(path)
    }

    /// What was learnt of a host is not true any more.
    pub fn forget_host(&self, host: Host) -> Result<(), SeedError> {
        remove(&self.dir.join(host.file()))
    }

    /// Host keys of the git server, in a file.
    pub fn git_hosts(&self, text: &str) -> Result<PathBuf, SeedError> {
        let path = self.dir.join(GIT_HOST);
        write(&path, text.as_bytes())?;
        Ok(path)
    }

    /// Removes all that is secret, and what only the seed needed.
    pub fn forget_secrets(&self) -> Result<(), SeedError> {
        for name in SECRET {
            remove(&self.dir.join(name))?;
        }
        Ok(())
    }
}

/// Whom `ssh` speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// A rescue system, whose key nobody knows beforehand.
    Rescue,
    /// The first server, by the key of its user data.
    First,
    /// The first server, by the key that it made itself.
    Own,
}

impl Host {
    const fn file(self) -> &'static str {
        match self {
            Self::Rescue => RESCUE_HOST,
            Self::First => FIRST_HOST,
            Self::Own => OWN_HOST,
        }
    }
}

fn read(path: &Path) -> Result<Secret, SecretsError> {
    let content = fs::read(path).map_err(|error| SecretsError::Disk {
        action: "read",
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Secret::new(content))
}

fn remove(path: &Path) -> Result<(), SeedError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(SeedError::file(path)(error)),
        _ => Ok(()),
    }
}
