//! Power cuts: the disk as it may be after one, told apart by what the loader finds there.
//!
//! QEMU records every write to the disk in order, and every flush of its cache (its driver `blklogwrites`, in the format of
//! the kernel's dm-log-writes). A cut may come after each write. What was written since the last flush, a disk's cache may
//! have lost all the same: here, each of these places in turn has what it had before.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::fat::{Fat, MENUS};
use crate::parts::{Parts, output_of};
use crate::{Setup, disk};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR_BYTES: usize = 512;
const FLAG_FLUSH: u64 = 1;
/// A discard has a length and no data.
const FLAG_DISCARD: u64 = 4;
/// Where the kernels are that menus name.
const KERNELS: [&str; 2] = ["kernels", "EFI/nixos"];
/// A file in the making.
const TEMPORARY: &str = ".tmp";
/// `fsck.fat -a` says by 1 that it has repaired something.
const REPAIRED: [Option<i32>; 2] = [Some(0), Some(1)];

/// The disk after a power cut.
#[derive(Debug, Clone)]
pub struct Cut {
    /// Its place among all that a loader can tell.
    pub number: usize,
    /// How far the log had come.
    pub log_bytes: u64,
    /// What is other than the writes up to there say.
    pub but: String,
    pub disk: PathBuf,
}

/// What is recorded in the log by now.
pub fn log_bytes(log: &Path) -> Result<u64> {
    Ok(log.metadata()?.len())
}

/// The cuts that a loader can tell from all before them, each at the first write that makes it so; and as the check at the
/// next boot leaves them, where the loader can tell that. `base` is the disk as it was when the log began; it is changed to
/// the disk at the log's end.
pub fn distinct(parts: &Parts, setup: Setup, base: &Path, log: &Path) -> Result<Vec<Cut>> {
    let log = fs::read(log)?;
    ensure!(number(&log, 0)? == MAGIC, "this is no log of writes");
    let mut replay = Replay::new(parts, setup, base)?;
    let mut at = SECTOR_BYTES;
    while at < log.len() {
        let [sector, sectors, flags] = [0, 8, 16].map(|field| number(&log, at + field));
        let (start, flags) = (usize::try_from(sector?)? * SECTOR_BYTES, flags?);
        let length = usize::try_from(sectors?)? * SECTOR_BYTES;
        at += SECTOR_BYTES;
        if flags & FLAG_FLUSH != 0 {
            replay.unflushed.clear();
        }
        if flags & FLAG_DISCARD == 0 && length > 0 {
            let data = log.get(at..at + length);
            at += length;
            replay.write(
                at as u64,
                start,
                data.context("the log ends within a write")?,
            )?;
        }
    }
    Ok(replay.cuts)
}

/// A write to the boot partition.
struct Write {
    place: Range<usize>,
    before: Vec<u8>,
    after: Vec<u8>,
}

struct Replay<'a> {
    parts: &'a Parts,
    disk: PathBuf,
    /// Where the boot partition is, and its bytes.
    place: Range<usize>,
    boot: Vec<u8>,
    unflushed: Vec<Write>,
    found: BTreeSet<Vec<u8>>,
    checked: BTreeSet<Vec<u8>>,
    cuts: Vec<Cut>,
}

impl<'a> Replay<'a> {
    fn new(parts: &'a Parts, setup: Setup, disk: &Path) -> Result<Self> {
        let partition = disk::boot_partition(setup);
        let start = usize::try_from(partition.start_bytes)?;
        let mut boot = vec![0; usize::try_from(partition.size_bytes)?];
        OpenOptions::new()
            .read(true)
            .open(disk)?
            .read_exact_at(&mut boot, partition.start_bytes)?;
        Ok(Self {
            parts,
            disk: disk.to_owned(),
            place: start..start + boot.len(),
            found: BTreeSet::from([what_the_loader_finds(&boot)]),
            checked: BTreeSet::from([folders(&boot)]),
            boot,
            unflushed: Vec::new(),
            cuts: Vec::new(),
        })
    }

