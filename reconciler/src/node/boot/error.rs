//! What can stand in the way of booting a new system once, and the way out of each.

use std::path::PathBuf;

use super::{Generation, System};

/// One variant a cause that a person would treat differently.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The machine does not boot by a loader that fabrik can make boot an entry once.
    #[error(
        "no boot loader that can boot a system once: {found}. fabrik knows GRUB (BIOS or UEFI) and systemd-boot, as \
         NixOS installs them"
    )]
    UnknownLoader { found: String },
    /// GRUB would not survive a power cut there, or boot the new system for ever.
    #[error(
        "{mount} is on {found}, and GRUB can be relied on only where /boot is a plain FAT partition: it reads no journal, so \
         a power cut may leave it without a menu, and takes a one-shot entry back by overwriting a file in place. Put /boot \
         on a FAT partition (the EFI system partition will do, on BIOS as well)"
    )]
    GrubCannotRely { mount: String, found: String },
    /// Two names may share a file after a power cut, until the file system is checked.
    #[error(
        "{mount} is FAT and is never checked at boot: a power cut may leave two names for one file there, which only \
         fsck.fat parts. Remove fileSystems.\"{mount}\".noCheck"
    )]
    NeverChecked { mount: String },
    /// The loader's menu can't be read as NixOS writes it.
    #[error("{path}: {reason}")]
    UnreadableMenu { path: PathBuf, reason: String },
    /// What the loader boots by default is not one system.
    #[error("{place}: the default is `{found}`, which names no one system: {advice}")]
    DefaultUnclear {
        place: String,
        found: String,
        advice: &'static str,
    },
    /// The loader boots another system by default.
    #[error("the boot loader's default is {found}, not {wanted}")]
    WrongDefault { wanted: System, found: System },
    /// The installation of the entries left the new system out.
    #[error(
        "the boot loader has no entry for generation {generation}, {system}: its menu may be limited to fewer systems \
         (configurationLimit must be 3 at least), or made of images that fabrik can't read (unified kernel images, Lanzaboote)"
    )]
    NoEntry {
        system: System,
        generation: Generation,
    },
    /// The entry is still in the menu after its generation is gone.
    #[error("the boot loader still has the entry `{entry}` of a generation that is gone")]
    EntryStays { entry: String },
    /// The one-shot is not what was written.
    #[error("the boot loader's one-shot is {found:?} after it was set to `{wanted}`")]
    OnceNotSet {
        wanted: String,
        found: Option<String>,
    },
    /// The one-shot is still there after it was taken back.
    #[error("the boot loader's one-shot is still `{found}` after it was taken back")]
    OnceNotCleared { found: String },
    /// Not enough room for another kernel and initrd.
    #[error(
        "{path} has {free_bytes} bytes free and the new system needs {needed_bytes}: remove old generations, or make the \
         partition larger"
    )]
    NoSpace {
        path: PathBuf,
        free_bytes: u64,
        needed_bytes: u64,
    },
    /// The system has no generation in the profile, so no loader entry can be made for it.
    #[error(
        "{system} is no generation of {profile}: a system that was only tested can't be fallen back to; run `nixos-rebuild \
         boot` for it"
    )]
    NotInProfile {
        system: System,
        profile: &'static str,
    },
    /// The new system is the old one.
    #[error("{system} is both the new system and the one to fall back to")]
    SameSystem { system: System },
    /// Only what runs can be verified, and only what is verified becomes the default.
    #[error("{wanted} can't become the default: this machine is booted into {booted}")]
    NotBooted { wanted: System, booted: System },
    /// Not a path of a system in the Nix store.
    #[error("`{text}` is no path in /nix/store")]
    NoSystem { text: String },
    /// A tool did not do its work.
    #[error("{command}: {reason}")]
    Tool { command: String, reason: String },
    /// A file can't be read.
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
}
