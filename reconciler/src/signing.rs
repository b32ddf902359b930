//! The cluster's signing key, in Nix's format: `NAME:BASE64`, 64 bytes of a secret half, 32 of a public one.
//!
//! Signatures are Ed25519 and written as `NAME:BASE64` too, so that Nix itself can check those of the binary cache.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::secrets::Secret;

const SEED_BYTES: usize = 32;
const PUBLIC_BYTES: usize = 32;

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the signing key {} can't be read: {source}. `fabrik found` makes it, once for the cluster: copy it from another server", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is no signing key in Nix's format (NAME:BASE64 of 64 bytes). Put the cluster's key there again", path.display())]
    Malformed { path: PathBuf },
}

/// Signs as the cluster.
pub struct SigningKey {
    name: String,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// # Errors
    /// The file can't be read or holds no key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let content = std::fs::read(path).map_err(|source| KeyError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&Secret::new(content)).ok_or_else(|| KeyError::Malformed {
            path: path.to_owned(),
        })
    }

    /// `None` where it is no key in Nix's format.
    pub fn parse(content: &Secret) -> Option<Self> {
        let text = content.trimmed();
        let (name, encoded) = text.expose_str()?.split_once(':')?;
        let bytes = Zeroizing::new(STANDARD.decode(encoded).ok()?);
        let (seed, public) = bytes.split_at_checked(SEED_BYTES)?;
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).ok()?;
        is_name(name).then(|| Self {
            name: name.to_owned(),
            pair,
        })
    }

    /// What nodes check with, as `PublicKey` reads it.
    pub fn public_half(&self) -> String {
        let public = STANDARD.encode(self.pair.public_key().as_ref());
        format!("{}:{public}", self.name)
    }

    /// `NAME:BASE64` of the signature.
    pub fn sign(&self, message: &[u8]) -> String {
        let signature = self.pair.sign(message);
        format!("{}:{}", self.name, STANDARD.encode(signature.as_ref()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.name)
    }
}

/// The public half, as `signing.pub` and Nix's `trusted-public-keys` have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    bytes: Vec<u8>,
}

impl PublicKey {
    /// Whether `signature` is by this key and over `message`.
    pub fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let signature = signature
            .split_once(':')
            .filter(|(name, _)| *name == self.name)
            .and_then(|(_, encoded)| STANDARD.decode(encoded).ok());
        let key = UnparsedPublicKey::new(&ED25519, &self.bytes);
        signature.is_some_and(|signature| key.verify(message, &signature).is_ok())
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for PublicKey {
    /// What is wrong, in words that complete "`x` …".
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "is no public key in Nix's format (NAME:BASE64 of 32 bytes)";
        let (name, encoded) = text.trim().split_once(':').ok_or(SHAPE)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SHAPE)?;
        if bytes.len() != PUBLIC_BYTES || !is_name(name) {
            return Err(SHAPE);
        }
        Ok(Self {
            name: name.to_owned(),
            bytes,
        })
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(char::is_whitespace)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A new key and its public half, as founding writes them.
    pub fn founded(dir: &Path) -> (SigningKey, String) {
        let keys = crate::secrets::founding_keys::ensure(dir, &"demo".parse().unwrap()).unwrap();
        let key = SigningKey::read(&dir.join("signing.key")).unwrap();
        (key, keys.signing_key)
    }

    #[test]
    fn what_the_secret_half_signs_only_its_own_public_half_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let (key, public) = founded(dir.path());
        let other = tempfile::tempdir().unwrap();
        let (_, other) = founded(other.path());
        let signature = key.sign(b"a statement");
        assert!(signature.starts_with("fabrik-demo-1:"), "{signature}");
        let public: PublicKey = public.parse().unwrap();
        assert!(public.verifies(b"a statement", &signature));
        assert!(!public.verifies(b"a statemenT", &signature));
        assert!(!public.verifies(b"a statement", &signature.replace("demo", "dem0")));
        let other: PublicKey = other.parse().unwrap();
        assert!(!other.verifies(b"a statement", &signature));
        assert_eq!(format!("{key:?}"), "SigningKey(fabrik-demo-1)");
    }

    #[test]
    fn a_file_that_holds_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing.key");
        let error = SigningKey::read(&path).unwrap_err().to_string();
        assert!(error.contains("signing.key can't be read"), "{error}");
        for bad in ["", "a", "a:AAAA", ":"] {
            std::fs::write(&path, bad).unwrap();
            let error = SigningKey::read(&path).unwrap_err().to_string();
            assert!(error.contains("signing.key is no signing key"), "{error}");
            assert!(bad.parse::<PublicKey>().is_err());
        }
    }
}
