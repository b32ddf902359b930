//! A new system is tried once, by the real loaders: what works becomes the default, what does not is left by itself or by
//! a reset.

#[path = "boot/world.rs"]
mod world;

use anyhow::Result;
use fabrik_boot::Setup;
use fabrik_boot::systems::Behaviour;
use fabrik_boot::vm::Vm;

use world::World;

#[test]
fn grub_on_bios_goes_back_from_a_system_that_fails() -> Result<()> {
    goes_back(Setup::GrubBios)
}

#[test]
fn grub_on_uefi_goes_back_from_a_system_that_fails() -> Result<()> {
    goes_back(Setup::GrubUefi)
}

#[test]
fn systemd_boot_goes_back_from_a_system_that_fails() -> Result<()> {
    goes_back(Setup::SystemdBoot)
}

#[test]
fn grub_on_bios_keeps_a_system_that_works() -> Result<()> {
    keeps(Setup::GrubBios)
}

#[test]
fn grub_on_uefi_keeps_a_system_that_works() -> Result<()> {
    keeps(Setup::GrubUefi)
}

#[test]
fn systemd_boot_keeps_a_system_that_works() -> Result<()> {
    keeps(Setup::SystemdBoot)
}

fn goes_back(setup: Setup) -> Result<()> {
    let world = World::new(
        setup,
        &[Behaviour::Panics, Behaviour::Hangs, Behaviour::Sleeps],
    )?;
    let mut vm = Vm::start(world.parts, &world.hardware, None)?;
    vm.expect(&["SYSTEM 1 UP", "PREPARED", "ONCE"])?;
    // The kernel reboots by itself.
    vm.expect(&["SYSTEM 2 PANICS", "SYSTEM 1 UP", "ABANDONED", "ONCE"])?;
    // Nothing on the machine helps: the leader presses the button.
    vm.expect(&["SYSTEM 3 HANGS"])?;
    vm.reset()?;
    vm.expect(&["SYSTEM 1 UP", "ABANDONED", "ONCE"])?;
    // The watchdog starves.
    vm.expect(&[
        "SYSTEM 4 UP",
        "SYSTEM 4 SLEEPS",
        "SYSTEM 1 UP",
        "ABANDONED",
        "DONE",
    ])?;
    vm.wait_for_power_off()
}

fn keeps(setup: Setup) -> Result<()> {
    let world = World::new(setup, &[Behaviour::Works])?;
    let mut vm = Vm::start(world.parts, &world.hardware, None)?;
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
