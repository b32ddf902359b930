//! What `fabrik init` has to be told: by flags, by what is there already, by a person at a terminal, in this order. Who has
//! no terminal is told all that is missing at once.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use fabrik_core::id::{ClusterName, InvalidId};
use fabrik_core::spec::Spec;
use serde::{Deserialize, Serialize};

use super::InitError;
use super::draft::Draft;
use super::terminal::{Ask, Question};

/// Where fabrik's own flake is, if whoever built this binary said so.
const FLAKE: Option<&str> = option_env!("FABRIK_FLAKE");
const MAX_WORKERS: u32 = 1000;

/// What the template is filled with. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Answers {
    pub name: ClusterName,
    pub workers: u32,
    pub server_types: Vec<String>,
    pub locations: Vec<String>,
    pub ssh_key: String,
    pub forge: Forge,
    pub fabrik_flake: String,
    /// The `cluster.toml` that was there has no pool `workers`, and so no use for the template's module of that name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_workers: bool,
    /// All machines are the person's, and nothing is at Hetzner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
    /// None where somebody else's `.sops.yaml` was there first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients: Option<Recipients>,
}

/// Whom secrets are encrypted to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipients {
    pub people: Vec<String>,
    pub cluster: String,
}

/// Where the repository is to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Forge {
    Github,
    Gitlab,
    Forgejo,
    /// Somewhere without workflows that fabrik knows.
    None,
}

/// The answers of the command line.
#[derive(Debug, Default, Args)]
pub struct Flags {
    /// The cluster's name [default: the directory's].
    #[arg(long)]
    pub name: Option<ClusterName>,
    /// For machines of your own: nothing is at Hetzner, and no token is asked for.
    #[arg(
        long,
        conflicts_with_all = ["workers", "server_types", "locations", "token_file"]
    )]
    pub own: bool,
    /// How many workers.
    #[arg(long, value_name = "COUNT")]
    pub workers: Option<u32>,
    /// Their types at Hetzner, tried in order when stock runs out, as `cx33,cx43`.
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    pub server_types: Vec<String>,
    /// Where they may be, tried in order, as `fsn1,nbg1`.
    #[arg(long, value_name = "LOCATIONS", value_delimiter = ',')]
    pub locations: Vec<String>,
    /// Your public SSH key, or its `.pub` file.
    #[arg(long, value_name = "KEY|FILE")]
    pub ssh_key: Option<String>,
    /// Where the repository is to live, for the workflows of that forge.
    #[arg(long, value_enum)]
    pub forge: Option<Forge>,
    /// Where fabrik's own flake is, as `github:OWNER/fabrik`.
    #[arg(long, value_name = "URL")]
    pub fabrik_flake: Option<String>,
}

impl Flags {
    /// What these flags are called, of those that are given.
    pub fn given(&self) -> Vec<&'static str> {
        let Self {
            name,
            own,
            workers,
            server_types,
            locations,
            ssh_key,
            forge,
            fabrik_flake,
        } = self;
        named([
            ("--name", name.is_some()),
            ("--own", *own),
            ("--workers", workers.is_some()),
            ("--server-types", !server_types.is_empty()),
            ("--locations", !locations.is_empty()),
            ("--ssh-key", ssh_key.is_some()),
            ("--forge", forge.is_some()),
            ("--fabrik-flake", fabrik_flake.is_some()),
        ])
    }
}

