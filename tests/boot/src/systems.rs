//! Two systems in a store, a profile that has the first, and what the loader's installation made of that.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::parts::{Parts, run};
use crate::{Setup, initrd, tree};

/// The number of the system that is booted at first, and trusted; those that are tried follow.
pub const OLD: usize = 1;

/// `panic=` is what brings the old system back by itself; the rest saves an emulated processor its time.
pub const KERNEL_PARAMS: &str = "console=ttyS0 quiet panic=1 nokaslr cryptomgr.notests mitigations=off audit=0 apparmor=0 \
                             tsc=reliable no_timer_check";

const PROFILES: &str = "nix/var/nix/profiles";

/// How a system boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    Works,
    /// The kernel panics in the initrd.
    Panics,
    /// The initrd does nothing, for ever.
    Hangs,
    /// Userland comes up and then does nothing, for ever: not even feed the watchdog.
    Sleeps,
}

impl Behaviour {
    pub fn word(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Panics => "panics",
            Self::Hangs => "hangs",
            Self::Sleeps => "sleeps",
        }
    }
}

/// The path of a system by its number.
pub fn path(number: usize) -> String {
    format!("/nix/store/{number}aaa-nixos-system-test-{number}")
}

/// A machine's files before they are on a disk: `root` (with /boot empty) and `boot`.
#[derive(Debug)]
pub struct Trees {
    pub root: PathBuf,
    pub boot: PathBuf,
}

/// The boot partition's, as GRUB writes it.
pub const BOOT_UUID: &str = "1234-ABCD";
pub const ROOT_UUID: &str = "66666666-2222-3333-4444-555555555555";

/// Where a machine's systems find what they need.
#[derive(Debug, Clone)]
pub struct Disks {
    /// As in /etc/fstab.
    pub boot: String,
    pub boot_options: String,
    pub root: String,
    /// What the program on the machine reads its job from.
    pub job: String,
    /// The kernel's modules for the disk.
    pub drivers: Vec<String>,
    /// Names like /dev/disk/by-label are udev's: it runs in the initrd.
    pub by_udev: bool,
}

impl Disks {
    /// Of a disk that `disk::build` makes.
    fn plain(setup: Setup) -> Self {
        // Behind that of the BIOS, where there is one.
        let [boot, root] = if setup.is_uefi() { [1, 2] } else { [2, 3] };
        Self {
            boot: format!("/dev/vda{boot}"),
            boot_options: "defaults".to_owned(),
            root: format!("/dev/vda{root}"),
            job: "/dev/vdb".to_owned(),
            drivers: ["virtio_pci", "virtio_blk"].map(str::to_owned).to_vec(),
            by_udev: false,
        }
    }
}

/// Builds the trees below `folder`, as the loader's installation leaves them. `machine` is the program of this package.
pub fn build(
    parts: &Parts,
    setup: Setup,
    tried: &[Behaviour],
    machine: &Path,
    folder: &Path,
) -> Result<Trees> {
    let root = folder.join("root");
    root_tree(parts, setup, tried, &Disks::plain(setup), machine, &root)?;
    let profiles = root.join(PROFILES);
    symlink(path(OLD), profiles.join("system-1-link"))?;
    symlink("system-1-link", profiles.join("system"))?;
    fs::write(root.join("etc/boot-uuid"), BOOT_UUID)?;
    // Not the tree's own busybox: a file that another thread's child still holds open for writing can't be run.
    let applets = folder.join("applets");
    fs::create_dir(&applets)?;
    for applet in tree::applet_names(parts)? {
        symlink(parts.program_file("busybox")?, applets.join(applet))?;
    }
    run(Command::new(applets.join("sh"))
        .arg(root.join("bin/install-boot-loader"))
        .arg(path(OLD))
        .env("ROOT", &root)
        .env("PATH", &applets))?;
    fs::remove_dir_all(applets)?;
    let boot = folder.join("boot");
    fs::rename(root.join("boot"), &boot)?;
    fs::create_dir(root.join("boot"))?;
    Ok(Trees { root, boot })
}

