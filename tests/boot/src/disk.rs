//! Disk images, made without root: a GUID partition table, a boot partition, a root partition, and the loader where the
//! firmware looks for it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::Setup;
use crate::fat::MENUS;
use crate::parts::{Parts, run};
use crate::systems::{BOOT_UUID, ROOT_UUID, Trees};

const MIB: u64 = 1024 * 1024;
const SECTOR_BYTES: u64 = 512;
const BIOS_PARTITION_MIB: u64 = 1;
const BOOT_MIB: u64 = 80;
const ROOT_MIB: u64 = 160;
/// What the image of GRUB needs to find a menu and boot a kernel; all of it is in the image.
const GRUB_MODULES: [&str; 14] = [
    "part_gpt",
    "fat",
    "normal",
    "configfile",
    "linux",
    "loadenv",
    "test",
    "echo",
    "search",
    "search_fs_uuid",
    "search_label",
    "minicmd",
    "sleep",
    "gzio",
];
/// Where boot.img keeps the sector of core.img, as a 64-bit number (GRUB, boot/i386/pc/boot.S: kernel_sector).
const BOOT_IMG_SECTOR: usize = 0x5c;
/// The first block list of core.img: start (64 bits), length and segment (16 bits each), at the end of its first sector
/// (GRUB, boot/i386/pc/diskboot.S).
const CORE_IMG_BLOCKS: usize = 0x1f4;
/// boot.img is code up to the partition table.
const BOOT_CODE_BYTES: usize = 440;

/// A name that takes as much room in a folder as any temporary one.
const GONE: &str = "a-name-that-was-there-before.tmp";

/// A partition of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    pub start_bytes: u64,
    pub size_bytes: u64,
}

/// Where the boot partition is.
pub fn boot_partition(setup: Setup) -> Partition {
    let before = if setup.is_uefi() {
        0
    } else {
        BIOS_PARTITION_MIB
    };
    Partition {
        start_bytes: (1 + before) * MIB,
        size_bytes: BOOT_MIB * MIB,
    }
}

/// Makes the image `folder/disk` from the trees.
pub fn build(parts: &Parts, setup: Setup, trees: &Trees, folder: &Path) -> Result<PathBuf> {
    let disk = folder.join("disk");
    let boot = boot_partition(setup);
    let root_start = boot.start_bytes + boot.size_bytes;
    File::create(&disk)?.set_len(root_start + (ROOT_MIB + 1) * MIB)?;
    let bios = format!(
        "start=1MiB, size={BIOS_PARTITION_MIB}MiB, type=21686148-6449-6E6F-744E-656564454649\n"
    );
    let table = format!(
        "label: gpt\n{}start={}, size={BOOT_MIB}MiB, type={}\nstart={}, size={ROOT_MIB}MiB, type=linux\n",
        if setup.is_uefi() { "" } else { &bios },
        boot.start_bytes / SECTOR_BYTES,
        if setup.is_uefi() { "uefi" } else { "linux" },
        root_start / SECTOR_BYTES
    );
    partition(parts, &disk, &table)?;

    install_loader(parts, setup, trees, &disk, folder)?;
    let image = folder.join("boot.image");
    fat(parts, &trees.boot, &image)?;
    copy_into(&image, &disk, boot.start_bytes)?;
    ext4(parts, &trees.root, ROOT_MIB, &image)?;
    copy_into(&image, &disk, root_start)?;
    fs::remove_file(image)?;
    Ok(disk)
}

fn partition(parts: &Parts, disk: &Path, table: &str) -> Result<()> {
    let mut sfdisk = parts.program("sfdisk")?;
    let mut child = sfdisk
        .arg("--quiet")
        .arg(disk)
        .stdin(Stdio::piped())
        .spawn()
        .context("sfdisk")?;
    child
        .stdin
        .take()
        .context("sfdisk has no input")?
        .write_all(table.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "sfdisk: {status}");
    Ok(())
}

fn install_loader(
    parts: &Parts,
    setup: Setup,
    trees: &Trees,
    disk: &Path,
    folder: &Path,
) -> Result<()> {
    let efi = trees.boot.join("EFI/BOOT");
    let image = efi.join("BOOTX64.EFI");
    match setup {
        Setup::SystemdBoot => {
            fs::create_dir_all(&efi)?;
            fs::copy(
                parts.file("usr/lib/systemd/boot/efi/systemd-bootx64.efi")?,
                image,
            )?;
            Ok(())
        }
        Setup::GrubUefi => {
            fs::create_dir_all(&efi)?;
            grub_image(parts, "x86_64-efi", "/grub", &[], &image)
        }
        Setup::GrubBios => {
            let core = folder.join("core.img");
            grub_image(parts, "i386-pc", "(hd0,gpt2)/grub", &["biosdisk"], &core)?;
            embed(parts, disk, &core)
        }
    }
}

