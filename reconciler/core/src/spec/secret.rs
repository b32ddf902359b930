//! `[secrets.NAME]`: what nodes get of the repository's secrets.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SecretRef;
use crate::id::PoolName;

/// A value of a SOPS file that the nodes of some pools have as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSecret {
    pub source: SecretRef,
    /// Whose nodes get it; `servers` is the control plane.
    pub pools: BTreeSet<PoolName>,
    pub mode: FileMode,
    /// A name in the node's `/etc/passwd`, or a number.
    pub owner: String,
    /// A name in the node's `/etc/group`, or a number.
    pub group: String,
    /// Units that have to be restarted when it changes. That is done by their system, which changes with it: what a
    /// running node is given restarts nothing.
    pub restart: Vec<String>,
}

/// Permission bits, written as `0400`. Nobody but owner and group may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileMode(u32);

impl FileMode {
    /// For the owner to read, and for nobody else.
    pub const OWNER_READS: Self = Self(0o400);

    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for FileMode {
    /// What is wrong, in words that complete "`x` …".
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let octal = (3..=4).contains(&text.len()) && text.chars().all(|c| c.is_digit(8));
        let bits = u32::from_str_radix(text, 8).ok().filter(|_| octal);
        match bits.filter(|bits| *bits <= 0o777) {
            None => Err("is no mode of a file in octal digits"),
            Some(bits) if bits & 0o002 != 0 => Err("lets everybody write the file"),
            Some(bits) => Ok(Self(bits)),
        }
    }
}

impl TryFrom<String> for FileMode {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
            .map_err(|problem| format!("`{text}` {problem}"))
    }
}

impl From<FileMode> for String {
    fn from(mode: FileMode) -> String {
        mode.to_string()
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}
