//! `fabrik destroy`: all that Hetzner has of a cluster is shown, a person says the cluster's name, and it is removed.
//!
//! `fabrik run` in the cluster would make servers again, so it is paused where the API server answers; where none does, its
//! servers are the first to go, and those of the user's own have to be stopped before.

mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use fabrik_core::destroy::{self as core, Asked, Kept, Key, Kind, Plan, Resource, Step};
use fabrik_core::id::{ClusterId, ClusterName, MachineName};
use fabrik_core::price::PriceList;
use fabrik_core::spec::Machine;
use kube::Client as Kubernetes;
use tokio::time::timeout;

use self::render::{Page, named};
use super::access::{self, Access, ClusterSpec, part};
use super::project::{Project, ProjectOptions};
use super::{Failure, pause, say};
use crate::hetzner::Client;
use crate::hetzner::destroy::{Ended, Event, Wanted, destroy, survey};
use crate::hetzner::pricing;
use crate::seed::{State, typed};

/// How long the API server may take to answer before it counts as gone.
const PATIENCE: Duration = Duration::from_secs(10);
const REASON: &str = "fabrik destroy";

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Options {
    #[command(flatten)]
    project: ProjectOptions,
    /// The cluster's id; else the cluster is asked, and then the network at Hetzner that has its name.
    #[arg(long, value_name = "ID")]
    cluster_id: Option<ClusterId>,
    /// The kubeconfig by which the cluster is paused; else `$KUBECONFIG` or `~/.kube/config`.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Removes the cluster's volumes, with what is on them.
    #[arg(long)]
    volumes: bool,
    /// Removes the cluster's snapshots: of its systems, and others that bear its label.
    #[arg(long)]
    snapshots: bool,
    /// Removes what is protected at Hetzner as well.
    #[arg(long)]
    protected: bool,
    /// Says that fabrik is stopped on all machines of `[servers.machines]`, where the cluster can't be paused.
    #[arg(long)]
    stopped: bool,
    /// The cluster's name, in the place of typing it.
    #[arg(long, value_name = "NAME")]
    yes: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum RefusedError {
    #[error("nothing was done: this cluster is called `{name}`, and not `{given}`")]
    OtherName { name: ClusterName, given: String },
    #[error(
        "nothing was done: from this laptop something of {name} was made at Hetzner, and in the project of this token nothing \
         bears its id {id}. That is how another project's token looks: then what was made is still there, and is paid for; use \
         that project's. If you know that it is gone, remove what the laptop keeps of it: {dir}",
        dir = dir.display()
    )]
    OtherProject {
        name: ClusterName,
        id: ClusterId,
        dir: PathBuf,
    },
    #[error("nothing was done: nobody is here to ask. `--yes {name}` does all of the above")]
    Nobody { name: ClusterName },
    #[error(
        "nothing was done: the FabrikCluster {name} has the id {found}, and --cluster-id says {given}. One of the two is another \
         cluster's"
    )]
    OtherId {
        name: ClusterName,
        found: ClusterId,
        given: ClusterId,
    },
    #[error(
        "nothing was done: server {server} of the control plane is protected and stays, the cluster could not be paused, and its \
         `fabrik run` would make anew what goes. Give --protected, or a --kubeconfig by which it can be paused"
    )]
    StaysUnpaused { server: String },
    #[error(
        "nothing was done: the control plane is machines of yours ({machines}), the cluster could not be paused, and its `fabrik \
         run` would make anew what goes. Give a --kubeconfig by which it can be paused. Or stop it on each of them, by \
         `systemctl stop fabrik` or its power switch, and say so by `fabrik destroy --stopped`"
    )]
    OwnUnpaused { machines: String },
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let project = options.project.open().await?;
    // It is held, so that no seed makes anew what goes.
    let state = State::existing(&project.spec.name)?;
    let wish = Wish {
        must_be_there: state.as_ref().and_then(State::at_hetzner),
        cluster_id: options.cluster_id,
        kubeconfig: options.kubeconfig,
        asked: Asked {
            volumes: options.volumes,
            snapshots: options.snapshots,
            protected: options.protected,
        },
        is_stopped: options.stopped,
        yes: options.yes,
    };
    let left = clear_away(project, wish).await?;
    settle(state, &left)?;
    Ok(ExitCode::SUCCESS)
}

