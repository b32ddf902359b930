//! Disk images, made without root: a GUID partition table, a boot partition, a root partition, and the loader where the
//! firmware looks for it.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::Setup;
use crate::parts::{Parts, run};
use crate::systems::{Trees, boot_uuid};

const MIB: u64 = 1024 * 1024;
const SECTOR_BYTES: u64 = 512;
const BIOS_PARTITION_MIB: u64 = 1;
const BOOT_MIB: u64 = 80;
const ROOT_MIB: u64 = 160;
/// What the image of GRUB needs to find a menu and boot a kernel; all of it is in the image.
const GRUB_MODULES: [&str; 13] = [
    "part_gpt",
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
    if setup.is_uefi() {
        fat(parts, setup, &trees.boot, &image)?;
    } else {
        ext4(parts, setup, &trees.boot, &image, BOOT_MIB)?;
    }
    copy_into(&image, &disk, boot.start_bytes)?;
    ext4(parts, setup, &trees.root, &image, ROOT_MIB)?;
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
            grub_image(parts, "x86_64-efi", "/grub", &["fat"], &image)
        }
        Setup::GrubBios => {
            let core = folder.join("core.img");
            grub_image(
                parts,
                "i386-pc",
                "(hd0,gpt2)/grub",
                &["biosdisk", "ext2"],
                &core,
            )?;
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

fn ext4(parts: &Parts, setup: Setup, tree: &Path, image: &Path, size_mib: u64) -> Result<()> {
    File::create(image)?.set_len(size_mib * MIB)?;
    let uuid = if size_mib == BOOT_MIB {
        boot_uuid(setup)
    } else {
        "66666666-2222-3333-4444-555555555555"
    };
    run(parts
        .program("mke2fs")?
        .args(["-q", "-t", "ext4", "-U", uuid, "-E", "root_owner=0:0", "-d"])
        .arg(tree)
        .arg(image))
}

fn fat(parts: &Parts, setup: Setup, tree: &Path, image: &Path) -> Result<()> {
    File::create(image)?.set_len(BOOT_MIB * MIB)?;
    let id = boot_uuid(setup).replace('-', "");
    run(parts
        .program("mkfs.fat")?
        .args(["-F", "32", "-i", &id])
        .arg(image))?;
    let mut mcopy = parts.program("mcopy")?;
    mcopy.args(["-s", "-i"]).arg(image);
    for entry in fs::read_dir(tree)? {
        mcopy.arg(entry?.path());
    }
    run(mcopy.arg("::"))
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

/// All that decides what a loader boots, read as loaders read: without the journal of the file system. The files that are
/// booted are told by their names and sizes.
pub fn what_the_loader_finds(parts: &Parts, setup: Setup, disk: &Path) -> Result<Vec<u8>> {
    let (files, folder): (&[&str], _) = match setup {
        Setup::GrubBios | Setup::GrubUefi => (&["grub/grub.cfg", "grub/grubenv"], "kernels"),
        Setup::SystemdBoot => (
            &[
                "loader/loader.conf",
                "loader/entries/nixos-generation-1.conf",
                "loader/entries/nixos-generation-2.conf",
            ],
            "EFI/nixos",
        ),
    };
    let start = boot_partition(setup).start_bytes;
    let mut found = Vec::new();
    let mut read = |command: &mut Command| -> Result<()> {
        // What is not there, or can't be read, is nothing.
        let output = command
            .env("MTOOLS_SKIP_CHECK", "1")
            .output()
            .with_context(|| format!("{command:?}"))?;
        found.extend(output.stdout);
        found.push(0);
        Ok(())
    };
    if setup.is_uefi() {
        let image = format!("{}@@{start}", disk.display());
        for file in files {
            read(
                parts
                    .program("mtype")?
                    .args(["-i", &image, &format!("::{file}")]),
            )?;
        }
        read(
            parts
                .program("mdir")?
                .args(["-a", "-i", &image, &format!("::{folder}")]),
        )?;
    } else {
        let image = format!("{}?offset={start}", disk.display());
        for file in files {
            read(
                parts
                    .program("debugfs")?
                    .args(["-R", &format!("cat /{file}"), &image]),
            )?;
        }
        read(
            parts
                .program("debugfs")?
                .args(["-R", &format!("ls -p /{folder}"), &image]),
        )?;
    }
    // A copy in the making is nothing to the loader.
    Ok(without_lines(&found, "tmp"))
}

fn without_lines(text: &[u8], word: &str) -> Vec<u8> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let kept = lines.filter(|line| {
        let line = String::from_utf8_lossy(line).to_lowercase();
        // The sums at the end of mdir's table count such copies too.
        !line.contains(word) && !line.contains(" bytes")
    });
    kept.flatten().copied().collect()
}
