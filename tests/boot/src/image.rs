//! The disk of a server as `fabrik-install` makes it, on a machine in QEMU that stands in for a rescue system.
//!
//! Real are its text and what NixOS is told of the disk (`wanted`), the programs that it calls, and GRUB's installation.
//! The system that it installs is one of these tests' (`systems`), with Debian's programs.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::parts::{Parts, run};
use crate::qemu::{Bus, Qemu};
use crate::systems::{self, Behaviour, Disks, KERNEL_PARAMS, OLD};
use crate::vm::Vm;
use crate::wanted::Wanted;
use crate::{Setup, disk, initrd, tree};

const MIB: u64 = 1024 * 1024;
/// What the disk has that is installed on; servers have larger ones.
pub const INSTALLED_BYTES: u64 = 1536 * MIB;
const RESCUE_MIB: u64 = 768;
/// The only one beside the disk: the rescue system's, and then the job's.
const OTHER_DISK: &str = "/dev/vda";

/// What `fabrik-install` has of each of its inputs in nixpkgs.
const INPUTS: [(&str, &[&str]); 7] = [
    ("coreutils", &["mkdir", "mktemp", "rmdir"]),
    ("dosfstools", &["mkfs.vfat"]),
    ("e2fsprogs", &["mkfs.ext4"]),
    ("gptfdisk", &["sgdisk"]),
    ("nixos-install-tools", &["nixos-install"]),
    ("systemd", &["udevadm"]),
    ("util-linux", &["lsblk", "mount", "umount", "wipefs"]),
];
/// Debian's programs that the systems have beside those of all tests.
const PROGRAMS: [&str; 16] = [
    "bash",
    "blkid",
    "findmnt",
    "flock",
    "grub-install",
    "grub-mkimage",
    "lsblk",
    "mkfs.ext4",
    "mkfs.vfat",
    "mount",
    "partx",
    "sfdisk",
    "sgdisk",
    "umount",
    "unshare",
    "wipefs",
];
const SCRIPTS: [(&str, &str); 4] = [
    ("finish-install", include_str!("../guest/finish-install")),
    ("grow-root", include_str!("../guest/grow-root")),
    ("nixos-install", include_str!("../guest/nixos-install")),
    ("rescue", include_str!("../guest/rescue")),
];

/// Installs a system that works, which is to try others after it, and gives the disk: `folder/disk`.
pub fn install(
    parts: &Parts,
    wanted: &Wanted,
    tried: &[Behaviour],
    machine: &Path,
    folder: &Path,
) -> Result<PathBuf> {
    let disks = disks(wanted)?;
    let root = folder.join("root");
    systems::root_tree(parts, Setup::GrubBios, tried, &disks, machine, &root)?;
    add_tools(parts, &root)?;
    add_configuration(wanted, &root)?;
    let rescue = folder.join("rescue");
    disk::ext4(parts, &root, RESCUE_MIB, &rescue)?;
    fs::remove_dir_all(root)?;

    let disk = folder.join("disk");
    File::create(&disk)?.set_len(INSTALLED_BYTES)?;
    let initrd = folder.join("initrd");
    fs::write(
        &initrd,
        initrd::build(parts, OLD, Behaviour::Works, &disks)?,
    )?;
    let mut qemu = Qemu::new(parts, folder.join("monitor"))?;
    qemu.disk(&disk, Bus::Scsi, None);
    qemu.other_disk("rescue", &rescue, "");
    let params = format!("{KERNEL_PARAMS} root={OTHER_DISK} init=/bin/rescue");
    qemu.kernel(&parts.kernel()?, &initrd, &params);
    let mut vm = Vm::power_on(qemu)?;
    vm.expect(&["INSTALLED"])?;
    vm.wait_for_power_off()?;
    fs::remove_file(rescue)?;
    Ok(disk)
}

/// Where NixOS would look for them. The disk's drivers are those of NixOS' initrd, too.
fn disks(wanted: &Wanted) -> Result<Disks> {
    let (root, boot) = (&wanted.root, &wanted.boot);
    ensure!(
        (root.fs_type.as_str(), boot.fs_type.as_str()) == ("ext4", "vfat"),
        "nothing here mounts {root:?} and {boot:?}"
    );
    ensure!(
        wanted.grow_partition && root.auto_resize,
        "NixOS is not told to let the root grow"
    );
    Ok(Disks {
        boot: boot.device.clone(),
        boot_options: boot.options.join(","),
        root: root.device.clone(),
        job: OTHER_DISK.to_owned(),
        drivers: wanted.drivers.clone(),
        by_udev: true,
    })
}

fn add_tools(parts: &Parts, root: &Path) -> Result<()> {
    let bin = root.join("bin");
    for name in PROGRAMS {
        let file = parts.program_file(name)?;
        tree::program(parts, &file, root)?;
    }
    tree::udev(parts, root)?;
    let growfs = "lib/systemd/systemd-growfs";
    tree::install(&parts.file(growfs)?, &root.join(growfs))?;
    tree::libraries(parts, &parts.file(growfs)?, root)?;
    tree::install(&parts.program_file("growpart")?, &bin.join("growpart"))?;
    let defaults = "etc/mke2fs.conf";
    tree::install(&parts.file(defaults)?, &root.join(defaults))?;
    let grub = root.join("usr/lib/grub");
    fs::create_dir_all(&grub)?;
    for target in ["i386-pc", "x86_64-efi"] {
        let modules = parts.file(&format!("usr/lib/grub/{target}"))?;
        run(Command::new("cp").arg("-r").arg(modules).arg(&grub))?;
    }
    for (name, text) in SCRIPTS {
        tree::script(&bin.join(name), text)?;
    }
    Ok(())
}

/// The installation as `writeShellApplication` makes it, with no more in its PATH than its inputs, and what the system's
/// closure would have of its configuration.
fn add_configuration(wanted: &Wanted, root: &Path) -> Result<()> {
    let mut path = Vec::new();
    for input in &wanted.install.runtime_inputs {
        let (_, programs) = INPUTS
            .iter()
            .find(|(name, _)| name == input)
            .with_context(|| format!("fabrik-install has {input} too"))?;
        let folder = format!("/inputs/{input}");
        fs::create_dir_all(root.join(&folder[1..]))?;
        for program in *programs {
            let link = root.join(&folder[1..]).join(program);
            symlink(format!("/bin/{program}"), link)?;
        }
        path.push(folder);
    }
    let text = format!(
        "#!/bin/bash\nset -o errexit\nset -o nounset\nset -o pipefail\nexport PATH={}\n\n{}",
        path.join(":"),
        wanted.install.text
    );
    tree::script(&root.join("bin/fabrik-install"), &text)?;
    let grub = &wanted.grub;
    fs::write(
        root.join("etc/grub"),
        format!(
            "device={}\nefiSupport={}\nefiInstallAsRemovable={}\n",
            grub.device, grub.efi_support, grub.efi_install_as_removable
        ),
    )?;
    fs::write(root.join("etc/root-device"), &wanted.root.device)?;
    Ok(())
}
