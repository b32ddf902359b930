//! All that a server of the control plane has to be given, as it travels: over SSH, or encrypted to the age key that the
//! server made.

use std::io::Read;

use fabrik_core::id::{ClusterId, ClusterName};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{HandoverError, VERSION};
use crate::secrets::{Secret, in_clear};

/// Keys are some KiB, and a list of pinned host keys may be longer.
const MAX_BYTES: u64 = 256 * 1024;

/// What is handed over, as JSON. Whoever reads it owns the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Bundle {
    pub fabrik: u32,
    pub cluster: Cluster,
    pub repository: Repository,
    /// Opens the repository's secrets.
    #[serde(with = "in_clear")]
    pub age_key: Secret,
    /// Reads the repository.
    #[serde(with = "in_clear")]
    pub deploy_key: Secret,
    /// Signs what nodes are given to run.
    #[serde(with = "in_clear")]
    pub signing_key: Secret,
    #[serde(with = "in_clear")]
    pub webhook_secret: Secret,
    /// Of a first server a random word, which becomes the token; of another one the whole token, in k3s' secure format
    /// (docs.k3s.io, "k3s token").
    #[serde(with = "in_clear")]
    pub k3s_token: Secret,
    /// Hetzner's own where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hetzner_endpoint: Option<String>,
    /// The supervisors of the servers that are there; none where this one is the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub k3s_server_urls: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cluster {
    pub name: ClusterName,
    pub id: ClusterId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Repository {
    pub url: String,
    pub branch: String,
    /// The pinned host keys of the git server, for SSH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_hosts: Option<String>,
    /// An access token of the git server, for HTTPS.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "in_clear::option"
    )]
    pub token: Option<Secret>,
}

impl Bundle {
    /// Reads one to its end.
    ///
    /// # Errors
    /// It is none, of another layout, or longer than any can be. No error quotes it.
    pub fn read(from: impl Read) -> Result<Self, HandoverError> {
        let mut bytes = Zeroizing::new(Vec::new());
        let read = from.take(MAX_BYTES + 1).read_to_end(&mut bytes);
        let length = read.map_err(HandoverError::io("standard input"))?;
        if length as u64 > MAX_BYTES {
            return Err(HandoverError::TooLong { limit: MAX_BYTES });
        }
        Self::parse(&bytes)
    }

    /// # Errors
    /// As of [`Self::read`].
    pub fn parse(bytes: &[u8]) -> Result<Self, HandoverError> {
        let not_ours = |error: serde_json::Error| HandoverError::NotOurs {
            line: error.line(),
            column: error.column(),
        };
        let layout: Layout = serde_json::from_slice(bytes).map_err(not_ours)?;
        if layout.fabrik != VERSION {
            return Err(HandoverError::Version {
                found: layout.fabrik,
            });
        }
        serde_json::from_slice(bytes).map_err(not_ours)
    }

    /// As it travels.
    pub fn text(&self) -> Secret {
        // Names and texts: nothing in it has no JSON.
        Secret::new(serde_json::to_vec(self).unwrap_or_default())
    }
}

/// What is looked at first: of another layout nothing else may be there.
#[derive(Deserialize)]
struct Layout {
    fabrik: u32,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn bundle() -> Bundle {
        let secret = |text: &str| Secret::new(format!("planted-{text}\n").into_bytes());
        Bundle {
            fabrik: VERSION,
            cluster: Cluster {
                name: "demo".parse().unwrap(),
                id: "abcdefgh01234567".parse().unwrap(),
            },
            repository: Repository {
                url: "git@git.example.com:ops/demo.git".to_owned(),
                branch: "main".to_owned(),
                known_hosts: Some("git.example.com ssh-ed25519 AAAA\n".to_owned()),
                token: Some(secret("access")),
            },
            age_key: secret("age"),
            deploy_key: secret("deploy"),
            signing_key: secret("signing"),
            webhook_secret: secret("webhook"),
            k3s_token: secret("k3s"),
            hetzner_endpoint: None,
            k3s_server_urls: vec!["https://10.0.1.1:6443".to_owned()],
        }
    }

    #[test]
    fn what_is_handed_over_reads_back_and_prints_nothing_secret() {
        let bundle = bundle();
        assert_eq!(Bundle::read(bundle.text().expose()).unwrap(), bundle);
        assert!(!format!("{bundle:?}").contains("planted"));
    }

    #[test]
    fn what_a_newer_laptop_adds_is_passed_over_and_another_layout_refused() {
        let mut document: serde_json::Value =
            serde_json::from_slice(bundle().text().expose()).unwrap();
        document["later"] = true.into();
        let text = |document: &serde_json::Value| document.to_string().into_bytes();
        assert_eq!(Bundle::parse(&text(&document)).unwrap(), bundle());
        document["fabrik"] = 2.into();
        document.as_object_mut().unwrap().remove("age-key");
        let error = Bundle::parse(&text(&document)).unwrap_err();
        assert!(
            matches!(error, HandoverError::Version { found: 2 }),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_bundle_is_not_quoted() {
        for text in [
            "planted",
            r#"{"fabrik": "planted"}"#,
            r#"{"fabrik": 1, "age-key": 7, "cluster": "planted"}"#,
        ] {
            let error = Bundle::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("(line 1, column"), "{error}");
            assert!(!error.contains("planted"), "{error}");
        }
        let endless = std::io::repeat(b' ');
        let error = Bundle::read(endless).unwrap_err();
        assert!(matches!(error, HandoverError::TooLong { .. }), "{error}");
    }
}
