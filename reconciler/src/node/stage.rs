//! Fetches systems into the node's store, long before they are tried, and keeps them from collection.
//!
//! Nix substitutes the output from the leader's cache and the node's own ones, believing only what is signed; where it
//! can't be had, Nix realises the derivation, whose closure proves itself by its content.

mod space;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fabrik_core::id::StorePath;
use tokio::process::Command;
use tokio::sync::watch;

use super::state::State;
use super::{AgentConfig, NodeError};

/// After a failure it is tried again, at first soon and then less and less often.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// So much of what Nix says last is shown.
const MAX_SAID_CHARS: usize = 1000;

/// What is to be in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub system: Option<Source>,
    /// Systems that are there and must not be collected.
    pub keep: BTreeSet<StorePath>,
}

/// A system, and what it is made of where nobody has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub output: StorePath,
    pub derivation: StorePath,
}

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whole, and kept from collection.
    pub staged: Option<StorePath>,
    /// Why the wanted system is not there yet.
    pub problem: Option<String>,
}

/// Sees to it that what is wanted is there. Runs until dropped: what Nix was doing then ends, and is done again.
pub async fn run(
    config: AgentConfig,
    mut wanted: watch::Receiver<Wanted>,
    progress: watch::Sender<Progress>,
) {
    let store = Store::new(&config);
    let mut pause = FIRST_PAUSE;
    loop {
        let now = wanted.borrow_and_update().clone();
        let outcome = tokio::select! {
            outcome = store.bring_about(&now) => outcome,
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                pause = FIRST_PAUSE;
                continue;
            }
        };
        let failed = outcome.is_err();
        progress.send_if_modified(|progress| {
            let next = match outcome {
                Ok(()) => Progress {
                    staged: now.system.map(|source| source.output),
                    problem: None,
                },
                Err(error) => {
                    tracing::warn!(%error, "a system can't be fetched");
                    Progress {
                        staged: None,
                        problem: Some(error.to_string()),
                    }
                }
            };
            std::mem::replace(progress, next.clone()) != next
        });
        let ended = if failed {
            let again = tokio::time::timeout(pause, wanted.changed()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            matches!(again, Ok(Err(_)))
        } else {
            pause = FIRST_PAUSE;
            wanted.changed().await.is_err()
        };
        if ended {
            return;
        }
    }
}

struct Store<'a> {
    config: &'a AgentConfig,
    nix: PathBuf,
    roots: PathBuf,
}

impl<'a> Store<'a> {
    fn new(config: &'a AgentConfig) -> Self {
        Self {
            config,
            nix: config.programs().find("nix"),
            roots: State::new(&config.state_dir).roots(),
        }
    }

    async fn bring_about(&self, wanted: &Wanted) -> Result<(), NodeError> {
        std::fs::create_dir_all(&self.roots).map_err(NodeError::io(&self.roots))?;
        // What is there first: it costs nothing, and a full disk does not stop it.
        for system in &wanted.keep {
            self.build(system.as_str(), system).await?;
        }
        // Who has not heard yet what is wanted lets nothing go.
        let Some(source) = &wanted.system else {
            return Ok(());
        };
        self.fetch(source).await?;
        self.let_go(&wanted.keep.iter().chain([&source.output]).collect())
    }

    async fn fetch(&self, source: &Source) -> Result<(), NodeError> {
        let output = source.output.as_str();
        let dry = self.nix(output, &["--dry-run"]).await;
        // Where Nix can't say how much that is, it can't substitute it either.
        if let Ok(said) = &dry {
            space::check(self.config, said)?;
        }
        let Err(not_substituted) = self.build(output, &source.output).await else {
            return Ok(());
        };
        let derivation = format!("{}^*", source.derivation);
        let built = self.build(&derivation, &source.output).await;
        built.map_err(|not_built| NodeError::Program {
            program: format!("nix build {output}"),
            reason: format!(
                "it can't be fetched: {not_substituted}; nor built from {}: {not_built}",
                source.derivation
            ),
        })
    }

    /// Makes `what` valid, with a link that keeps `output` from collection from the same moment on.
    async fn build(&self, what: &str, output: &StorePath) -> Result<(), NodeError> {
        let link = self.roots.join(name(output));
        let out_link = [OsString::from("--out-link"), link.clone().into()];
        self.nix(what, &out_link).await?;
        let found = std::fs::read_link(&link).map_err(NodeError::io(&link))?;
        if found == Path::new(output.as_str()) {
            return Ok(());
        }
        Err(NodeError::NoSystem {
            path: link,
            found: found.display().to_string(),
        })
    }

    /// What Nix said.
    async fn nix(
        &self,
        what: &str,
        arguments: &[impl AsRef<std::ffi::OsStr>],
    ) -> Result<String, NodeError> {
        let mut command = Command::new(&self.nix);
        command
            .args(["--extra-experimental-features", "nix-command"])
            .args(["build", what])
            .args(arguments);
        if let Some(store) = &self.config.nix.store {
            command.arg("--store").arg(store);
        }
        let front = format!("http://{}", self.config.front);
        let key = self.config.cluster.public_key.as_str();
        for (option, value) in [
            ("extra-substituters", front.as_str()),
            ("extra-trusted-public-keys", key),
            // What was not there a minute ago may have been built since.
            ("narinfo-cache-negative-ttl", "0"),
            ("connect-timeout", "10"),
            ("stalled-download-timeout", "60"),
        ] {
            command.args(["--option", option, value]);
        }
        let told = format!("nix build {what}");
        let output = command
            .env("PATH", self.config.programs().path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        let failed = |reason: String| NodeError::Program {
            program: told.clone(),
            reason,
        };
        let output = output.map_err(|error| failed(format!("{}: {error}", self.nix.display())))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        let said = said.trim_end();
        let skipped = said.chars().count().saturating_sub(MAX_SAID_CHARS);
        let end: String = said.chars().skip(skipped).collect();
        Err(failed(format!("{}: {end}", output.status)))
    }

    /// Systems that are no longer wanted may be collected.
    fn let_go(&self, wanted: &BTreeSet<&StorePath>) -> Result<(), NodeError> {
        let names: BTreeSet<&str> = wanted.iter().map(|system| name(system)).collect();
        let io = |error| NodeError::io(&self.roots)(error);
        for link in std::fs::read_dir(&self.roots).map_err(io)? {
            let link = link.map_err(io)?;
            let kept = link.file_name().to_str().is_some_and(|n| names.contains(n));
            if !kept {
                std::fs::remove_file(link.path()).map_err(NodeError::io(link.path()))?;
            }
        }
        Ok(())
    }
}

fn name(system: &StorePath) -> &str {
    let path = system.as_str();
    path.rsplit('/').next().unwrap_or(path)
}
