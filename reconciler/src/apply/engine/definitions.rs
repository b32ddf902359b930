//! New kinds: wait until the API server serves them, then try what waited for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fabrik_core::apply::Health;
use fabrik_core::desired::ObjectKey;
use futures::future::join_all;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::Wanted;
use super::super::failure::Failure;
use super::Run;

/// Others of the unit go on after this, and the objects of the new kind are retried when it is there.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);

impl Run {
    /// Waits for definitions that were applied and are not established, but not past a newer commit.
    pub(super) async fn await_definitions(&mut self, commands: &watch::Receiver<Arc<Wanted>>) {
        let fresh: Vec<ObjectKey> = self
            .tracks
            .iter()
            .filter(|(key, track)| is_fresh_definition(key, &track.health, track.applied.is_some()))
            .map(|(key, _)| key.clone())
            .collect();
        if fresh.is_empty() {
            return;
        }
        let mut commands = commands.clone();
        let waits = fresh.iter().map(|key| established(&self.client, &key.name));
        let established = tokio::select! {
            established = join_all(waits) => established,
            _ = commands.changed() => return,
        };
        for (key, established) in fresh.iter().zip(established) {
            if !established {
                continue;
            }
            if let Some(track) = self.tracks.get_mut(key) {
                track.health = Health::Current;
            }
            if let Some((_, group)) = key.name.split_once('.') {
                self.discovery.forget(group);
                self.retry_kinds_of(group);
            }
        }
    }

    /// Objects whose kind was not known are due at once.
    pub(super) fn retry_kinds_of(&mut self, group: &str) {
        let now = Instant::now();
        for (key, track) in &mut self.tracks {
            let failed = track.failed.as_ref();
            let unknown = failed.is_some_and(|f| matches!(f.failure, Failure::UnknownKind { .. }));
            if key.group == group && unknown {
                track.retry_now(now);
            }
        }
    }
}

fn is_fresh_definition(key: &ObjectKey, health: &Health, applied: bool) -> bool {
    key.kind == "CustomResourceDefinition" && applied && matches!(health, Health::InProgress(_))
}

async fn established(client: &Client, name: &str) -> bool {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let wait = await_condition(api, name, conditions::is_crd_established());
    matches!(timeout(ESTABLISHED_WITHIN, wait).await, Ok(Ok(_)))
}
