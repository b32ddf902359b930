//! `[nix]` and `[cache]`: how systems are built here, and served to nodes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Nix {
    /// Holds `nix` and `nix-store`.
    pub program_dir: PathBuf,
    /// Another store than the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<PathBuf>,
    /// The cluster's key: it signs what nodes may run, and what they fetch from here.
    pub signing_key_file: PathBuf,
    /// What the evaluation of one pool may take.
    #[serde(default = "Nix::memory_max")]
    pub memory_max: Size,
    /// How long the evaluation of one pool may take, and the build of one.
    #[serde(default = "Nix::time_limit", with = "super::duration")]
    pub time_limit: Duration,
}

impl Nix {
    /// With the limits that hold where nothing else is said.
    pub fn at(program_dir: &Path, signing_key_file: &Path) -> Self {
        Self {
            program_dir: program_dir.to_owned(),
            store: None,
            signing_key_file: signing_key_file.to_owned(),
            memory_max: Self::memory_max(),
            time_limit: Self::time_limit(),
        }
    }

    fn memory_max() -> Size {
        Size(4 * 1024 * 1024 * 1024)
    }

    fn time_limit() -> Duration {
        Duration::from_secs(30 * 60)
    }
}

/// A binary cache for nodes, over TLS, with what the API server identifies itself and its clients by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Cache {
    pub listen: SocketAddr,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    /// Who signs the certificates of nodes.
    pub client_ca_file: PathBuf,
}

/// An amount of memory, as `4GiB` or `512MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

const MEBIBYTE: u64 = 1024 * 1024;

impl Size {
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("GiB", 1024 * MEBIBYTE), ("MiB", MEBIBYTE)];
        let size = units.iter().find_map(|(unit, bytes)| {
            let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
            number.checked_mul(*bytes).filter(|bytes| *bytes > 0)
        });
        size.map(Self)
            .ok_or_else(|| format!("`{text}` is no amount of memory; write `4GiB` or `512MiB`"))
    }
}

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mebibytes = self.0 / MEBIBYTE;
        if mebibytes.is_multiple_of(1024) {
            write!(f, "{}GiB", mebibytes / 1024)
        } else {
            write!(f, "{mebibytes}MiB")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::Config;
    use crate::config::tests::GOOD;

    #[test]
    fn nix_has_limits_that_need_not_be_named() {
        let nix = "[nix]\nprogram-dir = \"/n/bin\"\nsigning-key-file = \"/f/signing.key\"\n";
        let config = Config::parse("f", &format!("{GOOD}{nix}")).unwrap();
        let told = config.nix.as_ref().unwrap();
        assert_eq!(told.memory_max.to_string(), "4GiB");
        assert_eq!(told.time_limit, Duration::from_secs(1800));
        let rendered = config.render().unwrap();
        assert_eq!(Config::parse("f", &rendered).unwrap(), config);
        let odd = format!("{GOOD}{nix}memory-max = \"1536MiB\"");
        let odd = Config::parse("f", &odd).unwrap().nix.unwrap();
        assert_eq!(odd.memory_max.to_string(), "1536MiB");
        for bad in ["0GiB", "4", "4GB", "-1MiB", "99999999999999GiB"] {
            let text = format!("{GOOD}{nix}memory-max = \"{bad}\"");
            let error = Config::parse("f", &text).unwrap_err().to_string();
            assert!(error.contains("is no amount of memory"), "{error}");
        }
    }

    #[test]
    fn a_cache_has_something_to_serve() {
        let cache = "[cache]\nlisten = \"10.0.0.2:9642\"\ncertificate-file = \"/c\"\nkey-file = \"/k\"\nclient-ca-file = \"/a\"\n";
        let error = Config::parse("f", &format!("{GOOD}{cache}")).unwrap_err();
        assert!(error.to_string().contains("add [nix]"), "{error}");
    }
}
