//! The machine that boots: its files, read below a root, and its tools, run by absolute path and as lists of arguments.

mod copies;
mod filesystem;
mod install;

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::loader::Traces;
use super::profile::Generations;
use super::systemd_boot::{self, Variables};
use super::{BootError, Loader, Menu, System, grub};

/// The profile of the machine's NixOS systems.
pub(super) const PROFILE: &str = "/nix/var/nix/profiles/system";
const STORE: &str = "/nix/store";
const EFI_VARIABLES: &str = "/sys/firmware/efi/efivars";
/// What is booted, as NixOS' stage 2 links it.
const BOOTED: &str = "/run/booted-system";
/// With one of them set, switch-to-configuration writes the loader itself anew, and takes loader.conf away meanwhile.
const INSTALL_VARIABLES: [&str; 2] = ["NIXOS_INSTALL_BOOTLOADER", "NIXOS_INSTALL_GRUB"];
const MOUNTS: &str = "/proc/self/mountinfo";
const FSTAB: &str = "/etc/fstab";
const MAX_LINKS: usize = 16;
/// So much of what a tool says in its error is shown.
const MAX_STDERR_CHARS: usize = 2000;

/// Absolute paths of the programs that are run; the NixOS module gives them.
#[derive(Debug, Clone)]
pub struct Tools {
    pub nix_env: PathBuf,
    pub nixos_rebuild: PathBuf,
    pub grub_reboot: PathBuf,
    pub grub_editenv: PathBuf,
    pub bootctl: PathBuf,
    pub df: PathBuf,
    pub mount: PathBuf,
    pub sync: PathBuf,
}

/// Where the machine has its boot files.
#[derive(Debug, Clone)]
pub struct Layout {
    /// GRUB's folder and the kernels; with systemd-boot, the XBOOTLDR partition where there is one.
    pub boot: PathBuf,
    /// The EFI system partition (boot.loader.efi.efiSysMountPoint); without UEFI, the same as `boot`.
    pub esp: PathBuf,
}

impl Default for Layout {
    /// As NixOS has it when nothing is said.
    fn default() -> Self {
        let boot = PathBuf::from("/boot");
        Self {
            esp: boot.clone(),
            boot,
        }
    }
}

/// A machine below a root: `/`, or a folder that looks like one.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
    layout: Layout,
    tools: Tools,
}

impl Machine {
    pub fn new(root: PathBuf, layout: Layout, tools: Tools) -> Self {
        Self {
            root,
            layout,
            tools,
        }
    }

    /// Which loader started this machine.
    pub fn loader(&self) -> Result<Loader, BootError> {
        Loader::detect(&Traces {
            uefi: self.path(EFI_VARIABLES).is_dir(),
            loader_info: self.variable("LoaderInfo")?,
            grub_cfg: self.grub_cfg().is_file(),
            loader_conf: self.loader_conf().is_file(),
        })
    }

    /// What `loader` will do at the next boot.
    pub fn menu(&self, loader: Loader) -> Result<Menu, BootError> {
        if loader.is_grub() {
            let grubenv = optional(&self.grubenv(), read_text(&self.grubenv()))?;
            return grub::menu(
                &self.grub_cfg(),
                &read_text(&self.grub_cfg())?,
                grubenv.as_deref(),
            );
        }
        let mut entries = self.entries(&self.layout.boot)?;
        if self.layout.esp != self.layout.boot {
            entries.extend(self.entries(&self.layout.esp)?);
        }
        let variables = Variables {
            preferred: self.variable("LoaderEntryPreferred")?,
            default: self.variable("LoaderEntryDefault")?,
            once: self.variable("LoaderEntryOneShot")?,
        };
        systemd_boot::menu(&read_text(&self.loader_conf())?, &entries, variables)
    }

    /// The generations of the system profile.
    pub(super) fn generations(&self) -> Result<Generations, BootError> {
        let folder = self.path(PROFILE);
        let folder = folder.parent().unwrap_or(&folder);
        let mut links = Vec::new();
        for name in names(folder)? {
            if let Ok(target) = fs::read_link(folder.join(&name)) {
                links.push((name, target.to_string_lossy().into_owned()));
            }
        }
        Ok(Generations::from_links(
            links
                .iter()
                .map(|(name, target)| (name.as_str(), target.as_str())),
        ))
    }

    /// The system that this machine is booted into.
    pub(super) fn booted(&self) -> Result<System, BootError> {
        let link = self.path(BOOTED);
        let target = fs::read_link(&link).map_err(failed_at(&link))?;
        System::parse(&target.to_string_lossy())
    }

    /// The boot partitions are such that no power cut leaves them without a menu.
    pub(super) fn check_filesystem(&self, loader: Loader) -> Result<(), BootError> {
        let mounts = read_text(&self.path(MOUNTS))?;
        if loader.is_grub() {
            filesystem::grub_can_rely_on(&mounts, &self.layout.boot)?;
        }
        let fstab = self.path(FSTAB);
        let fstab = optional(&fstab, read_text(&fstab))?.unwrap_or_default();
        filesystem::is_checked(&fstab, &mounts, &self.layout.boot)?;
        filesystem::is_checked(&fstab, &mounts, &self.layout.esp)
    }

    pub(super) fn nix_env(&self, arguments: &[&str]) -> Result<(), BootError> {
        let profile = self.path(PROFILE);
        let mut all = vec![OsStr::new("--profile"), profile.as_os_str()];
        all.extend(arguments.iter().map(OsStr::new));
        run(&self.tools.nix_env, &all).map(drop)
    }

