//! Is the boot partition one that power cuts leave bootable?
//!
//! GRUB reads ext4 without its journal, in which a rename is one step and without which it is several, in no order. On FAT
//! there is none, and fabrik has a say in the order (`install`). GRUB also has to overwrite `grubenv` in place, which it
//! does only on a plain partition (GRUB manual, "Environment block": not on LVM, RAID, btrfs, ZFS).

use std::path::Path;

use super::super::BootError;

const FAT: &str = "vfat";
/// Device mapper and software RAID, under their usual names.
const STACKED: [&str; 3] = ["/dev/mapper/", "/dev/dm-", "/dev/md"];
/// The field of /etc/fstab that says when a file system is checked (fstab(5)), and what it says for never.
const PASS: usize = 5;
const NEVER: &str = "0";

/// `mounts` is /proc/self/mountinfo.
pub fn grub_can_rely_on(mounts: &str, boot: &Path) -> Result<(), BootError> {
    let cannot = |mount: &str, found: &str| BootError::GrubCannotRely {
        mount: mount.to_owned(),
        found: found.to_owned(),
    };
    let Some(mount) = Mount::of(mounts, boot) else {
        return Err(cannot(&boot.to_string_lossy(), "no mounted file system"));
    };
    if !mount.is_fat() {
        return Err(cannot(mount.point, mount.kind));
    }
    if STACKED.iter().any(|name| mount.source.starts_with(name)) {
        return Err(cannot(mount.point, mount.source));
    }
    Ok(())
}

/// What is mounted at `boot` is checked at boot if it is FAT. What is in no fstab is mounted by systemd, which checks it.
pub fn is_checked(fstab: &str, mounts: &str, boot: &Path) -> Result<(), BootError> {
    let Some(mount) = Mount::of(mounts, boot).filter(Mount::is_fat) else {
        return Ok(());
    };
    let never = fstab
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .any(|fields| {
            fields.get(1) == Some(&mount.point) && *fields.get(PASS).unwrap_or(&NEVER) == NEVER
        });
    if never {
        return Err(BootError::NeverChecked {
            mount: mount.point.to_owned(),
        });
    }
    Ok(())
}

/// What is mounted.
pub struct Mount<'a> {
    pub point: &'a str,
    /// The type of the file system.
    kind: &'a str,
    source: &'a str,
}

impl<'a> Mount<'a> {
    /// The mount that `path` is on: the last of equals is the one on top. An automount point stays in the table beside what
    /// is mounted on it.
    pub fn of(mounts: &'a str, path: &Path) -> Option<Self> {
        mounts
            .lines()
            .filter_map(Self::parse)
            .filter(|mount| mount.kind != "autofs" && path.starts_with(mount.point))
            .max_by_key(|mount| mount.point.len())
    }

    pub fn is_fat(&self) -> bool {
        self.kind == FAT
    }

    /// proc(5): … (5) mount point (6) options, optional fields, "-", type, source, super options.
    fn parse(line: &'a str) -> Option<Self> {
        let (first, last) = line.split_once(" - ")?;
        let mut last = last.split(' ');
        Some(Self {
            point: first.split(' ').nth(4)?,
            kind: last.next()?,
            source: last.next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAT_BOOT: &str =
        "40 22 254:1 / /boot rw,relatime shared:9 - vfat /dev/vda1 rw,fmask=0077";

    fn mounts(boot: &str) -> String {
        format!(
            "22 1 254:3 / / rw,relatime shared:1 - btrfs /dev/vda3 rw\n\
             30 22 0:30 / /boot rw - autofs systemd-1 rw,fd=40\n{boot}"
        )
    }

    #[test]
    fn grub_relies_on_a_plain_fat_partition_and_on_nothing_else() {
        grub_can_rely_on(&mounts(FAT_BOOT), Path::new("/boot")).unwrap();
        for (mount, found) in [
            ("", "btrfs"),
            ("40 22 254:1 / /boot rw - ext4 /dev/vda2 rw", "ext4"),
            (
                "40 22 254:1 / /boot rw - vfat /dev/mapper/vg-boot rw",
                "/dev/mapper/vg-boot",
            ),
            ("40 22 9:1 / /boot rw - vfat /dev/md1 rw", "/dev/md1"),
            ("40 22 254:1 / /bootstrap rw - vfat /dev/vda2 rw", "btrfs"),
        ] {
            let refused = grub_can_rely_on(&mounts(mount), Path::new("/boot")).unwrap_err();
            let refused = refused.to_string();
            assert!(
                refused.contains(&format!("is on {found}, and")),
                "{refused}"
            );
        }
    }

    #[test]
    fn what_is_never_checked_is_refused_by_name() {
        let checked =
            |fstab: &str, mount: &str| is_checked(fstab, &mounts(mount), Path::new("/boot"));
        checked(
            "# made by NixOS\n/dev/vda1 /boot vfat fmask=0077 0 2\n",
            FAT_BOOT,
        )
        .unwrap();
        checked("", FAT_BOOT).unwrap();
        for fstab in [
            "/dev/vda1 /boot vfat defaults 0 0",
            "/dev/vda1\t/boot vfat defaults",
        ] {
            let refused = checked(fstab, FAT_BOOT).unwrap_err().to_string();
            assert!(
                refused.contains("fileSystems.\"/boot\".noCheck"),
                "{refused}"
            );
        }
        // Another's lines, and file systems with a journal, are no matter.
        checked("/dev/vda1 /boots vfat defaults 0 0", FAT_BOOT).unwrap();
        let ext4 = "40 22 254:1 / /boot rw - ext4 /dev/vda2 rw";
        checked("/dev/vda2 /boot ext4 defaults 0 0", ext4).unwrap();
    }
}
