//! What the laptop keeps of a cluster: `$XDG_STATE_HOME/fabrik/CLUSTER/`, for its owner alone. Keys are in it until the first
//! server has them; then a small file without secrets is left.
//!
//! A file appears whole or not at all. One seed at a time: the folder's lock goes with the process that has it.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use fabrik_core::id::{ClusterId, ClusterName, CommitId, ServerId};
use fabrik_core::seed::{Laptop, Stage};
use serde::{Deserialize, Serialize};

use super::SeedError;
use crate::cluster::founding::random_id;
use crate::secrets::{Secret, SecretsError, founding_keys};

/// The layout of [`Record`].
const LAYOUT: u32 = 1;
const RECORD: &str = "seed.json";
const LOCK: &str = "lock";
const TEMPORARY_KEY: &str = "temporary.key";
/// The host key that a first server has by its user data.
const FIRST_HOST_KEY: &str = "first-host.key";
const K3S_TOKEN: &str = "k3s.token";
const RESCUE_HOST: &str = "known_hosts.rescue";
const FIRST_HOST: &str = "known_hosts.first";
const OWN_HOST: &str = "known_hosts.own";
const GIT_HOST: &str = "known_hosts.git";
/// All that is removed at the end.
const SECRET: [&str; 10] = [
    TEMPORARY_KEY,
    FIRST_HOST_KEY,
    K3S_TOKEN,
    RESCUE_HOST,
    FIRST_HOST,
    OWN_HOST,
    GIT_HOST,
    founding_keys::DEPLOY_KEY_FILE,
    founding_keys::SIGNING_KEY_FILE,
    founding_keys::WEBHOOK_SECRET_FILE,
];

/// What is remembered, without anything secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    layout: u32,
    pub cluster: ClusterName,
    pub cluster_id: ClusterId,
    /// Where servers fetch it.
    pub repository: String,
    /// The first server that `stage` is about, and its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    pub stage: Stage,
    /// The commit whose price a person has agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<CommitId>,
    /// The public half of the host key that the first server made itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<String>,
    /// Digests of images that were computed before, by what tells a file from another one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, (String, u64)>,
}

/// The folder, locked.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    pub record: Record,
    _lock: File,
}

/// The keys of a seed, by their files, and their public halves.
#[derive(Debug)]
pub struct Keys {
    pub temporary: PathBuf,
    pub temporary_public: String,
    pub deploy: PathBuf,
    pub deploy_public: String,
}

impl State {
    /// Opens a cluster's folder, and makes it the first time, with a new cluster id.
    ///
    /// # Errors
    /// Another seed has it, it is another repository's, or it can't be written.
    pub fn open(cluster: &ClusterName, repository: &str) -> Result<Self, SeedError> {
        Self::open_in(&home()?.join(cluster.as_str()), cluster, repository)
    }

    /// What there is of a cluster, whichever repository's it is; `None` where it was never seeded from here.
    ///
    /// # Errors
    /// A seed has it, or it can't be read.
    pub fn existing(cluster: &ClusterName) -> Result<Option<Self>, SeedError> {
        let dir = home()?.join(cluster.as_str());
        let path = dir.join(RECORD);
        if !path.exists() {
            return Ok(None);
        }
        let lock = locked(&dir, cluster)?;
        let text = fs::read(&path).map_err(SeedError::file(&path))?;
        let record = parse(&path, &text)?;
        Ok(Some(Self {
            dir,
            record,
            _lock: lock,
        }))
    }

    /// Removes all of it.
    pub fn forget(self) -> Result<(), SeedError> {
        fs::remove_dir_all(&self.dir).map_err(SeedError::file(&self.dir))
    }

    /// The cluster's, where nobody has named another file.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    fn open_in(dir: &Path, cluster: &ClusterName, repository: &str) -> Result<Self, SeedError> {
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(dir).map_err(SeedError::file(dir))?;
        let lock = locked(dir, cluster)?;
        let path = dir.join(RECORD);
        let record = match fs::read(&path) {
            Ok(text) => parse(&path, &text)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Record {
                layout: LAYOUT,
                cluster: cluster.clone(),
                cluster_id: random_id().map_err(|_| SeedError::NoRandomness)?,
                repository: repository.to_owned(),
                server: None,
                address: None,
                stage: Stage::Unmet,
                agreed: None,
                host_key: None,
                digests: BTreeMap::new(),
            },
            Err(error) => return Err(SeedError::file(path)(error)),
        };
        if record.repository != repository {
            return Err(SeedError::OtherRepository {
                path: dir.to_owned(),
                known: record.repository,
                asked: repository.to_owned(),
            });
        }
        let state = Self {
            dir: dir.to_owned(),
            record,
            _lock: lock,
        };
        state.save()?;
        Ok(state)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes down what is remembered.
    pub fn save(&self) -> Result<(), SeedError> {
        let path = self.dir.join(RECORD);
        let text =
            serde_json::to_vec_pretty(&self.record).map_err(|error| SeedError::Unreadable {
                path: path.clone(),
                problem: error.to_string(),
            })?;
        write(&path, &text)
    }

