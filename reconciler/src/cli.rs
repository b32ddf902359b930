//! The human side: one file a verb. A verb reads and shows, or leaves a wish in the cluster; but for
//! `destroy`, which ends one, it carries nothing out.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand, ValueEnum};

pub mod access;
mod agent;
mod checkout;
mod destroy;
mod edit;
mod found;
pub mod git;
mod identify;
mod init;
mod install;
mod kubeconfig;
mod leader;
pub mod logging;
mod pause;
pub mod plan;
mod project;
mod receive;
mod reconcile;
mod restore;
mod run;
mod scale;
mod secrets;
mod seed;
mod ssh;
mod status;
mod upgrade;
mod validate;
mod wait;

use crate::cluster::found::FoundOptions;
use crate::gate::SPEC_FILE;
use crate::repo::{RepoError, Tree};
use crate::seed::SeedOptions;

/// A Kubernetes cluster on Hetzner Cloud that follows one git repository.
///
/// Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 of `seed` that a key has to be added at the forge.
#[derive(Debug, Parser)]
#[command(name = "fabrik", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
    /// How log lines on stderr look.
    #[arg(long, global = true, value_enum, default_value_t = logging::Format::Human)]
    pub log_format: logging::Format,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Makes the repository of a cluster, from a template; done again, it keeps what is there.
    Init(Box<init::Options>),
    /// Brings a cluster up at Hetzner from its repository; cut off anywhere, the same command goes on.
    Seed(Box<SeedOptions>),
    /// Installs a machine of yours that cluster.toml names, over SSH, and lets it join.
    Install(Box<install::Options>),
    /// Makes a cluster into one that fabrik runs; may be repeated.
    Found(Box<FoundOptions>),
    /// Runs one replica, on a control-plane node.
    Run(run::Options),
    /// Runs on every node, and follows the leader's orders about the system that the node runs.
    Agent(agent::Options),
    /// Runs once at each boot of a node: makes out of the server's user data what k3s and the agent are started with.
    Identify(identify::Options),
    /// What a new server of the control plane is told over SSH; `fabrik seed` runs it there.
    #[command(hide = true)]
    Receive(receive::Options),
    /// Says all that is wrong with a repository, before it is pushed.
    Validate(validate::Options),
    /// Says what a commit will do, before it is pushed.
    Plan(plan::Options),
    /// Commits another number of workers, and shows what that will do.
    Scale(Box<scale::Options>),
    /// Commits another version of Kubernetes, and shows what that will do.
    Upgrade(Box<upgrade::Options>),
    /// Shows what the cluster does: the commit in force, what was refused, what waits and why.
    Status(status::Options),
    /// Waits until a commit is in force and carried out.
    Wait(wait::Options),
    /// Asks the leader to fetch now.
    Reconcile(reconcile::Options),
    /// Stops all effects until `fabrik resume`; fetching and checking go on.
    Pause(pause::PauseOptions),
    /// Lets effects go on.
    Resume(pause::ResumeOptions),
    /// Makes an admin's kubeconfig that ends by itself.
    Kubeconfig(Box<kubeconfig::Options>),
    /// Opens a shell on a node, or runs a command, with the host key that the cluster knows.
    Ssh(Box<ssh::Options>),
    /// Removes all that Hetzner has of a cluster, once its name was typed.
    Destroy(Box<destroy::Options>),
    /// Runs on a server of the control plane that is left when a quorum of them is lost for good.
    Restore(restore::Options),
    /// Looks at what is encrypted in a repository.
    #[command(subcommand)]
    Secrets(secrets::Secrets),
}

impl Verb {
    /// Whether a machine runs it by itself, and its log is all that is seen of it.
    pub fn is_service(&self) -> bool {
        matches!(
            self,
            Self::Run(_) | Self::Agent(_) | Self::Identify(_) | Self::Receive(_)
        )
    }
}

/// For whom a verb prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Human,
    Json,
}

/// Writes a line to standard output. Who reads no further (`| head -1`) has read enough: the verb ends as it would have.
fn say(text: impl fmt::Display) -> io::Result<()> {
    match show(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => shown,
    }
}

