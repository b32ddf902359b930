//! The keys of a new repository, and what is encrypted to them. Plaintext stays in memory.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::answers::{Recipients, named};
use super::template::RULES_FILE;
use super::{InitError, files, terminal};
use crate::cli::say;
use crate::hetzner::Token;
use crate::secrets::{Secret, age_key_place, encrypt, founding_keys};

pub const TOKEN_FILE: &str = "secrets/hetzner.yaml";
/// The cluster's own age key, for whoever founds the cluster.
pub const CLUSTER_KEY_FILE: &str = "secrets/age.key";
const TOKEN_VARIABLE: &str = "HCLOUD_TOKEN";

#[derive(Debug, Default, Args)]
pub struct KeyFlags {
    /// Whom secrets are encrypted to, beside the cluster; once for each person. Else your key where `sops` looks for it,
    /// which is made if it is not there.
    #[arg(long = "age-recipient", value_name = "AGE1…")]
    pub people: Vec<String>,
    /// The cluster's recipient, if it was founded before. Else its key is made, and encrypted to the people.
    #[arg(long = "cluster-age-recipient", value_name = "AGE1…")]
    pub cluster: Option<String>,
    /// A file with the Hetzner project's token, or with a line HCLOUD_TOKEN=…; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl KeyFlags {
    /// Those about recipients that are given.
    pub fn recipients(&self) -> Vec<&'static str> {
        named([
            ("--age-recipient", !self.people.is_empty()),
            ("--cluster-age-recipient", self.cluster.is_some()),
        ])
    }
}

/// Whom secrets are for, and what had to be made for that.
pub struct Keys {
    pub recipients: Recipients,
    /// The cluster's key, where it is new.
    pub cluster: Option<Secret>,
    /// The person's own, where no recipients were named.
    pub own: Option<OwnKey>,
}

/// The age key of whoever runs this.
pub struct OwnKey {
    pub file: PathBuf,
    pub is_new: bool,
}

impl OwnKey {
    /// For the end of a run, where it is read.
    pub fn note(&self) -> String {
        let file = self.file.display();
        if self.is_new {
            format!(
                "note: {file} is the only copy of your age key. Whoever has it opens all secrets of this repository; without it \
                 you open none, and only the cluster's servers do. Keep a copy off this machine: in a password manager, or on paper"
            )
        } else {
            format!(
                "note: the secrets are for your age key, {file}: keep a copy of it off this machine"
            )
        }
    }
}

/// The recipients that are named; the keys of those that are not.
pub fn keys(flags: &KeyFlags, dir: &Path) -> Result<Keys, InitError> {
    let cluster = flags.cluster.as_deref().map(recipient).transpose()?;
    if cluster.is_none() && dir.join(CLUSTER_KEY_FILE).exists() {
        return Err(InitError::LostRules);
    }
    let people = flags.people.iter().map(|text| recipient(text));
    let people = people.collect::<Result<Vec<_>, _>>()?;
    let (people, own) = if people.is_empty() {
        let (recipient, own) = own_key()?;
        (vec![recipient], Some(own))
    } else {
        (people, None)
    };
    let (secret, cluster) = if let Some(cluster) = cluster {
        (None, cluster)
    } else {
        let (secret, cluster) = founding_keys::new_age_key();
        (Some(secret), cluster)
    };
    Ok(Keys {
        recipients: Recipients { people, cluster },
        cluster: secret,
        own,
    })
}

/// Whom the key of whoever runs this is for, and the key itself, which is made where there is none.
fn own_key() -> Result<(String, OwnKey), InitError> {
    let file = age_key_place().ok_or(InitError::NoHome)?;
    let is_new = !file.exists();
    let recipient = if is_new {
        let dir = file.parent().unwrap_or(Path::new("."));
        private_dir(dir)?;
        let recipient = founding_keys::ensure_age(&file)?;
        // Before anything else can fail: the next run finds it there, and has not made it.
        say(format_args!("made      {}, your age key", file.display()))?;
        recipient
    } else {
        let known = founding_keys::age_recipients(&file)?;
        let first = known.into_iter().next();
        first.ok_or_else(|| InitError::UnreadableKey { file: file.clone() })?
    };
    Ok((recipient, OwnKey { file, is_new }))
}

fn private_dir(dir: &Path) -> Result<(), InitError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(dir);
    made.map_err(files::failed("make", dir))
}

/// Never repeats what it was given: it may be a private key.
fn recipient(text: &str) -> Result<String, InitError> {
    let text = text.trim();
    if text.to_ascii_uppercase().contains("SECRET-KEY") {
        return Err(InitError::PrivateRecipient);
    }
    if let Ok(recipient) = text.parse::<age::x25519::Recipient>() {
        return Ok(recipient.to_string());
    }
    // A plugin's, age1NAME1…, or a post-quantum one: only sops can tell. A usual one has no other 1 in it.
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let rest = text.strip_prefix("age1").unwrap_or_default();
    if rest.contains('1') && rest.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(InitError::Recipient)
}

