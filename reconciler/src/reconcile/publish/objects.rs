//! Writes the status of `FabrikCluster`, and a `FabrikNode` for each member.

use std::collections::BTreeMap;
use std::time::Duration;

use fabrik_core::id::IntentId;
use fabrik_core::ledger::Member;
use fabrik_core::names::LEADER_MANAGER;
use fabrik_core::observed::Observed;
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::teller::Teller;
use crate::cluster::nodes;
use crate::cluster::resources::{
    FabrikCluster, FabrikClusterStatus, FabrikNode, FabrikNodeSpec, Standing,
};
use crate::cluster::wishes;
use crate::reconcile::status::{self, Facts};

/// How many FabrikNodes are written at once.
const CONCURRENCY: usize = 8;

/// How long "carried out" waits for the observation that shows it, which may be one that is never published.
const AFTER_THE_OBSERVATION: Duration = Duration::from_secs(5);

/// What was told last, so that nothing is told twice.
pub struct Objects {
    client: Client,
    cluster: String,
    status: Option<(FabrikClusterStatus, Option<i64>)>,
    /// The members that have a FabrikNode.
    nodes: BTreeMap<IntentId, Member>,
    /// There may be FabrikNodes of others.
    strangers: bool,
    /// What each FabrikNode says of its node.
    standings: BTreeMap<String, Option<Standing>>,
    /// As of when readers of the observation know what there is.
    published: watch::Receiver<Timestamp>,
}

impl Teller for Objects {
    type News = Facts;
    const WHAT: &'static str = "the status of FabrikCluster and FabrikNodes";
    const PERIOD: Duration = Duration::from_secs(1);

    async fn tell(&mut self, facts: &Facts) -> Result<(), kube::Error> {
        let status = self.tell_status(facts).await;
        let nodes = match &facts.observed {
            Some(observed) => self.tell_nodes(observed).await,
            None => Ok(()),
        };
        status.and(nodes)
    }
}

impl Objects {
    pub fn new(client: Client, cluster: &str, published: watch::Receiver<Timestamp>) -> Self {
        Self {
            client,
            cluster: cluster.to_owned(),
            status: None,
            nodes: BTreeMap::new(),
            strangers: true,
            standings: BTreeMap::new(),
            published,
        }
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
            if now.applied_commit != before.applied_commit {
                self.let_the_observation_go_first(facts).await;
            }
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

    /// `fabrik wait HEAD && fabrik plan` plans on the cluster as that commit left it.
    async fn let_the_observation_go_first(&mut self, facts: &Facts) {
        let Some(observed) = &facts.observed else {
            return;
        };
        let known = self.published.wait_for(|known| *known >= observed.at);
        // Late or never, it keeps nobody from the status.
        let _ = timeout(AFTER_THE_OBSERVATION, known).await;
    }

    /// A `FabrikNode` for each member, also where somebody deleted it, and none for others. One that can't be written
    /// keeps none of the others from it.
    async fn tell_nodes(&mut self, observed: &Observed) -> Result<(), kube::Error> {
        let members = &observed.ledger.members;
        let mut all = Ok(());
        if self.strangers || self.nodes.keys().any(|id| !members.contains_key(id)) {
            let removed = self.remove_strangers(members).await;
            self.strangers = removed.is_err();
            all = all.and(removed);
        }
        let is_there = |member: &Member| observed.systems.contains_key(&member.name);
        self.nodes
            .retain(|id, member| members.get(id) == Some(member) && is_there(member));
        for (intent, member) in members {
            if !self.nodes.contains_key(intent) {
                all = all.and(self.make_node(intent, member).await);
            }
        }
        all.and(self.tell_standings(members).await)
    }

    async fn remove_strangers(
        &self,
        members: &BTreeMap<IntentId, Member>,
    ) -> Result<(), kube::Error> {
        let api: Api<FabrikNode> = Api::all(self.client.clone());
        let there = api.list_metadata(&ListParams::default()).await?;
        let is_wanted = |name: &str| members.values().any(|m| m.name.as_str() == name);
        let names = there
            .items
            .iter()
            .filter_map(|n| n.metadata.name.as_deref());
        let mut all = Ok(());
        for name in names.filter(|n| !is_wanted(n)) {
            match api.delete(name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                deleted => all = all.and(deleted.map(drop)),
            }
        }
        all
    }

    async fn make_node(&mut self, intent: &IntentId, member: &Member) -> Result<(), kube::Error> {
        let name = member.name.as_str();
        let spec = FabrikNodeSpec {
            pool: member.pool.to_string(),
            server_id: member.server.0,
            uid: member.uid.to_string(),
            intent: intent.to_string(),
            aim: None,
            publication: None,
            caches: Vec::new(),
            order: None,
            retirement: None,
            standing: None,
        };
        let api: Api<FabrikNode> = Api::all(self.client.clone());
        let params = PatchParams::apply(LEADER_MANAGER).force();
        let node = FabrikNode::new(name, spec);
        api.patch(name, &params, &Patch::Apply(&node)).await?;
        self.standings.remove(name);
        self.nodes.insert(intent.clone(), member.clone());
        Ok(())
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
        self.standings
            .retain(|name, _| members.values().any(|m| m.name.as_str() == name));
        let client = &self.client;
        let standings = members.values().map(|member| {
            let name = member.name.as_str();
            (name.to_owned(), of.get(name).cloned())
        });
        let news = standings
            .filter(|(name, standing)| self.standings.get(name) != Some(standing))
            .map(|(name, standing)| async move {
                let said = nodes::say_standing(client, &name, standing.as_ref()).await;
                (name, standing, said)
            });
        let news: Vec<_> = news.collect();
        let mut said = futures::stream::iter(news).buffer_unordered(CONCURRENCY);
        let mut all = Ok(());
        while let Some((name, standing, said)) = said.next().await {
            match said {
                Ok(()) => {
                    self.standings.insert(name, standing);
                }
                Err(error) => all = Err(error),
            }
        }
        all
    }
}
