//! Sends the objects of a stage, so many at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use fabrik_core::apply::{Stage, stage};
use fabrik_core::id::UnitName;
use fabrik_core::manifest::Object;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::watch;

use super::super::Wanted;
use super::super::discovery::Kind;
use super::super::failure::Failure;
use super::super::object::{self, Sent};
use super::{CONCURRENT_REQUESTS, Run, kind_name};
use crate::cluster::events::Weight;

impl Run {
    /// Sends what is due of one stage. A failing object does not stop the others.
    pub(super) async fn apply(
        &mut self,
        wanted_stage: Stage,
        commands: &watch::Receiver<Arc<Wanted>>,
    ) {
        let wanted = Arc::clone(&self.wanted);
        let due = self.due(&wanted, wanted_stage);
        let kinds = self.resolve(&due).await;
        let (client, authority) = (self.client.clone(), self.authority.clone());
        let mut queue = due.into_iter();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < CONCURRENT_REQUESTS && !self.stops(commands) {
                let Some((unit, object)) = queue.next() else {
                    break;
                };
                let kind = kinds.get(&(object.api_version.as_str(), object.key.kind.as_str()));
                let (client, authority) = (&client, &authority);
                running.push(async move {
                    let outcome = match kind {
                        Some(Ok(kind)) => {
                            object::apply(client, kind, unit, object, authority).await
                        }
                        Some(Err(failure)) => Err(failure.clone()),
                        None => Ok(None),
                    };
                    (object, outcome)
                });
            }
            let Some((object, outcome)) = running.next().await else {
                break;
            };
            self.record(object, outcome);
        }
        self.tell_of_drifts();
    }

    /// On the objects themselves: that is where who has changed them by hand will look.
    fn tell_of_drifts(&mut self) {
        let Some(events) = &self.events else { return };
        for (subject, words) in self.put_back.drain(..) {
            events.about(&subject, Weight::Warning, "PutBack", "Apply", &words);
        }
    }

    fn due<'a>(&self, wanted: &'a Wanted, wanted_stage: Stage) -> Vec<(&'a UnitName, &'a Object)> {
        let now = Instant::now();
        let objects = wanted
            .units
            .iter()
            .flat_map(|(unit, objects)| objects.iter().map(move |object| (unit, object)));
        objects
            .filter(|(unit, object)| {
                stage(&object.key) == wanted_stage
                    && self.is_announced(unit, &object.key)
                    && self
                        .tracks
                        .get(&object.key)
                        .is_some_and(|t| t.unit == **unit && t.is_due(&object.digest, now))
            })
            .collect()
    }

    /// Each kind is asked for once, however many objects there are of it.
    async fn resolve<'a>(
        &mut self,
        due: &[(&UnitName, &'a Object)],
    ) -> BTreeMap<(&'a str, &'a str), Result<Kind, Failure>> {
        let mut kinds = BTreeMap::new();
        for (_, object) in due {
            let name = (object.api_version.as_str(), object.key.kind.as_str());
            if kinds.contains_key(&name) {
                continue;
            }
            let kind = self.discovery.kind(name.0, name.1).await;
            if let Ok(kind) = &kind {
                self.kinds.insert(kind_name(&object.key), kind.clone());
            }
            kinds.insert(name, kind);
        }
        self.watch_kinds();
        kinds
    }

    fn record(&mut self, object: &Object, outcome: Result<Option<Sent>, Failure>) {
        let Some(track) = self.tracks.get_mut(&object.key) else {
            return;
        };
        match outcome {
            Ok(Some(sent)) => {
                tracing::info!(object = %object.key, unit = %track.unit, "applied");
                let uid = sent.live.uid.clone();
                if let Some(drift) = track.sent(&object.digest, sent) {
                    let words = format!("{} {drift}, as {} says", object.key, object.place);
                    self.put_back.push((reference(object, uid), words));
                }
                self.stale.remove(&object.key);
            }
            Ok(None) => {}
            Err(failure) => {
                tracing::warn!(object = %object.key, unit = %track.unit, place = %object.place, %failure, "not applied");
                track.fail(failure, Instant::now());
            }
        }
    }
}

fn reference(object: &Object, uid: String) -> ObjectReference {
    let key = &object.key;
    ObjectReference {
        api_version: Some(object.api_version.clone()),
        kind: Some(key.kind.clone()),
        namespace: Some(key.namespace.clone()).filter(|n| !n.is_empty()),
        name: Some(key.name.clone()),
        uid: Some(uid),
        ..ObjectReference::default()
    }
}
