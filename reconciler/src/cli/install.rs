//! `fabrik install MACHINE`: a machine of one's own becomes the node that cluster.toml has a place for.

mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use fabrik_core::hold::Hold;
use fabrik_core::id::{CommitId, IntentId, MachineName, NodeName, PoolName, ServerId};
use fabrik_core::ledger::Intent;
use fabrik_core::machines::means::{Wanted, means};
use fabrik_core::servers::own;
use fabrik_core::spec::{self, Machine, Pool, Spec};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use tokio::time::{Instant, sleep};

use super::access::{Access, ClusterOptions, asked_to};
use super::checkout::Checkout;
use super::plan::source::published;
use super::validate::print_faults;
use super::{Failure, git, say, tree_of_root};
use crate::cluster::tokens::Tokens;
use crate::cluster::user_data::{self, Joining, UserData};
use crate::gate::SPEC_FILE;
use crate::machine::{MachineError, Pinned, look, put, tell};
use crate::node::identify::machine_file::{self, Given, MachineFile};
use crate::report::observed::Document;
use crate::secrets::Secret;
use crate::seed::typed;

/// How long a machine may take from its token until its Node is Ready; the token lives for 20 minutes.
const JOIN_LIMIT: Duration = Duration::from_secs(900);
const LOOK_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    cluster: ClusterOptions,
    /// The repository's root, with the commit that is in force.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Your private key for the machine, beside those that ssh tries by itself.
    #[arg(long, short, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Agrees beforehand: the machine's name once more.
    #[arg(long, value_name = "MACHINE")]
    yes: Option<MachineName>,
    /// As cluster.toml calls it.
    machine: MachineName,
}

#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("{SPEC_FILE} has faults (see above), so nothing was done")]
    Faults,
    #[error("{0}. Nothing was changed")]
    MayNotJoin(Hold),
    #[error("the leader has not let {node} in within {} minutes: {why}. The same command goes on", server::INVITE_LIMIT.as_secs() / 60)]
    NotLetIn { node: NodeName, why: String },
    #[error("the system gives no random numbers")]
    NoRandomness,
    #[error("{SPEC_FILE} names no machine {machine}. There are: {known}")]
    NoMachine { machine: MachineName, known: String },
    #[error(
        "the cluster follows commit {in_force}, and here is {here}. Check that one out, or push and wait: `fabrik wait HEAD`"
    )]
    OtherCommit { in_force: String, here: String },
    #[error("{SPEC_FILE} differs from its commit. Commit and push, or undo it")]
    Changed,
    #[error(
        "the leader has not published what machines join by: its log says why, or it is older than this fabrik"
    )]
    NotPublished,
    #[error(
        "the leader does not await {node} yet. Repeat this in a moment; `fabrik status` says what it waits for"
    )]
    NotAwaited { node: NodeName },
    #[error("nothing was changed: {0}")]
    NotAgreed(String),
    #[error(
        "{node} is not Ready after {} minutes. On the machine: `journalctl -u fabrik-identity -u k3s`. The same command goes on",
        JOIN_LIMIT.as_secs() / 60
    )]
    NotReady { node: NodeName },
}

/// A machine, and what the commit in force says of it.
struct Place<'a> {
    spec: &'a Spec,
    pool_name: PoolName,
    /// None for a server of the control plane.
    pool: Option<&'a Pool>,
    machine: &'a Machine,
    node: NodeName,
}

