//! Writes what was handed over to where k3s and fabrik look for it, each file whole or not at all and for root alone.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Bundle, HandoverError};
use crate::node::identify::{self, STATE_DIR};
use crate::node::state::{read, write_durably};
use crate::secrets::founding_keys::{
    AGE_KEY_FILE, DEPLOY_KEY_FILE, SIGNING_KEY_FILE, WEBHOOK_SECRET_FILE,
};

/// fabrik's own folder, below the machine's root.
pub const FABRIK: &str = "etc/fabrik";
pub const KNOWN_HOSTS: &str = "known_hosts";
pub const REPOSITORY_TOKEN: &str = "repository.token";
/// That this server was founded.
pub const CONFIG: &str = "config.toml";
const FOUNDING: &str = "founding.json";

/// What founding has to be told besides; nothing in it is secret. While it is there, the server is to be founded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Founding {
    pub repository: String,
    pub branch: String,
    pub hetzner_endpoint: Option<String>,
    /// Of the other servers.
    pub k3s_server_urls: Vec<String>,
}

/// Places all of `bundle` below `root`.
///
/// # Errors
/// A file can't be written, or the server was founded with another key.
pub fn place(root: &Path, bundle: &Bundle) -> Result<(), HandoverError> {
    let dir = root.join(FABRIK);
    let keys = [
        (AGE_KEY_FILE, &bundle.age_key),
        (DEPLOY_KEY_FILE, &bundle.deploy_key),
        (SIGNING_KEY_FILE, &bundle.signing_key),
        (WEBHOOK_SECRET_FILE, &bundle.webhook_secret),
    ];
    // Before the first of them is written.
    if dir.join(CONFIG).exists() {
        for (name, key) in keys {
            let path = dir.join(name);
            let there = fs::read(&path).unwrap_or_default();
            if there.trim_ascii() != key.trimmed().expose() {
                return Err(HandoverError::OtherKey { path });
            }
        }
    }
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        write_durably(&dir, &path, bytes).map_err(HandoverError::io(path))
    };
    for (name, key) in keys {
        write(name, key.expose())?;
    }
    if let Some(known_hosts) = &bundle.repository.known_hosts {
        write(KNOWN_HOSTS, known_hosts.as_bytes())?;
    }
    if let Some(token) = &bundle.repository.token {
        write(REPOSITORY_TOKEN, token.expose())?;
    }
    identify::keep_token(root, &bundle.k3s_token)?;
    // Last: where it is, all of it is there.
    keep(root, bundle)
}

fn keep(root: &Path, bundle: &Bundle) -> Result<(), HandoverError> {
    let founding = Founding {
        repository: bundle.repository.url.clone(),
        branch: bundle.repository.branch.clone(),
        hetzner_endpoint: bundle.hetzner_endpoint.clone(),
        k3s_server_urls: bundle.k3s_server_urls.clone(),
    };
    let dir = root.join(STATE_DIR);
    let path = dir.join(FOUNDING);
    // Texts and lists of texts: nothing in it has no JSON.
    let text = serde_json::to_vec_pretty(&founding).unwrap_or_default();
    write_durably(&dir, &path, &text).map_err(HandoverError::io(path))
}

/// What [`place`] has kept.
///
/// # Errors
/// Nothing was handed over yet, or it can't be read.
pub fn kept(root: &Path) -> Result<Founding, HandoverError> {
    let path = root.join(STATE_DIR).join(FOUNDING);
    let text = read(&path)?.ok_or(HandoverError::NobodyYet)?;
    serde_json::from_str(&text).map_err(|error| HandoverError::Io {
        path,
        source: std::io::Error::other(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::bundle::tests::bundle;
    use super::*;
    use crate::secrets::Secret;

    #[test]
    fn all_of_it_is_placed_for_root_alone_and_placed_again_it_is_the_same() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let error = kept(root).unwrap_err();
        assert!(matches!(error, HandoverError::NobodyYet), "{error}");
        let bundle = bundle();
        for _ in 0..2 {
            place(root, &bundle).unwrap();
            let expected = [
                ("etc/fabrik/age.key", "planted-age\n"),
                ("etc/fabrik/deploy.key", "planted-deploy\n"),
                ("etc/fabrik/signing.key", "planted-signing\n"),
                ("etc/fabrik/webhook.secret", "planted-webhook\n"),
                (
                    "etc/fabrik/known_hosts",
                    "git.example.com ssh-ed25519 AAAA\n",
                ),
                ("etc/fabrik/repository.token", "planted-access\n"),
                ("var/lib/fabrik-identity/token", "planted-k3s\n"),
            ];
            for (path, text) in expected {
                let path = root.join(path);
                assert_eq!(fs::read_to_string(&path).unwrap(), text);
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{}", path.display());
            }
        }
        let kept = kept(root).unwrap();
        assert_eq!(kept.k3s_server_urls, bundle.k3s_server_urls);
    }

    #[test]
    fn a_server_keeps_the_keys_that_it_was_founded_with() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let mut bundle = bundle();
        place(root, &bundle).unwrap();
        bundle.deploy_key = Secret::new(b"another".to_vec());
        place(root, &bundle).unwrap();
        fs::write(root.join(FABRIK).join(CONFIG), "").unwrap();
        place(root, &bundle).unwrap();
        bundle.age_key = Secret::new(b"a third".to_vec());
        let error = place(root, &bundle).unwrap_err().to_string();
        assert!(error.contains("age.key: it holds another key"), "{error}");
        assert!(!error.contains("a third") && !error.contains("planted"));
    }
}
