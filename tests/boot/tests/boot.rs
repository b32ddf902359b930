//! A new system is tried once, by the real loaders.

use std::path::Path;

use anyhow::Result;
use fabrik_boot::Setup;
use fabrik_boot::disk;
use fabrik_boot::parts::Parts;
use fabrik_boot::systems::{self, Behaviour};
use fabrik_boot::vm::{Hardware, Then, Vm};
use tempfile::TempDir;

const MACHINE: &str = env!("CARGO_BIN_EXE_machine");

struct World {
    parts: &'static Parts,
    hardware: Hardware,
    _folder: TempDir,
}

fn world(setup: Setup, new: Behaviour) -> Result<World> {
    let parts = Parts::get()?;
    let folder = tempfile::tempdir()?;
    let trees = systems::build(parts, setup, new, Path::new(MACHINE), folder.path())?;
    let disk = disk::build(parts, setup, &trees, folder.path())?;
    std::fs::remove_dir_all(&trees.root)?;
    std::fs::remove_dir_all(&trees.boot)?;
    Ok(World {
        parts,
        hardware: Hardware::new(parts, setup, disk)?,
        _folder: folder,
    })
}

fn good(setup: Setup) -> Result<()> {
    let world = world(setup, Behaviour::Works)?;
    let mut vm = Vm::start(world.parts, &world.hardware, Then::GoesOn, None)?;
    vm.expect(&[
        "SYSTEM 1 UP",
        "PREPARED",
        "ONCE",
        "SYSTEM 2 UP",
        "KEPT",
        "SYSTEM 2 UP",
        "STEADY",
    ])?;
    vm.wait_for_power_off()
}

#[test]
fn good_bios() -> Result<()> {
    good(Setup::GrubBios)
}
#[test]
fn good_uefi() -> Result<()> {
    good(Setup::GrubUefi)
}
#[test]
fn good_sd() -> Result<()> {
    good(Setup::SystemdBoot)
}
