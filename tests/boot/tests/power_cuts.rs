//! Wherever the power is cut while a new system is tried, kept or left again, the machine comes up by itself with a system
//! that it may come up with, and ends as it should.

#[path = "boot/world.rs"]
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use fabrik_boot::cuts::{self, Cut};
use fabrik_boot::systems::Behaviour;
use fabrik_boot::vm::{Hardware, Vm};
use fabrik_boot::{Setup, disk};

use world::World;

const OLD: &str = "SYSTEM 1 UP";
const NEW: &str = "SYSTEM 2 UP";
const NEW_PANICS: &str = "SYSTEM 2 PANICS";
/// So many machines are on at a time.
const AT_ONCE: usize = 4;
/// One of so many cuts is followed to the story's end; of the others it is enough that the machine is up.
const TOLD_TO_THE_END: usize = 4;

#[test]
fn grub_on_bios_survives_power_cuts_while_a_system_is_kept() -> Result<()> {
    survives(Setup::GrubBios, &KEPT)
}

#[test]
fn grub_on_bios_survives_power_cuts_while_a_system_is_left_again() -> Result<()> {
    survives(Setup::GrubBios, &LEFT)
}

#[test]
fn grub_on_uefi_survives_power_cuts_while_a_system_is_kept() -> Result<()> {
    survives(Setup::GrubUefi, &KEPT)
}

#[test]
fn grub_on_uefi_survives_power_cuts_while_a_system_is_left_again() -> Result<()> {
    survives(Setup::GrubUefi, &LEFT)
}

#[test]
fn systemd_boot_survives_power_cuts_while_a_system_is_kept() -> Result<()> {
    survives(Setup::SystemdBoot, &KEPT)
}

#[test]
fn systemd_boot_survives_power_cuts_while_a_system_is_left_again() -> Result<()> {
    survives(Setup::SystemdBoot, &LEFT)
}

/// What a new system comes to when nothing is cut.
struct Story {
    new: Behaviour,
    /// What its boot says.
    tried: &'static str,
    /// What is said until it is kept or left.
    judged: &'static [&'static str],
    /// What an ordinary boot starts from then on.
    after: &'static str,
    end: &'static str,
}

const KEPT: Story = Story {
    new: Behaviour::Works,
    tried: NEW,
    judged: &["KEPT"],
    after: NEW,
    end: "STEADY",
};
const LEFT: Story = Story {
    new: Behaviour::Panics,
    tried: NEW_PANICS,
    judged: &[OLD, "ABANDONED"],
    after: OLD,
    end: "DONE",
};

/// How far the log of the machine's writes is, and the firmware's variables.
struct Moment {
    log_bytes: u64,
    variables: PathBuf,
}

/// A story's moments when nothing has cut it short. The machine pauses at each but the second last.
struct Moments {
    prepared: Moment,
    once: Moment,
    tried: Moment,
    judged: Moment,
}

fn survives(setup: Setup, story: &Story) -> Result<()> {
    let world = World::new(setup, &[story.new])?;
    let base = file(&world, "base");
    disk::copy(&world.hardware.disk, &base)?;
    let log = file(&world, "log");
    let moments = record(&world, story, &log)?;
    let cuts = cuts::distinct(world.parts, setup, &base, &log)?;
    ensure!(
        cuts.len() >= 3,
        "only {} cuts that a loader can tell apart",
        cuts.len()
    );
    let next = AtomicUsize::new(0);
    let take_turns = || {
        while let Some(cut) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
            comes_back(&world, story, &moments, cut)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let machines: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(take_turns)).collect();
        machines
            .into_iter()
            .try_for_each(|machine| machine.join().expect("a panic is shown where it was"))
    })
}

fn record(world: &World, story: &Story, log: &Path) -> Result<Moments> {
    let mut vm = Vm::start(world.parts, &world.hardware, Some(log))?;
    let mut moment = |name: &str, words: &[&str]| -> Result<Moment> {
        vm.expect(words)?;
        Ok(Moment {
            log_bytes: cuts::log_bytes(log)?,
            variables: copy(world, &world.hardware.variables, name)?,
        })
    };
    let moments = Moments {
        prepared: moment("prepared", &[OLD, "PREPARED"])?,
        once: moment("once", &["ONCE"])?,
        tried: moment("tried", &[story.tried])?,
        judged: moment("judged", story.judged)?,
    };
    vm.expect(&[story.end])?;
    vm.wait_for_power_off()?;
    Ok(moments)
}

fn comes_back(world: &World, story: &Story, moments: &Moments, cut: &Cut) -> Result<()> {
    let told = format!(
        "{:?}, {} of the log{}",
        world.hardware.setup, cut.log_bytes, cut.but
    );
    let variables = match cut.log_bytes {
        at if at <= moments.once.log_bytes => &moments.prepared.variables,
        at if at < moments.tried.log_bytes => &moments.once.variables,
        _ => &moments.tried.variables,
    };
    let hardware = Hardware {
        disk: cut.disk.clone(),
        variables: cut.disk.with_extension("variables"),
        ..world.hardware.clone()
    };
    fs::copy(variables, &hardware.variables)?;
    let mut vm = Vm::start(world.parts, &hardware, None)?;
    let came = comes_up(&mut vm, story, moments, cut.log_bytes).context(told.clone())?;
    println!("{told}: {came}");
    if cut.number % TOLD_TO_THE_END == 0 {
        // What was begun is done again, or taken back.
        vm.wait_for(&["STEADY", "DONE"]).context(told)?;
    }
    vm.cut()?;
    fs::remove_file(&cut.disk)?;
    Ok(())
}

/// What comes up, if it may.
fn comes_up(vm: &mut Vm, story: &Story, moments: &Moments, log_bytes: u64) -> Result<&'static str> {
    let may_come: &[&str] = match log_bytes {
        at if at <= moments.prepared.log_bytes => &[OLD],
        at if at > moments.judged.log_bytes => &[story.after],
        _ => &[OLD, NEW],
    };
    let mut came = vm.wait_for(&[OLD, NEW, NEW_PANICS])?;
    if came == NEW_PANICS && may_come.contains(&NEW) {
        // Once, and never again.
        came = vm.wait_for(&[OLD, NEW, NEW_PANICS])?;
    }
    ensure!(may_come.contains(&came), "{came}:\n{}", vm.transcript());
    Ok(came)
}

fn file(world: &World, name: &str) -> PathBuf {
    world.hardware.disk.with_file_name(name)
}

fn copy(world: &World, variables: &Path, name: &str) -> Result<PathBuf> {
    let copy = file(world, name).with_extension("variables");
    fs::copy(variables, &copy)?;
    Ok(copy)
}
