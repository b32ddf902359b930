//! The task beside the leader's loop that makes the systems of the newest commit.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fabrik_core::id::{ClusterId, PoolName, StorePath};
use fabrik_core::names::SERVERS_POOL;
use fabrik_core::spec::K3sVersion;
use fabrik_core::system::{Publication, System, Target};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{info, warn};

use super::evaluate::{Evaluated, Evaluator, Flake};
use super::nix::{Limits, Nix, Task};
use super::published::Published;
use super::room;
use super::systems::Systems;
use super::{BuildError, Builds, Built, Request, State};
use crate::config::{self, Size};
use crate::publication;
use crate::signing::{KeyError, SigningKey};

/// What failed is tried again after this, then after twice that, and so on: a network comes back, a flake does not mend
/// itself.
const FIRST_RETRY: Duration = Duration::from_secs(60);
const LAST_RETRY: Duration = Duration::from_secs(1800);

/// Evaluates, builds, keeps, signs.
pub struct Builder {
    nix: Nix,
    memory_max: Size,
    time_limit: Duration,
    cluster: ClusterId,
    key: Arc<SigningKey>,
    systems: Systems,
    published: Arc<Published>,
}

/// What is noted of an evaluation, for whoever asks again.
#[derive(Serialize, Deserialize)]
struct Noted {
    /// What it was evaluated for, where that is the first of two steps.
    version: Option<K3sVersion>,
    evaluated: Evaluated,
}

impl Builder {
    /// # Errors
    /// There is no signing key.
    pub fn new(
        config: &config::Nix,
        state_dir: &Path,
        cluster: ClusterId,
    ) -> Result<Self, KeyError> {
        let home = state_dir.join("nix-home");
        let nix = Nix::new(&config.program_dir, config.store.as_deref(), &home);
        Self::with_nix(nix, config, state_dir, cluster)
    }

    pub(super) fn with_nix(
        nix: Nix,
        config: &config::Nix,
        state_dir: &Path,
        cluster: ClusterId,
    ) -> Result<Self, KeyError> {
        let key = Arc::new(SigningKey::read(&config.signing_key_file)?);
        let systems = Systems::new(state_dir);
        Ok(Self {
            published: Arc::new(Published::new(
                nix.clone(),
                systems.clone(),
                Arc::clone(&key),
            )),
            memory_max: config.memory_max,
            time_limit: config.time_limit,
            nix,
            cluster,
            key,
            systems,
        })
    }

    /// What of all this nodes may fetch.
    pub fn published(&self) -> Arc<Published> {
        Arc::clone(&self.published)
    }

    /// Makes what is asked for until nobody asks any more, and tells how far it is. A newer request ends the work on the
    /// one before. Safe to drop: children are killed.
    pub async fn run(
        &self,
        mut requests: watch::Receiver<Option<Arc<Request>>>,
        tell: watch::Sender<Builds>,
    ) {
        loop {
            let request = requests.borrow_and_update().clone();
            let work = async {
                if let Some(request) = request {
                    self.make(&request, &tell).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                changed = requests.changed() => if changed.is_err() { return },
                () = work => {}
            }
        }
    }

    /// Tries until all is built.
    async fn make(&self, request: &Request, tell: &watch::Sender<Builds>) {
        let mut retry = FIRST_RETRY;
        loop {
            self.try_all(request, tell).await;
            if !tell.borrow().any_failed() {
                return;
            }
            tokio::time::sleep(retry).await;
            retry = (2 * retry).min(LAST_RETRY);
        }
    }

    async fn try_all(&self, request: &Request, tell: &watch::Sender<Builds>) {
        let say = |pool: &PoolName, state: State| {
            tell.send_modify(|builds| {
                builds.pools.insert(pool.clone(), state);
            });
        };
        let commit = &request.origin.commit;
        if tell.borrow().commit.as_ref() != Some(commit) {
            let evaluating = |pool: &PoolName| (pool.clone(), State::Evaluating);
            tell.send_replace(Builds {
                commit: Some(commit.clone()),
                pools: request.pools.iter().map(evaluating).collect(),
            });
        }
        let work = Work {
            builder: self,
            request,
        };
        self.nix.clear_the_way().await;
        let flake = match work.flake().await {
            Ok(Some(flake)) => flake,
            Ok(None) => {
                tell.send_modify(|builds| builds.pools.clear());
                return;
            }
            Err(error) => {
                warn!(commit = commit.short(), %error, "no systems");
                for pool in &request.pools {
                    say(pool, State::Failed(error.to_string()));
                }
                return;
            }
        };
        // The control plane goes first in a rollout.
        let (servers, workers): (Vec<_>, Vec<_>) = request
            .pools
            .iter()
            .partition(|pool| pool.as_str() == SERVERS_POOL);
        for pool in servers.into_iter().chain(workers) {
            if matches!(tell.borrow().pools.get(pool), Some(State::Built(_))) {
                continue;
            }
            match work.pool(&flake, pool, &|state| say(pool, state)).await {
                Ok(built) => {
                    info!(commit = commit.short(), %pool, output = %built.target.system.output, "built");
                    say(pool, State::Built(Box::new(built)));
                }
                Err(error) => {
                    warn!(commit = commit.short(), %pool, %error, "no system");
                    say(pool, State::Failed(error.to_string()));
                }
            }
        }
        if let Err(problem) = self.systems.prune(commit) {
            warn!(problem, "systems of old commits are kept");
        }
    }
}

/// The work on one request.
struct Work<'a> {
    builder: &'a Builder,
    request: &'a Request,
}

