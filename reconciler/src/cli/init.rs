//! `fabrik init`: the repository of a new cluster, from `cluster-repo-template/`. Done again, it makes what is missing and
//! keeps what is there.
//!
//! All that can fail is done before the first file is written. `.fabrik/template.toml` is written last: while it is
//! missing, this was never done to its end.

mod answers;
pub mod files;
mod keys;
mod record;
mod template;
mod terminal;
mod upgrade;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::spec::{self, Spec};

use self::answers::Flags;
use self::files::Fate;
use self::keys::{CLUSTER_KEY_FILE, KeyFlags, TOKEN_FILE};
use self::record::{RECORD_FILE, Record};
use self::template::{RULES_FILE, is_executable};
use self::terminal::Ask;
use super::{Failure, git, say};
use crate::build;
use crate::gate::SPEC_FILE;
use crate::secrets::SecretsError;

const LOCK_FILE: &str = "flake.lock";

#[derive(Debug, Args)]
pub struct Options {
    /// The repository, which is made if it is not there. Its last part is the cluster's name, if no flag names it.
    #[arg(value_name = "DIR|NAME", default_value = ".")]
    dir: PathBuf,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    keys: KeyFlags,
    /// Makes no flake.lock, which needs Nix and a network.
    #[arg(long)]
    no_lock: bool,
    /// Commits what it made.
    #[arg(long)]
    commit: bool,
    #[command(flatten)]
    newer: Newer,
}

