//! What can go wrong with a secret, and the way out of each. No variant carries plaintext.

use std::path::PathBuf;

use fabrik_core::diagnostic::{Diagnostic, Place};

/// One variant a cause that a person would treat differently.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.told())]
pub enum SecretsError {
    /// No `sops` to run.
    SopsMissing { binary: Option<PathBuf> },
    /// `sops` is there and does not run.
    SopsUnusable { binary: PathBuf, reason: String },
    /// The age key can't be read.
    KeyFileMissing { path: PathBuf, reason: String },
    /// There is no age identity in the key file.
    KeyFileInvalid { path: PathBuf },
    /// The file is not encrypted to us.
    WrongRecipient {
        path: String,
        recipients: Vec<String>,
        ours: Vec<String>,
    },
    /// The content is not what was encrypted.
    MacMismatch { path: String },
    /// A value does not decrypt with the file's own data key.
    ValueBroken { path: String },
    /// There is no SOPS metadata.
    NotSops { path: String },
    /// A SOPS file by its looks, and not a whole one.
    Malformed { path: String, problems: Vec<String> },
    /// The MAC does not cover what is not encrypted.
    MacOnlyEncrypted { path: String },
    /// `sops` did not end.
    Timeout { path: String, seconds: u64 },
    /// More plaintext than a file of this size can have.
    TooBig { path: String, max_bytes: usize },
    /// `sops` failed in another way.
    Sops {
        path: String,
        code: i32,
        message: String,
    },
    /// `sops` did not encrypt a new file.
    NotEncrypted {
        path: String,
        code: i32,
        message: String,
    },
    /// `sops` did as a rule says that does not encrypt all of a new file.
    LeftClear { path: String, problems: Vec<String> },
    /// The plaintext is no tree of keys.
    NotATree {
        path: String,
        key: String,
        reason: String,
    },
    /// The plaintext has no such key.
    NoSuchField {
        path: String,
        key: String,
        present: Vec<String>,
    },
    /// `.sops.yaml` can't be understood.
    Rules { path: String, problem: String },
    /// A key file of founding can't be read or written.
    Disk {
        action: &'static str,
        path: PathBuf,
        reason: String,
    },
    /// A key file of founding that exists is not what it should be.
    ForeignKey { path: PathBuf, problem: String },
    /// The machine gives no random numbers.
    NoRandomness,
    /// The files themselves can't be read.
    #[error(transparent)]
    Files(#[from] crate::repo::RepoError),
}

impl SecretsError {
    /// What is wrong: the end of a sentence whose subject is `path`, or a whole one where there is no path.
    pub fn problem(&self) -> String {
        match self {
            Self::SopsMissing { binary } => {
                let at = binary.as_ref();
                let at = at.map_or_else(String::new, |path| format!(" at {}", path.display()));
                format!("can't find the program `sops`{at}")
            }
            Self::SopsUnusable { binary, reason } => {
                format!("can't run {}: {reason}", binary.display())
            }
            Self::KeyFileMissing { path, reason } => {
                format!("can't read the age key {}: {reason}", path.display())
            }
            Self::KeyFileInvalid { path } => format!(
                "{} holds no age identity (a line AGE-SECRET-KEY-…)",
                path.display()
            ),
            Self::WrongRecipient {
                recipients, ours, ..
            } => format!(
                "is encrypted to {}, and not to our key, {}",
                list(recipients),
                list(ours)
            ),
            Self::MacMismatch { .. } => {
                "was changed after it was encrypted (its MAC does not fit)".to_owned()
            }
            Self::ValueBroken { .. } => "holds a value that does not decrypt: it was put there, \
                moved or renamed by other means than sops"
                .to_owned(),
            Self::NotSops { .. } => "is not encrypted with sops".to_owned(),
            Self::Malformed { problems, .. } => {
                format!("is not a whole SOPS file: {}", problems.join("; "))
            }
            Self::MacOnlyEncrypted { .. } => "is encrypted with mac_only_encrypted, so that \
                anybody may change what is in the clear unseen"
                .to_owned(),
            Self::Timeout { seconds, .. } => format!("was not opened by sops within {seconds} s"),
            Self::TooBig { max_bytes, .. } => format!("decrypts to more than {max_bytes} bytes"),
            Self::Sops { code, message, .. } => {
                let colon = if message.is_empty() { "" } else { ": " };
                format!("could not be opened by sops (exit code {code}){colon}{message}")
            }
            Self::NotEncrypted { code, message, .. } => {
                let colon = if message.is_empty() { "" } else { ": " };
                format!("could not be encrypted by sops (exit code {code}){colon}{message}")
            }
            Self::LeftClear { problems, .. } => format!(
                "would not be encrypted whole by the rule of .sops.yaml that is for it: {}",
                problems.join(", ")
            ),
            Self::NotATree { key, reason, .. } => {
                format!("can't be searched for `{key}`: once decrypted, it is {reason}")
            }
            Self::NoSuchField { key, present, .. } => format!(
                "has no `{key}` that is a text or a number; it has {}",
                list(present)
            ),
            Self::Rules { problem, .. } => problem.clone(),
            Self::Disk {
                action,
                path,
                reason,
            } => format!("can't {action} {}: {reason}", path.display()),
            Self::ForeignKey { path, problem } => {
                format!("{} exists and {problem}", path.display())
            }
            Self::NoRandomness => "this machine gives no random numbers".to_owned(),
            Self::Files(error) => error.to_string(),
        }
    }

