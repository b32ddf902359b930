//! What `fabrik secrets check` and `fabrik secrets decrypt` do.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use fabrik_core::diagnostic::{Diagnostic, Place};

use super::{Secret, SecretsError, Shape, Sops, SopsFile, plaintext_violations, shape};
use crate::repo::{File, FileKind, RepoError, Tree};

/// Bech32 of 32 bytes: 58 characters (age's specification, "Native key pairs").
const AGE_IDENTITY: &str = "AGE-SECRET-KEY-1[A-Z0-9]{58}";
/// The beginning of one that has no passphrase, in base64: `openssh-key-v1`, and the cipher `none` (OpenSSH's PROTOCOL.key).
/// In a string its lines may end in `\n`.
const SSH_KEY: &str =
    r"-----BEGIN OPENSSH PRIVATE KEY-----(?:\s|\\[nr])+b3BlbnNzaC1rZXktdjEAAAAABG5vbmU";

/// What was found out about one SOPS file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was opened and its MAC verified.
    Opened,
    /// It is well-formed, and encrypted to others than us.
    WellFormed,
    /// See the diagnostics.
    Faulty,
}

/// The SOPS files of a tree, by path, and all that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub files: Vec<(String, Verdict)>,
    /// Files that hold a private key in the clear.
    pub exposed: BTreeSet<String>,
    pub diagnostics: Vec<Diagnostic>,
}

/// Checks all SOPS files of a tree, opens those that are encrypted to us, and finds the files that `.sops.yaml` wants
/// encrypted. Without `sops`, which means without a key, all files are checked for shape only.
///
/// # Errors
/// What is no fault of a file: it can't be read, `sops` or the key is missing.
pub async fn check(tree: &Tree, sops: Option<&Sops>) -> Result<Check, SecretsError> {
    let mut check = Check {
        files: Vec::new(),
        exposed: BTreeSet::new(),
        diagnostics: Vec::new(),
    };
    for file in tree.files() {
        if !matches!(file.kind, FileKind::Plain | FileKind::Executable) {
            continue;
        }
        let content = match tree.read(&file.path) {
            Err(RepoError::FileTooBig { .. }) => continue,
            content => content?,
        };
        let Shape::Sops(shape) = shape(&file.path, &content) else {
            if let Some(fault) = key_in_the_clear(&file.path, &content) {
                check.exposed.insert(file.path.clone());
                check.diagnostics.push(fault);
            }
            continue;
        };
        let verdict = match check_file(file, &shape, &content, sops).await {
            Ok(verdict) => verdict,
            Err(error) => {
                check.diagnostics.push(error.into_diagnostic()?);
                Verdict::Faulty
            }
        };
        check.files.push((file.path.clone(), verdict));
    }
    check.diagnostics.extend(plaintext_violations(tree)?);
    check.diagnostics.sort();
    Ok(check)
}

/// A private key whose file nobody has encrypted, whatever `.sops.yaml` says of it: who reads the repository has the key.
fn key_in_the_clear(path: &str, content: &[u8]) -> Option<Diagnostic> {
    let has =
        |pattern: &str| regex::bytes::Regex::new(pattern).is_ok_and(|key| key.is_match(content));
    let (kind, remedy) = if has(AGE_IDENTITY) {
        (
            "age",
            "if it was pushed, replace the key and all secrets that it opens",
        )
    } else if has(SSH_KEY) {
        (
            "SSH",
            "or encrypt it with sops; if it was pushed, make another one, and let this one in nowhere",
        )
    } else {
        return None;
    };
    Some(Diagnostic {
        place: Place::file(path),
        object: path.to_owned(),
        problem: format!("holds a private {kind} key in the clear"),
        remedy: format!("remove it (`git rm --cached {path}`); {remedy}"),
    })
}

/// Exactly what `sops decrypt FILE` prints.
///
/// # Errors
/// The file can't be read or opened.
pub async fn decrypt_file(sops: &Sops, file: &Path) -> Result<Secret, SecretsError> {
    let content = tokio::fs::read(file)
        .await
        .map_err(|error| SecretsError::Disk {
            action: "read",
            path: file.to_owned(),
            reason: error.to_string(),
        })?;
    sops.open(&file.display().to_string(), &content).await
}

/// The age key file of whoever runs this, where `sops` looks for it. `$SOPS_AGE_KEY_FILE` counts whether it is there or not.
pub fn users_age_key_file() -> Option<PathBuf> {
    let file = age_key_place()?;
    (variable(KEY_FILE_VARIABLE).is_some() || file.is_file()).then_some(file)
}

/// Where `sops` looks for the age key of whoever runs this: `$SOPS_AGE_KEY_FILE`, else `sops/age/keys.txt` in the user's
/// configuration directory.
pub fn age_key_place() -> Option<PathBuf> {
    if let Some(file) = variable(KEY_FILE_VARIABLE) {
        return Some(file.into());
    }
    // As Go has it (os.UserConfigDir), and before that `sops` itself on a Mac.
    let config = match variable("XDG_CONFIG_HOME") {
        Some(dir) => PathBuf::from(dir),
        None if cfg!(target_os = "macos") => {
            PathBuf::from(variable("HOME")?).join("Library/Application Support")
        }
        None => PathBuf::from(variable("HOME")?).join(".config"),
    };
    Some(config.join("sops/age/keys.txt"))
}

const KEY_FILE_VARIABLE: &str = "SOPS_AGE_KEY_FILE";

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

async fn check_file(
    file: &File,
    shape: &SopsFile,
    content: &[u8],
    sops: Option<&Sops>,
) -> Result<Verdict, SecretsError> {
    if !shape.problems.is_empty() {
        let (path, problems) = (file.path.clone(), shape.problems.clone());
        return Err(SecretsError::Malformed { path, problems });
    }
    let opened = match sops {
        Some(sops) => {
            let opened = sops.decrypt_if_ours(&file.path, &file.blob, content, shape);
            opened.await?
        }
        None => None,
    };
    Ok(match opened {
        Some(_) => Verdict::Opened,
        None => Verdict::WellFormed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_age_key_is_told_from_words_about_one() {
        let identity = |key: &str| key_in_the_clear("founding/age.key", key.as_bytes());
        let key = "# created: 2026-11-30\nAGE-SECRET-KEY-1".to_owned() + &"Q".repeat(58) + "\n";
        let said = identity(&key).unwrap().to_string();
        assert!(said.starts_with("founding/age.key: "), "{said}");
        assert!(!said.contains("QQQ"), "{said}");
        assert_eq!(identity("begins with AGE-SECRET-KEY-1…"), None);
    }

    #[test]
    fn a_private_ssh_key_is_found_wherever_it_stands() {
        let found = |text: &str| key_in_the_clear("nixos/all.nix", text.as_bytes());
        let (begin, body) = (
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAQQQ",
        );
        for between in ["\n", "\r\n", "\n      ", "\\n"] {
            let said = found(&format!("key = \"{begin}{between}{body}"))
                .unwrap()
                .to_string();
            assert!(
                said.starts_with("nixos/all.nix: holds a private SSH key"),
                "{said}"
            );
            assert!(!said.contains("QQQ"), "{said}");
        }
        let locked = format!("{begin}\nb3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0\n");
        for words in [
            format!("begins with `{begin}`"),
            format!("{begin}\n…\n"),
            locked,
        ] {
            assert_eq!(found(&words), None);
        }
    }
}
