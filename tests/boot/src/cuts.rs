//! Power cuts: the disk as it is after each of its writes, told apart by what the loader finds there.
//!
//! QEMU records every write to the disk in order (its driver `blklogwrites`, in the format of the kernel's dm-log-writes).
//! What a disk still had in its cache is lost in a cut; here each write is a point to cut at, and reaches the disk whole.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::parts::Parts;
use crate::{Setup, disk};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR_BYTES: u64 = 512;
/// A discard has a length and no data.
const FLAG_DISCARD: u64 = 4;
const ENTRY_FIELDS: usize = 4;

/// The disk after some of its writes.
#[derive(Debug, Clone)]
pub struct Cut {
    /// How far the log had come.
    pub log_bytes: u64,
    pub disk: PathBuf,
}

/// What is recorded in the log by now.
pub fn log_bytes(log: &Path) -> Result<u64> {
    Ok(log.metadata()?.len())
}

/// The cuts that a loader can tell from all before them, each at the first write that makes it so. `base` is the disk as
/// it was when the log began; it is changed to the disk at the log's end.
pub fn distinct(parts: &Parts, setup: Setup, base: &Path, log: &Path) -> Result<Vec<Cut>> {
    let file = File::open(log)?;
    let disk = OpenOptions::new().write(true).open(base)?;
    let boot = disk::boot_partition(setup);
    let mut seen = BTreeSet::from([disk::what_the_loader_finds(parts, setup, base)?]);
    let mut cuts = Vec::new();
    let mut at = SECTOR_BYTES;
    ensure!(
        field(&file, 0, 0)? == MAGIC,
        "{} is no log of writes",
        log.display()
    );
    while at < file.metadata()?.len() {
        let [sector, sectors, flags, _] = entry(&file, at)?;
        at += SECTOR_BYTES;
        if flags & FLAG_DISCARD != 0 || sectors == 0 {
            continue;
        }
        let mut data = vec![0; usize::try_from(sectors * SECTOR_BYTES)?];
        file.read_exact_at(&mut data, at)
            .context("the log ends within a write")?;
        at += sectors * SECTOR_BYTES;
        disk.write_all_at(&data, sector * SECTOR_BYTES)?;
        let on_boot = sector * SECTOR_BYTES < boot.start_bytes + boot.size_bytes
            && (sector + sectors) * SECTOR_BYTES > boot.start_bytes;
        if on_boot && seen.insert(disk::what_the_loader_finds(parts, setup, base)?) {
            let copy = base.with_extension(format!("cut-{at}"));
            disk::copy(base, &copy)?;
            cuts.push(Cut {
                log_bytes: at,
                disk: copy,
            });
        }
    }
    Ok(cuts)
}

fn entry(log: &File, at: u64) -> Result<[u64; ENTRY_FIELDS]> {
    let mut fields = [0; ENTRY_FIELDS];
    for (index, value) in fields.iter_mut().enumerate() {
        *value = field(log, at, index)?;
    }
    Ok(fields)
}

fn field(log: &File, at: u64, index: usize) -> Result<u64> {
    let mut bytes = [0; 8];
    log.read_exact_at(&mut bytes, at + 8 * index as u64)?;
    Ok(u64::from_le_bytes(bytes))
}