    /// Sets the entry of the next boot, or takes it back, and brings that to the disk.
    pub(super) fn set_once(&self, loader: Loader, entry: Option<&str>) -> Result<(), BootError> {
        let grubenv = self.grubenv();
        match (loader, entry) {
            (Loader::SystemdBoot, entry) => {
                let esp = format!("--esp-path={}", self.path(&self.layout.esp).display());
                let arguments =
                    [esp.as_str(), "set-oneshot", entry.unwrap_or_default()].map(OsStr::new);
                // The kernel writes a variable through to the firmware's flash; there is no cache to sync.
                run(&self.tools.bootctl, &arguments).map(drop)
            }
            (_, Some(entry)) => {
                self.remove_broken_grubenv()?;
                let boot = format!(
                    "--boot-directory={}",
                    self.path(&self.layout.boot).display()
                );
                run(
                    &self.tools.grub_reboot,
                    &[OsStr::new(&boot), OsStr::new(entry)],
                )?;
                self.sync()
            }
            (_, None) => {
                self.remove_broken_grubenv()?;
                let arguments = [
                    grubenv.as_os_str(),
                    OsStr::new("unset"),
                    OsStr::new("next_entry"),
                ];
                run(&self.tools.grub_editenv, &arguments)?;
                self.sync()
            }
        }
    }

    /// GRUB's tools write `grubenv` anew where it is not there, and fail where a power cut has left half of it.
    fn remove_broken_grubenv(&self) -> Result<(), BootError> {
        let path = self.grubenv();
        match optional(&path, fs::read(&path).map_err(failed_at(&path)))? {
            Some(bytes) if !grub::is_environment(&bytes) => {
                fs::remove_file(&path).map_err(failed_at(&path))
            }
            _ => Ok(()),
        }
    }

    /// Brings the file systems of the boot files and of the profile to the disk: NixOS' installation of GRUB does not.
    pub(super) fn sync(&self) -> Result<(), BootError> {
        let paths = [&self.layout.boot, &self.layout.esp].map(|path| self.path(path));
        let profile = self.path(PROFILE);
        let profiles = profile.parent().unwrap_or(&profile);
        let mut arguments = vec![OsStr::new("-f"), profiles.as_os_str()];
        arguments.extend(paths.iter().map(|path| path.as_os_str()));
        run(&self.tools.sync, &arguments).map(drop)
    }

    fn grub_cfg(&self) -> PathBuf {
        self.path(&self.layout.boot).join("grub/grub.cfg")
    }

    fn grubenv(&self) -> PathBuf {
        self.path(&self.layout.boot).join("grub/grubenv")
    }

    fn loader_conf(&self) -> PathBuf {
        self.path(&self.layout.esp).join("loader/loader.conf")
    }

    fn entries(&self, partition: &Path) -> Result<Vec<(String, String)>, BootError> {
        let folder = self.path(partition).join("loader/entries");
        let names = optional(&folder, names(&folder))?.unwrap_or_default();
        names
            .into_iter()
            .filter(|name| Path::new(name).extension() == Some(OsStr::new("conf")))
            .map(|name| Ok((name.clone(), read_text(&folder.join(name))?)))
            .collect()
    }

    fn variable(&self, name: &str) -> Result<Option<String>, BootError> {
        let path = self
            .path(EFI_VARIABLES)
            .join(systemd_boot::variable_file(name));
        let bytes = fs::read(&path).map_err(failed_at(&path));
        Ok(optional(&path, bytes)?
            .as_deref()
            .and_then(systemd_boot::variable_text))
    }

    /// `path`, absolute on the machine, as it is found below the root.
    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The machine's own path that `path` ends at when its last links are followed.
    fn resolve(&self, path: &Path) -> Result<PathBuf, BootError> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            match fs::read_link(self.path(&path)) {
                Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
                Err(error) if error.kind() == ErrorKind::InvalidInput => break, // no link
                Err(source) => return Err(BootError::Io { path, source }),
            }
        }
        Ok(path)
    }
}

fn read_text(path: &Path) -> Result<String, BootError> {
    let bytes = fs::read(path).map_err(failed_at(path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn names(folder: &Path) -> Result<Vec<String>, BootError> {
    let mut names = names_in_place(folder)?;
    names.sort_unstable();
    Ok(names)
}

/// In the order in which the file system has them.
fn names_in_place(folder: &Path) -> Result<Vec<String>, BootError> {
    fs::read_dir(folder)
        .map_err(failed_at(folder))?
        .map(|entry| {
            let name = entry.map_err(failed_at(folder))?.file_name();
            Ok(name.to_string_lossy().into_owned())
        })
        .collect()
}

fn failed_at(path: &Path) -> impl FnOnce(std::io::Error) -> BootError {
    |source| BootError::Io {
        path: path.to_owned(),
        source,
    }
}

/// What need not be there.
fn optional<T>(at: &Path, read: Result<T, BootError>) -> Result<Option<T>, BootError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(BootError::Io { path, source })
            if path == at && source.kind() == ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn run(program: &Path, arguments: &[&OsStr]) -> Result<String, BootError> {
    let words: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let told = format!("{} {}", program.display(), words.join(" "));
    tracing::debug!(command = told, "running");
    let mut command = Command::new(program);
    command.args(arguments);
    for variable in INSTALL_VARIABLES {
        command.env_remove(variable);
    }
    let failed = |reason: String| BootError::Tool {
        command: told.clone(),
        reason,
    };
    let output = command
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let skipped = stderr.chars().count().saturating_sub(MAX_STDERR_CHARS);
    let end: String = stderr.chars().skip(skipped).collect();
    Err(failed(format!("{}: {}", output.status, end.trim_end())))
}
