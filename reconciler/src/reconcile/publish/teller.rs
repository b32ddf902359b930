//! Writes what is to be told: the status of `FabrikCluster`, a `FabrikNode` for each member, and the observation that
//! `fabrik plan` works from. Written only when it changed; what can't be written is logged and tried again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fabrik_core::id::IntentId;
use fabrik_core::ledger::Member;
use fabrik_core::names::{LEADER_MANAGER, NAMESPACE};
use fabrik_core::observed::{Datastore, Observed};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tracing::warn;

use super::News;
use crate::cluster::nodes;
use crate::cluster::resources::{
    FabrikCluster, FabrikClusterStatus, FabrikNode, FabrikNodeSpec, Standing,
};
use crate::cluster::wishes;
use crate::reconcile::status::{self, Facts};
use crate::report::observed::{CONFIG_MAP, CONFIG_MAP_KEY, Document};

/// How often it is told at most. Passes that follow one upon the other have less to tell than it takes to tell it.
const PERIOD: Duration = Duration::from_secs(1);

/// How long what could not be written rests.
const RETRY: Duration = Duration::from_secs(3);

/// How often the observation is written at most.
const OBSERVED_PERIOD: Duration = Duration::from_secs(2);

/// How many FabrikNodes are written at once.
const CONCURRENCY: usize = 8;

/// What was told last, so that nothing is told twice.
pub struct Teller {
    client: Client,
    cluster: String,
    status: Option<(FabrikClusterStatus, Option<i64>)>,
    nodes: Option<BTreeMap<IntentId, Member>>,
    /// What each FabrikNode says of its node.
    standings: BTreeMap<String, Option<Standing>>,
    observed: Option<(Observed, Instant)>,
}

impl Teller {
    pub fn new(client: Client, cluster: &str) -> Self {
        Self {
            client,
            cluster: cluster.to_owned(),
            status: None,
            nodes: None,
            standings: BTreeMap::new(),
            observed: None,
        }
    }

    /// Tells the newest of what comes, until none can come any more.
    pub async fn run(mut self, mut news: watch::Receiver<News>) {
        while news.changed().await.is_ok() {
            let newest = news.borrow_and_update().clone();
            if self.tell(&newest).await {
                tokio::time::sleep(PERIOD).await;
            } else {
                tokio::time::sleep(RETRY).await;
                news.mark_changed();
            }
        }
    }

    /// Whether all of it could be written.
    async fn tell(&mut self, news: &News) -> bool {
        let told = self.tell_status(&news.facts).await;
        let mut all = is_told(&told, "the status of FabrikCluster");
        let Some(observed) = &news.facts.observed else {
            return all;
        };
        let told = self.tell_nodes(observed).await;
        all &= is_told(&told, "the FabrikNodes");
        if news.is_whole {
            let told = self.tell_observed(observed).await;
            all &= is_told(&told, "the observation");
        }
        all
    }

    async fn tell_status(&mut self, facts: &Facts) -> Result<(), kube::Error> {
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
        let mut news = Vec::new();
        for (name, standing) in &now {
            if self.standings.get(name) != Some(standing) {
                let said = nodes::say_standing(&self.client, name, standing.as_ref());
                news.push(said);
            }
        }
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

fn is_told(told: &Result<(), kube::Error>, what: &str) -> bool {
    if let Err(error) = told {
        warn!(%error, "can't write {what}; it is tried again");
    }
    told.is_ok()
}
