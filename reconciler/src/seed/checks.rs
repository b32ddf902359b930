//! All that could stop a seed half-way, looked for before anything is made, and all of it told at once.

mod hetzner;
mod secrets;

use std::io;
use std::path::Path;

use fabrik_core::id::CommitId;
use fabrik_core::machines::means::Means;
use fabrik_core::seed::Extent;
use fabrik_core::seed::cost::Offer;
use fabrik_core::seed::own::First;
use fabrik_core::spec::{self, Spec};

use super::progress::tell;
use super::repository::{Checkout, Place};
use super::state::{Keys, State};
use super::{SeedError, own};
use crate::build::lock_fault;
use crate::cli::git;
use crate::hetzner::Client;
use crate::repo::Tree;
use crate::secrets::{Secret, Sops};

pub use self::secrets::age_key;

/// What is looked at.
pub struct Subject<'a> {
    pub dir: &'a Path,
    pub extent: Extent,
    pub commit: &'a CommitId,
    pub tree: &'a Tree,
    pub spec: &'a Spec,
    pub checkout: &'a Checkout,
    pub place: &'a Place,
    /// Why the git server's host keys are not known, if they are not.
    pub unknown_host: Option<&'a str>,
    pub state: &'a State,
    pub keys: &'a Keys,
    pub sops: Option<&'a Sops>,
    /// The cluster's age key, or why it is not to be had.
    pub age_key: &'a Result<Secret, String>,
    /// Where it has a project at Hetzner.
    pub client: Option<&'a Client>,
    /// Where the first server is a machine of the user's own.
    pub first: Option<&'a First>,
}

/// What came out of it.
pub struct Found {
    pub lines: Vec<Line>,
    /// Whether no first server is to be made any more.
    pub has_first: bool,
    /// Missing where Hetzner did not answer.
    pub offer: Option<Offer>,
    /// What a machine of the user's own would lose, and what people are told of it.
    pub change: Option<(Means, String)>,
    /// The temporary SSH key, where it was made just now to see whether that is allowed.
    pub made_key: Option<u64>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub about: About,
    /// What is the case, or what is wrong and what to do about it.
    pub says: Result<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    Programs,
    Repository,
    Firewall,
    Secrets,
    AgeKey,
    DeployKey,
    Hetzner,
    Token,
    Names,
    Network,
    Stock,
    Machine,
}

impl About {
    const fn word(self) -> &'static str {
        match self {
            Self::Programs => "programs",
            Self::Repository => "repository",
            Self::Firewall => "firewall",
            Self::Secrets => "secrets",
            Self::AgeKey => "age key",
            Self::DeployKey => "deploy key",
            Self::Hetzner => "hetzner",
            Self::Token => "token",
            Self::Names => "names",
            Self::Network => "network",
            Self::Stock => "stock",
            Self::Machine => "machine",
        }
    }
}

impl Line {
    fn new(about: About, says: Result<String, String>) -> Self {
        Self { about, says }
    }
}

impl Found {
    pub fn is_well(&self) -> bool {
        self.lines.iter().all(|line| line.says.is_ok())
    }

    /// Whether a person has to let the deploy key in, and that is all.
    pub fn waits_for_key(&self) -> bool {
        let mut wrong = self.lines.iter().filter(|line| line.says.is_err());
        wrong
            .next()
            .is_some_and(|line| line.about == About::DeployKey)
            && wrong.next().is_none()
    }

    pub fn show(&self) -> io::Result<()> {
        for line in &self.lines {
            let (verdict, text) = match &line.says {
                Ok(text) => ("ok", text),
                Err(text) => ("wrong", text),
            };
            let indented = text.replace('\n', &format!("\n{:19}", ""));
            tell(format_args!(
                "{verdict:<6} {:<11} {indented}",
                line.about.word()
            ))?;
        }
        Ok(())
    }
}

/// Looks at all of it.
pub async fn look(subject: &Subject<'_>) -> Result<Found, SeedError> {
    let mut lines = vec![Line::new(About::Programs, programs(subject))];
    lines.push(Line::new(About::Repository, repository(subject)));
    let whole = subject.extent == Extent::Cluster;
    if whole {
        lines.push(Line::new(About::Firewall, firewall(subject.spec)));
        let secrets = secrets::all_open(subject.tree, subject.sops, subject.age_key).await;
        lines.push(Line::new(About::Secrets, secrets));
        let age_key = subject.age_key.as_ref();
        let age_key = age_key.map(|_| format!("{} opens, with your key", secrets::AGE_KEY_FILE));
        lines.push(Line::new(About::AgeKey, age_key.map_err(Clone::clone)));
        lines.push(Line::new(About::DeployKey, deploy_key(subject).await?));
    }
    let change = match subject.first.filter(|_| whole) {
        Some(first) => {
            let (says, change) = match own::look(subject.spec, subject.state, first).await {
                Ok(own::Looked { says, change }) => (Ok(says), change),
                Err(error) => (Err(error.to_string()), None),
            };
            lines.push(Line::new(About::Machine, says));
            change
        }
        None => None,
    };
    let (mut has_first, mut offer, mut made_key) = (false, None, None);
    if let Some(client) = subject.client {
        let mut found = hetzner::look(subject, client).await;
        lines.append(&mut found.lines);
        (has_first, offer, made_key) = (found.has_first, found.offer, found.made_key);
    }
    Ok(Found {
        lines,
        has_first,
        offer,
        change,
        made_key,
    })
}

