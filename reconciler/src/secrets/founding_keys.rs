//! The keys that a cluster is founded with.
//!
//! A key that exists is kept, whatever it is worth: these files can't be made again. Each is written whole or not at
//! all, readable by its owner only.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fabrik_core::id::ClusterName;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use ssh_key::LineEnding;
use ssh_key::private::{Ed25519Keypair, KeypairData, PrivateKey};
use zeroize::Zeroizing;

use super::{Secret, SecretsError};

pub const AGE_KEY_FILE: &str = "age.key";
pub const DEPLOY_KEY_FILE: &str = "deploy.key";
pub const DEPLOY_KEY_PUBLIC_FILE: &str = "deploy.key.pub";
pub const SIGNING_KEY_FILE: &str = "signing.key";
pub const SIGNING_KEY_PUBLIC_FILE: &str = "signing.pub";
pub const WEBHOOK_SECRET_FILE: &str = "webhook.secret";

const SEED_BYTES: usize = 32;

/// The public halves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundingKeys {
    /// `age1…`, for `.sops.yaml`.
    pub age_recipient: String,
    /// `ssh-ed25519 … fabrik-CLUSTER`, for the git server.
    pub deploy_key: String,
    /// `NAME:BASE64`, Nix's format (nix-store(1), "--generate-binary-cache-key").
    pub signing_key: String,
}

/// Makes the keys that are missing in `dir` and returns the public halves of all.
///
/// # Errors
/// The directory can't be written, or a file in it is no such key.
pub fn ensure(dir: &Path, cluster: &ClusterName) -> Result<FoundingKeys, SecretsError> {
    let age_recipient = ensure_age(&dir.join(AGE_KEY_FILE))?;
    let deploy_key = ensure_ssh(&dir.join(DEPLOY_KEY_FILE), &format!("fabrik-{cluster}"))?;
    ensure_public(&dir.join(DEPLOY_KEY_PUBLIC_FILE), &deploy_key)?;
    let signing_key = ensure_signing(&dir.join(SIGNING_KEY_FILE), cluster)?;
    ensure_public(&dir.join(SIGNING_KEY_PUBLIC_FILE), &signing_key)?;
    ensure_word(&dir.join(WEBHOOK_SECRET_FILE))?;
    Ok(FoundingKeys {
        age_recipient,
        deploy_key,
        signing_key,
    })
}