/// What is left of a cluster.
pub struct Left {
    cluster: ClusterId,
    kinds: BTreeSet<Kind>,
}

impl Left {
    fn of(cluster: ClusterId, plan: &Plan) -> Self {
        let kinds = plan.kept.keys().map(|key| key.kind).collect();
        Self { cluster, kinds }
    }
}

/// What the laptop keeps of the cluster goes with it, but its id where something is left. While that is a server, all stays.
pub fn settle(state: Option<State>, left: &Left) -> Result<(), Failure> {
    let Some(mut state) = state.filter(|s| s.record.cluster_id == left.cluster) else {
        return Ok(());
    };
    if left.kinds.is_empty() {
        return Ok(state.forget()?);
    }
    if !left.kinds.contains(&Kind::Server) {
        state.begin_anew()?;
    }
    let (dir, id) = (state.dir().display(), &left.cluster);
    say(format_args!(
        "{dir} keeps the id of what stays, {id}: the next seed finds it as its own, and so does `fabrik seed --undo`"
    ))?;
    Ok(())
}

/// What of which cluster is to go.
pub struct Wish {
    /// A cluster that has something in the project, which another one's token would not show, and the laptop's folder that
    /// knows of it.
    pub must_be_there: Option<(ClusterId, PathBuf)>,
    /// Else the cluster is asked, and then the network at Hetzner that has its name.
    pub cluster_id: Option<ClusterId>,
    pub kubeconfig: Option<PathBuf>,
    pub asked: Asked,
    /// Whether a person says that fabrik runs on none of their own servers.
    pub is_stopped: bool,
    /// The cluster's name, in the place of typing it.
    pub yes: Option<String>,
}

/// Shows it, asks, and removes it.
pub async fn clear_away(project: Project, wish: Wish) -> Result<Left, Failure> {
    let Project { spec, client } = project;
    let own_servers = spec.own_servers;
    let name = spec.name;
    let cluster = match ask_cluster(wish.kubeconfig, &name).await {
        Ok(cluster) => Some(cluster),
        Err(why) => {
            eprintln!("note: the cluster is not asked, and not paused: {why}");
            None
        }
    };
    let there = survey(&client).await?;
    let resources: Vec<Resource> = there.iter().map(|t| t.resource.clone()).collect();
    let id = match (cluster.as_ref(), wish.cluster_id) {
        (None, None) => core::which(&resources, &name)?,
        (None, Some(given)) => {
            core::must_be_called(&resources, given.as_str(), &name)?;
            given
        }
        (Some((_, found)), given) => must_be_the_same(&name, found, given)?,
    };
    let plan = core::plan(&resources, &id, &name, wish.asked);
    if let Some((known, dir)) = wish.must_be_there
        && known == id
        && plan.is_done()
        && plan.kept.is_empty()
    {
        return Err(RefusedError::OtherProject { name, id, dir }.into());
    }
    let prices = prices(&client).await;
    let page = Page {
        name: &name,
        id: &id,
        things: &there,
        prices: prices.as_ref(),
    };
    say(page.before(&plan))?;
    if plan.is_done() {
        return Ok(Left::of(id, &plan));
    }
    confirm(&name, wish.yes.as_deref())?;
    if let Some((access, _)) = cluster {
        if pause::ensure(&access, REASON.to_owned()).await? {
            say(format_args!("paused {name}"))?;
        }
    } else {
        must_be_stopped(&own_servers, wish.is_stopped)?;
        must_all_go(&plan, &resources)?;
    }
    let wanted = Wanted {
        cluster: id.clone(),
        name: name.clone(),
        asked: wish.asked,
    };
    let ended = destroy(&client, &wanted, tell).await?;
    let ended = with_what_was_attached(ended, plan);
    let page = Page {
        things: &ended.project,
        ..page
    };
    say(page.after(&ended.removed, &ended.plan))?;
    Ok(Left::of(id.clone(), &ended.plan))
}

