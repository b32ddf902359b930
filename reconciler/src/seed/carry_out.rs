//! One step of a seed, carried out.

use std::collections::BTreeMap;
use std::time::Duration;

use fabrik_core::effect::{Effect, NewServer};
use fabrik_core::id::{CommitId, NodeName, PoolName, ServerId};
use fabrik_core::infrastructure::Placement;
use fabrik_core::seed::cost::{Offer, groups};
use fabrik_core::seed::{Image, Step, Stop, Wanted, first_intent};
use fabrik_core::spec::Spec;
use tokio::time::{Instant, sleep};

use super::SeedError;
use super::build_there::build_there;
use super::image::{Disk, Source};
use super::observe::Seen;
use super::options::SeedOptions;
use super::progress::Task;
use super::repository::Place;
use super::rescue;
use super::server::{Conversation, Door};
use super::state::{Host, Keys, State};
use super::write_image::write_image;
use crate::handover::FirstServer;
use crate::hetzner::seeding::{self, IMAGE_SUFFIX};
use crate::hetzner::{self, Client, Context};
use crate::secrets::Secret;

/// Between two looks at what Hetzner is at work with.
const PAUSE: Duration = Duration::from_secs(1);

/// All that a seed works with.
pub struct Seed<'a> {
    pub options: &'a SeedOptions,
    pub spec: &'a Spec,
    pub commit: &'a CommitId,
    pub place: Place,
    /// Of the project at Hetzner, where the cluster has one.
    pub client: Option<Client>,
    pub state: State,
    pub keys: Keys,
    /// Only where a cluster is to be made.
    pub age_key: Option<Secret>,
    pub wanted: Wanted,
    pub disks: Vec<Disk>,
    pub offer: Offer,
    /// The server that Hetzner is at work with.
    pub awaited: Option<(ServerId, Patience)>,
}

/// How long something may take that is looked at again and again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    began: Instant,
    limit: Duration,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self {
            began: Instant::now(),
            limit,
        }
    }

    /// Until the next look, if there is one.
    async fn wait(&self, what: impl Fn() -> String) -> Result<(), SeedError> {
        let waited = self.began.elapsed();
        if waited >= self.limit {
            let what = what();
            return Err(SeedError::Stuck { what, waited });
        }
        sleep(PAUSE).await;
        Ok(())
    }
}

/// How a step ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Well,
    /// The rescue system of that server did not answer.
    Silent(ServerId),
}

