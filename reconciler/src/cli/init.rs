//! `fabrik init`: the repository of a new cluster, from `cluster-repo-template/`. Done again, it makes what is missing and
//! keeps what is there.
//!
//! All that can fail is done before the first file is written. `.fabrik/template.toml` is written last: while it is
//! missing, this was never done to its end.

mod answers;
mod commit;
mod draft;
mod error;
pub mod files;
pub mod keys;
mod record;
mod template;
mod terminal;
mod upgrade;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use fabrik_core::spec::{self, Spec};

use self::answers::{Answers, Flags};
pub use self::error::InitError;
use self::files::Fate;
use self::keys::{CLUSTER_KEY_FILE, KeyFlags, OwnKey, TOKEN_FILE};
use self::record::{RECORD_FILE, Record};
use self::template::{RULES_FILE, is_executable};
use self::terminal::Ask;
use super::{Failure, git, say};
use crate::build;
use crate::gate::SPEC_FILE;

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

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let dir = options.dir;
    if options.newer.upgrade {
        return upgrade::run(&dir, options.newer.apply);
    }
    // Without a git that is said later, and all else is made.
    if let Ok(Some(top)) = git::around(&dir) {
        return Err(InitError::Within { dir, top }.into());
    }
    let known = Record::read(&dir)?;
    let again = known.is_some();
    let (mut record, secrets) = match known {
        Some(record) => {
            let secrets = resume(&dir, &record, &options.flags, &options.keys).await?;
            (record, secrets)
        }
        None => begin(&dir, options.flags, &options.keys).await?,
    };
    let mut made = write(&dir, &mut record, &secrets.files)?;
    let tracked = under_git(&dir, &made);
    if !options.no_lock && lock(&dir).await? {
        made.push(LOCK_FILE.to_owned());
    }
    let tracked = tracked.and_then(|()| git::add(&dir, &made));
    match (options.commit, tracked) {
        (true, tracked) => {
            tracked?;
            let committed = commit::commit(&dir, &record, &made)?;
            say(if committed {
                "committed"
            } else {
                "nothing to commit"
            })?;
        }
        (false, Err(error)) => eprintln!("note: what was made is not in git: {error}"),
        (false, Ok(())) => {}
    }
    if let Some(own) = &secrets.own {
        eprintln!("{}", own.note());
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
    /// The key that opens them, where it is that of whoever runs this.
    own: Option<OwnKey>,
}

/// Asks, makes keys, encrypts. Writes nothing into the repository.
async fn begin(
    dir: &Path,
    flags: Flags,
    key_flags: &KeyFlags,
) -> Result<(Record, Secrets), InitError> {
    let there = spec_there(dir)?;
    // What is there already says by itself whether it has a project at Hetzner.
    let is_asked = there.is_some() || !flags.own;
    let token_key = token_key(dir, there.as_ref()).filter(|_| is_asked);
    let mut ask = Ask::terminal();
    let answers = answers::gather(flags, dir, there.as_ref(), &mut ask)?;
    if token_key.is_some() && key_flags.token_file.is_none() && !ask.is_somebody_there() {
        ask.is_missing("--token-file FILE");
    }
    let Some(mut answers) = answers.filter(|_| ask.missing().is_empty()) else {
        let flags = ask.missing().to_vec();
        return Err(InitError::Missing { flags });
    };
    must_lie_within(dir, &answers)?;
    if there.is_none() {
        let text = &template::files(&answers)[SPEC_FILE];
        spec::parse(SPEC_FILE, text).map_err(|faults| InitError::Answers { faults })?;
    }
    let token = match token_key {
        Some(key) => {
            let token = keys::token(key_flags.token_file.as_deref()).await?;
            Some(keys::token_document(&token, &key)?)
        }
        None => None,
    };
    let mut plain = Vec::new();
    let mut own = None;
    let rules = if let Some(rules) = rules_there(dir)? {
        // They are the template's where a run made them and did not come to its end.
        answers.recipients = template::recipients_in(&rules);
        let unheeded = key_flags.recipients();
        if !unheeded.is_empty() {
            eprintln!(
                "note: {} not looked at: {RULES_FILE} is there, and says to whom",
                is(&unheeded)
            );
        }
        rules
    } else {
        let keys = keys::keys(key_flags, dir)?;
        own = keys.own;
        plain.extend(keys.cluster.map(|key| (CLUSTER_KEY_FILE, key)));
        answers.recipients = Some(keys.recipients);
        template::files(&answers)[RULES_FILE].clone()
    };
    plain.extend(token.map(|document| (TOKEN_FILE, document)));
    let files = keys::encrypted(&rules, plain).await?;
    Ok((Record::of(answers), Secrets { files, own }))
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

/// The key that the token is to be written under. `None` where it is there, or a `cluster.toml` has it elsewhere or needs none.
fn token_key(dir: &Path, there: Option<&Spec>) -> Option<String> {
    let place = match there {
        Some(spec) => Some(&spec.hetzner.as_ref()?.token),
        None => None,
    };
    let is_ours = place.is_none_or(|place| place.file == TOKEN_FILE);
    let key = place.map_or("token", |place| place.key.as_str());
    (is_ours && dir.join(TOKEN_FILE).symlink_metadata().is_err()).then(|| key.to_owned())
}

fn rules_there(dir: &Path) -> Result<Option<String>, InitError> {
    let path = dir.join(RULES_FILE);
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path);
    text.map(Some).map_err(files::failed("read", &path))
}

/// All that is written lies in the repository itself.
fn must_lie_within(dir: &Path, answers: &Answers) -> Result<(), InitError> {
    let files = template::files(answers);
    let beside = [TOKEN_FILE, CLUSTER_KEY_FILE, RECORD_FILE];
    let mut paths = files.keys().copied().chain(beside);
    paths.try_for_each(|path| files::must_not_be_behind_link(dir, path))
}

/// What a later run encrypts: the token, where it is given and its file is missing. Says which flags come too late.
async fn resume(
    dir: &Path,
    record: &Record,
    flags: &Flags,
    key_flags: &KeyFlags,
) -> Result<Secrets, InitError> {
    must_lie_within(dir, &record.answers)?;
    let mut secrets = Secrets::default();
    let mut unheeded = flags.given();
    if let Some(file) = key_flags.token_file.as_deref() {
        match token_key(dir, spec_there(dir)?.as_ref()) {
            Some(key) => {
                let rules = rules_there(dir)?.ok_or(InitError::NoRules)?;
                let document = keys::token_document(&keys::token(Some(file)).await?, &key)?;
                secrets.files = keys::encrypted(&rules, vec![(TOKEN_FILE, document)]).await?;
            }
            None => unheeded.push("--token-file"),
        }
    }
    unheeded.extend(key_flags.recipients());
    if !unheeded.is_empty() {
        eprintln!(
            "note: the answers are those of the first time, and {} not looked at: edit the files. `sops edit {TOKEN_FILE}` \
             changes the token; whom secrets are for is in {RULES_FILE}, and `sops updatekeys FILE` carries it out",
            is(&unheeded)
        );
    }
    Ok(secrets)
}

/// The flags, as the subject of a sentence.
fn is(flags: &[&str]) -> String {
    let verb = if flags.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", flags.join(", "))
}

/// Makes what is missing, and tells of each file what became of it. Returns what was made.
fn write(
    dir: &Path,
    record: &mut Record,
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