#[derive(Debug, Args)]
struct Newer {
    /// Shows what this fabrik's template would write otherwise, as a patch for `git apply`.
    #[arg(long)]
    upgrade: bool,
    /// With --upgrade: changes the files that you did not change.
    #[arg(long, requires = "upgrade")]
    apply: bool,
}

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
    #[error(transparent)]
    Git(#[from] git::GitError),
    #[error("the record can't be written as TOML: {0}")]
    Render(#[from] toml::ser::Error),
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let dir = options.dir;
    if options.newer.upgrade {
        return upgrade::run(&dir, options.newer.apply);
    }
    // Without a git that is said later, and all else is made.
    if let Ok(Some(top)) = git::around(&dir) {
        return Err(InitError::Within { dir, top }.into());
    }
    let (known, is_answered) = (Record::read(&dir)?, options.flags.are_given());
    let again = known.is_some();
    let (record, secrets) = match known {
        Some(record) => (record, Secrets::default()),
        None => begin(&dir, options.flags, &options.keys).await?,
    };
    if let Some(file) = &secrets.new_key {
        let file = file.display();
        say(format_args!(
            "made      {file}, your age key: keep a copy elsewhere"
        ))?;
    }
    if again && is_answered {
        eprintln!(
            "note: the answers are those of the first time, and the flags are not looked at: edit the files"
        );
    }
    let name = record.answers.name.clone();
    let mut made = write(&dir, record, &secrets.files)?;
    let tracked = under_git(&dir, &made);
    if !options.no_lock && lock(&dir).await? {
        made.push(LOCK_FILE.to_owned());
    }
    let tracked = tracked.and_then(|()| git::add(&dir, &made));
    match (options.commit && !made.is_empty(), tracked) {
        (true, tracked) => {
            tracked?;
            git::commit(
                &dir,
                &format!("Begin the cluster {name}, by fabrik init"),
                &made,
            )?;
            say("committed")?;
        }
        (false, Err(error)) => eprintln!("note: what was made is not in git: {error}"),
        (false, Ok(())) => {}
    }
    if !again {
        let readme = dir.join("README.md");
        eprintln!("next: \"The first time\" in {}", readme.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// What is encrypted, for a repository that has no secrets yet.
#[derive(Default)]
struct Secrets {
    files: Vec<(&'static str, Vec<u8>)>,
    /// The person's key file, where it had to be made.
    new_key: Option<PathBuf>,
}

/// Asks, makes keys, encrypts. Writes nothing into the repository.
async fn begin(
    dir: &Path,
    flags: Flags,
    key_flags: &KeyFlags,
) -> Result<(Record, Secrets), InitError> {
    let there = spec_there(dir)?;
    let wants_token = wants_token(dir, there.as_ref());
    let mut ask = Ask::terminal();
    let answers = answers::gather(flags, dir, there.as_ref(), &mut ask)?;
    if wants_token && key_flags.token_file.is_none() && !ask.is_somebody_there() {
        ask.is_missing("--token-file FILE");
    }
    let Some(mut answers) = answers.filter(|_| ask.missing().is_empty()) else {
        let flags = ask.missing().to_vec();
        return Err(InitError::Missing { flags });
    };
    if there.is_none() {
        let text = &template::files(&answers)[SPEC_FILE];
        spec::parse(SPEC_FILE, text).map_err(|faults| InitError::Answers { faults })?;
    }
    let token = if wants_token {
        Some(keys::token(key_flags.token_file.as_deref()).await?)
    } else {
        None
    };
    let mut plain = Vec::new();
    let mut new_key = None;
    let rules_file = dir.join(RULES_FILE);
    let rules = if rules_file.symlink_metadata().is_ok() {
        std::fs::read_to_string(&rules_file).map_err(files::failed("read", &rules_file))?
    } else {
        let keys = keys::keys(key_flags, dir)?;
        new_key = keys.made;
        plain.extend(keys.cluster.map(|key| (CLUSTER_KEY_FILE, key)));
        answers.recipients = Some(keys.recipients);
        template::files(&answers)[RULES_FILE].clone()
    };
    if let Some(token) = token {
        plain.push((TOKEN_FILE, keys::token_document(&token)?));
    }
    let files = keys::encrypted(&rules, plain).await?;
    Ok((Record::of(answers), Secrets { files, new_key }))
}

/// What the directory's `cluster.toml` says, if it has one.
fn spec_there(dir: &Path) -> Result<Option<Spec>, InitError> {
    let path = dir.join(SPEC_FILE);
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.map_err(files::failed("read", &path))?,
    };
    let spec = spec::parse(SPEC_FILE, &text);
    spec.map(Some)
        .map_err(|faults| InitError::SpecThere { faults })
}

/// A `cluster.toml` that is there may have its token elsewhere.
fn wants_token(dir: &Path, there: Option<&Spec>) -> bool {
    let ours = there.is_none_or(|spec| spec.hetzner.token.file == TOKEN_FILE);
    ours && !dir.join(TOKEN_FILE).exists()
}

/// Makes what is missing, and tells of each file what became of it. Returns what was made.
fn write(
    dir: &Path,
    mut record: Record,
    secrets: &[(&str, Vec<u8>)],
) -> Result<Vec<String>, Failure> {
    let mut made = Vec::new();
    // Rules for a key that was lost would be worse than a key without rules: secrets go first.
    for (path, content) in secrets {
        tell(
            path,
            files::create(&dir.join(path), content, false)?,
            &mut made,
        )?;
    }
    for (path, text) in template::files(&record.answers) {
        let file = dir.join(path);
        let known = record.files.contains_key(path);
        if known && file.symlink_metadata().is_err() {
            say(format_args!("left out  {path} (you removed it)"))?;
            continue;
        }
        let fate = files::create(&file, text.as_bytes(), is_executable(path))?;
        tell(path, fate, &mut made)?;
        if !known && fate != Fate::Kept {
            record.files.insert(path.to_owned(), text);
        }
    }
    let (file, text) = (dir.join(RECORD_FILE), record.text()?);
    if std::fs::read_to_string(&file).is_ok_and(|there| there == text) {
        return Ok(made);
    }
    files::replace(&file, &text)?;
    tell(RECORD_FILE, Fate::Made, &mut made)?;
    Ok(made)
}

fn tell(path: &str, fate: Fate, made: &mut Vec<String>) -> Result<(), Failure> {
    if fate == Fate::Made {
        made.push(path.to_owned());
        say(format_args!("made      {path}"))?;
    } else {
        say(format_args!("kept      {path}"))?;
    }
    Ok(())
}

/// Nix takes of a work tree only what git knows.
fn under_git(dir: &Path, made: &[String]) -> Result<(), git::GitError> {
    if git::begin(dir)? {
        eprintln!("note: this is a git repository now");
    }
    git::add(dir, made)
}

/// Says whether it made a lock file.
async fn lock(dir: &Path) -> Result<bool, Failure> {
    if dir.join(LOCK_FILE).exists() || !dir.join("flake.nix").exists() {
        return Ok(false);
    }
    match build::lock(dir).await {
        Ok(()) => {
            say(format_args!("made      {LOCK_FILE}"))?;
            Ok(true)
        }
        Err(why) => {
            eprintln!(
                "note: {LOCK_FILE} was not made: {why}\n  \
                 Run `nix flake lock` in the repository where there is Nix and a network, and commit {LOCK_FILE}: \
                 fabrik builds nothing that is not locked"
            );
            Ok(false)
        }
    }
}

fn listed(faults: &[Diagnostic]) -> String {
    let lines = faults.iter().map(ToString::to_string);
    lines.collect::<Vec<_>>().join("\n")
}
