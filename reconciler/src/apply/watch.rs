//! Metadata watches: one per kind in use, only of objects that bear a unit's label, and one of all definitions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use fabrik_core::desired::ObjectKey;
use fabrik_core::names::UNIT_LABEL;
use futures::StreamExt;
use kube::api::DynamicObject;
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::discovery::Kind;
use super::live::{self, Live};

/// Something that a watch saw.
#[derive(Debug)]
pub(super) enum Sight {
    Seen(ObjectKey, Live),
    /// Deleted, or without our label: at this resource version.
    Gone(ObjectKey, u64),
    /// All of a kind that were there when a list was asked for at `since`.
    Listed {
        group: String,
        kind: String,
        keys: BTreeSet<ObjectKey>,
        since: Instant,
    },
    /// A definition of this group appeared or changed.
    Definition {
        group: String,
    },
}

/// Sights that may wait; a watch stops reading when nobody takes them.
const BACKLOG: usize = 1024;

pub(super) struct Watches {
    client: Client,
    sender: mpsc::Sender<Sight>,
    tasks: JoinSet<()>,
    kinds: BTreeMap<(String, String), AbortHandle>,
}

impl Watches {
    pub fn start(client: Client) -> (Self, mpsc::Receiver<Sight>) {
        let (sender, sights) = mpsc::channel(BACKLOG);
        let mut watches = Self {
            client,
            sender,
            tasks: JoinSet::new(),
            kinds: BTreeMap::new(),
        };
        let definitions = watch_definitions(watches.client.clone(), watches.sender.clone());
        watches.tasks.spawn(definitions);
        (watches, sights)
    }

    /// Watches exactly these kinds from now on.
    pub fn keep(&mut self, kinds: &BTreeMap<(String, String), Kind>) {
        self.kinds.retain(|name, task| {
            let kept = kinds.contains_key(name);
            if !kept {
                task.abort();
            }
            kept
        });
        for (name, kind) in kinds {
            if !self.kinds.contains_key(name) {
                let resource = kind.resource.clone();
                let watch = watch(self.client.clone(), resource, self.sender.clone());
                self.kinds.insert(name.clone(), self.tasks.spawn(watch));
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

async fn watch(client: Client, resource: ApiResource, sender: mpsc::Sender<Sight>) {
    let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, &resource);
    let config = Config::default().labels(UNIT_LABEL);
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut keys = BTreeSet::new();
    let mut since = Instant::now();
    while let Some(event) = events.next().await {
        let sight = match event {
            Ok(Event::Init) => {
                keys.clear();
                since = Instant::now();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                let key = live::key(&resource, &object.metadata);
                keys.insert(key.clone());
                Sight::Seen(key, Live::of(&object.metadata))
            }
            Ok(Event::InitDone) => Sight::Listed {
                group: resource.group.clone(),
                kind: resource.kind.clone(),
                keys: std::mem::take(&mut keys),
                since,
            },
            Ok(Event::Apply(object)) => {
                let key = live::key(&resource, &object.metadata);
                Sight::Seen(key, Live::of(&object.metadata))
            }
            Ok(Event::Delete(object)) => {
                let key = live::key(&resource, &object.metadata);
                Sight::Gone(key, live::version(&object.metadata))
            }
            Err(error) => {
                tracing::debug!(kind = %resource.kind, group = %resource.group, %error, "watch interrupted");
                continue;
            }
        };
        if sender.send(sight).await.is_err() {
            return;
        }
    }
}

async fn watch_definitions(client: Client, sender: mpsc::Sender<Sight>) {
    type Definition = k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let api = Api::<PartialObjectMeta<Definition>>::all(client);
    let events = watcher(api, Config::default());
    let mut events = events.default_backoff().touched_objects().boxed();
    while let Some(event) = events.next().await {
        let Ok(definition) = event else { continue };
        let name = definition.metadata.name.unwrap_or_default();
        // A definition is called `<plural>.<group>`.
        let Some((_, group)) = name.split_once('.') else {
            continue;
        };
        let group = group.to_owned();
        if sender.send(Sight::Definition { group }).await.is_err() {
            return;
        }
    }
}
