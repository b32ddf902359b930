//! Opening SOPS files by the real `sops`: ciphertext on its stdin, plaintext on its stdout, nothing on disk.

mod cache;
mod encrypt;
mod environment;
mod recipients;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use self::cache::Cache;
pub use self::encrypt::encrypt;
use self::recipients::Recipients;
use super::{Format, Secret, SecretsError, Shape, SopsFile, shape};
use crate::repo::BlobId;

/// `sops` has ended by then, or is killed.
const DEADLINE: Duration = Duration::from_secs(30);
/// So many `sops` run at once: each takes tens of megabytes.
const MAX_CHILDREN: usize = 2;
const MAX_STDERR_BYTES: u64 = 16 * 1024;
/// What re-indenting may add to a plaintext, which else is shorter than its ciphertext.
const PLAINTEXT_SLACK_BYTES: usize = 64 * 1024;
/// Names the program, where it is not in PATH.
const BINARY_VARIABLE: &str = "FABRIK_SOPS";

/// The `[secrets]` table of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SopsConfig {
    /// The cluster's age identity, as `age-keygen` writes it.
    pub age_key_file: PathBuf,
}

/// Opens SOPS files and keeps what it opened in memory, by blob. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sops(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    age_key_file: PathBuf,
    binary: Option<PathBuf>,
    is_person: bool,
    children: Semaphore,
    cache: Mutex<Cache>,
}

impl Sops {
    /// The cluster's, which gets no environment. `binary` is the program; without one, `$FABRIK_SOPS` or `sops` in PATH is
    /// looked for at each use.
    pub fn new(age_key_file: PathBuf, binary: Option<PathBuf>) -> Self {
        Self::made(age_key_file, binary, false)
    }

    /// That of a person, whose key may be behind a program of theirs: a plugin of age.
    pub fn of_person(age_key_file: PathBuf, binary: Option<PathBuf>) -> Self {
        Self::made(age_key_file, binary, true)
    }

    fn made(age_key_file: PathBuf, binary: Option<PathBuf>, is_person: bool) -> Self {
        Self(Arc::new(Inner {
            age_key_file,
            binary,
            is_person,
            children: Semaphore::new(MAX_CHILDREN),
            cache: Mutex::new(Cache::default()),
        }))
    }

    /// The plaintext of a SOPS file, its MAC verified. `blob` is the id of `ciphertext`; what was opened once is served
    /// from memory. Safe to drop: the child is killed.
    ///
    /// # Errors
    /// It is no whole SOPS file, not encrypted to us, changed, or `sops` is missing.
    pub async fn decrypt(
        &self,
        path: &str,
        blob: &BlobId,
        ciphertext: &[u8],
    ) -> Result<Secret, SecretsError> {
        let key = (*blob, Format::of_path(path));
        if let Some(secret) = self.cache().get(&key) {
            return Ok(secret);
        }
        let file = well_formed(path, ciphertext)?;
        self.check_recipients(path, &file)?;
        let secret = self.open(path, ciphertext).await?;
        self.cache().insert(key, secret.clone());
        Ok(secret)
    }

