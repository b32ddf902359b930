//! The observation that the leader publishes, so that `fabrik plan` works without credentials of the cluster.
//!
//! A gzipped JSON document. It holds what `fabrik_core::observed::Observed` holds, which has no secret in it: digests
//! are of bytes in git (before decryption), Secrets appear as names only. `docs/observed.md` describes it for readers.

use std::io::{Read, Write};

use fabrik_core::id::CommitId;
use fabrik_core::observed::Observed;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::user_data::Joining;

/// The version of the document's layout.
pub const SCHEMA: u32 = 1;
/// The `ConfigMap` in fabrik's namespace that holds the document, and its key in `binaryData`.
pub const CONFIG_MAP: &str = "fabrik-observed";
pub const CONFIG_MAP_KEY: &str = "observed.json.gz";

/// What the compressed document may take: an object in etcd ends at 1.5 MiB, and base64 adds a third.
const MAX_COMPRESSED_BYTES: usize = 700 * 1024;
/// What a reader unpacks at most, whoever wrote the document.
const MAX_UNPACKED_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    pub schema: u32,
    pub published_at: Timestamp,
    pub fabrik_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<CommitId>,
    /// What was left out to keep within the size, in the order in which it went.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub truncated: Vec<Truncation>,
    pub observed: Observed,
    /// What machines of the user's own join by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joining: Option<Joining>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// The ledger's history: a plan can't tell what the hourly limits would hold.
    History,
    /// The digests of objects: a plan can't tell an unchanged object from a changed one.
    Digests,
    /// The inventories: a plan says nothing of manifests.
    Inventories,
}

#[derive(Debug, thiserror::Error)]
pub enum ObservedError {
    #[error(
        "the observation takes {bytes} bytes compressed, even without history and inventories; at most \
         {MAX_COMPRESSED_BYTES} are published. `fabrik plan` works from a file with more: --observed FILE"
    )]
    TooLarge { bytes: usize },
    #[error("the observation can't be packed: {0}")]
    Pack(#[source] std::io::Error),
    #[error("this is no gzipped observation: {0}. fabrik publishes one at /observed")]
    Unpack(#[source] std::io::Error),
    #[error(
        "the observation unpacks to more than {MAX_UNPACKED_BYTES} bytes; fabrik publishes none like that"
    )]
    Bomb,
    #[error("the observation does not read: {0}. Was it published by another version of fabrik?")]
    Parse(#[source] serde_json::Error),
    #[error(
        "the observation has layout {found}, and this fabrik reads {SCHEMA}: use the newer fabrik of the two"
    )]
    Schema { found: u32 },
}

impl Document {
    pub fn new(observed: Observed, published_at: Timestamp) -> Self {
        Self {
            schema: SCHEMA,
            published_at,
            fabrik_version: env!("CARGO_PKG_VERSION").to_owned(),
            in_force: observed.ledger.admitted.as_ref().map(|a| a.commit.clone()),
            truncated: Vec::new(),
            observed,
            joining: None,
        }
    }

    /// Gzipped JSON within the size, leaving out first what a plan misses least.
    pub fn publish(self) -> Result<Vec<u8>, ObservedError> {
        self.publish_within(MAX_COMPRESSED_BYTES)
    }

    /// Reads what `publish` wrote, or the same as plain JSON.
    pub fn read(bytes: &[u8]) -> Result<Self, ObservedError> {
        let json = if bytes.starts_with(&GZIP_MAGIC) {
            &unpack(bytes)?
        } else {
            bytes
        };
        let layout: Layout = serde_json::from_slice(json).map_err(ObservedError::Parse)?;
        if layout.schema != SCHEMA {
            return Err(ObservedError::Schema {
                found: layout.schema,
            });
        }
        serde_json::from_slice(json).map_err(ObservedError::Parse)
    }

    fn publish_within(mut self, max_bytes: usize) -> Result<Vec<u8>, ObservedError> {
        let mut packed = self.pack()?;
        for step in [
            Truncation::History,
            Truncation::Digests,
            Truncation::Inventories,
        ] {
            if packed.len() <= max_bytes {
                break;
            }
            self.leave_out(step);
            packed = self.pack()?;
        }
        if packed.len() > max_bytes {
            return Err(ObservedError::TooLarge {
                bytes: packed.len(),
            });
        }
        Ok(packed)
    }

    fn leave_out(&mut self, what: Truncation) {
        self.truncated.push(what);
        match what {
            Truncation::History => self.observed.ledger.history.clear(),
            Truncation::Digests => {
                let inventories = self.observed.units.values_mut();
                inventories
                    .flat_map(|inventory| inventory.values_mut())
                    .for_each(String::clear);
            }
            Truncation::Inventories => self.observed.units.clear(),
        }
    }

    fn pack(&self) -> Result<Vec<u8>, ObservedError> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        let json = serde_json::to_vec(self).map_err(ObservedError::Parse)?;
        gzip.write_all(&json).map_err(ObservedError::Pack)?;
        gzip.finish().map_err(ObservedError::Pack)
    }
}

/// RFC 1952: the first two bytes of each gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

#[derive(Deserialize)]
struct Layout {
    schema: u32,
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, ObservedError> {
    let mut json = Vec::new();
    GzDecoder::new(bytes)
        .take(MAX_UNPACKED_BYTES + 1)
        .read_to_end(&mut json)
        .map_err(ObservedError::Unpack)?;
    if json.len() as u64 > MAX_UNPACKED_BYTES {
        return Err(ObservedError::Bomb);
    }
    Ok(json)
}

#[cfg(test)]
mod tests;