/// The Hetzner token: from a file, or from a person who types it unseen.
pub async fn token(file: Option<&Path>) -> Result<Secret, InitError> {
    let is_token = |secret: &Secret| Token::from(secret).is_well_formed();
    if let Some(file) = file {
        let secret = token_in(&read(file)?);
        return if is_token(&secret) {
            Ok(secret)
        } else {
            Err(InitError::Token)
        };
    }
    loop {
        let question = "The Hetzner project's API token, read and write (it is not shown)";
        let secret = terminal::hidden(question).await?;
        if is_token(&secret) {
            return Ok(secret);
        }
        eprintln!("  that is empty or holds characters that no token has");
    }
}

fn read(file: &Path) -> Result<Secret, InitError> {
    let mut bytes = Zeroizing::new(Vec::new());
    if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes)?;
    } else {
        let opened = std::fs::File::open(file).and_then(|mut f| f.read_to_end(&mut bytes));
        opened.map_err(files::failed("read", file))?;
    }
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}

/// The content, or what a line of it gives the variable.
fn token_in(content: &Secret) -> Secret {
    let lines = content.expose_str().unwrap_or_default().lines();
    let mut values = lines.filter_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let value = line.strip_prefix(TOKEN_VARIABLE)?.strip_prefix('=')?;
        Some(value.trim().trim_matches(['"', '\'']))
    });
    match values.next() {
        Some(value) => Secret::new(value.as_bytes().to_vec()),
        None => content.trimmed(),
    }
}

/// As the file that `cluster.toml` names holds it, under the key that it names. JSON is YAML.
pub fn token_document(token: &Secret, key: &str) -> Result<Secret, InitError> {
    let quoted = |text: &str| serde_json::to_string(text).map_err(|_| InitError::Token);
    let text = token.expose_str().ok_or(InitError::Token)?;
    let mut document = Zeroizing::new(quoted(text)?);
    // A dot leads into a map.
    for part in key.rsplit('.') {
        document = Zeroizing::new(format!("{{{}: {}}}", quoted(part)?, *document));
    }
    Ok(Secret::new(document.as_bytes().to_vec()))
}

/// Files encrypted by the rules of a `.sops.yaml`, which need not be in the repository yet.
pub async fn encrypted(
    rules: &str,
    secrets: Vec<(&'static str, Secret)>,
) -> Result<Vec<(&'static str, Vec<u8>)>, InitError> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join(RULES_FILE), rules)?;
    let mut files = Vec::new();
    for (path, secret) in secrets {
        files.push((path, encrypt(dir.path(), path, &secret).await?));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_a_file_of_its_own_or_of_variables() {
        for (content, token) in [
            (" abc \n", "abc"),
            ("HCLOUD_TOKEN=abc\n", "abc"),
            ("# mine\nA=b\nexport HCLOUD_TOKEN=\"abc\"\n", "abc"),
        ] {
            let found = token_in(&Secret::new(content.as_bytes().to_vec()));
            assert_eq!(found.expose_str(), Some(token), "{content}");
        }
        let quotes = Secret::new(b"a\"b".to_vec());
        for (key, document) in [
            ("token", r#"{"token": "a\"b"}"#),
            ("api.key", r#"{"api": {"key": "a\"b"}}"#),
        ] {
            let made = token_document(&quotes, key).unwrap();
            assert_eq!(made.expose_str(), Some(document));
            let found = crate::secrets::field(TOKEN_FILE, &made, key).unwrap();
            assert_eq!(found.expose_str(), Some("a\"b"));
        }
    }

    #[test]
    fn a_recipient_is_read_and_a_key_is_not_repeated() {
        let (secret, own) = founding_keys::new_age_key();
        assert_eq!(recipient(&own).unwrap(), own);
        assert!(recipient("age1yubikey1qwtszqgp").is_ok());
        let mistyped = own.replace(own.chars().last().unwrap(), "b");
        for wrong in ["", "age1", "alice", mistyped.as_str(), "ssh-ed25519 AAAA"] {
            assert!(
                matches!(recipient(wrong), Err(InitError::Recipient)),
                "{wrong}"
            );
        }
        let private = secret.expose_str().unwrap().lines().last().unwrap();
        let told = recipient(private).unwrap_err().to_string();
        assert!(!told.contains(private), "{told}");
    }

    #[test]
    fn rules_that_are_lost_are_not_made_anew_for_another_cluster_key() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("secrets")).unwrap();
        std::fs::write(dir.path().join(CLUSTER_KEY_FILE), "x").unwrap();
        let flags = KeyFlags::default();
        assert!(matches!(
            keys(&flags, dir.path()),
            Err(InitError::LostRules)
        ));
    }
}
