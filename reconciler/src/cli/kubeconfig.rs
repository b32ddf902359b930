//! `fabrik kubeconfig`: an admin's way to the cluster, with an end, from the credential of who may already do anything.

mod endpoint;
mod file;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{ArgGroup, Args};
use fabrik_core::names::ADMINS_GROUP;
use jiff::Timestamp;
use kube::config::{Cluster, Kubeconfig};

use self::file::Entry;
use super::Failure;
use super::access::ClusterOptions;
use crate::cluster::admins::{self, Credential};
use crate::config::duration;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("target").required(true).args(["output", "merge"])))]
pub struct Options {
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Where the new kubeconfig is written, for its owner alone; `-` is standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Adds it to the file that kubectl would add to: the first of `$KUBECONFIG` that is there, else `~/.kube/config`. What else
    /// is in it stays, but for comments.
    #[arg(long)]
    merge: bool,
    /// With --merge: replaces a context of that name that leads to another cluster.
    #[arg(long, requires = "merge")]
    force: bool,
    /// How long it is good for. The cluster's signer may give less.
    #[arg(long, value_name = "TIME", default_value = "8h", value_parser = life)]
    valid_for: Duration,
    /// Who it is, in the API server's audit log; else `$USER`.
    #[arg(long = "as", value_name = "NAME")]
    user: Option<String>,
    /// The API server's address; else what `fabrik status` says leads there, if it answers.
    #[arg(long, value_name = "URL", value_parser = https)]
    server: Option<String>,
    /// The address where nothing leads there, or does not answer; else that of the kubeconfig that is used.
    #[arg(long, value_name = "URL", value_parser = https, conflicts_with = "server")]
    else_server: Option<String>,
    /// How the context is called; else as the cluster.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum KubeconfigError {
    #[error("nobody's name is known. Give yours by --as")]
    Nobody,
    #[error("`{user}` can't be who somebody is to Kubernetes. Give by --as 1 to {max} characters that don't begin with `system:`", max = admins::MAX_USER_CHARS)]
    User { user: String },
    #[error("the kubeconfig has no current context, or a broken one: {problem}")]
    NoContext { problem: String },
    #[error(
        "the kubeconfig does not check the API server's certificate, so neither would the new one. Nothing was made"
    )]
    Insecure,
    #[error("{path} can't be read: {source}", path = path.display())]
    Authority {
        path: PathBuf,
        source: std::io::Error,
    },
}

fn life(text: &str) -> Result<Duration, String> {
    let life = duration::parse(text)?;
    if life < admins::SHORTEST_LIFE {
        return Err("Kubernetes gives none for less than 10m".to_owned());
    }
    Ok(life)
}

fn https(text: &str) -> Result<String, String> {
    let is_url = text
        .parse::<http::Uri>()
        .is_ok_and(|url| url.host().is_some());
    if is_url && text.starts_with("https://") {
        Ok(text.to_owned())
    } else {
        Err("give it as https://HOST:PORT".to_owned())
    }
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let user = options.user.or_else(|| std::env::var("USER").ok());
    let user = user
        .filter(|u| !u.is_empty())
        .ok_or(KubeconfigError::Nobody)?;
    if !admins::is_user(&user) {
        return Err(KubeconfigError::User { user }.into());
    }
    let kubeconfig = options.cluster.kubeconfig()?;
    let mut cluster = with_authority(cluster_of(&kubeconfig)?)?;
    let access = options.cluster.open().await?;
    let endpoint = match options.server {
        Some(_) => None,
        None => endpoint::find(&access, &kubeconfig, &cluster).await?,
    };
    match endpoint {
        Some(found) => cluster = found,
        None => cluster.server = options.server.or(options.else_server).or(cluster.server),
    }
    let name = options.context.unwrap_or_else(|| access.cluster.clone());
    let target = if options.merge {
        let target = file::Merge::begin(&name, &cluster)?;
        if !options.force {
            target.must_be_the_same()?;
        }
        Some(target)
    } else {
        None
    };
    let credential = admins::certificate(&access.client, &user, options.valid_for).await?;
    let entry = Entry {
        name: &name,
        cluster: &cluster,
        credential: &credential,
    };
    let place = match (target, options.output) {
        (Some(target), _) => target.write(&entry)?,
        (None, Some(path)) if path.as_os_str() != "-" => file::write(&path, &entry)?,
        _ => {
            std::io::stdout().write_all(file::text(&entry)?.expose())?;
            "standard output".to_owned()
        }
    };
    let server = cluster.server.as_deref().unwrap_or_default();
    eprintln!("{}", said(&user, &credential, (&name, server), &place));
    Ok(ExitCode::SUCCESS)
}

fn said(
    user: &str,
    credential: &Credential,
    (context, server): (&str, &str),
    place: &str,
) -> String {
    let until = credential.until;
    let left = until.duration_since(Timestamp::now()).as_mins();
    format!(
        "context {context} in {place}, by {server}: {user} of group {ADMINS_GROUP}, who may do anything, until {until} ({left} minutes). Nothing \
         takes it back before: keep it as you keep a key"
    )
}

/// The cluster that the kubeconfig's current context leads to.
fn cluster_of(kubeconfig: &Kubeconfig) -> Result<Cluster, KubeconfigError> {
    let name = name_of_cluster(kubeconfig)?;
    let cluster = kubeconfig.clusters.iter().find(|c| c.name == name);
    let cluster = cluster.and_then(|c| c.cluster.clone());
    cluster.ok_or_else(|| no_context(format!("there is no cluster {name}")))
}

fn name_of_cluster(kubeconfig: &Kubeconfig) -> Result<String, KubeconfigError> {
    let current = kubeconfig.current_context.as_ref();
    let current = current.ok_or_else(|| no_context("it names none".to_owned()))?;
    let context = kubeconfig.contexts.iter().find(|c| c.name == *current);
    let context = context.and_then(|c| c.context.as_ref());
    let context = context.ok_or_else(|| no_context(format!("there is no context {current}")))?;
    Ok(context.cluster.clone())
}

fn no_context(problem: String) -> KubeconfigError {
    KubeconfigError::NoContext { problem }
}

/// With the CA's certificate in it, where it only names a file.
fn with_authority(mut cluster: Cluster) -> Result<Cluster, KubeconfigError> {
    if cluster.insecure_skip_tls_verify == Some(true) {
        return Err(KubeconfigError::Insecure);
    }
    if let Some(file) = cluster.certificate_authority.take()
        && cluster.certificate_authority_data.is_none()
    {
        let path = PathBuf::from(file);
        let read = std::fs::read(&path);
        let pem = read.map_err(|source| KubeconfigError::Authority { path, source })?;
        cluster.certificate_authority_data = Some(STANDARD.encode(pem));
    }
    Ok(cluster)
}
