//! The disk of a machine with a system: a folder that looks like the root of a NixOS, with a Nix
//! store of its own, a boot loader's files as systemd-boot has them, and stand-ins for the programs
//! that fabrik runs there. Like a real one it outlives its machine's power.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::join;
use crate::process::{Dirs, kill_recorded};
use crate::system::{Build, Image};

const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const EFI_VARIABLES: &str = "sys/firmware/efi/efivars";
const PROFILE: &str = "nix/var/nix/profiles/system";
const ENTRIES: &str = "boot/loader/entries";

const STAND_INS: [(&str, &str); 9] = [
    ("bootctl", include_str!("../../stand-ins/bootctl")),
    ("mount", include_str!("../../stand-ins/nothing")),
    ("nix", include_str!("../../stand-ins/nix")),
    ("nix-env", include_str!("../../stand-ins/nix-env")),
    ("nix-store", include_str!("../../stand-ins/nix")),
    (
        "nixos-rebuild",
        include_str!("../../stand-ins/nixos-rebuild"),
    ),
    ("sync", include_str!("../../stand-ins/nothing")),
    ("systemctl", include_str!("../../stand-ins/systemctl")),
    ("systemd-run", include_str!("../../stand-ins/systemd-run")),
];

/// A machine's root folder.
#[derive(Clone, Debug)]
pub struct Root {
    dir: PathBuf,
    /// The machine's, which names the records of its transient units.
    name: String,
    dirs: Dirs,
}

/// A system in a machine's store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// `/nix/store/…`, as the machine sees it.
    pub path: String,
    /// `1.36.3+k3s1`
    pub k3s: String,
    pub fabrik: Build,
    pub sick: bool,
}

/// How a boot begins.
#[derive(Clone, Debug)]
pub enum Boot {
    Up {
        boot_id: String,
    },
    /// The kernel panics; with `panic=` the machine boots again by itself.
    Panic,
    Hang,
}

impl Root {
    /// Copies the image, with the system of `pool` as the only generation.
    pub fn create(image: &Image, dir: &Path, name: &str, pool: &str, dirs: &Dirs) -> Result<Self> {
        let copied = Command::new("cp")
            .args(["--archive", "--no-target-directory"])
            .args([&image.root, dir])
            .status()?;
        if !copied.success() {
            bail!("copying the image to {}: {copied}", dir.display());
        }
        Self::furnish(image, dir, name, pool, dirs)
    }