/// Those of the flags that are given.
pub fn named<const N: usize>(flags: [(&'static str, bool); N]) -> Vec<&'static str> {
    let given = flags.into_iter().filter(|(_, is_given)| *is_given);
    given.map(|(flag, _)| flag).collect()
}

/// What need not be asked.
#[derive(Default)]
struct Known {
    name: Option<ClusterName>,
    workers: Option<u32>,
    server_types: Option<Vec<String>>,
    locations: Option<Vec<String>>,
    ssh_key: Option<String>,
    forge: Option<Forge>,
    fabrik_flake: Option<String>,
}

impl Known {
    fn by_flags(flags: Flags, dir: &Path) -> Result<Self, InitError> {
        let key = flags.ssh_key.map(|text| ssh_key(&text)).transpose();
        let url = flags.fabrik_flake.or(FLAKE.map(str::to_owned));
        let url = url.map(|url| flake_url(&url)).transpose();
        let none = || flags.own.then(Vec::new);
        Ok(Self {
            name: flags.name.or_else(|| name_of(dir).ok()),
            workers: flags.workers.or(flags.own.then_some(0)),
            server_types: some_of(flags.server_types).or_else(none),
            locations: some_of(flags.locations).or_else(none),
            ssh_key: key.map_err(|problem| InitError::SshKey { problem })?,
            forge: flags.forge,
            fabrik_flake: url.map_err(|problem| InitError::FlakeUrl { problem })?,
        })
    }

    /// A `cluster.toml` that is there is kept, so nothing is asked for its sake.
    fn and_by_spec(self, spec: &Spec) -> Self {
        let pool = spec.pools.values().next();
        let types = pool.map(|pool| pool.server_types.clone());
        let locations = pool.map(|pool| pool.locations.clone());
        Self {
            name: Some(spec.name.clone()),
            workers: Some(pool.map_or(0, |pool| pool.count)),
            server_types: Some(types.unwrap_or_default()),
            locations: Some(locations.unwrap_or_default()),
            ssh_key: Some(spec.ssh_keys.values().next().cloned().unwrap_or_default()),
            ..self
        }
    }
}

/// All answers but those about keys. `there` is what the directory's `cluster.toml` says. `None` where something is missing.
pub fn gather(
    flags: Flags,
    dir: &Path,
    there: Option<&Spec>,
    ask: &mut Ask<'_>,
) -> Result<Option<Answers>, InitError> {
    let own = flags.own && there.is_none();
    let known = Known::by_flags(flags, dir)?;
    let known = match there {
        Some(spec) => known.and_by_spec(spec),
        None => known,
    };
    if let (None, Err(fault)) = (&known.name, name_of(dir)) {
        eprintln!(
            "note: a cluster can't be called after this folder: {fault}. Use at most 20 of a-z, 0-9 and -, beginning with a letter"
        );
    }
    let own_key = own_ssh_key();
    let name = ask.unless(known.name, &NAME, None, |text| {
        text.parse().map_err(|fault| format!("{fault}"))
    })?;
    let mut draft = Draft::new(own);
    let reader = draft.reader(count, |answers, it| answers.workers = it);
    let workers = ask.unless(known.workers, &WORKERS, Some("2"), reader)?;
    let reader = draft.reader(words, |answers, it| answers.locations = it);
    let locations = ask.unless(known.locations, &LOCATIONS, Some("fsn1,nbg1"), reader)?;
    draft.know_locations(locations.as_deref());
    let reader = draft.reader(words, |answers, it| answers.server_types = it);
    let types = ask.unless(known.server_types, &SERVER_TYPES, Some("cx33,cx43"), reader)?;
    let reader = draft.reader(ssh_key, |answers, it| answers.ssh_key = it);
    let key = ask.unless(known.ssh_key, &SSH_KEY, own_key.as_deref(), reader)?;
    let forge = ask.unless(known.forge, &FORGE, None, |text| {
        Forge::from_str(text, true)
    })?;
    let url = ask.unless(known.fabrik_flake, &FABRIK_FLAKE, None, flake_url)?;
    let gathered = || {
        Some(Answers {
            name: name?,
            workers: workers?,
            server_types: types?,
            locations: locations?,
            ssh_key: key?,
            forge: forge?,
            fabrik_flake: url?,
            without_workers: own || there.is_some_and(|spec| !has_workers(spec)),
            own,
            recipients: None,
        })
    };
    Ok(gathered())
}

const NAME: Question = Question {
    flag: "--name NAME",
    text: "The cluster's name",
};
const WORKERS: Question = Question {
    flag: "--workers COUNT",
    text: "How many workers",
};
const SERVER_TYPES: Question = Question {
    flag: "--server-types TYPES",
    text: "Their types at Hetzner, tried in order",
};
const LOCATIONS: Question = Question {
    flag: "--locations LOCATIONS",
    text: "Where they may be, tried in order",
};
const SSH_KEY: Question = Question {
    flag: "--ssh-key KEY|FILE",
    text: "Your public SSH key, or its .pub file",
};
const FORGE: Question = Question {
    flag: "--forge FORGE",
    text: "Where the repository will live: github, gitlab, forgejo or none",
};
const FABRIK_FLAKE: Question = Question {
    flag: "--fabrik-flake URL",
    text: "Where fabrik's flake is, as github:OWNER/fabrik",
};

fn has_workers(spec: &Spec) -> bool {
    spec.pools.keys().any(|pool| pool.as_str() == "workers")
}

/// The last part of the directory's path, where that can be a cluster's name.
fn name_of(dir: &Path) -> Result<ClusterName, InvalidId> {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let name = dir.file_name().unwrap_or_default();
    name.to_string_lossy().parse()
}

fn some_of(words: Vec<String>) -> Option<Vec<String>> {
    (!words.is_empty()).then_some(words)
}

fn count(text: &str) -> Result<u32, String> {
    let count = text.parse().ok().filter(|count| *count <= MAX_WORKERS);
    count.ok_or_else(|| format!("give a number from 0 to {MAX_WORKERS}"))
}

fn words(text: &str) -> Result<Vec<String>, String> {
    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
    some_of(words.map(str::to_owned).collect()).ok_or_else(|| "name at least one".to_owned())
}

/// A public key, or what a file holds that a path names. Never repeats what it was given: it may be the private one.
fn ssh_key(text: &str) -> Result<String, String> {
    let text = text.trim();
    let is_key = text.starts_with("ssh-") || text.starts_with("ecdsa-") || text.starts_with("sk-");
    let key = if is_key {
        text.to_owned()
    } else if text.contains("PRIVATE KEY") {
        return Err("that is a private key: name its .pub file".to_owned());
    } else {
        let path = expanded(text);
        let read = std::fs::read_to_string(&path);
        read.map_err(|error| format!("can't read {}: {error}", path.display()))?
    };
    if key.contains("PRIVATE KEY") {
        return Err("that is a private key: name its .pub file".to_owned());
    }
    let key = key.trim();
    if key.is_empty() || key.contains(['\n', '\r']) {
        return Err("that is not one public key: paste the one line of the .pub file".to_owned());
    }
    Ok(key.to_owned())
}

/// A shell does not see what is typed at a question.
fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

fn own_ssh_key() -> Option<String> {
    let dir = std::env::home_dir()?.join(".ssh");
    let files = ["id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"].map(|name| dir.join(name));
    let found = files.into_iter().find(|file| file.is_file())?;
    found.to_str().map(str::to_owned)
}

/// Goes into a string of Nix' language as it is.
fn flake_url(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '$');
    if text.contains("OWNER") {
        return Err("write who has fabrik's repository in the place of OWNER".to_owned());
    }
    // As a browser shows it.
    if text.starts_with("https://github.com/") && !text.contains("/archive/") {
        return Err("Nix takes that for an archive: write github:OWNER/fabrik".to_owned());
    }
    if text.contains(':') && text.chars().all(fine) {
        Ok(text.to_owned())
    } else {
        Err("that is no flake's URL, like github:OWNER/fabrik".to_owned())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn answers() -> Answers {
        // RFC 8032's first public key.
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea alice@laptop";
        Answers {
            name: "demo".parse().unwrap(),
            workers: 3,
            server_types: vec!["cx53".to_owned()],
            locations: vec!["hel1".to_owned(), "nbg1".to_owned()],
            ssh_key: key.to_owned(),
            forge: Forge::Github,
            fabrik_flake: "git+https://git.example.com/fabrik".to_owned(),
            without_workers: false,
            own: false,
            recipients: Some(Recipients {
                people: vec!["age1me".to_owned(), "age1her".to_owned()],
                cluster: "age1theirs".to_owned(),
            }),
        }
    }

    fn flags() -> Flags {
        let answers = answers();
        Flags {
            name: Some(answers.name),
            own: false,
            workers: Some(answers.workers),
            server_types: answers.server_types,
            locations: answers.locations,
            ssh_key: Some(answers.ssh_key),
            forge: Some(answers.forge),
            fabrik_flake: Some(answers.fabrik_flake),
        }
    }

    #[test]
    fn who_gives_all_flags_is_asked_nothing() {
        let mut ask = Ask::nobody();
        let told = gather(flags(), Path::new("x"), None, &mut ask).unwrap();
        let expected = Answers {
            recipients: None,
            ..answers()
        };
        assert_eq!((told, ask.missing()), (Some(expected), [].as_slice()));
    }

    #[test]
    fn without_a_terminal_all_that_is_missing_is_told_at_once() {
        let mut ask = Ask::nobody();
        let told = gather(Flags::default(), Path::new("Not a Name"), None, &mut ask).unwrap();
        assert_eq!(told, None);
        let missing = [
            "--name NAME",
            "--workers COUNT",
            "--locations LOCATIONS",
            "--server-types TYPES",
            "--ssh-key KEY|FILE",
            "--forge FORGE",
        ];
        assert_eq!(ask.missing()[..6], missing);
    }

    #[test]
    fn the_directory_names_the_cluster_and_a_cluster_toml_answers_the_rest() {
        let text = super::super::template::files(&answers())["cluster.toml"].clone();
        let spec = fabrik_core::spec::parse("cluster.toml", &text).unwrap();
        let few = Flags {
            forge: Some(Forge::None),
            fabrik_flake: Some("path:/x".to_owned()),
            ..Flags::default()
        };
        let told = gather(few, Path::new("other"), Some(&spec), &mut Ask::nobody());
        let told = told.unwrap().unwrap();
        assert_eq!((told.name.as_str(), told.workers), ("demo", 3));
        let named = Flags {
            name: None,
            ..flags()
        };
        let told = gather(named, Path::new("a/shop"), None, &mut Ask::nobody());
        assert_eq!(told.unwrap().unwrap().name.as_str(), "shop");
    }

    #[test]
    fn a_private_key_is_refused_and_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id");
        std::fs::write(&file, "-----BEGIN OPENSSH PRIVATE KEY-----\nplanted\n").unwrap();
        for text in [
            file.to_str().unwrap(),
            "-----BEGIN OPENSSH PRIVATE KEY----- planted",
        ] {
            let told = ssh_key(text).unwrap_err();
            assert!(
                told.contains("private key") && !told.contains("planted"),
                "{told}"
            );
        }
        assert!(
            ssh_key("/no/such.pub")
                .unwrap_err()
                .contains("can't read /no/such.pub")
        );
        assert_eq!(
            ssh_key(" ssh-ed25519 AAAA a \n").unwrap(),
            "ssh-ed25519 AAAA a"
        );
    }

    #[test]
    fn an_url_that_could_leave_its_string_or_is_a_browser_s_is_none() {
        assert!(flake_url("github:a/b?ref=v1").is_ok());
        for wrong in [
            "",
            "a",
            "github:OWNER/fabrik",
            "github:a/\"; x",
            "path:${x}",
            "a: b",
            "https://github.com/me/fabrik",
        ] {
            assert!(flake_url(wrong).is_err(), "{wrong}");
        }
    }
}