/// The cluster and its id, by its API server; or why not.
async fn ask_cluster(
    kubeconfig: Option<PathBuf>,
    name: &ClusterName,
) -> Result<(Access, ClusterId), String> {
    let ask = async {
        let client: Kubernetes = access::client(kubeconfig.as_deref()).await?;
        let access = Access {
            client,
            cluster: name.to_string(),
        };
        let found = access.clusters().get_opt(name.as_str()).await;
        let found = found.map_err(access::asked_to(format!("read FabrikCluster {name}")))?;
        let spec = found.map(|found| part::<ClusterSpec>(&found, "spec"));
        Ok::<_, access::AccessError>((access, spec.transpose()?))
    };
    let answer = timeout(PATIENCE, ask).await;
    let (access, spec) = answer
        .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
        .map_err(|error| error.to_string())?;
    let spec = spec.ok_or(format!(
        "the cluster of this kubeconfig has no FabrikCluster {name}, so it is another one"
    ))?;
    let id = spec.cluster_id.parse();
    let id = id.map_err(|error| format!("FabrikCluster {name} has no cluster id: {error}"))?;
    Ok((access, id))
}

fn must_be_the_same(
    name: &ClusterName,
    found: &ClusterId,
    given: Option<ClusterId>,
) -> Result<ClusterId, RefusedError> {
    match given.filter(|given| given != found) {
        None => Ok(found.clone()),
        Some(given) => Err(RefusedError::OtherId {
            name: name.clone(),
            found: found.clone(),
            given,
        }),
    }
}

/// Prices are a service to who reads the page; it does without.
async fn prices(client: &Client) -> Option<PriceList> {
    let prices = pricing::read(client).await;
    prices
        .inspect_err(|error| eprintln!("note: no prices are shown. {error}"))
        .ok()
}

fn confirm(name: &ClusterName, yes: Option<&str>) -> Result<(), Failure> {
    let question = "Type the cluster's name to have all of that removed";
    let name = name.clone();
    match typed(question, yes)? {
        None => Err(RefusedError::Nobody { name }.into()),
        Some(given) if given == name.as_str() => Ok(()),
        Some(given) => Err(RefusedError::OtherName { name, given }.into()),
    }
}

/// Those of the user's own nobody stops from here.
fn must_be_stopped(
    own_servers: &BTreeMap<MachineName, Machine>,
    is_stopped: bool,
) -> Result<(), RefusedError> {
    if is_stopped || own_servers.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = own_servers.keys().map(MachineName::as_str).collect();
    Err(RefusedError::OwnUnpaused {
        machines: names.join(", "),
    })
}

/// Where nothing was paused, no server that fabrik runs on may stay.
fn must_all_go(plan: &Plan, resources: &[Resource]) -> Result<(), RefusedError> {
    let stays = |r: &&Resource| {
        r.is_control_plane && matches!(plan.kept.get(&r.key), Some(Kept::Protected))
    };
    match resources.iter().find(stays) {
        Some(server) => Err(RefusedError::StaysUnpaused {
            server: format!("`{}` (id {})", server.name, server.key.id),
        }),
        None => Ok(()),
    }
}

fn tell(event: Event<'_>) {
    let line = match event {
        Event::Begun(step, resource) => {
            let action = match step {
                Step::Unprotect(_) => "protection off",
                Step::PowerOff(_) => "power off",
                Step::Delete(_) => "delete",
            };
            format!("{}: {action}", named(resource))
        }
        Event::Gone(resource) => format!("{}: gone", named(resource)),
        Event::CameBack(resource) => format!("{}: is there again", named(resource)),
        Event::Failed(error) => format!("not yet: {error}"),
    };
    // Nobody who reads on is no reason to stop half-way.
    say(line).ok();
}

/// What was attached to a server shows that no more when the server is gone.
fn with_what_was_attached(mut ended: Ended, before: Plan) -> Ended {
    let there: Vec<Key> = ended.project.iter().map(|t| t.resource.key).collect();
    let mut left: BTreeMap<_, _> = before.left;
    left.retain(|key, _| there.contains(key));
    for (key, why) in ended.plan.left {
        left.entry(key).or_insert(why);
    }
    ended.plan.left = left;
    ended
}