    /// As `decrypt`, for a person: `None` where the file, which looks like `looks`, is encrypted to others.
    ///
    /// # Errors
    /// As those of `decrypt`.
    pub async fn decrypt_if_ours(
        &self,
        path: &str,
        blob: &BlobId,
        ciphertext: &[u8],
        looks: &SopsFile,
    ) -> Result<Option<Secret>, SecretsError> {
        if !self.is_for_us(looks)? {
            return Ok(None);
        }
        match self.decrypt(path, blob, ciphertext).await {
            Ok(secret) => Ok(Some(secret)),
            // Whom a plugin's identity is for could only be told by trying.
            Err(
                SecretsError::WrongRecipient { .. }
                | SecretsError::Timeout { .. }
                | SecretsError::Sops { code: 128, .. },
            ) if !self.recipients()?.are_among(&looks.recipients) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What `sops decrypt PATH` prints for this content, without asking more of it than `sops` does, and not cached.
    pub(super) async fn open(&self, path: &str, ciphertext: &[u8]) -> Result<Secret, SecretsError> {
        let key_file = absolute(&self.0.age_key_file);
        readable(&key_file)?;
        let binary = find_binary(self.0.binary.as_deref())?;
        // The semaphore is never closed, and without a permit we would only run one child more.
        let _permit = self.0.children.acquire().await.ok();
        let mut command = Command::new(&binary);
        let format = Format::of_path(path).as_str();
        command
            .args(["decrypt", "--input-type", format, "--output-type", format])
            .args(["--decryption-order", "age", "--filename-override", path])
            .env_clear()
            .envs(
                self.0
                    .is_person
                    .then(environment::of_person)
                    .into_iter()
                    .flatten(),
            )
            .env("SOPS_AGE_KEY_FILE", &key_file)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn().map_err(|error| unusable(&binary, &error))?;
        let max_bytes = 2 * ciphertext.len() + PLAINTEXT_SLACK_BYTES;
        match tokio::time::timeout(DEADLINE, converse(child, ciphertext, max_bytes)).await {
            Ok(Ok(outcome)) => self.explain(path, ciphertext, outcome),
            Ok(Err(error)) => Err(unusable(&binary, &error)),
            Err(_elapsed) => Err(SecretsError::Timeout {
                path: path.to_owned(),
                seconds: DEADLINE.as_secs(),
            }),
        }
    }

    /// Whether a file names one of our recipients. `true` as well where our key file holds an identity whose recipient
    /// only `sops` can tell (a plugin's, a post-quantum one).
    ///
    /// # Errors
    /// The key file can't be read or holds no identity.
    fn is_for_us(&self, file: &SopsFile) -> Result<bool, SecretsError> {
        let ours = self.recipients()?;
        Ok(ours.incomplete || ours.are_among(&file.recipients))
    }

    /// Forgets what is in memory, but for these blobs: those of the commit in force.
    pub fn retain(&self, blobs: &BTreeSet<BlobId>) {
        self.cache().retain(blobs);
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.0.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_recipients(&self, path: &str, file: &SopsFile) -> Result<(), SecretsError> {
        if self.is_for_us(file)? {
            return Ok(());
        }
        Err(SecretsError::WrongRecipient {
            path: path.to_owned(),
            recipients: file.recipients.clone(),
            ours: self.recipients()?.known,
        })
    }

    fn recipients(&self) -> Result<Recipients, SecretsError> {
        Recipients::of_key_file(&self.0.age_key_file)
    }

    /// Tells the cause by the exit code (SOPS' `cmd/sops/codes`). What `sops` said is repeated only where it can't
    /// speak of values: it quotes what it stumbles over.
    fn explain(
        &self,
        path: &str,
        ciphertext: &[u8],
        outcome: Outcome,
    ) -> Result<Secret, SecretsError> {
        let path = path.to_owned();
        if outcome.status.success() {
            return match outcome.plaintext {
                Some(secret) => Ok(secret),
                None => Err(SecretsError::TooBig {
                    path,
                    max_bytes: 2 * ciphertext.len() + PLAINTEXT_SLACK_BYTES,
                }),
            };
        }
        let stderr = outcome.stderr;
        match outcome.status.code() {
            Some(51 | 52 | 24) => Err(SecretsError::MacMismatch { path }),
            Some(25) => Err(SecretsError::ValueBroken { path }),
            Some(1) if stderr.contains("metadata not found") => Err(SecretsError::NotSops { path }),
            Some(128) if stderr.contains("did not match any of the recipients") => {
                let recipients = match shape(&path, ciphertext) {
                    Shape::Sops(file) => file.recipients,
                    Shape::Plain => Vec::new(),
                };
                let ours = self.recipients()?.known;
                Err(SecretsError::WrongRecipient {
                    path,
                    recipients,
                    ours,
                })
            }
            Some(128) => Err(SecretsError::Sops {
                path,
                code: 128,
                message: one_line(&stderr),
            }),
            Some(code @ (1 | 2 | 5 | 6 | 8)) => {
                let message = without_quotes(&one_line(&stderr), ciphertext);
                Err(SecretsError::Sops {
                    path,
                    code,
                    message,
                })
            }
            code => Err(SecretsError::Sops {
                path,
                code: code.unwrap_or(-1),
                message: String::new(),
            }),
        }
    }
}

/// The program: the one that is named, else `$FABRIK_SOPS`, else the one in PATH.
fn find_binary(named: Option<&Path>) -> Result<PathBuf, SecretsError> {
    let named = named.map(Path::to_owned).or_else(|| {
        std::env::var_os(BINARY_VARIABLE)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    });
    if let Some(binary) = named {
        let binary = absolute(&binary);
        return if binary.is_file() {
            Ok(binary)
        } else {
            Err(SecretsError::SopsMissing {
                binary: Some(binary),
            })
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| absolute(&dir.join("sops")))
        .find(|candidate| candidate.is_file())
        .ok_or(SecretsError::SopsMissing { binary: None })
}

/// What a child left. No plaintext where there was too much of it.
struct Outcome {
    status: ExitStatus,
    plaintext: Option<Secret>,
    stderr: String,
}

async fn converse(
    mut child: Child,
    ciphertext: &[u8],
    max_bytes: usize,
) -> std::io::Result<Outcome> {
    let missing = || std::io::Error::other("its pipes are missing");
    let mut stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let write = async {
        // A child that does not want it all says why on stderr.
        stdin.write_all(ciphertext).await.ok();
        drop(stdin);
    };
    let listen = async {
        let mut text = Vec::new();
        stderr
            .take(MAX_STDERR_BYTES)
            .read_to_end(&mut text)
            .await
            .ok();
        String::from_utf8_lossy(&text).into_owned()
    };
    let ((), plaintext, stderr) = tokio::join!(write, read_secret(stdout, max_bytes), listen);
    let plaintext = plaintext?;
    let status = child.wait().await?;
    Ok(Outcome {
        status,
        plaintext,
        stderr,
    })
}

/// Reads into a buffer that never moves, because a moved one leaves its bytes behind in memory.
async fn read_secret(
    mut stdout: impl AsyncRead + Unpin,
    max_bytes: usize,
) -> std::io::Result<Option<Secret>> {
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(max_bytes));
    loop {
        if bytes.len() == bytes.capacity() {
            return Ok(None);
        }
        if stdout.read_buf(&mut *bytes).await? == 0 {
            return Ok(Some(Secret::new(std::mem::take(&mut *bytes))));
        }
    }
}

/// A whole SOPS file whose MAC covers all of it.
pub fn well_formed(path: &str, ciphertext: &[u8]) -> Result<SopsFile, SecretsError> {
    match shape(path, ciphertext) {
        Shape::Plain => Err(SecretsError::NotSops {
            path: path.to_owned(),
        }),
        Shape::Sops(file) if !file.problems.is_empty() => Err(SecretsError::Malformed {
            path: path.to_owned(),
            problems: file.problems,
        }),
        Shape::Sops(file) if file.mac_only_encrypted => Err(SecretsError::MacOnlyEncrypted {
            path: path.to_owned(),
        }),
        Shape::Sops(file) => Ok(file),
    }
}

fn readable(key: &Path) -> Result<(), SecretsError> {
    std::fs::File::open(key)
        .map(|_| ())
        .map_err(|error| key_file(key, &error))
}

fn key_file(path: &Path, error: &std::io::Error) -> SecretsError {
    SecretsError::KeyFileMissing {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn unusable(binary: &Path, error: &std::io::Error) -> SecretsError {
    SecretsError::SopsUnusable {
        binary: binary.to_owned(),
        reason: error.to_string(),
    }
}

/// The child runs elsewhere, so a relative path must not reach it.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn one_line(text: &str) -> String {
    let words = text
        .split_whitespace()
        .filter(|word| *word != "|" && *word != "-");
    words.collect::<Vec<_>>().join(" ")
}

/// Leaves out each word that is in the file, because it may be a value that should have been encrypted.
fn without_quotes(message: &str, ciphertext: &[u8]) -> String {
    let file = String::from_utf8_lossy(ciphertext);
    let is_quote = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        bare.is_empty() || file.contains(bare)
    };
    let words = message
        .split(' ')
        .map(|word| if is_quote(word) { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}
