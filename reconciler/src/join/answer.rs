//! What a server is given: the files that this one was founded with.

use std::fs;
use std::path::{Path, PathBuf};

use fabrik_core::id::AgeRecipient;

use crate::config::Config;
use crate::handover::{self, Bundle, Cluster, Repository};
use crate::secrets::{Secret, founding_keys};

/// All of it, encrypted to `recipient`.
///
/// # Errors
/// A file of this server's can't be read; nothing of what is in one is said.
pub fn sealed(config: &Config, recipient: &AgeRecipient) -> Result<Vec<u8>, String> {
    let whom: age::x25519::Recipient = recipient.as_str().parse().map_err(str::to_owned)?;
    let text = bundle(config)?.text();
    age::encrypt(&whom, text.expose()).map_err(|error| error.to_string())
}

fn bundle(config: &Config) -> Result<Bundle, String> {
    let age_key = &config.secrets.age_key_file;
    let beside = |name: &str| age_key.with_file_name(name);
    let or_beside = |file: Option<&PathBuf>, name: &str| -> Result<Secret, String> {
        secret(file.unwrap_or(&beside(name)))
    };
    let repository = &config.repository;
    let signing_key = config.nix.as_ref().map(|nix| &nix.signing_key_file);
    let webhook = config.webhook.as_ref().map(|webhook| &webhook.secret_file);
    let join = config.join.as_ref();
    let join =
        join.ok_or("the configuration has no [join]: run `fabrik found` on this server again")?;
    let known_hosts = repository.known_hosts_file.as_deref().map(secret);
    let known_hosts = known_hosts.transpose()?;
    Ok(Bundle {
        fabrik: handover::VERSION,
        cluster: Cluster {
            name: config.cluster.name.clone(),
            id: config.cluster.id.clone(),
        },
        repository: Repository {
            url: repository.url.clone(),
            branch: repository.branch.clone(),
            known_hosts: known_hosts.and_then(|keys| keys.expose_str().map(str::to_owned)),
            token: repository.token_file.as_deref().map(secret).transpose()?,
        },
        age_key: secret(age_key)?,
        deploy_key: or_beside(
            repository.deploy_key_file.as_ref(),
            founding_keys::DEPLOY_KEY_FILE,
        )?,
        signing_key: or_beside(signing_key, founding_keys::SIGNING_KEY_FILE)?,
        webhook_secret: or_beside(webhook, founding_keys::WEBHOOK_SECRET_FILE)?,
        k3s_token: secret(&join.k3s_token_file)?,
        hetzner_endpoint: Some(config.hetzner.endpoint.clone()),
        k3s_server_urls: config.kubernetes.join_urls.clone(),
    })
}

fn secret(path: &Path) -> Result<Secret, String> {
    let content = fs::read(path).map(Secret::new);
    content.map_err(|error| format!("{}: {error}", path.display()))
}
