//! What the leader tells: the status of `FabrikCluster`, a `FabrikNode` per worker, and the observation that
//! `fabrik plan` works from. Written only when it changed; what can't be written is logged and tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use fabrik_core::desired::Desired;
use fabrik_core::hold::Hold;
use fabrik_core::id::IntentId;
use fabrik_core::ledger::Member;
use fabrik_core::names::{LEADER_MANAGER, NAMESPACE};
use fabrik_core::observed::{Datastore, Observed};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde_json::json;
use tracing::{info, warn};

use super::Replica;
use super::leader::Leader;
use super::pace;
use super::status::{self, Facts};
use super::tell;
use crate::cluster::nodes;
use crate::cluster::resources::{
    FabrikCluster, FabrikClusterStatus, FabrikNode, FabrikNodeSpec, Standing,
};
use crate::cluster::wishes;
use crate::report::observed::{CONFIG_MAP, CONFIG_MAP_KEY, Document};

/// How often the observation is written at most.
const OBSERVED_PERIOD: Duration = Duration::from_secs(2);

/// How many FabrikNodes are written at once.
const CONCURRENCY: usize = 8;

/// What was told last, so that nothing is told twice.
pub struct Publisher {
    client: Client,
    cluster: String,
    status: Option<(FabrikClusterStatus, Option<i64>)>,
    nodes: Option<BTreeMap<IntentId, Member>>,
    /// What each FabrikNode says of its node.
    standings: BTreeMap<String, Option<Standing>>,
    observed: Option<(Observed, Instant)>,
    holds: BTreeSet<Hold>,
    /// When all this was told last.
    at: Option<Instant>,
}

/// How a pass ended.
pub struct Pass<'a> {
    /// What is in force, with the systems as far as they are known.
    pub desired: Option<&'a Desired>,
    pub observed: &'a Observed,
    pub holds: Vec<Hold>,
    /// Nothing was to be done to servers and Nodes.
    pub idle: bool,
    /// Why Hetzner could not be read: `observed` shows nothing of it then.
    pub blind: Option<&'a str>,
    /// When the next pass comes at the latest.
    pub next_in: Duration,
}

impl<'a> Pass<'a> {
    /// One in which nothing was in force and nothing was done.
    pub fn of(observed: &'a Observed) -> Self {
        Self {
            desired: None,
            observed,
            holds: Vec::new(),
            idle: true,
            blind: None,
            next_in: Duration::MAX,
        }
    }
}

/// Tells how a pass ended.
pub async fn cluster(leader: &mut Leader, pass: Pass<'_>) {
    let Pass {
        desired,
        observed,
        mut holds,
        idle,
        blind,
        next_in,
    } = pass;
    holds.extend(leader.holds_of_units());
    let of_systems = leader.holds_of_systems();
    let building = !of_systems.is_empty();
    holds.extend(of_systems);
    holds.extend(leader.wishes.hold());
    holds.sort();
    holds.dedup();
    let (come, gone) = leader.publisher.log_news(&holds);
    tell::holds(&leader.events, &come, &gone);
    let units = leader.units();
    let metrics = &leader.replica.metrics;
    metrics.set_holds(&holds);
    metrics.set_units(&status::units(&units));
    if let Some(in_force) = &leader.in_force {
        metrics.set_pools(&status::pools(&in_force.desired, observed));
    }
    let now = Instant::now();
    let lacks_nodes = leader.publisher.nodes.as_ref() != Some(&observed.ledger.members);
    if !lacks_nodes && !pace::is_told_now(leader.publisher.at, next_in, now) {
        return;
    }
    let facts = Facts {
        desired,
        observed: Some(observed),
        head: leader.head.as_ref(),
        refusal: leader.refusal.as_ref(),
        trouble: blind.or(leader.trouble.as_deref()),
        paused: leader.wishes.paused.as_deref(),
        holds,
        units: &units,
        idle: idle && !building,
        leader: leader.replica.config.node.as_str(),
    };
    let told = leader.publisher.tell_status(&facts).await;
    leader.publisher.at = told.is_ok().then_some(now);
    warn_about(told, "the status of FabrikCluster");
    let told = leader.publisher.tell_nodes(observed).await;
    warn_about(told, "the FabrikNodes");
    // The inventories come from the engine, once it has read them.
    let complete = leader.in_force.is_none() || units.commit.is_some();
    if complete && blind.is_none() {
        warn_about(
            leader.publisher.tell_observed(observed).await,
            "the observation",
        );
    }
}

