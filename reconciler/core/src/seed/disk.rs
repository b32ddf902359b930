//! A disk that new servers begin with, as a seed wants it: whose, of which content, for which processors.

use serde::{Deserialize, Serialize};

use crate::id::{InvalidId, PoolName};

/// The beginning of the SHA-256 of what is on a disk, or of what it is built of: 32 hex digits, of which a label's value has room for 63 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageDigest(String);

/// A disk that is to be a snapshot at Hetzner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub pool: PoolName,
    pub digest: ImageDigest,
    pub architecture: Architecture,
    /// The minor of k3s in that system, as far as the spec says it.
    pub k3s: Option<u32>,
}

/// Hetzner's words for what processors a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    X86,
    Arm,
}

impl ImageDigest {
    const DIGITS: usize = 32;

    /// Of a whole SHA-256 in hex; `None` where it is none.
    pub fn of_sha256(hex: &str) -> Option<Self> {
        hex.get(..Self::DIGITS)?.to_owned().try_into().ok()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ImageDigest {
    type Error = InvalidId;

    fn try_from(value: String) -> Result<Self, InvalidId> {
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if value.len() == Self::DIGITS && value.chars().all(hex) {
            Ok(Self(value))
        } else {
            let problem = "is no beginning of a SHA-256 (32 hex digits)";
            Err(InvalidId { value, problem })
        }
    }
}

impl From<ImageDigest> for String {
    fn from(digest: ImageDigest) -> Self {
        digest.0
    }
}

impl Architecture {
    /// By Hetzner's word.
    pub fn of_word(word: &str) -> Option<Self> {
        match word {
            "x86" => Some(Self::X86),
            "arm" => Some(Self::Arm),
            _ => None,
        }
    }

    /// Of a server type: Hetzner's Ampere types are called `cax…`, and all others are x86_64 (docs.hetzner.com, "Server
    /// types").
    pub fn of_server_type(name: &str) -> Self {
        if name.starts_with("cax") {
            Self::Arm
        } else {
            Self::X86
        }
    }

    /// Nix' name for a Linux on it.
    pub const fn nix_system(self) -> &'static str {
        match self {
            Self::X86 => "x86_64-linux",
            Self::Arm => "aarch64-linux",
        }
    }
}
