//! A FAT32 partition as a loader reads it: by the first of its tables, and of a file no more than its chain gives.
//! (Layout: Microsoft's FAT specification, 2005.)

/// Where loaders have their menus, on the boot partition.
pub const MENUS: [&str; 3] = ["grub", "loader", "loader/entries"];

const ENTRY_BYTES: usize = 32;
const LONG_NAME: u8 = 0x0f;
const FOLDER: u8 = 0x10;
const LABEL: u8 = 0x08;
const DELETED: u8 = 0xe5;
const LAST_PART: u8 = 0x40;
/// Windows NT's way to say that a short name is in small letters: of the base, of the extension.
const SMALL: [u8; 2] = [0x08, 0x10];
/// Where a long name's 13 letters are in its entry.
const LETTERS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
const NO_CLUSTER: u32 = 0x0fff_fff7;

/// A partition's bytes.
pub struct Fat<'a> {
    bytes: &'a [u8],
    table: usize,
    clusters: usize,
    cluster_bytes: usize,
    root: u32,
}

/// What a folder has.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    pub size: usize,
    is_folder: bool,
    first: u32,
}

impl<'a> Fat<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let sector = usize::from(number16(bytes, 11));
        let table = usize::from(number16(bytes, 14)) * sector;
        let tables = usize::from(bytes[16]) * number32(bytes, 36) as usize * sector;
        Self {
            bytes,
            table,
            clusters: table + tables,
            cluster_bytes: usize::from(bytes[13]) * sector,
            root: number32(bytes, 44),
        }
    }

    /// A folder's entries in their order, and its bytes; nothing if it is not there.
    pub fn folder(&self, path: &str) -> (Vec<Entry>, Vec<u8>) {
        let mut bytes = self.chain(self.root).concat();
        let mut found = entries(&bytes);
        for name in path.split('/') {
            let folder = found
                .iter()
                .find(|entry| entry.is_folder && entry.name.eq_ignore_ascii_case(name));
            bytes = folder.map_or_else(Vec::new, |folder| self.chain(folder.first).concat());
            found = entries(&bytes);
        }
        (found, bytes)
    }

    /// As much of a file as is there.
    pub fn content(&self, entry: &Entry) -> Vec<u8> {
        let mut content = self.chain(entry.first).concat();
        content.truncate(entry.size);
        content
    }

    /// How many of a file's bytes its chain has room for.
    pub fn room(&self, entry: &Entry) -> usize {
        self.chain(entry.first).len() * self.cluster_bytes
    }

    /// The clusters from `first` on.
    fn chain(&self, first: u32) -> Vec<&'a [u8]> {
        let mut chain = Vec::new();
        let mut cluster = first;
        while (2..NO_CLUSTER).contains(&cluster)
            && chain.len() * self.cluster_bytes < self.bytes.len()
        {
            let start = self.clusters + (cluster as usize - 2) * self.cluster_bytes;
            let Some(bytes) = self.bytes.get(start..start + self.cluster_bytes) else {
                break;
            };
            let next = number32(self.bytes, self.table + 4 * cluster as usize) & 0x0fff_ffff;
            // A cluster that the table has as free is no part of a file.
            if next == 0 {
                break;
            }
            chain.push(bytes);
            cluster = next;
        }
        chain
    }
}

fn entries(folder: &[u8]) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut long = LongName::default();
    for raw in folder
        .chunks_exact(ENTRY_BYTES)
        .take_while(|raw| raw[0] != 0)
    {
        let attributes = raw[11];
        if raw[0] == DELETED {
            long = LongName::default();
        } else if attributes == LONG_NAME {
            long.take(raw);
        } else if attributes & LABEL == 0 {
            let first = u32::from(number16(raw, 20)) << 16 | u32::from(number16(raw, 26));
            found.push(Entry {
                name: std::mem::take(&mut long)
                    .of(raw)
                    .unwrap_or_else(|| short_name(raw)),
                size: number32(raw, 28) as usize,
                is_folder: attributes & FOLDER != 0,
                first,
            });
        }
    }
    found
}

/// The parts of a long name come last part first, before the entry that they belong to.
#[derive(Default)]
struct LongName {
    letters: Vec<u16>,
    /// The number of the part that came last.
    part: u8,
    sum: u8,
}

impl LongName {
    fn take(&mut self, raw: &[u8]) {
        let is_first = raw[0] & LAST_PART != 0;
        let part = raw[0] & !LAST_PART;
        if !is_first && (part + 1 != self.part || raw[13] != self.sum) {
            *self = Self::default();
            return;
        }
        if is_first {
            self.letters.clear();
        }
        let letters = LETTERS.map(|at| number16(raw, at));
        self.letters.splice(0..0, letters);
        (self.part, self.sum) = (part, raw[13]);
    }

    fn of(self, raw: &[u8]) -> Option<String> {
        let sum = raw[..11]
            .iter()
            .fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.part != 1 || self.sum != sum {
            return None;
        }
        let letters = self.letters.into_iter().take_while(|letter| *letter != 0);
        Some(char::decode_utf16(letters).flatten().collect())
    }
}

fn short_name(raw: &[u8]) -> String {
    let part = |bytes: &[u8], small: u8| {
        let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
        if raw[12] & small == 0 {
            text
        } else {
            text.to_lowercase()
        }
    };
    let (base, extension) = (part(&raw[..8], SMALL[0]), part(&raw[8..11], SMALL[1]));
    if extension.is_empty() {
        base
    } else {
        format!("{base}.{extension}")
    }
}

fn number16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
