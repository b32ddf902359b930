//! What was opened, in memory and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Format, Secret};
use crate::repo::BlobId;

const MAX_CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Opened files, bounded; the least recently used go first.
#[derive(Default)]
pub struct Cache {
    entries: BTreeMap<(BlobId, Format), Entry>,
    clock: u64,
}

struct Entry {
    secret: Secret,
    used: u64,
}

impl Cache {
    pub fn get(&mut self, key: &(BlobId, Format)) -> Option<Secret> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.clock;
        Some(entry.secret.clone())
    }

    pub fn insert(&mut self, key: (BlobId, Format), secret: Secret) {
        self.clock += 1;
        self.entries.insert(
            key,
            Entry {
                secret,
                used: self.clock,
            },
        );
        while self.bytes() > MAX_CACHE_BYTES {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            self.entries.remove(&oldest);
        }
    }

    pub fn retain(&mut self, blobs: &BTreeSet<BlobId>) {
        self.entries.retain(|(blob, _), _| blobs.contains(blob));
    }

    fn bytes(&self) -> usize {
        self.entries
            .values()
            .map(|entry| entry.secret.expose().len())
            .sum()
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache({} files)", self.entries.len())
    }
}