/// Tells that a pass could not see enough.
pub async fn trouble(leader: &mut Leader, problem: &str) {
    let units = leader.units();
    let facts = Facts {
        desired: leader.in_force.as_ref().map(|f| &f.desired),
        observed: None,
        head: leader.head.as_ref(),
        refusal: leader.refusal.as_ref(),
        trouble: Some(problem),
        paused: leader.wishes.paused.as_deref(),
        holds: leader.publisher.shown_before(),
        units: &units,
        idle: false,
        leader: leader.replica.config.node.as_str(),
    };
    let told = leader.publisher.tell_status(&facts).await;
    warn_about(told, "the status of FabrikCluster");
}

/// Keeps what this replica serves at `/observed` the same as what the leader published. Runs until dropped.
pub async fn follow(replica: &Replica) {
    let api: Api<ConfigMap> = Api::namespaced(replica.clients.leader.clone(), NAMESPACE);
    let only = watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    let changes = watcher(api, only).default_backoff().applied_objects();
    let mut changes = std::pin::pin!(changes);
    while let Some(change) = changes.next().await {
        match change {
            Ok(map) => {
                let data = map.binary_data;
                let document = data.and_then(|mut data| data.remove(CONFIG_MAP_KEY));
                let document = document.map(|d| Bytes::from(d.0));
                replica.observed.send_replace(document);
            }
            // The watch begins again by itself.
            Err(error) => warn!(%error, "watching the published observation was interrupted"),
        }
    }
}

impl Publisher {
    pub fn new(client: Client, cluster: &str) -> Self {
        Self {
            client,
            cluster: cluster.to_owned(),
            status: None,
            nodes: None,
            standings: BTreeMap::new(),
            observed: None,
            holds: BTreeSet::new(),
            at: None,
        }
    }

    /// One line for each hold that was not there at the last pass. Returns those, and those that are there no more.
    fn log_news(&mut self, holds: &[Hold]) -> (Vec<Hold>, Vec<Hold>) {
        let now: BTreeSet<Hold> = holds.iter().cloned().collect();
        let before = std::mem::replace(&mut self.holds, now);
        let come: Vec<Hold> = self.holds.difference(&before).cloned().collect();
        for hold in &come {
            info!(reason = ?hold.reason, "held: {hold}");
        }
        (come, before.difference(&self.holds).cloned().collect())
    }

    /// The holds of the last pass that saw everything.
    fn shown_before(&self) -> Vec<Hold> {
        self.holds.iter().cloned().collect()
    }

    async fn tell_status(&mut self, facts: &Facts<'_>) -> Result<(), kube::Error> {
        let api: Api<FabrikCluster> = Api::all(self.client.clone());
        let (before, generation) = if let Some(known) = self.status.take() {
            known
        } else {
            // What another version wrote and this one can't read is written anew.
            let live = wishes::dynamic(&self.client).get(&self.cluster).await?;
            let status = live.data.get("status").cloned().unwrap_or_default();
            let status = serde_json::from_value(status).unwrap_or_default();
            (status, live.metadata.generation)
        };
        let now = status::compute(facts, &before, generation, Timestamp::now());
        if now == before {
            self.status = Some((before, generation));
        } else {
            let patch = json!({
                "apiVersion": "fabrik.dev/v1alpha1",
                "kind": "FabrikCluster",
                "status": now,
            });
            let params = PatchParams::apply(LEADER_MANAGER).force();
            let written = api
                .patch_status(&self.cluster, &params, &Patch::Apply(&patch))
                .await?;
            self.status = Some((now, written.metadata.generation));
        }
        Ok(())
    }