impl Work<'_> {
    async fn flake(&self) -> Result<Option<Flake>, BuildError> {
        self.evaluator().examine().await
    }

    async fn pool(
        &self,
        flake: &Flake,
        pool: &PoolName,
        say: &(dyn Fn(State) + Sync),
    ) -> Result<Built, BuildError> {
        say(State::Evaluating);
        let evaluated = self.evaluate(flake, pool).await?;
        let (first, notice) = self.first(flake, pool, &evaluated).await?;
        say(State::Building);
        // The first of two steps is wanted first.
        if let Some(first) = &first {
            self.realise(pool, &format!("{pool}.first"), first).await?;
        }
        self.realise(pool, pool.as_str(), &evaluated.system).await?;
        let builder = self.builder;
        // Before nodes hear of it, it can be fetched.
        builder.published.refresh().await?;
        let target = Target {
            system: evaluated.system,
            first,
        };
        let publication = Publication {
            schema: Publication::SCHEMA,
            cluster: builder.cluster.clone(),
            pool: pool.clone(),
            commit: self.request.origin.commit.clone(),
            sequence: self.request.sequence,
            systems: target
                .first
                .iter()
                .chain([&target.system])
                .cloned()
                .collect(),
        };
        let publication =
            publication::sign(&builder.key, &publication).map_err(BuildError::Disk)?;
        Ok(Built {
            target,
            publication,
            notice,
        })
    }

    async fn evaluate(&self, flake: &Flake, pool: &PoolName) -> Result<Evaluated, BuildError> {
        self.noted_or(pool.as_str(), None, self.evaluator().system(flake, pool))
            .await
    }

    /// The first of two steps, where the commit takes the servers to another k3s minor.
    async fn first(
        &self,
        flake: &Flake,
        pool: &PoolName,
        evaluated: &Evaluated,
    ) -> Result<(Option<System>, Option<String>), BuildError> {
        let to = evaluated.system.kubernetes;
        let from = self
            .request
            .servers_run
            .filter(|from| from.minor < to.minor);
        let Some(from) = from.filter(|_| pool.as_str() == SERVERS_POOL) else {
            return Ok((None, None));
        };
        if !evaluated.offers_first {
            let notice = format!(
                "k3s goes from 1.{} to 1.{}, and the flake has no fabrik.first.{pool}: whatever else the commit changes \
                 comes to the servers in the same step, which is not taken back once k3s has started",
                from.minor, to.minor
            );
            return Ok((None, Some(notice)));
        }
        let evaluator = self.evaluator();
        let first = async {
            let system = evaluator.first(flake, pool, from).await?;
            Ok(Evaluated {
                system,
                offers_first: true,
            })
        };
        let name = format!("{pool}.first");
        let first = self.noted_or(&name, Some(from), first).await?;
        Ok((Some(first.system), None))
    }

    /// What an evaluation said before, if its derivation is still there.
    async fn noted_or(
        &self,
        name: &str,
        version: Option<K3sVersion>,
        evaluate: impl Future<Output = Result<Evaluated, BuildError>>,
    ) -> Result<Evaluated, BuildError> {
        let (systems, commit) = (&self.builder.systems, &self.request.origin.commit);
        let noted = systems.noted::<Noted>(commit, name);
        if let Some(noted) = noted.filter(|noted| noted.version == version)
            && self.is_there(&noted.evaluated.system.derivation).await
        {
            return Ok(noted.evaluated);
        }
        // Inputs and derivations are written before anything is built.
        room::check(&self.builder.nix.store_dir())?;
        let evaluated = evaluate.await?;
        let noted = Noted {
            version,
            evaluated: evaluated.clone(),
        };
        systems
            .note(commit, name, &noted)
            .map_err(BuildError::Disk)?;
        Ok(evaluated)
    }

    async fn is_there(&self, path: &StorePath) -> bool {
        let task = Task {
            what: format!("looking for {path}"),
            program: "nix-store",
            args: ["--check-validity", path.as_str()].map(Into::into).into(),
            limits: None,
            source: None,
        };
        self.builder.nix.run(task).await.is_ok()
    }

    /// Builds a system and keeps it and its derivation, by links of that name.
    async fn realise(
        &self,
        pool: &PoolName,
        name: &str,
        system: &System,
    ) -> Result<(), BuildError> {
        let dir = self.builder.systems.of(&self.request.origin.commit);
        let dir = dir.map_err(BuildError::Disk)?;
        if !self.is_there(&system.output).await {
            room::check(&self.builder.nix.store_dir())?;
        }
        // The derivation alone is not built; it only gets its link.
        let derivation = system.derivation.as_str();
        self.build(pool, derivation, &dir.join(format!("{name}.drv")))
            .await?;
        let output = format!("{derivation}^out");
        let printed = self.build(pool, &output, &dir.join(name)).await?;
        if printed.trim() == system.output.as_str() {
            return Ok(());
        }
        fs::remove_file(dir.join(name)).ok();
        Err(BuildError::OtherOutput {
            pool: pool.clone(),
            expected: system.output.to_string(),
            got: printed.trim().to_owned(),
        })
    }

    async fn build(
        &self,
        pool: &PoolName,
        installable: &str,
        link: &PathBuf,
    ) -> Result<String, BuildError> {
        let mut args: Vec<std::ffi::OsString> = vec!["build".into(), installable.into()];
        args.push("--print-out-paths".into());
        args.push("--out-link".into());
        args.push(link.into());
        for (name, value) in self.settings() {
            args.extend(["--option", name, &value].map(Into::into));
        }
        let task = Task {
            what: format!("building pool {pool}"),
            program: "nix",
            args,
            limits: Some(Limits {
                memory: None,
                time: self.builder.time_limit,
            }),
            source: None,
        };
        Ok(self.builder.nix.run(task).await?)
    }

    /// Those of cluster.toml, and what leaves room for etcd.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let spec = &self.request.settings;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2));
        let mut settings = vec![
            ("max-jobs", "1".to_owned()),
            ("cores", cores.to_string()),
            ("extra-substituters", spec.substituters.join(" ")),
            (
                "extra-trusted-public-keys",
                spec.trusted_public_keys.join(" "),
            ),
        ];
        if !spec.builders.is_empty() {
            settings.push(("builders", spec.builders.join(" ; ")));
            settings.push(("builders-use-substitutes", "true".to_owned()));
        }
        settings
    }

    fn evaluator(&self) -> Evaluator<'_> {
        Evaluator {
            nix: &self.builder.nix,
            limits: Limits {
                memory: Some(self.builder.memory_max),
                time: self.builder.time_limit,
            },
            origin: &self.request.origin,
        }
    }
}
