//! Versions of k3s, and the ladder that Kubernetes lets a cluster climb.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `1.36.3+k3s1`: Kubernetes' version and k3s' own revision of it. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct K3sVersion {
    pub minor: u32,
    pub patch: u32,
    pub revision: u32,
}

impl FromStr for K3sVersion {
    /// What is wrong, in words that complete "`x` …".
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "is not a k3s version";
        if text.starts_with('v') {
            return Err("begins with a `v`");
        }
        let (kubernetes, revision) = text
            .split_once("+k3s")
            .ok_or("does not say which k3s release it is")?;
        let mut parts = kubernetes.split('.').map(number);
        match (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            number(revision),
        ) {
            (Some(Some(1)), Some(Some(minor)), Some(Some(patch)), None, Some(revision)) => {
                Ok(Self {
                    minor,
                    patch,
                    revision,
                })
            }
            _ => Err(SHAPE),
        }
    }
}

/// What `cluster.toml` may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum K3sRelease {
    /// `1.36`: whichever release of that minor the pinned nixpkgs has.
    Minor(u32),
    Exact(K3sVersion),
}

impl FromStr for K3sRelease {
    /// What is wrong, in words that complete "`x` …".
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let minor = text.strip_prefix("1.").and_then(number);
        minor.map_or_else(|| text.parse().map(Self::Exact), |m| Ok(Self::Minor(m)))
    }
}

impl K3sRelease {
    pub fn minor(self) -> u32 {
        match self {
            Self::Minor(minor) => minor,
            Self::Exact(exact) => exact.minor,
        }
    }

    pub fn is_met_by(self, version: K3sVersion) -> bool {
        match self {
            Self::Minor(minor) => version.minor == minor,
            Self::Exact(exact) => version == exact,
        }
    }
}

impl fmt::Display for K3sRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minor(minor) => write!(f, "1.{minor}"),
            Self::Exact(exact) => exact.fmt(f),
        }
    }
}

impl TryFrom<String> for K3sVersion {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
            .map_err(|problem| format!("`{text}` {problem}"))
    }
}

impl From<K3sVersion> for String {
    fn from(version: K3sVersion) -> Self {
        version.to_string()
    }
}

impl K3sVersion {
    /// What a kubelet says of itself: `v1.36.3+k3s1`, and `v1.36.3` where it is no k3s (revision 0).
    pub fn of_kubelet(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v')?;
        if text.contains('+') {
            return text.parse().ok();
        }
        format!("{text}+k3s0").parse().ok()
    }
}

impl fmt::Display for K3sVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}.{}+k3s{}", self.minor, self.patch, self.revision)
    }
}

/// A number written the one way there is: no sign, no leading zero.
fn number(text: &str) -> Option<u32> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if canonical && digits {
        text.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minor_is_met_by_each_of_its_releases() {
        let version = |text: &str| text.parse::<K3sVersion>().unwrap();
        let minor: K3sRelease = "1.36".parse().unwrap();
        assert_eq!(minor.to_string(), "1.36");
        assert!(minor.is_met_by(version("1.36.3+k3s1")));
        assert!(!minor.is_met_by(version("1.37.0+k3s1")));
        let runs = version("1.36.3+k3s1");
        let exact: K3sRelease = "1.36.3+k3s1".parse().unwrap();
        assert_eq!((minor.minor(), exact.minor()), (36, 36));
        assert!(exact.is_met_by(runs) && !exact.is_met_by(version("1.36.3+k3s2")));
        for bad in ["1", "1.", "1.036", "1.36.3", "1.x", "2.0"] {
            assert!(bad.parse::<K3sRelease>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_are_ordered_by_age_and_not_by_text() {
        let version = |text: &str| text.parse::<K3sVersion>().unwrap();
        assert!(version("1.36.10+k3s1") > version("1.36.9+k3s2"));
        assert!(version("1.36.9+k3s2") > version("1.36.9+k3s1"));
        assert_eq!(version("1.36.3+k3s1").to_string(), "1.36.3+k3s1");
        for bad in [
            "",
            "1.36",
            "1.36.3",
            "v1.36.3+k3s1",
            "1.036.3+k3s1",
            "2.0.0+k3s1",
            "1.36.3+k3s",
            "1.36.3-rc1+k3s1",
            "1.36.3.1+k3s1",
        ] {
            assert!(bad.parse::<K3sVersion>().is_err(), "{bad}");
        }
    }
}
