//! Which store paths nodes may have from here: the closures of the systems that were built and are kept, with those of
//! their derivations. Anything else in the store is nobody's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, PoisonError, RwLock};

use fabrik_core::id::StorePath;
use tracing::warn;

use super::nix::{Nix, NixError, Task};
use super::systems::{Kept, Systems};
use crate::signing::SigningKey;

/// So many paths are asked for at once: an argument list has its limits.
const PATHS_PER_CALL: usize = 500;
const HASH_BYTES: usize = 32;
const STORE_DIR: &str = "/nix/store/";

/// What is published, as it was looked up last.
pub struct Published {
    nix: Nix,
    systems: Systems,
    key: Arc<SigningKey>,
    /// By the hash in the path's name.
    paths: RwLock<Arc<BTreeMap<String, PathInfo>>>,
}

/// What Nix knows of a store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    pub path: StorePath,
    /// SHA-256 of its archive.
    nar_hash: [u8; HASH_BYTES],
    nar_size: u64,
    references: Vec<StorePath>,
    deriver: Option<StorePath>,
}

impl Published {
    pub(super) fn new(nix: Nix, systems: Systems, key: Arc<SigningKey>) -> Self {
        Self {
            nix,
            systems,
            key,
            paths: RwLock::default(),
        }
    }

    /// Looks again which systems are kept. One that is in the store no more is left out.
    ///
    /// # Errors
    /// Nix can't be asked about what is there. What was published before stays.
    pub async fn refresh(&self) -> Result<(), NixError> {
        let mut closure = BTreeSet::new();
        for Kept { output, derivation } in self.systems.kept() {
            match self.closure(&[output.clone(), derivation]).await {
                Ok(paths) => closure.extend(paths),
                Err(error) => warn!(%output, %error, "a system that was built is not served"),
            }
        }
        let known = Arc::clone(&self.read());
        let mut paths = BTreeMap::new();
        let mut unknown = Vec::new();
        for path in closure {
            match known.get(hash_part(&path)) {
                Some(info) => {
                    paths.insert(hash_part(&path).to_owned(), info.clone());
                }
                None => unknown.push(path),
            }
        }
        for some in unknown.chunks(PATHS_PER_CALL) {
            for info in self.describe(some).await? {
                paths.insert(hash_part(&info.path).to_owned(), info);
            }
        }
        *self.paths.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(paths);
        Ok(())
    }

    /// A published path, by the hash in its name.
    pub fn find(&self, hash: &str) -> Option<PathInfo> {
        self.read().get(hash).cloned()
    }

    /// What a binary cache says of a path (nix.dev/manual, "Serving a Nix store via HTTP").
    pub fn narinfo(&self, info: &PathInfo) -> String {
        let mut text = String::new();
        let nar_hash = format!("sha256:{}", base32(&info.nar_hash));
        let hash = hash_part(&info.path);
        let base = |path: &StorePath| base_name(path).to_owned();
        let references: Vec<_> = info.references.iter().map(base).collect();
        let _ = writeln!(text, "StorePath: {}", info.path);
        let _ = writeln!(text, "URL: nar/{hash}.nar");
        let _ = writeln!(text, "Compression: none");
        let _ = writeln!(text, "NarHash: {nar_hash}");
        let _ = writeln!(text, "NarSize: {}", info.nar_size);
        let _ = writeln!(text, "References: {}", references.join(" "));
        if let Some(deriver) = &info.deriver {
            let _ = writeln!(text, "Deriver: {}", base(deriver));
        }
        let full: Vec<_> = info.references.iter().map(StorePath::as_str).collect();
        // As Nix fingerprints a path: its references in order, whole.
        let fingerprint = format!(
            "1;{};{nar_hash};{};{}",
            info.path,
            info.nar_size,
            full.join(",")
        );
        let _ = writeln!(text, "Sig: {}", self.key.sign(fingerprint.as_bytes()));
        text
    }

    pub(super) fn nix(&self) -> &Nix {
        &self.nix
    }