fn programs(subject: &Subject<'_>) -> Result<String, String> {
    let mut wanted = vec!["git", "ssh"];
    if subject.first.is_some() {
        wanted.extend(["nix", "nixos-anywhere"]);
    }
    if subject.client.is_some() {
        wanted.push("zstd");
    }
    if subject.place.is_ssh() {
        wanted.push("ssh-keygen");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &&str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let missing: Vec<&str> = wanted.iter().copied().filter(|n| !is_there(n)).collect();
    if missing.is_empty() {
        Ok(format!("{} are there", wanted.join(", ")))
    } else {
        Err(format!(
            "{} not found: install and have in PATH",
            missing.join(", ")
        ))
    }
}

fn is_locked(tree: &Tree) -> Result<(), String> {
    if tree.file("flake.nix").is_none() {
        return Ok(());
    }
    let problem = match tree.file("flake.lock") {
        None => Some("is not there, and nobody builds what is not locked".to_owned()),
        Some(_) => lock_fault(&tree.read("flake.lock").map_err(|error| error.to_string())?),
    };
    problem.map_or(Ok(()), |problem| {
        Err(format!(
            "flake.lock {problem}. `nix flake lock` makes it anew, where there is Nix and a network; commit it, and push"
        ))
    })
}

fn repository(subject: &Subject<'_>) -> Result<String, String> {
    let (commit, branch) = (subject.commit, &subject.place.branch);
    if !subject.checkout.is_clean {
        return Err(
            "there are changes that are not committed: servers follow what is pushed".to_owned(),
        );
    }
    is_locked(subject.tree).map_err(|problem| format!("{}: {problem}", commit.short()))?;
    let Some(remote) = &subject.checkout.pushed_to else {
        return Ok(format!("{} on {branch}", commit.short()));
    };
    let there = git::head_at(subject.dir, remote, branch).map_err(|error| error.to_string())?;
    match there {
        Some(there) if there == commit.as_str() => Ok(format!(
            "{} on {branch} is what {remote} has{}",
            commit.short(),
            unusual(branch)
        )),
        Some(there) => Err(format!(
            "{branch} at {remote} is {}, and {} is checked out. Push, or pull",
            there.get(..8).unwrap_or(&there),
            commit.short()
        )),
        None => Err(format!("{remote} has no branch {branch}: `git push`")),
    }
}

/// For who forgot to go back to the branch that everybody pushes to.
fn unusual(branch: &str) -> String {
    if ["main", "master"].contains(&branch) {
        return String::new();
    }
    format!("\nnote: servers will follow {branch}, and no push to another branch changes anything")
}

/// Before there is a server nobody can be asked where this laptop comes from; that it may come at all can be seen. A machine of
/// the user's own is asked (`super::own`), and so is the temporary server (`super::rescue`).
fn firewall(spec: &Spec) -> Result<String, String> {
    let ssh_from = &spec.firewall.ssh_from;
    if ssh_from.is_empty() {
        return Err(
            "[firewall] ssh-from is empty, and the first server gets its keys over SSH. Put this laptop's public address there \
             (`ssh-from = [\"203.0.113.7/32\"]`), and push; take it out again afterwards if you like"
                .to_owned(),
        );
    }
    let examples = spec.firewall.examples();
    if !examples.is_empty() {
        let examples = examples
            .iter()
            .map(|(key, range)| format!("{key}: {range}"));
        let examples: Vec<_> = examples.collect();
        return Err(format!(
            "[firewall] {} stands for an example, and nobody comes from there. Name where you are (for this laptop, its public \
             address), and push",
            examples.join(", ")
        ));
    }
    let closed = spec.firewall.api_from.is_empty().then(|| {
        "[firewall] api-from is empty, so the API server answers nobody outside: `fabrik status` and kubectl will not reach it from \
         here. Put this laptop's public address there as well"
            .to_owned()
    });
    let notes = spec::of_ways_in(spec).into_iter().chain(closed);
    let notes: String = notes.map(|note| format!("\nnote: {note}")).collect();
    Ok(format!("SSH is open to {}{notes}", ssh_from.join(", ")))
}

async fn deploy_key(subject: &Subject<'_>) -> Result<Result<String, String>, SeedError> {
    let place = subject.place;
    if let Some(why) = subject.unknown_host {
        return Ok(Err(why.to_owned()));
    }
    let (key, public) = subject.state.deploy_pair()?;
    let head = place.head(subject.state, &key).await?;
    let url = &place.url;
    Ok(match head {
        Ok(head) if head == *subject.commit => Ok(format!("reads {url}")),
        Ok(head) => Err(format!(
            "servers would see {} at {url}, and {} is checked out. Push there, or name another by --repository",
            head.short(),
            subject.commit.short()
        )),
        Err(error) if place.is_ssh() => Err(format!(
            "{error}\nLet this key read the repository, and repeat this:\n  {public}\n  {}",
            place.where_to_add_key()
        )),
        Err(error) => Err(error.to_string()),
    })
}
