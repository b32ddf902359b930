//! The systems of a work tree, evaluated on a person's machine with their own Nix: for a plan, so nothing is built and
//! nothing limited.

use std::path::{Path, PathBuf};

use fabrik_core::id::{CommitId, PoolName};
use fabrik_core::system::System;

use super::BuildError;
use super::NoSystem;
use super::evaluate::{Described, FLAGS, checkout_url, explained};
use super::nix::{Nix, NixError, Task};

/// What the agent looks for in closures (`node/look.rs`) is named here as NixOS' options have it.
const DESCRIBE: &str = r#"
systems:
let
  there = systems ? "POOL";
  inherit (systems."POOL") config;
  inherit (config.system) build;
in
{
  known = builtins.attrNames systems;
  system =
    if there then
      {
        derivation = build.toplevel.drvPath;
        output = build.toplevel.outPath;
        kubernetes = config.services.k3s.package.version;
      }
    else
      null;
  boots =
    if there && build ? kernel then
      builtins.toJSON [
        build.kernel
        (build.initialRamdisk or null)
        (config.system.modulesTree or null)
        (config.boot.kernelParams or null)
        (config.systemd.package or null)
      ]
    else
      null;
}
"#;

/// A work tree, as it is or as it is in a commit.
pub struct Preview {
    nix: Nix,
    reference: String,
}

/// A system, and what of it only a reboot brings into force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previewed {
    pub system: System,
    /// Kernel, initrd, modules, parameters and systemd, to be compared. `None` where the flake does not show them.
    pub boots: Option<String>,
}

#[derive(serde::Deserialize)]
struct Answer {
    known: Vec<String>,
    system: Option<Described>,
    boots: Option<String>,
}

impl Preview {
    /// # Errors
    /// Why it can't be evaluated here, in words that complete "systems were not evaluated: …".
    pub fn of(dir: &Path, commit: Option<&CommitId>) -> Result<Self, String> {
        let nix = Nix::on_path().ok_or("nix is not on PATH")?;
        Self::with(nix, dir, commit)
    }

    pub(super) fn with(nix: Nix, dir: &Path, commit: Option<&CommitId>) -> Result<Self, String> {
        let dir: PathBuf = std::fs::canonicalize(dir).map_err(|e| e.to_string())?;
        let root = dir.ancestors().find(|dir| dir.join(".git").exists());
        let root = root.ok_or_else(|| format!("{} is in no git work tree", dir.display()))?;
        if commit.is_none() && root != dir {
            return Err(format!(
                "{} is not the root of its work tree",
                dir.display()
            ));
        }
        let revision = commit.map_or_else(String::new, |commit| format!("?rev={commit}"));
        let reference = format!("{}{revision}", checkout_url(root));
        Ok(Self { nix, reference })
    }

    /// # Errors
    /// There is none, or it does not evaluate.
    pub async fn system(&self, pool: &PoolName) -> Result<Previewed, BuildError> {
        let what = format!("evaluating pool {pool}");
        let describe = DESCRIBE.replace("POOL", pool.as_str());
        let installable = format!("{}#nixosConfigurations", self.reference);
        let mut args: Vec<std::ffi::OsString> = FLAGS.iter().map(Into::into).collect();
        args.extend([installable, "--apply".to_owned(), describe].map(Into::into));
        let task = Task {
            what: what.clone(),
            program: "nix",
            args,
            limits: None,
            source: None,
        };
        let printed = self.nix.run(task).await.map_err(explained)?;
        let answer: Answer = serde_json::from_str(&printed).map_err(|error| {
            let problem = error.to_string();
            NixError::Unreadable { what, problem }
        })?;
        let described = answer.system.ok_or_else(|| NoSystem {
            pool: pool.clone(),
            known: answer.known,
        })?;
        Ok(Previewed {
            system: described.typed(pool)?,
            boots: answer.boots,
        })
    }
}
