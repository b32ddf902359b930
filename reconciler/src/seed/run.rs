//! A whole seed: looks at what could stop it, asks for agreement, and then goes step by step.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::id::{ClusterId, ClusterName, CommitId, ServerId};
use fabrik_core::seed::cost::Offer;
use fabrik_core::seed::own::{self, First};
use fabrik_core::seed::{Extent, Next, Stage, Stop, Wanted, next};
use fabrik_core::spec::Spec;
use tokio::time::sleep;

use super::SeedError;
use super::carry_out::{Ended, Seed};
use super::checks::{self, Found, Subject};
use super::options::SeedOptions;
use super::over::over;
use super::progress::tell;
use super::repository::{self, Place};
use super::state::{Keys, State};
use super::{confirm, image, observe, own as machine};
use crate::gate::{Access, read_commit};
use crate::hetzner::seeding;
use crate::hetzner::{Client, Token};
use crate::repo::Tree;
use crate::secrets::{Secret, Sops, users_age_key_file};

/// So often in a row is tried again what fails for a passing reason.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const STAYS: &str = "\nWhat was made at Hetzner stays there, and is paid for. Repeat this to go on";

/// How it ended.
#[derive(Debug)]
pub enum Ending {
    Done,
    /// The commit is one that the cluster would refuse.
    Refused(Vec<Diagnostic>),
    /// Something is wrong; it was shown.
    Wrong,
    /// A person has to let the deploy key read the repository, and then repeat the command.
    WaitsForKey,
}

/// Brings the cluster of a repository up, or goes on with it.
///
/// # Errors
/// It could not go on; the same command does.
pub async fn seed(options: SeedOptions) -> Result<Ending, SeedError> {
    repository::must_be_committed(&options.dir)?;
    let (commit, tree) = Tree::of_checkout_revision(&options.dir, "HEAD")?;
    let key_file = options.age_key_file.clone().or_else(users_age_key_file);
    let sops = key_file.map(|file| Sops::of_person(file, None));
    let candidate = match read_commit(&tree, Access::of_person(sops.as_ref())).await? {
        Ok(candidate) => candidate,
        Err(faulty) => return Ok(Ending::Refused(faulty.diagnostics)),
    };
    let spec = &candidate.spec;
    let extent = extent(&options, spec)?;
    let checkout = repository::checkout(&options.dir)?;
    let mut place = match repository::place(&options, &checkout) {
        Ok(place) => place,
        Err(why) => return wrong("repository", &why),
    };
    if let Err(why) = place.must_be_elsewhere() {
        return wrong("repository", &why);
    }
    let unknown_host = place.know_host(options.known_hosts.as_deref()).err();
    let mut state = State::open(&spec.name, &place.url)?;
    let first = own::first(spec, &state.record.cluster_id, &state.laptop());
    let first = first.filter(|_| extent == Extent::Cluster);
    // Machines of the user's own need nothing there; whatever else the cluster has there the leader makes.
    let age_key = checks::age_key(&options.dir, sops.as_ref()).await;
    let client = match (&spec.hetzner, &first) {
        (Some(project), None) => match &candidate.token {
            Some(token) => Some(Client::new(&options.hetzner_endpoint, Token::from(token))?),
            None => return wrong("age key", &unopened(&project.token.file, age_key.err())),
        },
        (None, None) => return Err(Stop::NoProject.into()),
        (_, Some(_)) => None,
    };
    if let (Extent::Images, Some(client)) = (extent, &client) {
        know(&mut state, client).await?;
    }
    if extent == Extent::Cluster && state.record.stage == Stage::Parted {
        let made = (place, client, state);
        return over(&options, spec, &commit, first.as_ref(), made).await;
    }
    let keys = state.keys()?;
    let subject = Subject {
        dir: &options.dir,
        extent,
        commit: &commit,
        tree: &tree,
        spec,
        checkout: &checkout,
        place: &place,
        unknown_host: unknown_host.as_deref(),
        state: &state,
        keys: &keys,
        sops: sops.as_ref(),
        age_key: &age_key,
        client: client.as_ref(),
        first: first.as_ref(),
    };
    let found = checks::look(&subject).await?;
    found.show()?;
    if !found.is_well() {
        let cluster = &state.record.cluster_id;
        take_back(found.made_key, client.as_ref(), cluster).await?;
        return Ok(if found.waits_for_key() {
            Ending::WaitsForKey
        } else {
            Ending::Wrong
        });
    }
    let made = Made {
        place,
        client,
        state,
        keys,
        age_key: age_key.ok(),
        found,
    };
    let seed = if let Some(first) = &first {
        let agreed = made.found.change.as_ref().map(|(means, _)| *means);
        let mut seed = begin_on(&options, spec, &commit, first, made)?;
        seed.state.touch()?;
        machine::go(&mut seed, first, agreed).await?;
        seed
    } else {
        at_hetzner(&options, spec, &commit, extent, made).await?
    };
    if extent == Extent::Cluster {
        tell(format_args!(
            "\n{} is up. {}",
            spec.name,
            what_next(&seed.state, &options)
        ))?;
    }
    Ok(Ending::Done)
}