impl Seed<'_> {
    /// Where something is made at Hetzner.
    pub fn client(&self) -> Result<&Client, SeedError> {
        self.client.as_ref().ok_or_else(|| Stop::NoProject.into())
    }

    pub async fn carry_out(&mut self, step: Step, seen: &Seen) -> Result<Ended, SeedError> {
        if !matches!(step, Step::AwaitServer { .. }) {
            self.awaited = None;
        }
        let task = Task::begin(words(&step));
        match step {
            Step::AwaitServer { server } => {
                let patience = self.server_patience(server);
                patience.wait(|| format!("server {server}")).await?;
                return Ok(Ended::Well);
            }
            Step::WriteImage { server, image } => return self.write(server, &image, seen).await,
            Step::Meet { server }
            | Step::UseHostKey { server }
            | Step::HandOver { server }
            | Step::AwaitCommit { server }
            | Step::WriteKubeconfig { server }
            | Step::Part { server } => {
                let address = seen
                    .first_address
                    .ok_or_else(no_address("the first server"))?;
                let door = Door::at_hetzner(self, address);
                let mut first = Conversation::new(self, server, door);
                first.carry_out(&step, &task).await?;
            }
            Step::RegisterKey
            | Step::CreateImageServer { .. }
            | Step::EnableRescue { .. }
            | Step::PowerOn { .. }
            | Step::PowerOff { .. }
            | Step::ForgetWritten { .. }
            | Step::TakeSnapshot { .. }
            | Step::AwaitSnapshot { .. }
            | Step::DeleteSnapshot { .. }
            | Step::DeleteImageServer { .. }
            | Step::Make(_)
            | Step::CreateFirstServer { .. }
            | Step::DeleteKey { .. } => self.at_hetzner(step, seen).await?,
            Step::ForgetSecrets => self.state.forget_secrets()?,
        }
        task.end()?;
        Ok(Ended::Well)
    }

    /// From the first look that finds Hetzner at work with this server to the last one in a row.
    fn server_patience(&mut self, server: ServerId) -> Patience {
        match self.awaited {
            Some((known, patience)) if known == server => patience,
            _ => {
                let patience = Patience::new(self.options.hetzner_limit);
                self.awaited = Some((server, patience));
                patience
            }
        }
    }

    async fn at_hetzner(&self, step: Step, seen: &Seen) -> Result<(), SeedError> {
        let (client, cluster) = (self.client()?, &self.state.record.cluster_id);
        match step {
            Step::RegisterKey => {
                let public = &self.keys.temporary_public;
                let name = seeding::key_name(&self.spec.name);
                seeding::register_key(client, cluster, &name, public).await?;
            }
            Step::DeleteKey { key } => seeding::delete_key(client, cluster, key).await?,
            Step::CreateImageServer { image } => self.create_image_server(&image).await?,
            Step::EnableRescue { server } => {
                // Each rescue system makes a host key of its own.
                self.state.forget_host(Host::Rescue)?;
                let key = seen.observed.key.unwrap_or_default();
                seeding::enable_rescue(client, cluster, server, key).await?;
            }
            Step::PowerOn { server } => seeding::power_on(client, cluster, server).await?,
            Step::PowerOff { server } => seeding::power_off(client, cluster, server).await?,
            Step::ForgetWritten { server } => {
                seeding::mark_written(client, cluster, server, None).await?;
            }
            Step::TakeSnapshot { server, image } => {
                let paper = seeding::paper(cluster, self.spec.name.as_str(), &image);
                seeding::take_snapshot(client, cluster, server, paper).await?;
            }
            Step::AwaitSnapshot { snapshot } => {
                // A big one was seen to take an hour (hetznercloud/terraform-provider-hcloud, issue 312).
                let patience = Patience::new(self.options.hetzner_limit * 8);
                while seeding::is_being_made(client, snapshot).await? {
                    patience.wait(|| format!("snapshot {snapshot}")).await?;
                }
            }
            Step::DeleteSnapshot { snapshot } => {
                seeding::delete_snapshot(client, cluster, snapshot).await?;
            }
            Step::DeleteImageServer { server } => {
                seeding::delete_image_server(client, cluster, server).await?;
            }
            Step::Make(effect) => self.make(&effect, "").await?,
            Step::CreateFirstServer {
                snapshot,
                placement,
            } => self.create_first(snapshot, placement).await?,
            // They are carried out elsewhere.
            Step::AwaitServer { .. }
            | Step::WriteImage { .. }
            | Step::Meet { .. }
            | Step::UseHostKey { .. }
            | Step::HandOver { .. }
            | Step::AwaitCommit { .. }
            | Step::WriteKubeconfig { .. }
            | Step::Part { .. }
            | Step::ForgetSecrets => {}
        }
        Ok(())
    }

    async fn create_image_server(&self, image: &Image) -> Result<(), SeedError> {
        let bytes = self.disk_of(image).map_or(0, |disk| disk.bytes);
        let choices = self.offer.for_image(image.architecture, bytes);
        if choices.is_empty() {
            return Err(SeedError::NoTypeForImage {
                pool: image.pool.to_string(),
                gigabytes: bytes.div_ceil(fabrik_core::seed::cost::BYTES_PER_GB),
            });
        }
        let name = format!("{}-{IMAGE_SUFFIX}", self.spec.name);
        let cluster = &self.state.record.cluster_id;
        let word = self.state.rescue_word()?;
        let word = word.expose_str().unwrap_or_default();
        seeding::create_image_server(self.client()?, cluster, &name, word, &choices).await?;
        Ok(())
    }

    async fn write(
        &self,
        server: ServerId,
        image: &Image,
        seen: &Seen,
    ) -> Result<Ended, SeedError> {
        let address = seen
            .image_address
            .ok_or_else(no_address("the temporary server"))?;
        let Some(disk) = self.disk_of(image) else {
            return Ok(Ended::Well);
        };
        let Some(ssh) = rescue::reach(self, address).await? else {
            return Ok(Ended::Silent(server));
        };
        match &disk.source {
            Source::File(file) => write_image(&ssh, disk, file).await?,
            Source::Commit => build_there(&ssh, &self.options.dir, self.commit, image).await?,
        }
        let (client, cluster) = (self.client()?, &self.state.record.cluster_id);
        seeding::mark_written(client, cluster, server, Some(image.digest.as_str())).await?;
        Ok(Ended::Well)
    }

    fn disk_of(&self, image: &Image) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.image == *image)
    }

    async fn create_first(&self, snapshot: u64, placement: Placement) -> Result<(), SeedError> {
        let (pool, cluster) = (PoolName::servers(), &self.state.record.cluster_id);
        let intent = first_intent(cluster);
        let name = NodeName::of(&self.spec.name, &pool, &intent);
        let servers = groups(self.spec).into_iter().next();
        let (host_key, _) = self.state.first_host_key()?;
        let user_data = FirstServer::new(
            name.clone(),
            (self.spec.name.clone(), cluster.clone()),
            host_key,
            self.keys.temporary_public.clone(),
        );
        let user_data = user_data.user_data();
        let new = NewServer {
            intent,
            pool,
            choices: servers.map_or_else(Vec::new, |group| group.choices().collect()),
            image: snapshot.to_string(),
            network: placement.network,
            firewall: placement.firewall,
            ssh_keys: placement.ssh_keys,
            placement_group: placement.group,
            node_labels: BTreeMap::new(),
            node_taints: Vec::new(),
            name,
        };
        let user_data = user_data.expose_str().unwrap_or_default();
        self.make(&Effect::CreateServer(new), user_data).await
    }

    /// As the leader would.
    async fn make(&self, effect: &Effect, user_data: &str) -> Result<(), SeedError> {
        let context = Context {
            cluster: &self.state.record.cluster_id,
            user_data,
        };
        if let Some(result) = hetzner::execute(self.client()?, effect, context).await {
            result?;
        }
        Ok(())
    }
}