/// A machine's root at `root`: its programs, and all systems in its store. It has no profile yet, and nothing in /boot.
pub fn root_tree(
    parts: &Parts,
    setup: Setup,
    tried: &[Behaviour],
    disks: &Disks,
    machine: &Path,
    root: &Path,
) -> Result<()> {
    for path in [
        "bin",
        "boot",
        "dev",
        "etc",
        "lib64",
        "nix/store",
        "proc",
        "run",
        "sys",
        "tmp",
        "usr",
        "var",
        PROFILES,
    ] {
        fs::create_dir_all(root.join(path))?;
    }
    programs(parts, setup, machine, root)?;
    let behaviours = [Behaviour::Works].iter().chain(tried);
    for (behaviour, number) in behaviours.zip(OLD..) {
        system(parts, root, number, *behaviour, disks)?;
    }
    let fstab = format!("{} /boot vfat {} 0 2\n", disks.boot, disks.boot_options);
    fs::write(root.join("etc/fstab"), fstab)?;
    fs::write(root.join("etc/job"), &disks.job)?;
    Ok(())
}

fn programs(parts: &Parts, setup: Setup, machine: &Path, root: &Path) -> Result<()> {
    let bin = root.join("bin");
    tree::applets(parts, root)?;
    // grub-reboot is a script that names its helpers by their places in Debian.
    symlink("../bin", root.join("usr/bin"))?;
    symlink("../bin", root.join("usr/sbin"))?;
    tree::program(parts, machine, root)?;
    for name in ["grub-editenv", "grub-probe", "bootctl", "fsck.vfat"] {
        tree::program(parts, &parts.program_file(name)?, root)?;
    }
    tree::install(
        &parts.program_file("grub-reboot")?,
        &bin.join("grub-reboot"),
    )?;
    let library = "usr/share/grub/grub-mkconfig_lib";
    tree::install(&parts.file(library)?, &root.join(library))?;
    for module in ["efivarfs", "softdog"] {
        let file = root.join(format!("lib/{module}.ko"));
        tree::install(&parts.module(module)?, &file)?;
    }
    let installer = match setup {
        Setup::SystemdBoot => include_str!("../guest/install-systemd-boot"),
        Setup::GrubBios | Setup::GrubUefi => include_str!("../guest/install-grub"),
    };
    for (name, text) in [
        ("install-boot-loader", installer),
        ("nix-env", include_str!("../guest/nix-env")),
        ("nixos-rebuild", include_str!("../guest/nixos-rebuild")),
    ] {
        tree::script(&bin.join(name), text)?;
    }
    Ok(())
}

fn system(
    parts: &Parts,
    root: &Path,
    number: usize,
    behaviour: Behaviour,
    disks: &Disks,
) -> Result<()> {
    let on_disk = |path: &str| root.join(path.trim_start_matches('/'));
    let system = on_disk(&path(number));
    fs::create_dir_all(system.join("bin"))?;
    // One that works brings a kernel of its own, so that there is much to copy; the others share the first one's.
    let of_kernel = if behaviour == Behaviour::Works {
        number
    } else {
        OLD
    };
    let kernel = format!("/nix/store/{of_kernel}ccc-linux/bzImage");
    let initrd = format!("/nix/store/{number}ddd-initrd/initrd");
    tree::install(&parts.kernel()?, &on_disk(&kernel))?;
    fs::create_dir_all(on_disk(&initrd).parent().unwrap_or(root))?;
    let content = initrd::build(parts, number, behaviour, disks)?;
    fs::write(on_disk(&initrd), content)?;
    symlink(kernel, system.join("kernel"))?;
    symlink(initrd, system.join("initrd"))?;
    let params = format!("{KERNEL_PARAMS} root={}", disks.root);
    fs::write(system.join("kernel-params"), params)?;
    fs::write(system.join("nixos-version"), format!("25.05.{number}"))?;
    fs::write(system.join("generation"), number.to_string())?;
    fs::write(system.join("behaviour"), behaviour.word())?;
    tree::script(&system.join("init"), include_str!("../guest/stage-2"))?;
    tree::script(
        &system.join("bin/switch-to-configuration"),
        include_str!("../guest/switch-to-configuration"),
    )
}
