//! What the laptop keeps of a cluster: `$XDG_STATE_HOME/fabrik/CLUSTER/`, for its owner alone. Keys are in it until the first
//! server has them; then a small file without secrets is left.
//!
//! A file appears whole or not at all. One seed at a time: the folder's lock goes with the process that has it.

mod keys;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use fabrik_core::id::{ClusterId, ClusterName, CommitId, ServerId};
use fabrik_core::seed::{Laptop, Stage};
use serde::{Deserialize, Serialize};

pub use self::keys::{Host, Keys};

use super::SeedError;
use crate::cluster::founding::random_id;

/// The layout of [`Record`].
const LAYOUT: u32 = 1;
const RECORD: &str = "seed.json";
const LOCK: &str = "lock";
const KUBECONFIG: &str = "kubeconfig";
/// How `tempfile` calls what is not whole yet (`Builder::prefix`), keys among it.
const UNFINISHED: &str = ".tmp";
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
    /// Nothing was made of it yet, so it may still be another repository's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_untouched: bool,
    /// The commit whose price a person has agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<CommitId>,
    /// Whether this laptop had something made at Hetzner, and nothing has shown since that it is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_hetzner: bool,
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

impl Record {
    fn new(cluster: ClusterName, cluster_id: ClusterId, repository: String) -> Self {
        Self {
            layout: LAYOUT,
            cluster,
            cluster_id,
            repository,
            server: None,
            address: None,
            stage: Stage::Unmet,
            is_untouched: true,
            agreed: None,
            at_hetzner: false,
            host_key: None,
            digests: BTreeMap::new(),
        }
    }
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
        let Ok(home) = home() else {
            return Ok(None);
        };
        let dir = home.join(cluster.as_str());
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

    /// Nothing is left of it but the cluster's id, and that something stays at Hetzner.
    pub fn begin_anew(&mut self) -> Result<(), SeedError> {
        self.begin_as(self.record.cluster_id.clone(), Stage::Unmet)
    }

    /// It is the cluster of that id, which was seeded from another machine.
    pub fn follow(&mut self, cluster: ClusterId) -> Result<(), SeedError> {
        self.begin_as(cluster, Stage::Parted)
    }

    fn begin_as(&mut self, id: ClusterId, stage: Stage) -> Result<(), SeedError> {
        self.forget_secrets()?;
        let Record {
            cluster,
            repository,
            at_hetzner,
            ..
        } = self.record.clone();
        self.record = Record {
            stage,
            at_hetzner,
            ..Record::new(cluster, id, repository)
        };
        self.touch()
    }

    /// The cluster's, where nobody has named another file.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join(KUBECONFIG)
    }

    /// The cluster that this laptop had something made of at Hetzner, and the folder that says so.
    pub fn at_hetzner(&self) -> Option<(ClusterId, PathBuf)> {
        let record = &self.record;
        record
            .at_hetzner
            .then(|| (record.cluster_id.clone(), self.dir.clone()))
    }

    /// From here on something may be there that is this repository's.
    pub fn touch(&mut self) -> Result<(), SeedError> {
        self.record.is_untouched = false;
        self.save()
    }

    fn open_in(dir: &Path, cluster: &ClusterName, repository: &str) -> Result<Self, SeedError> {
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(dir).map_err(SeedError::file(dir))?;
        let lock = locked(dir, cluster)?;
        let path = dir.join(RECORD);
        let mut record = match fs::read(&path) {
            Ok(text) => parse(&path, &text)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let id = random_id().map_err(|_| SeedError::NoRandomness)?;
                Record::new(cluster.clone(), id, repository.to_owned())
            }
            Err(error) => return Err(SeedError::file(path)(error)),
        };
        if record.is_untouched {
            repository.clone_into(&mut record.repository);
        }
        let state = Self {
            dir: dir.to_owned(),
            record,
            _lock: lock,
        };
        state.must_be_of(repository)?;
        state.save()?;
        Ok(state)
    }

    /// A copy of a repository has its cluster's name, and is another's.
    pub fn must_be_of(&self, repository: &str) -> Result<(), SeedError> {
        if self.record.repository == repository {
            return Ok(());
        }
        Err(SeedError::OtherRepository {
            path: self.dir.clone(),
            known: self.record.repository.clone(),
            asked: repository.to_owned(),
        })
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
            has_secrets: self.has_secrets(),
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

/// Those that seeds on this machine wrote and nobody had elsewhere.
pub fn kubeconfigs() -> Vec<PathBuf> {
    let clusters = home().ok().and_then(|home| fs::read_dir(home).ok());
    let files = clusters.into_iter().flatten().flatten();
    let mut files: Vec<_> = files
        .map(|cluster| cluster.path().join(KUBECONFIG))
        .filter(|file| file.is_file())
        .collect();
    files.sort();
    files
}

fn locked(dir: &Path, cluster: &ClusterName) -> Result<File, SeedError> {
    let path = dir.join(LOCK);
    let lock = File::create(&path).map_err(SeedError::file(&path))?;
    match lock.try_lock() {
        Ok(()) => {
            remove_unfinished(dir).map_err(SeedError::file(dir))?;
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => Err(SeedError::Running {
            cluster: cluster.clone(),
            path,
        }),
        Err(TryLockError::Error(error)) => Err(SeedError::file(path)(error)),
    }
}

/// What a seed that was killed while it wrote a file has left of it: it may be half a key.
fn remove_unfinished(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
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
        let deploy_key = first.deploy_pair().unwrap();
        first.touch().unwrap();
        first.reach(ServerId(7), Stage::HandingOver).unwrap();
        let error = open(&dir).unwrap_err();
        assert!(matches!(error, SeedError::Running { .. }), "{error}");
        let record = first.record.clone();
        drop(first);
        let half = dir.join(".tmpHalfAKey");
        fs::write(&half, "").unwrap();
        let second = open(&dir).unwrap();
        assert!(!half.exists(), "a kill has left it");
        assert_eq!(second.record, record);
        assert_eq!(second.deploy_pair().unwrap(), deploy_key);
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
    fn while_nothing_was_made_the_repository_may_be_pushed_elsewhere() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("demo");
        let id = open(&dir).unwrap().record.cluster_id;
        let moved = || State::open_in(&dir, &"demo".parse().unwrap(), "/elsewhere");
        let mut state = moved().unwrap();
        assert_eq!(state.record.repository, "/elsewhere");
        assert_eq!(state.record.cluster_id, id);
        state.touch().unwrap();
        drop(state);
        let error = open(&dir).unwrap_err();
        assert!(
            matches!(error, SeedError::OtherRepository { .. }),
            "{error}"
        );
        moved().unwrap().begin_anew().unwrap();
        assert!(open(&dir).is_err(), "what stayed bears its id");
    }

    #[test]
    fn all_is_for_its_owner_alone_and_no_secret_is_left_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("demo");
        let state = open(&dir).unwrap();
        assert!(!state.laptop().has_secrets);
        state.keys().unwrap();
        state.deploy_pair().unwrap();
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