    /// What to do.
    pub fn remedy(&self) -> String {
        match self {
            Self::SopsMissing { .. } => {
                "install SOPS 3.9 or newer, have it in PATH, or set FABRIK_SOPS to its path".into()
            }
            Self::SopsUnusable { .. } => {
                "check that it is the SOPS program and may be executed".into()
            }
            Self::KeyFileMissing { .. } => {
                "put the cluster's age identity there, readable by fabrik only".into()
            }
            Self::KeyFileInvalid { .. } => "put the cluster's age identity there".into(),
            Self::WrongRecipient { path, .. } => {
                format!("add ours to .sops.yaml and run `sops updatekeys {path}`")
            }
            Self::MacMismatch { path }
            | Self::ValueBroken { path }
            | Self::Malformed { path, .. } => format!(
                "take the last good version from git, and change it with `sops edit {path}` only"
            ),
            Self::NotSops { path } => format!("encrypt it: `sops encrypt --in-place {path}`"),
            Self::MacOnlyEncrypted { .. } => {
                "take that option out of .sops.yaml and encrypt the file anew".into()
            }
            Self::Timeout { .. } => "check the load of this machine, and whether the file asks \
                for a key service that can't be reached"
                .into(),
            Self::TooBig { .. } => "split it".into(),
            Self::Sops { path, .. } => format!("run `sops decrypt {path}` to see more"),
            Self::NotEncrypted { path, .. } => {
                format!("have a rule in .sops.yaml that is for {path} and names age recipients")
            }
            Self::LeftClear { path, .. } => format!(
                "have a rule for {path} before that one, without encrypted_regex, unencrypted_regex, a suffix, comments or \
                 mac_only_encrypted: `- path_regex: ^secrets/` with age recipients"
            ),
            Self::NotATree { .. } => "write it as YAML or JSON".into(),
            Self::NoSuchField { path, .. } => {
                format!("add it with `sops edit {path}`, or correct what refers to it")
            }
            Self::Rules { .. } => "correct it; `sops` reads it too".into(),
            Self::Disk { .. } => "check the directory's owner and mode".into(),
            Self::ForeignKey { .. } => "restore it from a backup; only if this cluster was never \
                founded, remove it and found again"
                .into(),
            Self::NoRandomness => "check its kernel".into(),
            Self::Files(_) => String::new(),
        }
    }

    /// The file of the repository that it is about.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::WrongRecipient { path, .. }
            | Self::MacMismatch { path }
            | Self::ValueBroken { path }
            | Self::NotSops { path }
            | Self::Malformed { path, .. }
            | Self::MacOnlyEncrypted { path }
            | Self::Timeout { path, .. }
            | Self::TooBig { path, .. }
            | Self::Sops { path, .. }
            | Self::NotEncrypted { path, .. }
            | Self::LeftClear { path, .. }
            | Self::NotATree { path, .. }
            | Self::NoSuchField { path, .. }
            | Self::Rules { path, .. } => Some(path),
            _ => None,
        }
    }

    /// A fault of the commit as a diagnostic.
    ///
    /// # Errors
    /// The error itself where the commit is not to blame.
    pub fn into_diagnostic(self) -> Result<Diagnostic, Self> {
        if let Self::Files(error) = self {
            return error.into_diagnostic().map_err(Self::Files);
        }
        match self.path().map(str::to_owned) {
            Some(path) if self.is_fault_of_commit() => Ok(Diagnostic {
                place: Place::file(&path),
                object: path,
                problem: self.problem(),
                remedy: self.remedy(),
            }),
            _ => Err(self),
        }
    }

    fn told(&self) -> String {
        if let Self::Files(error) = self {
            return error.to_string();
        }
        let (problem, remedy) = (self.problem(), self.remedy());
        match self.path() {
            Some(path) => format!("{path} {problem}; {remedy}"),
            None => format!("{problem}; {remedy}"),
        }
    }

    /// Whether the fault is in the commit, so that the commit is to be refused; else it is in this machine's set-up, or
    /// passing, and the commit may be tried again.
    pub fn is_fault_of_commit(&self) -> bool {
        matches!(
            self,
            Self::WrongRecipient { .. }
                | Self::MacMismatch { .. }
                | Self::ValueBroken { .. }
                | Self::NotSops { .. }
                | Self::Malformed { .. }
                | Self::MacOnlyEncrypted { .. }
                | Self::TooBig { .. }
                | Self::NotATree { .. }
                | Self::NoSuchField { .. }
                | Self::Rules { .. }
        )
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}
