//! What the leader tells of its passes. It is written beside them (`teller.rs`): no node waits for what is only read by
//! people.

mod objects;
mod observation;
mod teller;

use std::collections::BTreeSet;

use axum::body::Bytes;
use fabrik_core::desired::Desired;
use fabrik_core::hold::Hold;
use fabrik_core::names::NAMESPACE;
use fabrik_core::observed::Observed;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::objects::Objects;
use self::observation::Observation;
use self::teller::Teller;
use super::Replica;
use super::leader::Leader;
use super::status::{self, Facts};
use super::tell;
use crate::cluster::lease::Authority;
use crate::cluster::user_data::Joining;
use crate::config::Config;
use crate::report::observed::{CONFIG_MAP, CONFIG_MAP_KEY};

/// What is to be told by now, and the holds that were there at the last pass.
pub struct Publisher {
    facts: watch::Sender<Facts>,
    /// Of the last pass that saw all that there is.
    observed: watch::Sender<Option<Observed>>,
    holds: BTreeSet<Hold>,
}

/// How a pass ended.
pub struct Pass {
    /// What is in force, with the systems as far as they are known.
    pub desired: Option<Desired>,
    pub observed: Observed,
    pub holds: Vec<Hold>,
    /// Nothing was to be done to servers and Nodes.
    pub idle: bool,
    /// Why Hetzner could not be read: `observed` shows nothing of it then.
    pub blind: Option<String>,
}

impl Pass {
    /// One in which nothing was in force and nothing was done.
    pub fn of(observed: Observed) -> Self {
        Self {
            desired: None,
            observed,
            holds: Vec::new(),
            idle: true,
            blind: None,
        }
    }
}

impl Publisher {
    /// Tells for as long as the leadership lasts.
    pub fn start(
        client: Client,
        config: &Config,
        authority: &Authority,
        beside: &mut JoinSet<()>,
    ) -> Self {
        let (observation, published) = Observation::new(client.clone(), Joining::of(config));
        let objects = Objects::new(client, config.cluster.name.as_str(), published);
        Self {
            facts: begin(objects, authority, beside),
            observed: begin(observation, authority, beside),
            holds: BTreeSet::new(),
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
}

/// Has told what is sent.
fn begin<T: Teller<News: Default> + 'static>(
    teller: T,
    authority: &Authority,
    beside: &mut JoinSet<()>,
) -> watch::Sender<T::News> {
    let (news, to_tell) = watch::channel(T::News::default());
    let authority = authority.clone();
    let telling = teller::run(teller, to_tell);
    beside.spawn(async move { authority.covers(Box::pin(telling)).await });
    news
}

/// Tells how a pass ended.
pub fn cluster(leader: &mut Leader, pass: Pass) {
    let Pass {
        desired,
        mut observed,
        mut holds,
        idle,
        blind,
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
    // The engine went on while this pass looked at the rest, and both are told as one.
    observed.units = units.inventories();
    let metrics = &leader.replica.metrics;
    metrics.set_holds(&holds);
    metrics.set_units(&status::units(&units));
    if let Some(in_force) = &leader.in_force {
        metrics.set_pools(&status::pools(&in_force.desired, &observed));
    }
    // The inventories come from the engine, once it has read them.
    let complete = leader.in_force.is_none() || units.commit.is_some();
    if complete && blind.is_none() {
        leader
            .publisher
            .observed
            .send_replace(Some(observed.clone()));
    }
    let facts = Facts {
        desired,
        observed: Some(observed),
        trouble: blind.or_else(|| leader.trouble.clone()),
        holds,
        units,
        idle: idle && !building,
        ..facts(leader)
    };
    leader.publisher.facts.send_replace(facts);
}

/// Tells that a pass could not see enough.
pub fn trouble(leader: &mut Leader, problem: &str) {
    let in_force = leader.in_force.as_ref();
    let facts = Facts {
        desired: in_force.map(|f| f.desired.clone()),
        trouble: Some(problem.to_owned()),
        // Those of the last pass that saw everything.
        holds: leader.publisher.holds.iter().cloned().collect(),
        units: leader.units(),
        ..facts(leader)
    };
    leader.publisher.facts.send_replace(facts);
}

/// What is told of each pass.
fn facts(leader: &Leader) -> Facts {
    Facts {
        head: leader.head.clone(),
        refusal: leader.refusal.clone(),
        paused: leader.wishes.paused.clone(),
        leader: leader.replica.config.node.to_string(),
        ..Facts::default()
    }
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