fn no_address(about: &str) -> impl FnOnce() -> SeedError {
    let about = about.to_owned();
    move || SeedError::NoAddress { about }
}

/// What was done, when it is done.
pub(super) fn words(step: &Step) -> String {
    match step {
        Step::RegisterKey => "gave Hetzner a temporary SSH key".to_owned(),
        Step::CreateImageServer { .. } => "made a temporary server for the image".to_owned(),
        Step::EnableRescue { .. } => "armed its rescue system".to_owned(),
        Step::PowerOn { server } => format!("powered on server {server}"),
        Step::ForgetWritten { .. } => "counted its disk as empty".to_owned(),
        Step::WriteImage { image, .. } => format!("wrote the image of {}", image.pool),
        Step::PowerOff { server } => format!("powered off server {server}"),
        Step::TakeSnapshot { image, .. } => format!("took the snapshot of {}", image.pool),
        Step::AwaitSnapshot { snapshot } => format!("waited for snapshot {snapshot}"),
        Step::DeleteSnapshot { snapshot } => format!("deleted the old snapshot {snapshot}"),
        Step::DeleteImageServer { .. } => "deleted the temporary server".to_owned(),
        Step::Make(effect) => format!("made {}", made(effect)),
        Step::CreateFirstServer { .. } => "made the first server".to_owned(),
        Step::AwaitServer { server } => format!("waited for server {server}"),
        Step::Meet { .. } => "met the first server: it has a host key of its own".to_owned(),
        Step::UseHostKey { .. } => "it answers by that key".to_owned(),
        Step::HandOver { .. } => "handed the cluster over: fabrik runs".to_owned(),
        Step::AwaitCommit { .. } => "the commit is carried out".to_owned(),
        Step::WriteKubeconfig { .. } => "got a kubeconfig, good for a week".to_owned(),
        Step::Part { .. } => "the first server lets this laptop in no more".to_owned(),
        Step::DeleteKey { .. } => "took the temporary SSH key back".to_owned(),
        Step::ForgetSecrets => "removed the keys from this laptop".to_owned(),
    }
}

fn made(effect: &Effect) -> String {
    let kind = effect
        .verb()
        .trim_start_matches("create-")
        .replace('-', " ");
    format!("{kind} {}", effect.target())
}
