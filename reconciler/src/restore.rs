//! `fabrik restore`: a server that survived the loss of a quorum becomes etcd's only member, from its own data or from a
//! snapshot. What may be done is decided in `fabrik_core::restore`.
//!
//! Each step is written down before the next and may be repeated, so a kill anywhere is an ordinary start. What was there
//! before is kept. Nothing is asked of the old cluster, which has no quorum to answer.

mod error;
mod files;
mod journal;
mod k3s;
mod look;
mod nodes;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use fabrik_core::restore::{Reset, Said, Source};
use jiff::Timestamp;

pub use self::error::RestoreError;
use self::error::at;
use self::journal::Room;
pub use self::journal::{Journal, Step};
use self::k3s::Start;
pub use self::look::Seen;
use crate::config::{self, Config};

/// This server, and what a person says about the others.
#[derive(Debug)]
pub struct Site {
    config: Config,
    etcd: config::Etcd,
    /// Holds etcd's folder.
    db: PathBuf,
    room: Room,
    said: Said,
}

/// What was found here.
#[derive(Debug)]
pub enum Found {
    /// A restore that went so far that it has to be ended.
    UnderWay(Journal),
    /// Nothing was reset yet.
    Before(Box<Seen>),
}

/// A restore that has ended.
#[derive(Debug)]
pub struct Restored {
    /// The folder with what was there before.
    pub kept: PathBuf,
    /// Nodes that were deleted.
    pub removed: Vec<String>,
}

impl Site {
    /// `file` is the configuration of `fabrik run`; `snapshot` the one that a person names.
    pub fn open(file: &Path, said: Said, snapshot: Option<&Path>) -> Result<Self, RestoreError> {
        // Who is not root may not even see it.
        if let Err(error) = file.metadata()
            && error.kind() == ErrorKind::NotFound
        {
            return Err(RestoreError::NotHere(file.to_owned()));
        }
        let config = Config::load(file)?;
        let etcd = config.etcd.clone();
        let etcd = etcd.ok_or_else(|| RestoreError::NoEtcd(file.to_owned()))?;
        // (docs.k3s.io, "k3s etcd-snapshot": `${data-dir}/db/snapshots`)
        let db = etcd.snapshot_dir.parent().unwrap_or(Path::new("/"));
        Ok(Self {
            said: Said {
                snapshot: snapshot.map(files::snapshot).transpose()?,
                ..said
            },
            db: db.to_owned(),
            room: Room::beside(db),
            config,
            etcd,
        })
    }

    /// What a person confirms by.
    pub fn cluster(&self) -> &str {
        self.config.cluster.name.as_str()
    }

    /// Looks, and changes nothing.
    pub async fn look(&self) -> Result<Found, RestoreError> {
        let journal = self.room.journal()?;
        match journal {
            Some(journal) if journal.step >= Step::Reset => Ok(Found::UnderWay(journal)),
            journal => {
                let place = look::Place {
                    config: &self.config,
                    etcd: &self.etcd,
                    data: &self.data(journal.as_ref()),
                    begun: journal.as_ref(),
                };
                let mut seen = look::look(&place, self.said.clone()).await?;
                seen.notes.extend(journal.map(|j| self.given_up(&j)));
                Ok(Found::Before(Box::new(seen)))
            }
        }
    }

    /// Does what was decided, or goes on with what was begun, and says each step by `tell`.
    pub async fn restore(
        &self,
        decided: Option<(&Seen, &Reset)>,
        tell: impl Fn(&str),
    ) -> Result<Restored, RestoreError> {
        let start = Start::of_the_unit().await?;
        if let Some((_, reset)) = decided {
            self.has_room(reset)?;
        }
        let _lock = self.room.enter()?;
        let mut journal = self.begin(decided)?;
        loop {
            journal.step = match journal.step {
                Step::Begun => self.copy(&tell).await?,
                Step::Copied => Step::Resetting,
                Step::Resetting => self.reset(&mut journal, &start, &tell).await?,
                Step::Reset => self.start(&tell).await?,
                Step::Started => return self.end(&journal, &tell).await,
            };
            self.room.write(&journal)?;
        }
    }

