//! Real boot loaders in QEMU, by software emulation: disks with GRUB (BIOS and UEFI) and systemd-boot, small systems on
//! them, and power cuts between any two writes; and the disk that fabrik installs on a server.
//!
//! Real are the firmware, the loaders, `grub-reboot`, `bootctl`, the kernel, the file systems and fabrik's code on the
//! machine. Stand-ins, in `guest/`, are Nix, `nixos-rebuild`, the systems, and NixOS' installation of the loaders' entries.

pub mod cuts;
pub mod disk;
mod fat;
pub mod image;
mod initrd;
pub mod parts;
pub mod qemu;
pub mod systems;
pub mod table;
mod tree;
pub mod vm;
pub mod wanted;

/// A way to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    GrubBios,
    GrubUefi,
    SystemdBoot,
}

impl Setup {
    pub fn is_uefi(self) -> bool {
        self != Self::GrubBios
    }
}
