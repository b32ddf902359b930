//! What was written to the disks of machines, and the snapshots of them: a file each.
//!
//! A disk that nobody wrote to has no file. What is beyond the end of what was written reads as zeros, for a file is as long as
//! the disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The files of a bed.
#[derive(Clone, Debug)]
pub struct Disks {
    dir: PathBuf,
}

impl Disks {
    pub fn new(bed: &Path) -> Self {
        Self {
            dir: bed.to_owned(),
        }
    }

    /// The disk of a server, whether or not there is a file.
    pub fn disk(&self, server: u64) -> PathBuf {
        let machines = self.dir.join("machines");
        machines.join(server.to_string()).join("disk")
    }

    /// The disk of a server as somebody finds it who is to write to it.
    pub fn open(&self, server: u64, bytes: u64) -> Result<PathBuf> {
        let disk = self.disk(server);
        parent(&disk)?;
        let file = File::options()
            .create(true)
            .append(true)
            .open(&disk)
            .with_context(|| format!("opening {}", disk.display()))?;
        let length = file.metadata()?.len();
        file.set_len(length.max(bytes))?;
        Ok(disk)
    }

    /// The disk of a new server of this image. One of Hetzner's own is not played here.
    pub fn create(&self, server: u64, image: u64) -> Result<()> {
        copy(&self.image(image), &self.disk(server))
    }

    /// Keeps the disk as it is now.
    pub fn snapshot(&self, server: u64, image: u64) -> Result<()> {
        copy(&self.disk(server), &self.image(image))
    }

    pub fn delete_image(&self, image: u64) -> Result<()> {
        remove(&self.image(image))
    }

    /// The server is gone, and its disk with it.
    pub fn delete(&self, server: u64) -> Result<()> {
        remove(&self.disk(server))
    }

    /// The file of a snapshot, whether or not there is one.
    pub fn image(&self, image: u64) -> PathBuf {
        self.dir.join("images").join(image.to_string())
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        return Ok(());
    }
    parent(to)?;
    let copied = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto", "--"])
        .args([from, to])
        .status()
        .context("starting cp")?;
    if !copied.success() {
        bail!("copying {} to {}: {copied}", from.display(), to.display());
    }
    Ok(())
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}

fn parent(file: &Path) -> Result<()> {
    let dir = file.parent().context("a folder")?;
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_the_disk_of_then_until_it_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let disks = Disks::new(dir.path());
        let disk = disks.open(1, 4096).unwrap();
        assert_eq!(fs::read(&disk).unwrap(), [0; 4096]);
        fs::write(&disk, "written").unwrap();
        assert_eq!(disks.open(1, 4096).unwrap(), disk);
        disks.snapshot(1, 10).unwrap();
        fs::write(&disk, "overwritten").unwrap();
        disks.create(2, 10).unwrap();
        let copy = fs::read(disks.disk(2)).unwrap();
        assert_eq!((&copy[..7], copy.len()), (b"written".as_slice(), 4096));
        disks.delete_image(10).unwrap();
        disks.delete_image(10).unwrap();
        disks.create(3, 10).unwrap();
        assert!(!disks.disk(3).exists() && disks.disk(2).exists());
        disks.delete(2).unwrap();
        assert!(!disks.disk(2).exists());
    }
}
