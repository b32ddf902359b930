//! A machine to boot: its disk and its firmware's variables.

use std::fs;
use std::path::Path;

use anyhow::Result;
use fabrik_boot::parts::Parts;
use fabrik_boot::systems::{self, Behaviour};
use fabrik_boot::vm::Hardware;
use fabrik_boot::{Setup, disk};
use tempfile::TempDir;

const MACHINE: &str = env!("CARGO_BIN_EXE_machine");

/// A machine that is off, with its first system installed.
pub struct World {
    pub parts: &'static Parts,
    pub hardware: Hardware,
    _folder: TempDir,
}

impl World {
    pub fn new(setup: Setup, tried: &[Behaviour]) -> Result<Self> {
        let parts = Parts::get()?;
        let folder = tempfile::tempdir()?;
        let trees = systems::build(parts, setup, tried, Path::new(MACHINE), folder.path())?;
        let disk = disk::build(parts, setup, &trees, folder.path())?;
        fs::remove_dir_all(&trees.root)?;
        fs::remove_dir_all(&trees.boot)?;
        let hardware = Hardware::new(parts, setup, disk, tried.len() + 1)?;
        Ok(Self {
            parts,
            hardware,
            _folder: folder,
        })
    }
}
