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
