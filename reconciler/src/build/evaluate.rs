//! From a commit's flake to the systems of its pools: what they are, and nothing built yet.

use std::path::{Path, PathBuf};

use fabrik_core::id::{CommitId, PoolName};
use fabrik_core::spec::K3sVersion;
use fabrik_core::system::System;
use serde::{Deserialize, Serialize};

use super::nix::{Limits, Nix, NixError, Task};
use super::{BuildError, NoSystem};

const EXAMINE: &str = include_str!("examine.nix");
const EVALUATE: &str = include_str!("evaluate.nix");
/// A flake takes nothing from this machine, changes nothing, and configures nothing but what it describes. Importing
/// what is built while evaluating would build outside of our limits.
pub(super) const FLAGS: [&str; 15] = [
    "eval",
    "--json",
    "--show-trace",
    "--no-eval-cache",
    "--no-update-lock-file",
    "--no-write-lock-file",
    "--option",
    "accept-flake-config",
    "false",
    "--option",
    "allow-import-from-derivation",
    "false",
    "--option",
    "flake-registry",
    "",
];

/// A commit in a bare clone, of which any ref has it among its ancestors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub clone: PathBuf,
    pub commit: CommitId,
}

/// What a flake says of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluated {
    pub system: System,
    /// The flake can make this system with another k3s as well, for the first of two steps.
    pub offers_first: bool,
}

/// Evaluates the flake of one commit.
pub struct Evaluator<'a> {
    pub nix: &'a Nix,
    pub limits: Limits,
    pub origin: &'a Origin,
}

/// A flake that may be evaluated, and where Nix keeps it.
pub struct Flake {
    source: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Examined {
    source: String,
    present: bool,
    nix_config: bool,
    /// Inputs that the lock file does not have. Of one that it has otherwise than `flake.nix`, Nix tells.
    unlocked: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    known: Vec<String>,
    offers_first: bool,
    system: Option<Described>,
}

/// Not typed yet: the user's flake wrote it.
#[derive(Deserialize)]
pub(super) struct Described {
    derivation: String,
    output: String,
    kubernetes: String,
}

impl Evaluator<'_> {
    /// The commit's flake, if it has one.
    ///
    /// # Errors
    /// It tries to configure Nix, has inputs that are not locked, or can't be read.
    pub async fn examine(&self) -> Result<Option<Flake>, BuildError> {
        let arguments = format!(
            r#"url = "file://{}"; rev = "{}";"#,
            encoded(&self.origin.clone),
            self.origin.commit,
        );
        let what = format!("reading flake.nix of {}", self.origin.commit.short());
        let found: Examined = self.ask(what, EXAMINE, &arguments, None).await?;
        if found.nix_config {
            return Err(BuildError::NixConfig);
        }
        if !found.unlocked.is_empty() {
            return Err(BuildError::Unlocked {
                inputs: found.unlocked,
            });
        }
        Ok(found.present.then_some(Flake {
            source: found.source,
        }))
    }

    /// The system of a pool.
    ///
    /// # Errors
    /// The flake has none, or it does not evaluate.
    pub async fn system(&self, flake: &Flake, pool: &PoolName) -> Result<Evaluated, BuildError> {
        let what = format!("evaluating pool {pool}");
        let arguments = self.arguments(pool, r#"version = ""; minor = 0;"#);
        let source = Some(flake.source.as_str());
        let answer: Answer = self.ask(what, EVALUATE, &arguments, source).await?;
        let described = answer.system.ok_or_else(|| NoSystem {
            pool: pool.clone(),
            known: answer.known,
        })?;
        Ok(Evaluated {
            system: described.typed(pool)?,
            offers_first: answer.offers_first,
        })
    }

    /// The system of a pool with the k3s of `version`'s minor, as the flake offers it for the first of two steps.
    ///
    /// # Errors
    /// It does not evaluate, or has a k3s of another minor.
    pub async fn first(
        &self,
        flake: &Flake,
        pool: &PoolName,
        version: K3sVersion,
    ) -> Result<System, BuildError> {
        let what = format!("evaluating fabrik.first.{pool} for k3s {version}");
        let minor = version.minor;
        let arguments = format!(r#"version = "{version}"; minor = {minor};"#);
        let arguments = self.arguments(pool, &arguments);
        let source = Some(flake.source.as_str());
        let answer: Answer = self.ask(what, EVALUATE, &arguments, source).await?;
        let described = answer.system.ok_or_else(|| NoSystem {
            pool: pool.clone(),
            known: answer.known,
        })?;
        let system = described.typed(pool)?;
        if system.kubernetes.minor == minor {
            return Ok(system);
        }
        Err(BuildError::FirstHasAnotherMinor {
            pool: pool.clone(),
            asked: version,
            got: system.kubernetes,
        })
    }

    fn arguments(&self, pool: &PoolName, more: &str) -> String {
        let clone = checkout_url(&self.origin.clone);
        let commit = &self.origin.commit;
        format!(r#"flake = "{clone}?allRefs=1&rev={commit}"; pool = "{pool}"; {more}"#)
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        what: String,
        function: &str,
        arguments: &str,
        source: Option<&str>,
    ) -> Result<T, BuildError> {
        let mut args: Vec<_> = FLAGS.iter().map(Into::into).collect();
        args.push("--expr".into());
        args.push(format!("({function}) {{ {arguments} }}").into());
        let task = Task {
            what: what.clone(),
            program: "nix",
            args,
            limits: Some(self.limits),
            source,
        };
        let printed = self.nix.run(task).await.map_err(explained)?;
        serde_json::from_str(&printed).map_err(|error| {
            NixError::Unreadable {
                what,
                problem: error.to_string(),
            }
            .into()
        })
    }
}

impl Described {
    pub(super) fn typed(self, pool: &PoolName) -> Result<System, BuildError> {
        let odd = |problem: String| BuildError::OddSystem {
            pool: pool.clone(),
            problem,
        };
        let path = |text: String| text.parse().map_err(|e| odd(format!("{e}")));
        let kubernetes = self.kubernetes.parse().map_err(|problem| {
            odd(format!(
                "the version `{}` of its services.k3s.package {problem}",
                self.kubernetes
            ))
        })?;
        Ok(System {
            output: path(self.output)?,
            derivation: path(self.derivation)?,
            kubernetes,
        })
    }
}

/// Nix names an input whose place in `flake.nix` is not the one that was locked, and no way out.
pub(super) fn explained(error: NixError) -> BuildError {
    const START: &str = "cannot update unlocked flake input '";
    let input = match &error {
        NixError::Failed { said, .. } => said.split_once(START),
        _ => None,
    };
    match input.and_then(|(_, rest)| rest.split_once('\'')) {
        Some((input, _)) => BuildError::Unlocked {
            inputs: vec![input.to_owned()],
        },
        None => error.into(),
    }
}

/// A checkout as Nix names it. Nothing in it can end the path, nor a string of Nix' language.
pub(crate) fn checkout_url(root: &Path) -> String {
    format!("git+file://{}", encoded(root))
}

/// A path as a URL has it.
fn encoded(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_an_expression_is_only_a_path() {
        let odd = Path::new("/a b/\"; ${x} \\é");
        assert_eq!(encoded(odd), "/a%20b/%22%3B%20%24%7Bx%7D%20%5C%C3%A9");
        let more = checkout_url(Path::new("/home/c#/demo?"));
        assert_eq!(more, "git+file:///home/c%23/demo%3F");
    }
}
