//! Lets NixOS write the loader's entries, and sees to it that the machine boots whenever that is cut off.
//!
//! NixOS puts a new menu in the old one's place by a rename. On FAT that is three writes: the old name shows the new
//! file, the temporary name goes, the old file's clusters are given back. A loader must find a menu between any two of
//! them, also when the disk's cache brought them to the disk in another order. So, meanwhile,
//!
//! * the partition writes through: the kernel writes in order, and flushes the disk's cache after each write of a program
//!   (`generic_write_sync`, `fat_file_fsync`), so a file is on the disk before it gets the name that counts;
//! * the former files are open: their clusters are given back only when the new names are on the disk;
//! * there is no free room between the names: after a cut between the first two writes both names show one file, and
//!   `fsck.fat -a`, which NixOS runs at boot, empties the one that comes second in its folder. A new name takes the first
//!   free room, so where there is none the temporary one is behind the one that counts.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::super::{BootError, System};
use super::filesystem::Mount;
use super::{MOUNTS, Machine, failed_at, names_in_place, read_text, run};

/// Where loaders have their menus, on either boot partition.
const MENUS: [&str; 3] = ["grub", "loader", "loader/entries"];
/// What installations that were cut off leave behind. fsck.fat has parted it from the menu.
const TEMPORARY: &str = ".tmp";
/// A FAT folder has 65,536 places at most.
const MAX_FILLERS: u32 = 65_536;

impl Machine {
    /// `system` becomes the newest generation of the profile, and writes the loader's entries with itself as the default.
    pub(in super::super) fn nixos_rebuild_boot(&self, system: &System) -> Result<(), BootError> {
        // Else it would evaluate itself anew first, from a configuration that a node does not have (nixos-rebuild-ng, reexec).
        let arguments = ["boot", "--store-path", system.as_str(), "--no-reexec"].map(OsStr::new);
        self.bootable_meanwhile(|| run(&self.tools.nixos_rebuild, &arguments).map(drop))
    }

    /// `system` writes the loader's entries, with itself as the default.
    pub(in super::super) fn install_loader(&self, system: &System) -> Result<(), BootError> {
        let program = self
            .path(system.as_str())
            .join("bin/switch-to-configuration");
        self.bootable_meanwhile(|| run(&program, &[OsStr::new("boot")]).map(drop))
    }

    /// Ends with all on the disk. On other file systems than FAT there is nothing that fabrik could do.
    fn bootable_meanwhile(
        &self,
        install: impl FnOnce() -> Result<(), BootError>,
    ) -> Result<(), BootError> {
        let mounts = read_text(&self.path(MOUNTS))?;
        let mut partitions = BTreeSet::new();
        let mut folders = BTreeSet::new();
        for path in [&self.layout.boot, &self.layout.esp] {
            if let Some(mount) = Mount::of(&mounts, path).filter(Mount::is_fat) {
                partitions.insert(self.path(mount.point));
                folders.extend(MENUS.map(|menu| self.path(path).join(menu)));
            }
        }
        for partition in &partitions {
            self.remount(partition, "remount,sync")?;
        }
        let installed = self.install_beside_former(&folders, install);
        for partition in &partitions {
            self.remount(partition, "remount,async")?;
        }
        installed
    }

    fn install_beside_former(
        &self,
        folders: &BTreeSet<PathBuf>,
        install: impl FnOnce() -> Result<(), BootError>,
    ) -> Result<(), BootError> {
        let former = folders
            .iter()
            .filter(|folder| folder.is_dir())
            .map(|folder| Former::keep(folder))
            .collect::<Result<Vec<_>, _>>()?;
        let installed = install().and(self.sync());
        former.into_iter().try_for_each(Former::release)?;
        installed
    }

    fn remount(&self, partition: &Path, options: &str) -> Result<(), BootError> {
        let arguments = [OsStr::new("-o"), OsStr::new(options), partition.as_os_str()];
        run(&self.tools.mount, &arguments).map(drop)
    }
}

/// A folder's files as they were, for as long as others are put in their places.
struct Former {
    files: Vec<File>,
    fillers: Vec<PathBuf>,
}

impl Former {
    fn keep(folder: &Path) -> Result<Self, BootError> {
        let mut files = Vec::new();
        for name in names_in_place(folder)? {
            let path = folder.join(&name);
            if name.ends_with(TEMPORARY) {
                fs::remove_file(&path).map_err(failed_at(&path))?;
            } else if path.is_file() {
                files.push(File::open(&path).map_err(failed_at(&path))?);
            }
        }
        let fillers = fill(folder)?;
        Ok(Self { files, fillers })
    }

    fn release(self) -> Result<(), BootError> {
        drop(self.files);
        self.fillers
            .iter()
            .try_for_each(|filler| fs::remove_file(filler).map_err(failed_at(filler)))
    }
}

/// Makes empty files until one comes after all that is there. Their names take no more room than any temporary one, so they
/// are wherever that would be.
fn fill(folder: &Path) -> Result<Vec<PathBuf>, BootError> {
    let mut fillers: Vec<PathBuf> = Vec::new();
    let mut last_place = None;
    for number in 0..MAX_FILLERS {
        let name = format!("{number:05}{TEMPORARY}");
        let filler = folder.join(&name);
        File::create(&filler).map_err(failed_at(&filler))?;
        fillers.push(filler);
        // FAT tells the names in the order of their places.
        let names = names_in_place(folder)?;
        let place = names.iter().position(|found| *found == name);
        // Where they do not come one after the other, this only looks like FAT.
        if place >= names.len().checked_sub(1) || place < last_place {
            break;
        }
        last_place = place;
    }
    Ok(fillers)
}
