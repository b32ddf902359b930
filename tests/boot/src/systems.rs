//! Two systems in a store, a profile that has the first, and what the loader's installation made of that.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::parts::{Parts, output, run};
use crate::{Setup, initrd};

/// The number of the system that is booted at first, and trusted; those that are tried follow.
pub const OLD: usize = 1;

/// `panic=` is what brings the old system back by itself; the rest saves an emulated processor its time.
const KERNEL_PARAMS: &str = "console=ttyS0 quiet panic=1 nokaslr cryptomgr.notests mitigations=off audit=0 apparmor=0 \
                             tsc=reliable no_timer_check";

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

/// Builds the trees below `folder`. `machine` is the program of this package.
pub fn build(
    parts: &Parts,
    setup: Setup,
    tried: &[Behaviour],
    machine: &Path,
    folder: &Path,
) -> Result<Trees> {
    let root = folder.join("root");
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
    ] {
        fs::create_dir_all(root.join(path))?;
    }
    fs::create_dir_all(root.join("nix/var/nix/profiles"))?;
    programs(parts, setup, machine, &root)?;
    system(parts, setup, &root, OLD, Behaviour::Works)?;
    for (behaviour, number) in tried.iter().zip(OLD + 1..) {
        system(parts, setup, &root, number, *behaviour)?;
    }
    let profiles = root.join("nix/var/nix/profiles");
    symlink(path(OLD), profiles.join("system-1-link"))?;
    symlink("system-1-link", profiles.join("system"))?;

    fs::write(root.join("etc/boot-uuid"), BOOT_UUID)?;
    let boot = if setup.is_uefi() { 1 } else { 2 };
    let fstab = format!("/dev/vda{boot} /boot vfat defaults 0 2\n");
    fs::write(root.join("etc/fstab"), fstab)?;
    // Not the tree's own busybox: a file that another thread's child still holds open for writing can't be run.
    let applets = folder.join("applets");
    fs::create_dir(&applets)?;
    for applet in applet_names(parts)? {
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

fn programs(parts: &Parts, setup: Setup, machine: &Path, root: &Path) -> Result<()> {
    let bin = root.join("bin");
    let busybox = bin.join("busybox");
    fs::copy(parts.program_file("busybox")?, &busybox)?;
    for applet in applet_names(parts)? {
        symlink("busybox", bin.join(applet))?;
    }
    // grub-reboot is a script that names its helpers by their places in Debian.
    symlink("../bin", root.join("usr/bin"))?;
    symlink("../bin", root.join("usr/sbin"))?;
    let mut dynamic = vec![machine.to_owned()];
    for name in ["grub-editenv", "grub-probe", "bootctl", "fsck.vfat"] {
        dynamic.push(parts.program_file(name)?);
    }
    for program in &dynamic {
        let name = program.file_name().unwrap_or_default();
        install(program, &bin.join(name))?;
        for library in parts.libraries(program)? {
            let name = library.file_name().unwrap_or_default();
            let folder = match library.parent() {
                Some(folder) if folder.ends_with("lib64") => root.join("lib64"),
                Some(folder) if folder.ends_with("systemd") => {
                    root.join("usr/lib/x86_64-linux-gnu/systemd")
                }
                _ => root.join("lib/x86_64-linux-gnu"),
            };
            install(&library, &folder.join(name))?;
        }
    }
    install(
        &parts.program_file("grub-reboot")?,
        &bin.join("grub-reboot"),
    )?;
    let library = "usr/share/grub/grub-mkconfig_lib";
    install(&parts.file(library)?, &root.join(library))?;
    for module in ["efivarfs", "softdog"] {
        install(
            &parts.module(module)?,
            &root.join(format!("lib/{module}.ko")),
        )?;
    }
    let installer = match setup {
        Setup::SystemdBoot => include_str!("../guest/install-systemd-boot"),
        Setup::GrubBios | Setup::GrubUefi => include_str!("../guest/install-grub"),
    };
    script(&bin.join("install-boot-loader"), installer)?;
    script(&bin.join("nix-env"), include_str!("../guest/nix-env"))?;
    script(
        &bin.join("nixos-rebuild"),
        include_str!("../guest/nixos-rebuild"),
    )
}

fn applet_names(parts: &Parts) -> Result<Vec<String>> {
    let names = output(parts.program("busybox")?.arg("--list"))?;
    Ok(names
        .lines()
        .filter(|name| *name != "busybox")
        .map(str::to_owned)
        .collect())
}

fn system(
    parts: &Parts,
    setup: Setup,
    root: &Path,
    number: usize,
    behaviour: Behaviour,
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
    install(&parts.kernel()?, &on_disk(&kernel))?;
    fs::create_dir_all(on_disk(&initrd).parent().unwrap_or(root))?;
    fs::write(on_disk(&initrd), initrd::build(parts, number, behaviour)?)?;
    symlink(kernel, system.join("kernel"))?;
    symlink(initrd, system.join("initrd"))?;
    let partition = if setup.is_uefi() { 2 } else { 3 };
    let params = format!("{KERNEL_PARAMS} root=/dev/vda{partition}");
    fs::write(system.join("kernel-params"), params)?;
    fs::write(system.join("nixos-version"), format!("25.05.{number}"))?;
    fs::write(system.join("generation"), number.to_string())?;
    fs::write(system.join("behaviour"), behaviour.word())?;
    script(&system.join("init"), include_str!("../guest/stage-2"))?;
    script(
        &system.join("bin/switch-to-configuration"),
        include_str!("../guest/switch-to-configuration"),
    )
}

fn install(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    // A package may have a link where the program is.
    if to.is_symlink() {
        fs::remove_file(to)?;
    }
    fs::copy(from, to)?;
    Ok(())
}

fn script(path: &Path, text: &str) -> Result<()> {
    if path.is_symlink() {
        fs::remove_file(path)?;
    }
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
