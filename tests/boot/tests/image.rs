//! The disk that fabrik installs on a server: it is laid out as docs/boot.md says, boots by both firmwares, grows on a larger
//! disk, and goes back from a system that fails.

use std::fs::OpenOptions;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use fabrik_boot::image::{self, INSTALLED_BYTES};
use fabrik_boot::parts::Parts;
use fabrik_boot::qemu::Bus;
use fabrik_boot::systems::Behaviour;
use fabrik_boot::vm::{Hardware, Vm};
use fabrik_boot::wanted::Wanted;
use fabrik_boot::{Setup, disk, table};

const MACHINE: &str = env!("CARGO_BIN_EXE_machine");
const MIB: u64 = 1024 * 1024;
/// A server's disk is larger than the one that its snapshot was made of.
const SERVERS_BYTES: u64 = 3072 * MIB;
/// Name, type and size, where it is not the rest: EF02, EF00 and 8300 of sgdisk.
const LAYOUT: [(&str, &str, Option<u64>); 3] = [
    ("bios", "21686148-6449-6E6F-744E-656564454649", Some(MIB)),
    (
        "ESP",
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
        Some(512 * MIB),
    ),
    ("nixos", "0FC63DAF-8483-4772-8E79-3D69D8477DE4", None),
];
/// What is aligned to a MiB ends so close to the disk's end, where the second table is.
const END_BYTES: u64 = 2 * MIB;
const BLOCK_BYTES: u64 = 4096;
const TRIED: [Behaviour; 1] = [Behaviour::Panics];

#[test]
fn what_fabrik_install_makes_boots_by_both_firmwares_grows_and_goes_back() -> Result<()> {
    let parts = Parts::get()?;
    let wanted = Wanted::evaluate()?;
    let folder = tempfile::tempdir()?;
    let installed = image::install(parts, &wanted, &TRIED, Path::new(MACHINE), folder.path())
        .context("fabrik-install")?;
    is_laid_out(parts, &installed, INSTALLED_BYTES).context("as installed")?;
    let boots = |setup| lives(parts, setup, &installed).context(format!("{setup:?}"));
    thread::scope(|scope| {
        let machines =
            [Setup::GrubBios, Setup::GrubUefi].map(|setup| scope.spawn(move || boots(setup)));
        machines
            .into_iter()
            .try_for_each(|machine| machine.join().expect("a panic is shown where it was"))
    })
}

/// A server's life, on a disk of its own.
fn lives(parts: &Parts, setup: Setup, installed: &Path) -> Result<()> {
    let disk = installed.with_file_name(format!("{setup:?}"));
    disk::copy(installed, &disk)?;
    OpenOptions::new()
        .write(true)
        .open(&disk)?
        .set_len(SERVERS_BYTES)?;
    ensure!(
        table::problems(parts, &disk)?.is_some(),
        "the second table is at the end of a disk that has just become larger"
    );
    let hardware = Hardware {
        bus: Bus::Scsi,
        ..Hardware::new(parts, setup, disk, TRIED.len() + 1)?
    };
    let mut vm = Vm::start(parts, &hardware, None)?;
    // growpart's words.
    vm.expect(&["CHANGED: partition=3", "SYSTEM 1 UP", "PREPARED", "ONCE"])?;
    vm.expect(&["SYSTEM 2 PANICS", "NOCHANGE: partition 3"])?;
    vm.expect(&["SYSTEM 1 UP", "ABANDONED", "DONE"])?;
    vm.wait_for_power_off()?;
    is_laid_out(parts, &hardware.disk, SERVERS_BYTES).context("as it has grown")
}

fn is_laid_out(parts: &Parts, disk: &Path, disk_bytes: u64) -> Result<()> {
    if let Some(problems) = table::problems(parts, disk)? {
        bail!("{problems}");
    }
    let partitions = table::read(parts, disk)?;
    ensure!(partitions.len() == LAYOUT.len(), "{partitions:?}");
    let mut end = 0;
    for (partition, (name, kind, size)) in partitions.iter().zip(LAYOUT) {
        let told = || format!("{partition:?} is not {name} of {size:?} bytes");
        ensure!((&*partition.name, &*partition.kind) == (name, kind), told());
        ensure!(
            size.is_none_or(|size| partition.size_bytes() == size),
            told()
        );
        ensure!(partition.end_bytes() > end, told());
        end = partition.end_bytes();
    }
    ensure!(
        disk_bytes - end <= END_BYTES,
        "the disk ends behind {partitions:?}"
    );
    ensure!(table::fat_label(disk, &partitions[1])? == "ESP");
    let (label, size_bytes) = table::ext4(disk, &partitions[2])?;
    ensure!(label == "nixos");
    ensure!(
        partitions[2].size_bytes() - size_bytes < BLOCK_BYTES,
        "ext4 has {size_bytes} bytes of {:?}",
        partitions[2]
    );
    Ok(())
}