    fn read(&self) -> Arc<BTreeMap<String, PathInfo>> {
        Arc::clone(&self.paths.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn closure(&self, of: &[StorePath]) -> Result<Vec<StorePath>, NixError> {
        let what = "asking for the closure of a system";
        let printed = self.ask(what, &["--query", "--requisites"], of).await?;
        let parsed: Result<_, _> = printed.lines().map(str::parse).collect();
        parsed.map_err(|e| unreadable(what, format!("{e}")))
    }

    async fn describe(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, NixError> {
        let what = "asking for what is in a system";
        // The form of Nix' database, which is older and steadier than its JSON.
        let printed = self.ask(what, &["--dump-db"], paths).await?;
        let mut lines = printed.lines();
        let mut infos = Vec::new();
        while let Some(path) = lines.next() {
            let info = path_info(path, &mut lines);
            infos.push(info.ok_or_else(|| unreadable(what, format!("of {path}")))?);
        }
        Ok(infos)
    }

    async fn ask(
        &self,
        what: &str,
        verb: &[&str],
        paths: &[StorePath],
    ) -> Result<String, NixError> {
        let words = verb.iter().copied();
        let words = words.chain(paths.iter().map(StorePath::as_str));
        let task = Task {
            what: what.to_owned(),
            program: "nix-store",
            args: words.map(Into::into).collect(),
            limits: None,
            source: None,
        };
        self.nix.run(task).await
    }
}

fn unreadable(what: &str, problem: String) -> NixError {
    NixError::Unreadable {
        what: what.to_owned(),
        problem,
    }
}

/// One entry of `nix-store --dump-db`: path, hash in hex, size, deriver or nothing, the number of references, and them.
fn path_info<'a>(path: &str, lines: &mut impl Iterator<Item = &'a str>) -> Option<PathInfo> {
    let nar_hash = hex(lines.next()?)?;
    let nar_size = lines.next()?.parse().ok()?;
    let deriver = lines.next()?;
    let count: usize = lines.next()?.parse().ok()?;
    let mut references = Vec::new();
    for _ in 0..count {
        references.push(lines.next()?.parse().ok()?);
    }
    references.sort();
    Some(PathInfo {
        path: path.parse().ok()?,
        nar_hash,
        nar_size,
        references,
        deriver: if deriver.is_empty() {
            None
        } else {
            Some(deriver.parse().ok()?)
        },
    })
}

fn base_name(path: &StorePath) -> &str {
    path.as_str().strip_prefix(STORE_DIR).unwrap_or_default()
}

fn hash_part(path: &StorePath) -> &str {
    base_name(path).split('-').next().unwrap_or_default()
}

fn hex(text: &str) -> Option<[u8; HASH_BYTES]> {
    let mut bytes = [0; HASH_BYTES];
    if text.len() != 2 * HASH_BYTES {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Nix' own base 32: least significant digit last, no padding.
fn base32(bytes: &[u8; HASH_BYTES]) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
    const DIGITS: usize = (HASH_BYTES * 8).div_ceil(5);
    let digit = |n: usize| {
        let (byte, shift) = (n * 5 / 8, n * 5 % 8);
        let low = bytes.get(byte).copied().map_or(0, u16::from);
        let high = bytes.get(byte + 1).copied().map_or(0, u16::from);
        let value = ((low | high << 8) >> shift) & 31;
        ALPHABET
            .get(usize::from(value))
            .map_or('0', |d| char::from(*d))
    };
    (0..DIGITS).rev().map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_written_as_nix_writes_them() {
        // `nix hash convert --hash-algo sha256 --to nix32` of the SHA-256 of nothing.
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let written = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
        assert_eq!(base32(&hex(empty).unwrap()), written);
        assert_eq!(hex("e3"), None);
        assert_eq!(hex(&"xy".repeat(32)), None);
    }

    #[test]
    fn an_entry_of_the_database_reads_whole_or_not_at_all() {
        let path = |n: u32| format!("/nix/store/{}-a", n.to_string().repeat(32));
        let entry = format!("{}\n120\n\n2\n{}\n{}", "00".repeat(32), path(3), path(2));
        let info = path_info(&path(1), &mut entry.lines()).unwrap();
        assert_eq!(info.nar_size, 120);
        assert_eq!(info.deriver, None);
        let references: Vec<_> = info.references.iter().map(StorePath::as_str).collect();
        assert_eq!(references, [path(2), path(3)], "in Nix' order");
        let cut_off = entry.lines().take(5).collect::<Vec<_>>();
        assert_eq!(path_info(&path(1), &mut cut_off.into_iter()), None);
    }
}
