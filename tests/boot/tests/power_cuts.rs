//! No power cut ends at a loader's prompt: that is what should be, and what is not so yet. These tests fail, so they are
//! run by `make power-cuts` alone; docs/boot.md says what is known.

#[path = "boot/world.rs"]
mod world;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use fabrik_boot::systems::Behaviour;
use fabrik_boot::vm::{Hardware, Vm};
use fabrik_boot::{Setup, cuts, disk};

use world::World;

#[test]
fn grub_on_bios_survives_power_cuts() -> Result<()> {
    survives_power_cuts(Setup::GrubBios)
}

#[test]
fn grub_on_uefi_survives_power_cuts() -> Result<()> {
    survives_power_cuts(Setup::GrubUefi)
}

#[test]
fn systemd_boot_survives_power_cuts() -> Result<()> {
    survives_power_cuts(Setup::SystemdBoot)
}

fn survives_power_cuts(setup: Setup) -> Result<()> {
    let world = World::new(setup, &[Behaviour::Works])?;
    let base = file(&world, "base");
    disk::copy(&world.hardware.disk, &base)?;
    let log = file(&world, "log");
    let mut vm = Vm::start(world.parts, &world.hardware, Some(&log))?;
    let fresh = variables(&world, "fresh")?;
    vm.expect(&["SYSTEM 1 UP", "PREPARED"])?;
    let prepared_at = cuts::log_bytes(&log)?;
    vm.expect(&["ONCE"])?;
    let (set, once_at) = (variables(&world, "set")?, cuts::log_bytes(&log)?);
    vm.expect(&["SYSTEM 2 UP"])?;
    let (taken, up_at) = (variables(&world, "taken")?, cuts::log_bytes(&log)?);
    vm.expect(&["KEPT", "SYSTEM 2 UP", "STEADY"])?;
    vm.wait_for_power_off()?;

    let cuts = cuts::distinct(world.parts, setup, &base, &log)?;
    ensure!(
        cuts.len() >= 3,
        "only {} cuts that a loader can tell apart",
        cuts.len()
    );
    for cut in cuts {
        let variables = match cut.log_bytes {
            bytes if bytes <= once_at => &fresh,
            bytes if bytes < up_at => &set,
            _ => &taken,
        };
        let hardware = Hardware {
            variables: variables.clone(),
            disk: cut.disk,
            ..world.hardware.clone()
        };
        let mut vm = Vm::start(world.parts, &hardware, None)?;
        // Until all is prepared, only the old system may come up; after that, either.
        let up: &[&str] = if cut.log_bytes <= prepared_at {
            &["SYSTEM 1 UP"]
        } else {
            &["SYSTEM 1 UP", "SYSTEM 2 UP"]
        };
        let came = vm
            .wait_for(up)
            .with_context(|| format!("{setup:?}, cut at {} of the log", cut.log_bytes))?;
        println!(
            "{setup:?}: cut at {} (prepared at {prepared_at}, one-shot at {once_at}, up at {up_at}): {came}",
            cut.log_bytes
        );
        vm.cut()?;
        fs::remove_file(&hardware.disk)?;
    }
    Ok(())
}

fn file(world: &World, name: &str) -> PathBuf {
    world.hardware.disk.with_file_name(name)
}

/// A copy of the firmware's variables as they are now.
fn variables(world: &World, name: &str) -> Result<PathBuf> {
    let copy = file(world, name).with_extension("variables");
    fs::copy(&world.hardware.variables, &copy)?;
    Ok(copy)
}