    /// A `FabrikNode` for each member, also where somebody deleted it, and none for others.
    async fn tell_nodes(&mut self, observed: &Observed) -> Result<(), kube::Error> {
        let members = &observed.ledger.members;
        let is_there = |member: &Member| observed.systems.contains_key(&member.name);
        if self.nodes.as_ref() == Some(members) && members.values().all(is_there) {
            return self.tell_standings(members).await;
        }
        self.standings.clear();
        let before = self.nodes.take().unwrap_or_default();
        let api: Api<FabrikNode> = Api::all(self.client.clone());
        let there = api.list_metadata(&ListParams::default()).await?;
        let wanted = |name: &str| members.values().any(|m| m.name.as_str() == name);
        for name in there
            .items
            .iter()
            .filter_map(|n| n.metadata.name.as_deref())
            .filter(|n| !wanted(n))
        {
            match api.delete(name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code != 404 => {
                    return Err(kube::Error::Api(status));
                }
                _ => {}
            }
        }
        let told = |(id, member): &(&IntentId, &Member)| {
            before.get(*id) == Some(*member) && is_there(member)
        };
        for (intent, member) in members.iter().filter(|m| !told(m)) {
            let spec = FabrikNodeSpec {
                pool: member.pool.to_string(),
                server_id: member.server.0,
                uid: member.uid.to_string(),
                intent: intent.to_string(),
                aim: None,
                publication: None,
                order: None,
                standing: None,
            };
            let node = FabrikNode::new(member.name.as_str(), spec);
            let params = PatchParams::apply(LEADER_MANAGER).force();
            api.patch(member.name.as_str(), &params, &Patch::Apply(&node))
                .await?;
        }
        self.nodes = Some(members.clone());
        self.tell_standings(members).await
    }

    /// On each FabrikNode what the status of the cluster says of its node.
    async fn tell_standings(
        &mut self,
        members: &BTreeMap<IntentId, Member>,
    ) -> Result<(), kube::Error> {
        // Where the status could not be written, what it says of them is not known.
        let Some((status, _)) = &self.status else {
            return Ok(());
        };
        let systems = status.systems.iter();
        let of: BTreeMap<&str, Standing> = systems
            .map(|s| (s.name.as_str(), Standing::from(s)))
            .collect();
        let standings = members.values().map(|member| {
            let name = member.name.as_str();
            (name.to_owned(), of.get(name).cloned())
        });
        let now: BTreeMap<String, Option<Standing>> = standings.collect();
        let news = now
            .iter()
            .filter(|(name, standing)| self.standings.get(*name) != Some(*standing))
            .map(|(name, standing)| nodes::say_standing(&self.client, name, standing.as_ref()));
        let mut said = futures::stream::iter(news).buffer_unordered(CONCURRENCY);
        while let Some(said) = said.next().await {
            said?;
        }
        drop(said);
        self.standings = now;
        Ok(())
    }

    async fn tell_observed(&mut self, observed: &Observed) -> Result<(), kube::Error> {
        let mut lasting = observed.clone();
        lasting.at = Timestamp::UNIX_EPOCH;
        // How far etcd's members have come changes with each write, this one among them.
        if let Datastore::Etcd(etcd) = &mut lasting.datastore {
            let members = etcd.members.iter_mut().flatten();
            members.for_each(|m| m.lag = 0);
        }
        for node in lasting.nodes.values_mut() {
            (node.heard, node.lease_unread) = (None, false);
        }
        if let Some((before, at)) = &self.observed
            && (*before == lasting || at.elapsed() < OBSERVED_PERIOD)
        {
            return Ok(());
        }
        let document = match Document::new(observed.clone(), Timestamp::now()).publish() {
            Ok(document) => document,
            Err(error) => {
                warn!(%error, "the observation is not published");
                return Ok(());
            }
        };
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(CONFIG_MAP.to_owned()),
                ..ObjectMeta::default()
            },
            binary_data: Some([(CONFIG_MAP_KEY.to_owned(), ByteString(document))].into()),
            ..ConfigMap::default()
        };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        api.patch(
            CONFIG_MAP,
            &PatchParams::apply(LEADER_MANAGER).force(),
            &Patch::Apply(&map),
        )
        .await?;
        self.observed = Some((lasting, Instant::now()));
        Ok(())
    }
}

fn warn_about(told: Result<(), kube::Error>, what: &str) {
    if let Err(error) = told {
        warn!(%error, "can't write {what}; it is tried again at the next pass");
    }
}