    /// Writes down how far the laptop has come with a first server.
    pub fn reach(&mut self, server: ServerId, stage: Stage) -> Result<(), SeedError> {
        self.record.server = Some(server);
        self.record.stage = stage;
        self.save()
    }

    /// As the core asks.
    pub fn laptop(&self) -> Laptop {
        Laptop {
            server: self.record.server,
            stage: self.record.stage,
            has_secrets: SECRET.iter().any(|name| self.dir.join(name).exists()),
        }
    }

    /// Makes the keys that are missing.
    pub fn keys(&self) -> Result<Keys, SecretsError> {
        let (temporary, deploy) = (
            self.dir.join(TEMPORARY_KEY),
            self.dir.join(founding_keys::DEPLOY_KEY_FILE),
        );
        let cluster = &self.record.cluster;
        let deploy_public = founding_keys::ensure_ssh(&deploy, &format!("fabrik-{cluster}"))?;
        let temporary_public = founding_keys::ensure_ssh(&temporary, "fabrik-seed")?;
        Ok(Keys {
            temporary,
            temporary_public,
            deploy,
            deploy_public,
        })
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

/// A file for its owner alone, that appears whole.
pub fn write(path: &Path, content: &[u8]) -> Result<(), SeedError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || {
        let mut file = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(dir)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(SeedError::file(path))
}

/// By the XDG Base Directory Specification: what is to be kept, and is of this machine alone.
fn home() -> Result<PathBuf, SeedError> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let absolute = |path: &PathBuf| path.is_absolute();
    let state = variable("XDG_STATE_HOME").filter(absolute);
    let state = state.or_else(|| Some(variable("HOME").filter(absolute)?.join(".local/state")));
    Ok(state.ok_or(SeedError::NoHome)?.join("fabrik"))
}

fn locked(dir: &Path, cluster: &ClusterName) -> Result<File, SeedError> {
    let path = dir.join(LOCK);
    let lock = File::create(&path).map_err(SeedError::file(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(SeedError::Running {
            cluster: cluster.clone(),
            path,
        }),
        Err(TryLockError::Error(error)) => Err(SeedError::file(path)(error)),
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Record, SeedError> {
    let unreadable = |problem: String| SeedError::Unreadable {
        path: path.to_owned(),
        problem,
    };
    let record: Record =
        serde_json::from_slice(text).map_err(|error| unreadable(error.to_string()))?;
    if record.layout == LAYOUT {
        Ok(record)
    } else {
        Err(unreadable(format!("layout {}", record.layout)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Result<State, SeedError> {
        State::open_in(
            dir,
            &"demo".parse().unwrap(),
            "git@git.example.com:demo.git",
        )
    }

    #[test]
    fn a_second_run_knows_what_the_first_one_made_and_none_runs_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("fabrik/demo");
        let mut first = open(&dir).unwrap();
        let keys = first.keys().unwrap();
        first.reach(ServerId(7), Stage::HandingOver).unwrap();
        let error = open(&dir).unwrap_err();
        assert!(matches!(error, SeedError::Running { .. }), "{error}");
        let record = first.record.clone();
        drop(first);
        let second = open(&dir).unwrap();
        assert_eq!(second.record, record);
        assert_eq!(second.keys().unwrap().deploy_public, keys.deploy_public);
        let error = {
            drop(second);
            State::open_in(&dir, &"demo".parse().unwrap(), "/elsewhere").unwrap_err()
        };
        assert!(
            matches!(error, SeedError::OtherRepository { .. }),
            "{error}"
        );
    }

    #[test]
    fn all_is_for_its_owner_alone_and_no_secret_is_left_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("demo");
        let state = open(&dir).unwrap();
        assert!(!state.laptop().has_secrets);
        state.keys().unwrap();
        state.first_host_key().unwrap();
        state.signing_key().unwrap();
        state.webhook_secret().unwrap();
        state.k3s_token().unwrap();
        state
            .git_hosts("git.example.com ssh-ed25519 AAAA\n")
            .unwrap();
        let own = state.known_host(Host::Own, "first", Some("ssh-ed25519 AAAA"));
        assert_eq!(
            fs::read_to_string(own.unwrap()).unwrap(),
            "first ssh-ed25519 AAAA\n"
        );
        assert!(state.laptop().has_secrets);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let is_lock = path.ends_with(LOCK);
            assert!(is_lock || mode(&path) == 0o600, "{}", path.display());
        }
        state.forget_secrets().unwrap();
        let left: Vec<_> = fs::read_dir(&dir).unwrap().collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(!state.laptop().has_secrets);
    }
}