    /// As [`Root::create`], from what somebody wrote to the machine's disk: an archive of an image, and then anything.
    pub fn unpack(disk: &Path, dir: &Path, name: &str, pool: &str, dirs: &Dirs) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let unpacked = Command::new("tar")
            .args(["--extract", "--preserve-permissions", "--file"])
            .arg(disk)
            .arg("--directory")
            .arg(dir)
            .output()
            .context("starting tar")?;
        if !unpacked.status.success() {
            let reason = String::from_utf8_lossy(&unpacked.stderr);
            bail!("the disk of {name} does not boot: {reason}");
        }
        let image = Image::of(dir).with_context(|| format!("{name} does not boot"))?;
        Self::furnish(&image, dir, name, pool, dirs)
    }

    fn furnish(image: &Image, dir: &Path, name: &str, pool: &str, dirs: &Dirs) -> Result<Self> {
        let root = Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            dirs: dirs.clone(),
        };
        for folder in [
            ENTRIES,
            EFI_VARIABLES,
            "run",
            "sw/bin",
            "proc/self",
            "proc/sys/kernel/random",
        ] {
            fs::create_dir_all(root.path(folder))?;
        }
        symlink(image.nix_programs(), root.path("sw/nix"))?;
        for (name, text) in STAND_INS {
            root.add_program(&root.programs(), name, text, &[])?;
        }
        let boot = "40 22 254:1 / /boot rw - vfat /dev/vda1 rw\n";
        fs::write(root.path("proc/self/mountinfo"), boot)?;
        fs::write(root.variable("LoaderInfo"), efi_text("systemd-boot 257"))?;
        let system = image.system(pool)?;
        symlink(system, root.path(&format!("{PROFILE}-1-link")))?;
        symlink("system-1-link", root.path(PROFILE))?;
        let switch = root.path(system).join("bin/switch-to-configuration");
        let installed = Command::new(switch).arg("boot").status()?;
        if !installed.success() {
            bail!("installing the boot loader of {name}: {installed}");
        }
        Ok(root)
    }

    /// The root of a machine that was made before, if there is one.
    pub fn existing(dir: &Path, name: &str, dirs: &Dirs) -> Option<Self> {
        dir.join(PROFILE).is_symlink().then(|| Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            dirs: dirs.clone(),
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of Nix and of the stand-ins: it comes first in PATH on this machine.
    pub fn programs(&self) -> PathBuf {
        self.path("sw/bin")
    }

    /// `path` of the machine, below its root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path.trim_start_matches('/'))
    }

    /// Where programs are that only servers have, for `fabrik run`: it finds none of the stand-ins for
    /// the service manager.
    pub fn server_programs(&self) -> PathBuf {
        self.path("sw/server")
    }

    /// A program of this machine from a script with @PLACES@ in it.
    pub fn add_program(
        &self,
        folder: &Path,
        name: &str,
        text: &str,
        places: &[(&str, String)],
    ) -> Result<()> {
        let mut text = text
            .replace("@ROOT@", &self.dir.display().to_string())
            .replace("@RUN@", &self.dirs.run.display().to_string())
            .replace("@NAME@", &self.name);
        for (place, value) in places {
            text = text.replace(place, value);
        }
        let file = folder.join(name);
        fs::create_dir_all(folder)?;
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// The next boot will be an ordinary one.
    pub fn forget_one_shot(&self) -> Result<()> {
        match fs::remove_file(self.variable("LoaderEntryOneShot")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// What the loader and the kernel do: the one-shot entry if there is one, which is taken back
    /// before anything is loaded, else the default.
    pub fn boot(&self) -> Result<Boot> {
        let once = fs::read(self.variable("LoaderEntryOneShot")).ok();
        self.forget_one_shot()?;
        let entry = match once.as_deref().and_then(efi_value) {
            Some(entry) => entry,
            None => value(
                &fs::read_to_string(self.path("boot/loader/loader.conf"))?,
                "default",
            )?,
        };
        let entry = fs::read_to_string(self.path(ENTRIES).join(&entry))
            .with_context(|| format!("the boot loader of {} has no entry {entry}", self.name))?;
        let init = value(&entry, "options")?;
        let system = init.trim_start_matches("init=").trim_end_matches("/init");
        let is = |fault: &str| self.path(system).join(fault).exists();
        if is("panics") {
            return Ok(Boot::Panic);
        }
        if is("hangs") {
            return Ok(Boot::Hang);
        }
        // /run is empty after a boot.
        let run = self.path("run");
        fs::remove_dir_all(&run)?;
        fs::create_dir_all(&run)?;
        let boot_id = uuid()?;
        fs::write(
            self.path("proc/sys/kernel/random/boot_id"),
            format!("{boot_id}\n"),
        )?;
        symlink(system, run.join("booted-system"))?;
        symlink(system, run.join("current-system"))?;
        // What a system calls its own software.
        symlink(self.path("sw"), run.join("sw"))?;
        Ok(Boot::Up { boot_id })
    }

    /// The system that runs, as `/run/current-system` says.
    pub fn current(&self) -> Result<System> {
        let link = self.path("run/current-system");
        let path = fs::read_link(&link).with_context(|| format!("reading {}", link.display()))?;
        let path = path.to_str().context("a store path in UTF-8")?.to_owned();
        let dir = self.path(&path);
        let file = |name: &str| {
            let text = fs::read_to_string(dir.join(name));
            text.with_context(|| format!("{} lacks {path}", self.name))
        };
        Ok(System {
            k3s: file("k3s-version")?.trim().to_owned(),
            fabrik: Build::read(&file("fabrik-build")?)?,
            sick: dir.join("sick").exists(),
            path,
        })
    }

    /// Tells who activated the system that the machine is as it says.
    pub fn obeyed(&self, system: &System) -> Result<()> {
        Ok(fs::write(self.path("run/obeyed"), &system.path)?)
    }

    /// Ends the transient units, as losing power does.
    pub fn cut(&self) {
        let prefix = format!("{}-unit-", self.name);
        for record in fs::read_dir(&self.dirs.run).into_iter().flatten().flatten() {
            if record.file_name().to_string_lossy().starts_with(&prefix) {
                // A unit that ended meanwhile has removed its record.
                let _ = kill_recorded(&record.path());
                let _ = fs::remove_file(record.path());
            }
        }
    }

    fn variable(&self, name: &str) -> PathBuf {
        self.path(EFI_VARIABLES).join(format!("{name}-{VENDOR}"))
    }
}

/// The value of a key in a file of the boot loader.
fn value(text: &str, key: &str) -> Result<String> {
    let found = text.lines().find_map(|line| {
        let (found, value) = line.split_once(' ')?;
        (found == key).then(|| value.trim().to_owned())
    });
    found.with_context(|| format!("no {key} in {text}"))
}

/// As efivarfs shows a text: attributes, then UTF-16 with a NUL.
fn efi_text(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().chain([0]);
    [7, 0, 0, 0]
        .into_iter()
        .chain(units.flat_map(u16::to_le_bytes))
        .collect()
}

fn efi_value(bytes: &[u8]) -> Option<String> {
    let units = bytes.get(4..)?.chunks_exact(2);
    let units: Vec<u16> = units
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    let text = String::from_utf16(&units).ok()?;
    let text = text.trim_end_matches('\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// A boot id has the form of a UUID.
pub(crate) fn uuid() -> Result<String> {
    let hex = join::random_hex(16)?;
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    Ok(parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_efi_variable_is_read_as_it_is_written() {
        assert_eq!(
            efi_value(&efi_text("nixos-generation-2.conf")).unwrap(),
            "nixos-generation-2.conf"
        );
        assert_eq!(efi_value(&efi_text("")), None);
        assert_eq!(efi_value(&[7, 0]), None);
    }
}