/// As `say`, and fails when nobody reads any more.
fn show(text: impl fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Whether it failed only because nobody reads on.
pub fn is_read_enough(failure: &Failure) -> bool {
    let failure = failure.downcast_ref::<io::Error>();
    failure.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What a verb fails with: shown once, by `main`.
pub type Failure = Box<dyn Error + Send + Sync>;

pub async fn run(verb: Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Init(options) => init::run(*options).await,
        Verb::Seed(options) => Box::pin(seed::run(*options)).await,
        Verb::Install(options) => Box::pin(install::run(*options)).await,
        Verb::Found(options) => Box::pin(found::run(*options)).await,
        Verb::Run(options) => run::run(options).await,
        Verb::Agent(options) => Box::pin(agent::run(options)).await,
        Verb::Identify(options) => Box::pin(identify::run(options)).await,
        Verb::Receive(options) => Box::pin(receive::run(options)).await,
        Verb::Validate(options) => validate::run(options).await,
        Verb::Plan(options) => plan::run(options).await,
        Verb::Scale(options) => scale::run(*options).await,
        Verb::Upgrade(options) => upgrade::run(*options).await,
        Verb::Status(options) => status::run(options).await,
        Verb::Wait(options) => wait::run(options).await,
        Verb::Reconcile(options) => reconcile::run(options).await,
        Verb::Pause(options) => pause::pause(options).await,
        Verb::Resume(options) => pause::resume(options).await,
        Verb::Kubeconfig(options) => kubeconfig::run(*options).await,
        Verb::Ssh(options) => ssh::run(*options).await,
        Verb::Destroy(options) => destroy::run(*options).await,
        Verb::Restore(options) => Box::pin(restore::run(options)).await,
        Verb::Secrets(verb) => secrets::run(verb).await,
    }
}

/// Parses the command line; who uses it wrongly is told how, and it ends with code 2. Nobody is led from `deploy` to `destroy`.
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| without_danger(error).exit())
}

fn without_danger(mut error: clap::Error) -> clap::Error {
    let is_danger = |word: &String| word == "destroy";
    let leads_there = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::String(word)) => is_danger(word),
        Some(ContextValue::Strings(words)) => words.iter().any(is_danger),
        _ => false,
    };
    if leads_there {
        error.remove(ContextKind::SuggestedSubcommand);
        let tip = "a `git push` changes a cluster; `fabrik --help` has all verbs";
        let tip = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tip);
    }
    error
}

/// The error and what led to it, each said once.
pub fn readable(error: &Failure) -> String {
    let mut text = format!("error: {error}");
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !said.contains(&words) {
            let _infallible = write!(text, "\n  because: {words}");
        }
        said.push_str(&words);
        cause = error.source();
    }
    text
}

/// What a person calls the repository's root: without `cluster.toml` it is none, and may be a whole disk.
fn tree_of_root(dir: &Path) -> Result<Tree, RepoError> {
    if !dir.is_dir() {
        return Err(RepoError::NoSuchDirectory {
            dir: dir.to_owned(),
        });
    }
    if dir.join(SPEC_FILE).symlink_metadata().is_err() {
        return Err(RepoError::NotARoot {
            dir: dir.to_owned(),
        });
    }
    let tree = Tree::of_directory(dir)?;
    if tree.is_ignored(SPEC_FILE) {
        let path = dir.join(SPEC_FILE);
        return Err(RepoError::IgnoredSpec { path });
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn who_mistypes_a_verb_is_not_led_to_destroy() {
        let said = |verb: &str| {
            let error = Cli::try_parse_from(["fabrik", verb]).unwrap_err();
            without_danger(error).to_string()
        };
        let deploy = said("deploy");
        assert!(!deploy.contains("destroy"), "{deploy}");
        assert!(
            deploy.contains("tip: a `git push` changes a cluster"),
            "{deploy}"
        );
        assert!(said("sedd").contains("'seed'"));
    }

    #[test]
    fn an_error_says_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("the repository can't be read: {0}")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("no such host")]
        struct Inner(#[source] std::io::Error);

        let failure: Failure = Outer(Inner(std::io::Error::other("timed out"))).into();
        let expected = "error: the repository can't be read: no such host\n  because: timed out";
        assert_eq!(readable(&failure), expected);
    }
}
