//! What `fabrik init` can fail with, and the way out of each.

use std::path::PathBuf;

use fabrik_core::diagnostic::Diagnostic;

use super::keys::{CLUSTER_KEY_FILE, TOKEN_FILE};
use super::record::RECORD_FILE;
use super::template::RULES_FILE;
use crate::cli::git;
use crate::gate::SPEC_FILE;
use crate::secrets::SecretsError;

/// One variant a cause that a person would treat differently.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("nobody can be asked, because this is no terminal. Give also {}", flags.join(", "))]
    Missing { flags: Vec<&'static str> },
    #[error(
        "{SPEC_FILE} is there and not right. Mend it first:\n{}",
        listed(faults)
    )]
    SpecThere { faults: Vec<Diagnostic> },
    #[error(
        "these answers make no cluster; as lines of {SPEC_FILE}:\n{}",
        listed(faults)
    )]
    Answers { faults: Vec<Diagnostic> },
    #[error("the SSH key: {problem}")]
    SshKey { problem: String },
    #[error("--fabrik-flake: {problem}")]
    FlakeUrl { problem: String },
    #[error(
        "the Hetzner token is empty or holds characters that no token has. Make one at Hetzner (the project's Security → \
         API tokens, read and write), and give the file with it by --token-file"
    )]
    Token,
    #[error("that is no age recipient (age1…). `age-keygen -y FILE` shows the recipient of a key")]
    Recipient,
    #[error(
        "that is a private age key, and now in your shell's history: replace it. --age-recipient takes the public half, age1…"
    )]
    PrivateRecipient,
    #[error(
        "{} holds no age key whose recipient fabrik can tell. Name it by --age-recipient",
        file.display()
    )]
    UnreadableKey { file: PathBuf },
    #[error("there is no HOME to keep an age key in. Set it, or give --age-recipient")]
    NoHome,
    #[error(
        "{CLUSTER_KEY_FILE} is there, and {RULES_FILE} is not. Restore {RULES_FILE}; if the cluster was not founded yet, remove \
         {CLUSTER_KEY_FILE} and all that is encrypted to its recipient ({TOKEN_FILE}, for one), and repeat this; else name \
         the cluster's recipient by --cluster-age-recipient"
    )]
    LostRules,
    #[error(
        "{} lies within the git repository {}, which could not hold it. A cluster's repository is one of its own: name a folder \
         elsewhere, or `git init` this one first",
        dir.display(),
        top.display()
    )]
    Within { dir: PathBuf, top: PathBuf },
    #[error(
        "{} has no {RECORD_FILE}, so nothing tells your changes from the template's. Run `fabrik init` first: it keeps what \
         is there",
        dir.display()
    )]
    NoRecord { dir: PathBuf },
    #[error("{}: {problem}. Restore it from git; a newer fabrik may have written it", path.display())]
    Record { path: PathBuf, problem: String },
    #[error(
        "{} is a link, and no commit has what is behind it. Put a folder in its place",
        folder.display()
    )]
    Link { folder: PathBuf },
    #[error(
        "{TOKEN_FILE} can't be encrypted: {RULES_FILE}, which says to whom, is not there. Restore {RULES_FILE} from git"
    )]
    NoRules,
    #[error("can't {action} {}: {source}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(
        "git ignores {}, which the cluster needs, so nothing was committed. Take the rules out that `git check-ignore -v` \
         names for them, or `git add --force` them", paths.join(", ")
    )]
    Ignored { paths: Vec<String> },
    #[error(transparent)]
    Git(#[from] git::GitError),
    #[error("the record can't be written as TOML: {0}")]
    Render(#[from] toml::ser::Error),
}

fn listed(faults: &[Diagnostic]) -> String {
    let lines = faults.iter().map(ToString::to_string);
    lines.collect::<Vec<_>>().join("\n")
}