fn extent(options: &SeedOptions, spec: &Spec) -> Result<Extent, SeedError> {
    let has_servers = spec.servers.is_some() || !spec.own_servers.is_empty();
    match options.image_only {
        true => Ok(Extent::Images),
        false if has_servers => Ok(Extent::Cluster),
        false => Err(Stop::NoServers.into()),
    }
}

/// What the laptop keeps of this repository's cluster; `None` where it was never seeded from here.
///
/// # Errors
/// It is another repository's, a seed has it, or it can't be read.
pub fn begun(options: &SeedOptions, cluster: &ClusterName) -> Result<Option<State>, SeedError> {
    let Some(state) = State::existing(cluster)? else {
        return Ok(None);
    };
    let place = repository::place(options, &repository::checkout(&options.dir)?);
    state.must_be_of(&place.map_err(SeedError::NoPlace)?.url)?;
    Ok(Some(state))
}

/// Images are for the cluster that lives, whichever machine it was seeded from. One that is at work here is this one's.
async fn know(state: &mut State, client: &Client) -> Result<(), SeedError> {
    if !matches!(state.record.stage, Stage::Unmet | Stage::Parted) {
        return Ok(());
    }
    let found = seeding::cluster_called(client, &state.record.cluster).await?;
    let Some(id) = found.filter(|id| *id != state.record.cluster_id) else {
        return Ok(());
    };
    let name = &state.record.cluster;
    tell(format_args!(
        "{name} was seeded from another machine: the images are for cluster {id}"
    ))?;
    state.follow(id)
}

/// What was made and found out before anything costs money.
struct Made {
    place: Place,
    client: Option<Client>,
    state: State,
    keys: Keys,
    age_key: Option<Secret>,
    found: Found,
}

/// The harmless create, if it was made now.
async fn take_back(
    key: Option<u64>,
    client: Option<&Client>,
    cluster: &ClusterId,
) -> Result<(), SeedError> {
    if let (Some(key), Some(client)) = (key, client) {
        seeding::delete_key(client, cluster, key).await?;
    }
    Ok(())
}

/// A cluster that lives is not undone for an error.
fn say_what_stays(seed: &Seed<'_>) -> std::io::Result<()> {
    if seed.wanted.extent == Extent::Cluster && seed.state.record.stage < Stage::Founded {
        tell(format_args!("{STAYS}, or `fabrik seed --undo`."))
    } else {
        tell(format_args!("{STAYS}."))
    }
}

async fn at_hetzner<'a>(
    options: &'a SeedOptions,
    spec: &'a Spec,
    commit: &'a CommitId,
    extent: Extent,
    made: Made,
) -> Result<Seed<'a>, SeedError> {
    let (made_key, client) = (made.found.made_key, made.client.clone());
    let cluster = made.state.record.cluster_id.clone();
    let mut seed = match begin(options, spec, commit, extent, made).await {
        Ok(seed) => seed,
        Err(error) => {
            take_back(made_key, client.as_ref(), &cluster).await?;
            return Err(error);
        }
    };
    seed.state.touch()?;
    if let Err(error) = go(&mut seed).await {
        say_what_stays(&seed)?;
        return Err(error);
    }
    Ok(seed)
}