impl Place<'_> {
    fn wanted(&self, server: ServerId) -> Wanted<'_> {
        let system = match self.pool {
            Some(pool) => &pool.system,
            None => &self.spec.own_servers_system,
        };
        Wanted {
            node: &self.node,
            server,
            system: system.as_deref().unwrap_or_default(),
            disk: &self.machine.disk,
            port: self.machine.port,
            has_ssh_keys: !self.spec.ssh_keys.is_empty(),
            firewall: &self.spec.firewall,
        }
    }
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let spec = read_spec(&options)?;
    let place = place(&spec, &options.machine)?;
    let access = options.cluster.open().await?;
    let document = Document::read(&published(&access).await?)?;
    let commit = in_force(&options, document.in_force.as_ref())?;
    if is_ready(&access, &place.node).await? && has_joined(&place, &document) {
        say(format!(
            "{} is a node of the cluster, and Ready",
            place.node
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    // Before anything is done to it.
    let (server, intent) = awaited(&place, &document)?;
    let joining = document
        .joining
        .as_ref()
        .filter(|joining| place.pool.is_some() || !joining.join_urls.is_empty())
        .ok_or(InstallError::NotPublished)?;

    let way = Pinned::new(&options.machine, place.machine, options.identity.clone())?;
    let (way, found) = look(way).await?;
    let wanted = place.wanted(server);
    let means = means(&found, &wanted).map_err(MachineError::unfit(&options.machine))?;
    let address = &place.machine.address;
    say(format!("{} at {address}: {found}", place.node))?;
    say(means.told(&found, &wanted))?;
    agree(&options)?;
    put(means, &way, &options.dir, commit, &place.pool_name).await?;
    let way = way.installed();
    say(format!("telling {} which node it is", options.machine))?;
    if let Some(intent) = intent {
        let tokens = Tokens::of_authority(access.client.clone(), joining.ca_hash.clone());
        let token = tokens.ensure(intent, Timestamp::now()).await?;
        let given = worker(&place, &document, joining, token);
        tell_machine(&way, &place, server, given).await?;
        say(format!("waiting for {}", place.node))?;
        wait_until_ready(&access, &place.node).await?;
    } else {
        let nonce = server::nonce()?;
        let given = server::given(&place, &document, joining, nonce.clone());
        tell_machine(&way, &place, server, given).await?;
        server::let_in(&access, &place, &nonce).await?;
    }
    say(format!("{} has joined, and is Ready", place.node))?;
    Ok(ExitCode::SUCCESS)
}

fn read_spec(options: &Options) -> Result<Spec, Failure> {
    let tree = tree_of_root(&options.dir)?;
    let text = String::from_utf8(tree.read(SPEC_FILE)?)?;
    Ok(spec::parse(SPEC_FILE, &text).map_err(|faults| {
        print_faults(&faults);
        InstallError::Faults
    })?)
}

fn place<'a>(spec: &'a Spec, name: &MachineName) -> Result<Place<'a>, InstallError> {
    let servers = (PoolName::servers(), None, &spec.own_servers);
    let pools = spec.pools.iter();
    let pools = pools.map(|(name, pool)| (name.clone(), Some(pool), &pool.machines));
    for (pool_name, pool, machines) in pools.clone().chain([servers.clone()]) {
        if let Some(machine) = machines.get(name) {
            let node = NodeName::of_machine(&spec.name, &pool_name, name);
            return Ok(Place {
                spec,
                pool_name,
                pool,
                machine,
                node,
            });
        }
    }
    let known = pools
        .chain([servers])
        .flat_map(|(.., machines)| machines.keys());
    let known: Vec<&str> = known.map(MachineName::as_str).collect();
    Err(InstallError::NoMachine {
        machine: name.clone(),
        known: if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        },
    })
}

/// What is installed is what the leader wants: of the commit in force, unchanged.
fn in_force<'a>(
    options: &Options,
    in_force: Option<&'a CommitId>,
) -> Result<&'a CommitId, Failure> {
    let here = Checkout::at(&options.dir).and_then(|checkout| checkout.resolve("HEAD"));
    let Some(commit) = in_force.filter(|commit| here.as_ref() == Some(commit)) else {
        let shown = |commit: Option<&CommitId>| commit.map_or("none", CommitId::short).to_owned();
        return Err(InstallError::OtherCommit {
            in_force: shown(in_force),
            here: shown(here.as_ref()),
        }
        .into());
    };
    if git::is_changed(&options.dir, SPEC_FILE)? {
        return Err(InstallError::Changed.into());
    }
    Ok(commit)
}

fn has_joined(place: &Place<'_>, document: &Document) -> bool {
    match place.pool {
        Some(_) => intent(document, &place.node).is_none(),
        None => own::is_member(&place.node, &document.observed),
    }
}

/// Which machine the leader takes it for, and the intent that it is awaited by. A server is awaited when it asks.
fn awaited<'a>(
    place: &Place<'_>,
    document: &'a Document,
) -> Result<(ServerId, Option<&'a IntentId>), InstallError> {
    let node = &place.node;
    if place.pool.is_none() {
        own::may_join(place.spec, node, &document.observed).map_err(InstallError::MayNotJoin)?;
        let server = ServerId::of_machine(&document.observed.ledger.cluster, node);
        return Ok((server, None));
    }
    let found = intent(document, node);
    let found = found.and_then(|(id, intent)| Some((intent.server?, Some(id))));
    found.ok_or_else(|| InstallError::NotAwaited { node: node.clone() })
}

