//! A disk's GUID partition table and the file systems in it, as somebody else than their makers reads them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::parts::{Parts, output};

const SECTOR_BYTES: u64 = 512;
/// The label of a FAT32 file system, and of an ext4 one with its size (the superblock's `s_blocks_count_lo`,
/// `s_log_block_size`, `s_magic` and `s_volume_name`).
const FAT_LABEL: u64 = 71;
const FAT_LABEL_BYTES: usize = 11;
const EXT4_SUPERBLOCK: u64 = 1024;
const EXT4_BLOCKS: usize = 4;
const EXT4_LOG_BLOCK_SIZE: usize = 24;
const EXT4_MAGIC: usize = 56;
const EXT4_LABEL: usize = 120;
const EXT4_LABEL_BYTES: usize = 16;

/// A partition, in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Partition {
    pub start: u64,
    pub size: u64,
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
}

impl Partition {
    pub fn size_bytes(&self) -> u64 {
        self.size * SECTOR_BYTES
    }

    pub fn end_bytes(&self) -> u64 {
        (self.start + self.size) * SECTOR_BYTES
    }
}

/// What sfdisk reads.
pub fn read(parts: &Parts, disk: &Path) -> Result<Vec<Partition>> {
    #[derive(Deserialize)]
    struct Told {
        partitiontable: Table,
    }
    #[derive(Deserialize)]
    struct Table {
        label: String,
        partitions: Vec<Partition>,
    }
    let told = output(parts.program("sfdisk")?.arg("--json").arg(disk))?;
    let Told { partitiontable } = serde_json::from_str(&told).with_context(|| told.clone())?;
    ensure!(partitiontable.label == "gpt", "{told}");
    Ok(partitiontable.partitions)
}

/// What sgdisk finds wrong with both tables: their sums, and their places at the disk's two ends. Nothing, where all is well.
pub fn problems(parts: &Parts, disk: &Path) -> Result<Option<String>> {
    let told = output(parts.program("sgdisk")?.arg("--verify").arg(disk))?;
    Ok((!told.contains("No problems found.")).then_some(told))
}

/// The label of the FAT32 file system in a partition.
pub fn fat_label(disk: &Path, partition: &Partition) -> Result<String> {
    let mut label = [0; FAT_LABEL_BYTES];
    read_at(disk, partition, FAT_LABEL, &mut label)?;
    Ok(text(&label))
}

/// The label of the ext4 file system in a partition, and its size.
pub fn ext4(disk: &Path, partition: &Partition) -> Result<(String, u64)> {
    let mut block = [0; 1024];
    read_at(disk, partition, EXT4_SUPERBLOCK, &mut block)?;
    ensure!(block[EXT4_MAGIC..EXT4_MAGIC + 2] == [0x53, 0xef], "no ext4");
    let number = |at: usize| {
        let bytes = [block[at], block[at + 1], block[at + 2], block[at + 3]];
        u64::from(u32::from_le_bytes(bytes))
    };
    let label = text(&block[EXT4_LABEL..EXT4_LABEL + EXT4_LABEL_BYTES]);
    Ok((
        label,
        number(EXT4_BLOCKS) << (10 + number(EXT4_LOG_BLOCK_SIZE)),
    ))
}

fn read_at(disk: &Path, partition: &Partition, at: u64, bytes: &mut [u8]) -> Result<()> {
    Ok(File::open(disk)?.read_exact_at(bytes, partition.start * SECTOR_BYTES + at)?)
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches(['\0', ' ']).to_owned()
}