async fn begin<'a>(
    options: &'a SeedOptions,
    spec: &'a Spec,
    commit: &'a CommitId,
    extent: Extent,
    made: Made,
) -> Result<Seed<'a>, SeedError> {
    let mut state = made.state;
    let disks = if extent == Extent::Cluster && made.found.has_first {
        Vec::new()
    } else {
        image::disks(options, spec, commit, &mut state).await?
    };
    let offer = made.found.offer.unwrap_or_default();
    if extent == Extent::Cluster && state.record.agreed.as_ref() != Some(commit) {
        let bytes = disks.iter().map(|disk| disk.bytes).sum();
        confirm::show(&offer.bill(spec, bytes))?;
        confirm::ask(&spec.name, options.yes.as_deref())?;
        state.record.agreed = Some(commit.clone());
    }
    state.record.at_hetzner = true;
    state.save()?;
    Ok(Seed {
        options,
        spec,
        commit,
        place: made.place,
        client: made.client,
        state,
        keys: made.keys,
        age_key: made.age_key,
        wanted: Wanted {
            cluster: spec.name.clone(),
            images: disks.iter().map(|disk| disk.image.clone()).collect(),
            extent,
        },
        disks,
        offer,
        awaited: None,
    })
}

/// On a machine of the user's own nothing costs money, and what is there may be lost.
fn begin_on<'a>(
    options: &'a SeedOptions,
    spec: &'a Spec,
    commit: &'a CommitId,
    first: &First,
    made: Made,
) -> Result<Seed<'a>, SeedError> {
    if let Some((_, told)) = &made.found.change {
        let address = &first.machine.address;
        tell(format_args!("\n{} at {address}: {told}\n", first.name))?;
        confirm::ask(&spec.name, options.yes.as_deref())?;
    }
    Ok(Seed {
        options,
        spec,
        commit,
        place: made.place,
        client: None,
        state: made.state,
        keys: made.keys,
        age_key: made.age_key,
        wanted: Wanted {
            cluster: spec.name.clone(),
            images: Vec::new(),
            extent: Extent::Cluster,
        },
        disks: Vec::new(),
        offer: Offer::default(),
        awaited: None,
    })
}

/// Step by step, until nothing is left to do.
pub async fn go(seed: &mut Seed<'_>) -> Result<(), SeedError> {
    let mut silent = BTreeSet::new();
    let (mut failed, mut pause) = (0, FIRST_PAUSE);
    loop {
        match step(seed, &mut silent).await {
            Ok(true) => return Ok(()),
            Ok(false) => (failed, pause) = (0, FIRST_PAUSE),
            Err(error) if error.is_transient() && failed < TRIES => {
                tracing::warn!(%error, "tried again");
                sleep(pause).await;
                failed += 1;
                pause *= 2;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether it was the last one.
async fn step(seed: &mut Seed<'_>, silent: &mut BTreeSet<ServerId>) -> Result<bool, SeedError> {
    let seen = observe::observe(seed, silent).await?;
    let step = match next(&seed.wanted, &seen.observed) {
        Next::Done => return Ok(true),
        Next::Stop(stop) => return Err(stop.into()),
        Next::Do(step) => step,
    };
    match seed.carry_out(step, &seen).await? {
        Ended::Well => Ok(false),
        Ended::Silent(server) if silent.is_empty() => {
            silent.insert(server);
            Ok(false)
        }
        Ended::Silent(_) => Err(SeedError::Unreachable {
            about: "the rescue system of a second temporary server",
            address: seen
                .image_address
                .map_or_else(String::new, |a| a.to_string()),
            said: "no answer".to_owned(),
            advice: "See whether this network lets SSH out".to_owned(),
        }),
    }
}

/// Without what this is about, nothing else can be looked at.
fn wrong(what: &str, why: &str) -> Result<Ending, SeedError> {
    tell(format_args!("wrong  {what:<10}  {why}"))?;
    Ok(Ending::Wrong)
}

fn unopened(file: &str, no_key: Option<String>) -> String {
    no_key.unwrap_or_else(|| format!("no age key here opens {file}, where Hetzner's token is"))
}

pub fn what_next(state: &State, options: &SeedOptions) -> String {
    let kubeconfig = kubeconfig(state, options);
    let look = if kubeconfig.exists() {
        let shown = kubeconfig.display();
        format!("\nLook at it: fabrik status --kubeconfig {shown}")
    } else {
        String::new()
    };
    format!("A `git push` changes it from now on; this laptop is not needed for that.{look}")
}

fn kubeconfig(state: &State, options: &SeedOptions) -> PathBuf {
    let beside = || state.kubeconfig();
    options.kubeconfig.clone().unwrap_or_else(beside)
}

impl Seed<'_> {
    pub fn kubeconfig(&self) -> PathBuf {
        kubeconfig(&self.state, self.options)
    }
}
