//! Can GRUB write to the file system of /boot? It overwrites `grubenv` in place, block by block, and only where one
//! block of a file is one block of a plain partition (GRUB manual, "Environment block": not on LVM, RAID, btrfs, ZFS).

use std::path::Path;

use super::super::BootError;

const WRITABLE: [&str; 4] = ["ext2", "ext3", "ext4", "vfat"];
/// Device mapper and software RAID, under their usual names.
const STACKED: [&str; 3] = ["/dev/mapper/", "/dev/dm-", "/dev/md"];
/// The journal would bring back, at the next mount, what GRUB has cleared.
const JOURNALED_DATA: &str = "data=journal";

/// `mounts` is /proc/self/mountinfo.
pub fn grub_can_write(mounts: &str, boot: &Path) -> Result<(), BootError> {
    let cannot = |mount: &str, found: String| BootError::GrubCannotWrite {
        mount: mount.to_owned(),
        found,
    };
    let mount = Mount::of(mounts, boot).ok_or_else(|| {
        cannot(
            &boot.to_string_lossy(),
            "it is on no mounted file system".to_owned(),
        )
    })?;
    if !WRITABLE.contains(&mount.kind) {
        return Err(cannot(mount.point, mount.kind.to_owned()));
    }
    if STACKED.iter().any(|name| mount.source.starts_with(name)) {
        return Err(cannot(mount.point, mount.source.to_owned()));
    }
    if mount
        .options
        .split(',')
        .any(|option| option == JOURNALED_DATA)
    {
        return Err(cannot(mount.point, JOURNALED_DATA.to_owned()));
    }
    Ok(())
}

/// What is mounted.
pub struct Mount<'a> {
    pub point: &'a str,
    /// The type of the file system.
    pub kind: &'a str,
    source: &'a str,
    options: &'a str,
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

    /// proc(5): … (5) mount point (6) options, optional fields, "-", type, source, super options.
    fn parse(line: &'a str) -> Option<Self> {
        let (first, last) = line.split_once(" - ")?;
        let mut last = last.split(' ');
        Some(Self {
            point: first.split(' ').nth(4)?,
            kind: last.next()?,
            source: last.next()?,
            options: last.next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(boot: &str) -> Result<(), BootError> {
        let mounts = format!(
            "22 1 254:3 / / rw,relatime shared:1 - btrfs /dev/vda3 rw\n\
             30 22 0:30 / /boot rw - autofs systemd-1 rw,fd=40\n{boot}"
        );
        grub_can_write(&mounts, Path::new("/boot"))
    }

    #[test]
    fn a_plain_partition_will_do() {
        on("40 22 254:1 / /boot rw,relatime - ext4 /dev/vda2 rw").unwrap();
        on("40 22 254:1 / /boot rw,relatime shared:9 - vfat /dev/vda1 rw,fmask=0077").unwrap();
    }

    #[test]
    fn what_grub_can_not_write_to_is_refused_by_name() {
        for (mount, found) in [
            ("", "btrfs"),
            ("40 22 254:1 / /boot rw - xfs /dev/vda2 rw", "xfs"),
            (
                "40 22 254:1 / /boot rw - ext4 /dev/mapper/vg-boot rw",
                "/dev/mapper/vg-boot",
            ),
            ("40 22 9:1 / /boot rw - ext4 /dev/md1 rw", "/dev/md1"),
            (
                "40 22 254:1 / /boot rw - ext4 /dev/vda2 rw,data=journal",
                "data=journal",
            ),
            ("40 22 254:1 / /bootstrap rw - ext4 /dev/vda2 rw", "btrfs"),
        ] {
            let refused = on(mount).unwrap_err().to_string();
            assert!(refused.contains(found), "{refused}");
        }
    }
}
