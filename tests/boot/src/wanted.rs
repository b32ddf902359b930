//! What nixos/ says of a server's disk, evaluated by real Nix.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::parts::{output, run};
use crate::systems;

/// As `disk.nix` gives it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    pub install: Install,
    pub grub: Grub,
    pub grow_partition: bool,
    pub drivers: Vec<String>,
    pub root: FileSystem,
    pub boot: FileSystem,
}

/// `system.build.fabrikInstall`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Install {
    pub runtime_inputs: Vec<String>,
    pub text: String,
}

/// `boot.loader.grub`
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grub {
    pub device: String,
    pub efi_support: bool,
    pub efi_install_as_removable: bool,
}

/// `fileSystems.NAME`
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileSystem {
    pub device: String,
    pub fs_type: String,
    #[serde(default)]
    pub auto_resize: bool,
    #[serde(default)]
    pub options: Vec<String>,
}

impl Wanted {
    /// Gets Nix where it is missing: some seconds, once.
    pub fn evaluate() -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let state = tempfile::tempdir()?;
        let place = |name: &str| state.path().join(name);
        let told = output(
            Command::new(nix(here)?)
                .args(["--eval", "--strict", "--json"])
                .arg(here.join("disk.nix"))
                .args(["--argstr", "toplevel", &systems::path(systems::OLD)])
                .env("NIX_CONFIG", "build-users-group =")
                .env("NIX_STORE_DIR", place("store"))
                .env("NIX_STATE_DIR", place("var"))
                .env("NIX_LOG_DIR", place("log"))
                .env("NIX_CONF_DIR", place("conf"))
                .env("HOME", state.path()),
        )?;
        serde_json::from_str(&told).with_context(|| told.clone())
    }
}

fn nix(here: &Path) -> Result<PathBuf> {
    let installed = PathBuf::from("nix-instantiate");
    if Command::new(&installed).arg("--version").output().is_ok() {
        return Ok(installed);
    }
    let folder = here.join("../../target/nix");
    run(Command::new(here.join("../nix/get-nix.sh")).arg(&folder))?;
    Ok(folder.join("bin/nix-instantiate"))
}