/// Whom the age keys in a file are for, the first one first; nobody if there is no such file.
///
/// # Errors
/// The file can't be read.
pub fn age_recipients(path: &Path) -> Result<Vec<String>, SecretsError> {
    match fs::read(path) {
        Ok(content) => Ok(recipients_of(&Secret::new(content))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(disk("read", path)(error)),
    }
}

/// A new age identity as `age-keygen` writes it, and whom it is for.
pub fn new_age_key() -> (Secret, String) {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let text = Zeroizing::new(format!(
        "# public key: {recipient}\n{}\n",
        identity.to_string().expose_secret()
    ));
    (Secret::new(text.as_bytes().to_vec()), recipient)
}

/// Whom the first age key in a file is for; it is made if there is no such file.
///
/// # Errors
/// The file can't be written, or holds no age key.
pub fn ensure_age(path: &Path) -> Result<String, SecretsError> {
    let key = ensure_file(path, || Ok(new_age_key().0))?;
    recipients_of(&key)
        .into_iter()
        .next()
        .ok_or_else(|| foreign(path, "holds no age identity"))
}

/// Whom the age keys in a text are for, the first one first.
pub fn recipients_of(key: &Secret) -> Vec<String> {
    let lines = key.expose_str().unwrap_or_default().lines();
    let identities = lines.filter_map(|line| line.trim().parse::<age::x25519::Identity>().ok());
    identities
        .map(|identity| identity.to_public().to_string())
        .collect()
}

/// The public half of the SSH key (Ed25519, in OpenSSH's format) in a file; it is made if there is no such file.
///
/// # Errors
/// The file can't be written, or holds no such key.
pub fn ensure_ssh(path: &Path, comment: &str) -> Result<String, SecretsError> {
    let key = ensure_file(path, || {
        let keypair = Ed25519Keypair::from_seed(&*random()?);
        let broken = |_| foreign(path, "could not be made");
        let key =
            PrivateKey::new(KeypairData::Ed25519(keypair), comment.to_owned()).map_err(broken)?;
        let text = key.to_openssh(LineEnding::LF).map_err(broken)?;
        Ok(Secret::new(text.as_bytes().to_vec()))
    })?;
    ssh_public_half(&key).ok_or_else(|| foreign(path, "is no private key in OpenSSH's format"))
}

/// The public half of an SSH key in OpenSSH's format; `None` where it is none.
pub fn ssh_public_half(key: &Secret) -> Option<String> {
    let key = PrivateKey::from_openssh(key.expose()).ok()?;
    key.public_key().to_openssh().ok()
}

/// The public half of the signing key in a file; it is made if there is no such file.
///
/// # Errors
/// The file can't be written, or holds no such key.
pub fn ensure_signing(path: &Path, cluster: &ClusterName) -> Result<String, SecretsError> {
    let no_key = || {
        foreign(
            path,
            "is no signing key in Nix's format (NAME:BASE64 of 64 bytes)",
        )
    };
    let key = ensure_file(path, || {
        let seed = random()?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| no_key())?;
        let mut bytes = Zeroizing::new(seed.to_vec());
        bytes.extend(pair.public_key().as_ref());
        let text = format!(
            "fabrik-{cluster}-1:{}\n",
            *Zeroizing::new(BASE64.encode(&*bytes))
        );
        Ok(Secret::new(text.into_bytes()))
    })?;
    let text = key.trimmed();
    let (name, encoded) = text
        .expose_str()
        .and_then(|text| text.split_once(':'))
        .ok_or_else(no_key)?;
    let bytes = Zeroizing::new(BASE64.decode(encoded).map_err(|_| no_key())?);
    let (seed, public) = bytes.split_at_checked(SEED_BYTES).ok_or_else(no_key)?;
    Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_| no_key())?;
    Ok(format!("{name}:{}", BASE64.encode(public)))
}

/// Makes a random word of 64 hex digits in a file, if there is no such file.
///
/// # Errors
/// The file can't be written, or is empty.
pub fn ensure_word(path: &Path) -> Result<(), SecretsError> {
    let secret = ensure_file(path, || {
        let bytes = random()?;
        let hex: Zeroizing<String> = Zeroizing::new(bytes.iter().fold(
            String::with_capacity(2 * SEED_BYTES + 1),
            |mut text, byte| {
                for digit in [byte >> 4, byte & 0xf] {
                    text.extend(char::from_digit(u32::from(digit), 16));
                }
                text
            },
        ));
        Ok(Secret::new(format!("{}\n", *hex).into_bytes()))
    })?;
    if secret.trimmed().expose().is_empty() {
        return Err(foreign(path, "is empty"));
    }
    Ok(())
}

/// A public half follows from its private one, so a missing file is written again and a wrong one is an error.
fn ensure_public(path: &Path, text: &str) -> Result<(), SecretsError> {
    let kept = ensure_file(path, || Ok(Secret::new(format!("{text}\n").into_bytes())))?;
    // A comment after an ssh key may have been edited.
    let essence = |text: &str| {
        text.split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    if kept.expose_str().map(essence) != Some(essence(text)) {
        return Err(foreign(
            path,
            "is not the public half of the private key beside it",
        ));
    }
    Ok(())
}

/// The content of `path`, made first if there is none.
fn ensure_file(
    path: &Path,
    make: impl FnOnce() -> Result<Secret, SecretsError>,
) -> Result<Secret, SecretsError> {
    match fs::read(path) {
        Ok(content) => return Ok(Secret::new(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(disk("read", path)(error)),
    }
    create(path, &make()?)?;
    // What is on disk counts: another founder may have been faster.
    fs::read(path).map(Secret::new).map_err(disk("read", path))
}

/// Writes a new file that appears whole; one that exists already is kept.
fn create(path: &Path, content: &Secret) -> Result<(), SecretsError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(disk("write in", dir))?;
    file.write_all(content.expose())
        .and_then(|()| file.as_file().sync_all())
        .map_err(disk("write", path))?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(disk("write", path)(error.error));
        }
        _ => {}
    }
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(disk("write in", dir))
}