    /// What is to be done, written down. A copy that was made before is not made again: etcd's folder may be anything now.
    fn begin(&self, decided: Option<(&Seen, &Reset)>) -> Result<Journal, RestoreError> {
        let begun = self.room.journal()?;
        let journal = match (begun, decided) {
            (Some(begun), None) => begun,
            (Some(begun), Some(_)) if begun.step >= Step::Reset => begun,
            (begun, Some((seen, reset))) => {
                let fresh = Journal::new(reset.from.clone(), seen, Timestamp::now());
                Journal {
                    step: begun.as_ref().map_or(fresh.step, |b| b.step),
                    own_failed: begun.is_some_and(|b| b.own_failed),
                    ..fresh
                }
            }
            (None, None) => return Err(RestoreError::NothingBegun),
        };
        self.room.write(&journal)?;
        if journal.step < Step::Reset {
            let hold = self.room.hold();
            File::create(&hold)
                .and_then(|file| file.sync_all())
                .map_err(at(&hold))?;
        }
        Ok(journal)
    }

    fn has_room(&self, reset: &Reset) -> Result<(), RestoreError> {
        let mut needed = 2 * files::size(&self.db.join("etcd"))?;
        if let Source::Snapshot(snapshot) = &reset.from {
            let file = Path::new(&snapshot.file);
            files::is_whole(file)?;
            needed += file.metadata().map_err(at(file))?.len();
        }
        files::has_room(&self.db, needed)
    }

    async fn copy(&self, tell: &impl Fn(&str)) -> Result<Step, RestoreError> {
        tell("stopping fabrik and k3s");
        k3s::stop(k3s::FABRIK).await?;
        k3s::stop(k3s::K3S).await?;
        let etcd = self.db.join("etcd");
        if etcd.is_dir() {
            tell("copying etcd's folder");
            files::copy(&etcd, &self.room.copy())?;
        }
        Ok(Step::Copied)
    }

    /// The others are looked at once more, right before.
    async fn reset(
        &self,
        journal: &mut Journal,
        start: &Start,
        tell: &impl Fn(&str),
    ) -> Result<Step, RestoreError> {
        for (name, addresses) in &journal.others {
            if look::listens(addresses).await {
                return Err(RestoreError::CameBack(name.clone()));
            }
        }
        k3s::end_reset().await?;
        // k3s resets only once until it has been started between. (k3s, `pkg/cluster/managed.go`)
        files::remove(&self.db.join("reset-flag"))?;
        if matches!(journal.from, Source::OwnData { .. }) {
            files::copy(&self.room.copy(), &self.db.join("etcd"))?;
        }
        tell("k3s makes this server etcd's only member");
        match start.reset(&journal.from, &self.room.config()).await {
            Ok(()) => Ok(Step::Reset),
            Err(said) => {
                journal.own_failed |= matches!(journal.from, Source::OwnData { .. });
                self.room.write(journal)?;
                let copy = self.room.copy();
                Err(RestoreError::NotReset { said, copy })
            }
        }
    }

    async fn start(&self, tell: &impl Fn(&str)) -> Result<Step, RestoreError> {
        tell("starting k3s");
        files::remove(&self.room.hold())?;
        k3s::start(k3s::K3S).await?;
        nodes::api(self.kubeconfig()).await?;
        Ok(Step::Started)
    }

    async fn end(&self, journal: &Journal, tell: &impl Fn(&str)) -> Result<Restored, RestoreError> {
        let client = nodes::api(self.kubeconfig()).await?;
        let removed = nodes::remove(&client, &journal.gone).await?;
        tell("starting fabrik");
        k3s::start(k3s::FABRIK).await?;
        Ok(Restored {
            kept: self.room.leave(journal)?,
            removed: removed.iter().map(ToString::to_string).collect(),
        })
    }

    fn given_up(&self, begun: &Journal) -> String {
        let dir = self.room.dir().display();
        format!(
            "a restore was begun here at {:.0} and has reset nothing yet: k3s does not start until it has ended. To give \
             it up instead, put {dir}/etcd, if it is there, back where etcd's folder was, remove {dir}, and start k3s \
             and fabrik",
            begun.begun
        )
    }

    /// This server's own data of etcd: since k3s was stopped, the copy that was made then.
    fn data(&self, begun: Option<&Journal>) -> PathBuf {
        match begun {
            Some(journal) if journal.step >= Step::Copied => self.room.copy(),
            _ => self.db.join("etcd"),
        }
    }

    fn kubeconfig(&self) -> &Path {
        let founded = self.config.kubernetes.admin_kubeconfig.as_deref();
        // (docs.k3s.io, "Cluster Access")
        founded.unwrap_or(Path::new("/etc/rancher/k3s/k3s.yaml"))
    }
}