fn grub_image(
    parts: &Parts,
    target: &str,
    prefix: &str,
    modules: &[&str],
    image: &Path,
) -> Result<()> {
    let folder = parts.file(&format!("usr/lib/grub/{target}"))?;
    run(parts
        .program("grub-mkimage")?
        .arg("--directory")
        .arg(folder)
        .args(["--format", target, "--prefix", prefix, "--output"])
        .arg(image)
        .args(modules)
        .args(GRUB_MODULES))
}

/// What grub-bios-setup does to a disk: core.img into the BIOS boot partition, boot.img into the first sector, and each
/// told where the next one is.
fn embed(parts: &Parts, disk: &Path, core: &Path) -> Result<()> {
    let start = MIB / SECTOR_BYTES;
    let mut core = fs::read(core)?;
    ensure!(
        core.len() as u64 <= BIOS_PARTITION_MIB * MIB,
        "GRUB's image is too large for its partition"
    );
    let rest = u16::try_from((core.len() as u64).div_ceil(SECTOR_BYTES) - 1)?;
    core[CORE_IMG_BLOCKS..CORE_IMG_BLOCKS + 8].copy_from_slice(&(start + 1).to_le_bytes());
    core[CORE_IMG_BLOCKS + 8..CORE_IMG_BLOCKS + 10].copy_from_slice(&rest.to_le_bytes());
    let mut boot = fs::read(parts.file("usr/lib/grub/i386-pc/boot.img")?)?;
    boot[BOOT_IMG_SECTOR..BOOT_IMG_SECTOR + 8].copy_from_slice(&start.to_le_bytes());
    let disk = OpenOptions::new().write(true).open(disk)?;
    disk.write_all_at(&boot[..BOOT_CODE_BYTES], 0)?;
    disk.write_all_at(&core, MIB)?;
    Ok(())
}

pub fn ext4(parts: &Parts, tree: &Path, size_mib: u64, image: &Path) -> Result<()> {
    File::create(image)?.set_len(size_mib * MIB)?;
    run(parts
        .program("mke2fs")?
        .args(["-q", "-t", "ext4", "-U", ROOT_UUID])
        .args(["-E", "root_owner=0:0", "-d"])
        .arg(tree)
        .arg(image))
}

/// With clusters of a sector each, so that a menu takes several, and with free room before the menus, as a temporary name
/// leaves it on a disk that NixOS was installed on.
fn fat(parts: &Parts, tree: &Path, image: &Path) -> Result<()> {
    File::create(image)?.set_len(BOOT_MIB * MIB)?;
    let id = BOOT_UUID.replace('-', "");
    run(parts
        .program("mkfs.fat")?
        .args(["-F", "32", "-s", "1", "-i", &id])
        .arg(image))?;
    let mtool = |name: &str| -> Result<Command> {
        let mut command = parts.program(name)?;
        command.arg("-i").arg(image);
        Ok(command)
    };
    let is_there = |folder: &&&str| tree.join(folder).is_dir();
    let menus: Vec<&str> = MENUS.iter().filter(is_there).copied().collect();
    let gone = tree.with_extension("gone");
    fs::write(&gone, "")?;
    for folder in &menus {
        run(mtool("mmd")?.arg(format!("::{folder}")))?;
        run(mtool("mcopy")?.arg(&gone).arg(format!("::{folder}/{GONE}")))?;
    }
    let mut mcopy = mtool("mcopy")?;
    mcopy.arg("-s");
    for entry in fs::read_dir(tree)? {
        mcopy.arg(entry?.path());
    }
    run(mcopy.arg("::"))?;
    for folder in &menus {
        run(mtool("mdel")?.arg(format!("::{folder}/{GONE}")))?;
    }
    Ok(())
}

fn copy_into(image: &Path, disk: &Path, start_bytes: u64) -> Result<()> {
    let start = format!("seek={}", start_bytes / MIB);
    run(Command::new("dd")
        .arg(format!("if={}", image.display()))
        .arg(format!("of={}", disk.display()))
        .args(["bs=1M", "conv=notrunc,sparse", &start]))
}

/// A copy that shares the holes.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to))
}