    fn write(&mut self, log_bytes: u64, start: usize, data: &[u8]) -> Result<()> {
        let disk = OpenOptions::new().write(true).open(&self.disk)?;
        disk.write_all_at(data, start as u64)?;
        let place = start.max(self.place.start)..(start + data.len()).min(self.place.end);
        if place.is_empty() {
            return Ok(());
        }
        let after = data[place.start - start..place.end - start].to_vec();
        let place = place.start - self.place.start..place.end - self.place.start;
        let before = self.boot[place.clone()].to_vec();
        self.boot[place.clone()].copy_from_slice(&after);
        self.look(log_bytes, "")?;
        self.unflushed.push(Write {
            place,
            before,
            after,
        });
        for lost in 0..self.unflushed.len() {
            let write = &self.unflushed[lost];
            self.boot[write.place.clone()].copy_from_slice(&write.before);
            self.look(log_bytes, ", a write before lost")?;
            for write in &self.unflushed[lost..] {
                self.boot[write.place.clone()].copy_from_slice(&write.after);
            }
        }
        Ok(())
    }

    fn look(&mut self, log_bytes: u64, but: &str) -> Result<()> {
        if self.found.insert(what_the_loader_finds(&self.boot)) {
            let boot = std::mem::take(&mut self.boot);
            self.cut(log_bytes, but, &boot)?;
            self.boot = boot;
        }
        if self.checked.insert(folders(&self.boot)) {
            let checked = check(self.parts, &self.disk.with_extension("checked"), &self.boot)?;
            if self.found.insert(what_the_loader_finds(&checked)) {
                self.cut(log_bytes, &format!("{but}, checked"), &checked)?;
            }
        }
        Ok(())
    }

    fn cut(&mut self, log_bytes: u64, but: &str, boot: &[u8]) -> Result<()> {
        let number = self.cuts.len();
        let copy = self.disk.with_file_name(format!("cut-{number}"));
        disk::copy(&self.disk, &copy)?;
        let disk = OpenOptions::new().read(true).write(true).open(&copy)?;
        let mut there = vec![0; boot.len()];
        disk.read_exact_at(&mut there, self.place.start as u64)?;
        let sectors = boot.chunks(SECTOR_BYTES).zip(there.chunks(SECTOR_BYTES));
        for (number, (sector, there)) in sectors.enumerate() {
            if sector != there {
                disk.write_all_at(sector, (self.place.start + number * SECTOR_BYTES) as u64)?;
            }
        }
        self.cuts.push(Cut {
            number,
            log_bytes,
            but: but.to_owned(),
            disk: copy,
        });
        Ok(())
    }
}

/// All that decides what a loader boots: its files, and whether what they name is whole. A file in the making is nothing to it.
fn what_the_loader_finds(boot: &[u8]) -> Vec<u8> {
    let fat = Fat::new(boot);
    let mut found = Vec::new();
    for folder in MENUS {
        let (mut entries, _) = fat.folder(folder);
        entries.retain(|entry| !entry.name.ends_with(TEMPORARY));
        for entry in &entries {
            found.extend(entry.name.as_bytes());
            found.extend(entry.size.to_le_bytes());
            found.extend(fat.content(entry));
        }
    }
    let menus = String::from_utf8_lossy(&found).into_owned();
    for folder in KERNELS {
        for entry in fat.folder(folder).0 {
            if menus.contains(&entry.name) {
                let is_whole = fat.room(&entry) >= entry.size;
                found.extend(format!("{} {} {is_whole}\n", entry.name, entry.size).as_bytes());
            }
        }
    }
    found
}

/// What the check of the file system may change: the menus' folders as they are on the disk.
fn folders(boot: &[u8]) -> Vec<u8> {
    let fat = Fat::new(boot);
    let mut found = what_the_loader_finds(boot);
    for folder in MENUS {
        found.extend(fat.folder(folder).1);
    }
    found
}

/// The partition after what NixOS does to it at the next boot.
fn check(parts: &Parts, image: &Path, boot: &[u8]) -> Result<Vec<u8>> {
    fs::write(image, boot)?;
    let output = output_of(parts.program("fsck.vfat")?.arg("-a").arg(image))?;
    ensure!(
        REPAIRED.contains(&output.status.code()),
        "fsck.vfat: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(fs::read(image)?)
}

fn number(log: &[u8], at: usize) -> Result<u64> {
    let bytes = log
        .get(at..at + 8)
        .context("the log ends within an entry")?;
    Ok(u64::from_le_bytes(bytes.try_into()?))
}