fn intent<'a>(document: &'a Document, node: &NodeName) -> Option<(&'a IntentId, &'a Intent)> {
    let mut awaited = fabrik_core::machines::awaited(&document.observed.ledger);
    awaited.find(|(_, intent)| intent.name == *node)
}

fn agree(options: &Options) -> Result<(), Failure> {
    let said = options.yes.as_ref().map(MachineName::as_str);
    let Some(said) = typed("Go on? Type the machine's name", said)? else {
        let problem = format!(
            "there is no terminal. Agree beforehand by --yes {}",
            options.machine
        );
        return Err(InstallError::NotAgreed(problem).into());
    };
    if said == options.machine.as_str() {
        return Ok(());
    }
    Err(InstallError::NotAgreed(format!("`{said}` is not {}", options.machine)).into())
}

fn worker(place: &Place<'_>, document: &Document, joining: &Joining, token: Secret) -> Given {
    let pool = place.pool;
    Given::Agent(UserData {
        fabrik: user_data::VERSION,
        role: user_data::AGENT.to_owned(),
        pool: place.pool_name.clone(),
        node_name: place.node.clone(),
        cluster_name: place.spec.name.clone(),
        cluster_id: document.observed.ledger.cluster.clone(),
        public_key: joining.public_key.clone(),
        cache_urls: joining.cache_urls.clone(),
        servers: joining.servers.clone(),
        token,
        labels: pool.map(|pool| pool.labels.clone()).unwrap_or_default(),
        taints: pool.map(|pool| pool.taints.clone()).unwrap_or_default(),
    })
}

async fn tell_machine(
    way: &Pinned,
    place: &Place<'_>,
    server: ServerId,
    given: Given,
) -> Result<(), Failure> {
    let file = MachineFile {
        server,
        node_ip: place.machine.node_ip,
        user_data: given,
    };
    let file = Secret::new(serde_json::to_vec(&file)?);
    let then = "systemctl restart --no-block fabrik-identity.service";
    Ok(tell(way, machine_file::NAME, &file, then).await?)
}

async fn is_ready(access: &Access, node: &NodeName) -> Result<bool, Failure> {
    let nodes: Api<Node> = Api::all(access.client.clone());
    let found = nodes.get_opt(node.as_str()).await;
    let found = found.map_err(asked_to(format!("read Node {node}")))?;
    let conditions = found.and_then(|node| node.status?.conditions);
    let ready =
        |c: &k8s_openapi::api::core::v1::NodeCondition| c.type_ == "Ready" && c.status == "True";
    Ok(conditions.iter().flatten().any(ready))
}

async fn wait_until_ready(access: &Access, node: &NodeName) -> Result<(), Failure> {
    let deadline = Instant::now() + JOIN_LIMIT;
    while !is_ready(access, node).await? {
        if Instant::now() >= deadline {
            return Err(InstallError::NotReady { node: node.clone() }.into());
        }
        sleep(LOOK_PAUSE).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = r#"
[cluster]
name = "demo"
[kubernetes]
version = "1.36.3+k3s1"
[hetzner]
token = { file = "secrets/hetzner.yaml", key = "token" }
[pools.home.machines.desktop]
address = "10.0.9.20"
host-key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk"
disk = "/dev/disk/by-id/nvme"
"#;

    #[test]
    fn a_machine_that_is_not_named_is_told_with_those_that_are() {
        let spec = spec::parse(SPEC_FILE, SPEC).unwrap();
        let said = place(&spec, &"nas".parse().unwrap())
            .err()
            .unwrap()
            .to_string();
        assert!(said.ends_with("There are: desktop"), "{said}");

        let servers = SPEC.replace("[pools.home.machines.", "[servers.machines.");
        let spec = spec::parse(SPEC_FILE, &servers).unwrap();
        let server = place(&spec, &"desktop".parse().unwrap()).unwrap();
        assert_eq!(server.node.as_str(), "demo-servers-desktop");
        assert_eq!(server.wanted(ServerId(1)).system, "x86_64-linux");
    }
}