fn random() -> Result<Zeroizing<[u8; SEED_BYTES]>, SecretsError> {
    let mut bytes = Zeroizing::new([0_u8; SEED_BYTES]);
    SystemRandom::new()
        .fill(&mut *bytes)
        .map_err(|_| SecretsError::NoRandomness)?;
    Ok(bytes)
}

fn disk(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> SecretsError {
    let path: PathBuf = path.to_owned();
    move |error| SecretsError::Disk {
        action,
        path: path.clone(),
        reason: error.to_string(),
    }
}

fn foreign(path: &Path, problem: &str) -> SecretsError {
    SecretsError::ForeignKey {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn cluster() -> ClusterName {
        "demo".parse().unwrap()
    }

    #[test]
    fn keys_are_made_once_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let keys = ensure(dir.path(), &cluster()).unwrap();
        assert!(keys.age_recipient.starts_with("age1"));
        assert!(
            keys.deploy_key.starts_with("ssh-ed25519 ")
                && keys.deploy_key.ends_with(" fabrik-demo")
        );
        assert!(keys.signing_key.starts_with("fabrik-demo-1:"));
        let content = |name: &str| fs::read(dir.path().join(name)).unwrap();
        let names = [
            AGE_KEY_FILE,
            DEPLOY_KEY_FILE,
            DEPLOY_KEY_PUBLIC_FILE,
            SIGNING_KEY_FILE,
            SIGNING_KEY_PUBLIC_FILE,
            WEBHOOK_SECRET_FILE,
        ];
        let before = names.map(content);
        for name in names {
            let mode = fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(ensure(dir.path(), &cluster()).unwrap(), keys);
        assert_eq!(names.map(content), before);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            names.len(),
            "nothing else is left"
        );
    }

    #[test]
    fn a_missing_public_half_is_written_again_and_a_wrong_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keys = ensure(dir.path(), &cluster()).unwrap();
        let public = dir.path().join(SIGNING_KEY_PUBLIC_FILE);
        fs::remove_file(&public).unwrap();
        ensure(dir.path(), &cluster()).unwrap();
        assert_eq!(
            fs::read_to_string(&public).unwrap().trim(),
            keys.signing_key
        );
        fs::write(&public, "other-1:AAAA\n").unwrap();
        let error = ensure(dir.path(), &cluster()).unwrap_err();
        assert!(matches!(error, SecretsError::ForeignKey { .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_no_key_is_neither_used_nor_overwritten() {
        for name in [
            AGE_KEY_FILE,
            DEPLOY_KEY_FILE,
            SIGNING_KEY_FILE,
            WEBHOOK_SECRET_FILE,
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(name), "\n").unwrap();
            let error = ensure(dir.path(), &cluster()).unwrap_err();
            assert!(
                matches!(error, SecretsError::ForeignKey { .. }),
                "{name}: {error}"
            );
            assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"\n");
        }
    }

    #[test]
    fn openssh_reads_the_deploy_key() {
        let dir = tempfile::tempdir().unwrap();
        let keys = ensure(dir.path(), &cluster()).unwrap();
        let derived = Command::new("ssh-keygen")
            .args(["-y", "-P", "", "-f"])
            .arg(dir.path().join(DEPLOY_KEY_FILE))
            .output()
            .expect("ssh-keygen is needed: apt-get install openssh-client");
        assert!(derived.status.success(), "{derived:?}");
        assert_eq!(
            String::from_utf8(derived.stdout).unwrap().trim(),
            keys.deploy_key
        );
    }

    #[test]
    fn a_signature_by_the_secret_half_verifies_with_the_public_one() {
        let dir = tempfile::tempdir().unwrap();
        let keys = ensure(dir.path(), &cluster()).unwrap();
        let secret = fs::read_to_string(dir.path().join(SIGNING_KEY_FILE)).unwrap();
        let bytes = BASE64
            .decode(secret.trim().split_once(':').unwrap().1)
            .unwrap();
        assert_eq!(bytes.len(), 64);
        let pair = Ed25519KeyPair::from_seed_unchecked(&bytes[..32]).unwrap();
        let public = BASE64
            .decode(keys.signing_key.split_once(':').unwrap().1)
            .unwrap();
        ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public)
            .verify(b"a statement", pair.sign(b"a statement").as_ref())
            .unwrap();
    }
}
