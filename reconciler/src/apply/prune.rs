//! Deletes what a unit no longer wants: what is live, bears its label, and passes the guards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fabrik_core::apply::{Candidate, prune, stage, throttled};
use fabrik_core::desired::ObjectKey;
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::UnitName;
use fabrik_core::names::{PRUNE_ANNOTATION, UNIT_LABEL};
use fabrik_core::spec::Limits;
use futures::stream::{self, StreamExt};
use kube::Client;
use kube::api::{DeleteParams, Preconditions, PropagationPolicy};
use kube::core::{ObjectMeta, Status};

use super::discovery::{Discovery, Kind};
use super::engine::CONCURRENT_REQUESTS;
use super::failure::{Failure, Words};
use super::{Authority, PruneGrant};

/// A deletion that has begun, or a refused one, is looked at again after this, if no watch says so earlier.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// What is held waits for a commit, a person or the clock.
const LOOK_AT_HELD: Duration = Duration::from_secs(60);

/// An inventory does not say whether the file was encrypted that an object came from.
const WORDS: Words = Words::Hidden;

/// How far a unit's prunes are.
#[derive(Debug, Default)]
pub(super) struct Prunes {
    pub holds: Vec<Hold>,
    pub failures: BTreeMap<ObjectKey, Failure>,
    /// In the ledger's history already.
    granted: BTreeSet<ObjectKey>,
    /// Not looked at before this.
    pub wait_until: Option<Instant>,
    /// How many were left alone in the last round.
    waiting: usize,
}

pub(super) struct Pruner<'a> {
    pub client: &'a Client,
    pub discovery: &'a mut Discovery,
    pub limits: &'a Limits,
    pub grant: &'a PruneGrant,
    pub authority: &'a Authority,
}

/// What a round has found out.
#[derive(Default)]
pub(super) struct Round {
    /// Candidates that need no more care.
    pub gone: BTreeSet<ObjectKey>,
    /// Kinds of the candidates, to be watched.
    pub kinds: Vec<Kind>,
}

/// What was found where a candidate should be.
enum Found {
    Nothing,
    /// Somebody took the unit's label off, or gave it another.
    NotOurs,
    Leaving,
    Live {
        uid: Option<String>,
        confirmed: bool,
    },
    Unknown(Failure),
}

struct Known {
    kind: Kind,
    uid: Option<String>,
}

impl Prunes {
    /// A new commit: what was said about the old one is forgotten.
    pub fn renew(&mut self) {
        self.holds.clear();
        self.failures.clear();
        self.wait_until = None;
    }

    pub fn is_due(&self, waiting: usize, now: Instant) -> bool {
        self.waiting != waiting || self.wait_until.is_none_or(|until| until <= now)
    }

    /// One round over the unit's candidates; `waiting` more are left alone at present. Objects of a later stage go first, and an earlier stage waits until they
    /// are gone.
    pub async fn round(
        &mut self,
        unit: &UnitName,
        candidates: Vec<ObjectKey>,
        waiting: usize,
        pruner: &mut Pruner<'_>,
    ) -> Round {
        self.holds
            .retain(|hold| hold.reason == HoldReason::Conflict);
        self.failures.clear();
        self.waiting = waiting;
        let mut round = Round::default();
        let mut live = Vec::new();
        let mut leaving = Vec::new();
        let mut known = BTreeMap::new();
        for (key, kind, found) in pruner.look(unit, candidates).await {
            round.kinds.extend(kind.clone());
            match (found, kind) {
                (Found::Nothing, _) => {
                    round.gone.insert(key);
                }
                (Found::NotOurs, _) => {
                    tracing::warn!(%unit, object = %key, "not pruned: it no longer bears the unit's label");
                    self.holds.push(not_ours(unit, &key));
                    round.gone.insert(key);
                }
                (Found::Leaving, _) => leaving.push(key),
                (Found::Live { uid, confirmed }, Some(kind)) => {
                    known.insert(key.clone(), Known { kind, uid });
                    live.push(Candidate {
                        object: key,
                        confirmed,
                    });
                }
                (Found::Unknown(failure), _) => {
                    self.failures.insert(key, failure);
                }
                (Found::Live { .. }, None) => {}
            }
        }
        let unseen = self.failures.len() + waiting;
        let verdict = prune(unit, &live, unseen, pruner.limits);
        self.holds.extend(verdict.holds);
        let last = verdict.allowed.iter().chain(&leaving).map(stage).max();
        let mut next: Vec<ObjectKey> = verdict.allowed;
        next.retain(|key| Some(stage(key)) == last);
        next.reverse();
        let next = self.ask(unit, next, pruner).await;
        for key in next {
            if let Some(known) = known.remove(&key)
                && pruner.authority.as_ref()().is_ok()
            {
                match pruner.delete(&key, &known).await {
                    Ok(true) => {
                        round.gone.insert(key);
                    }
                    Ok(false) => leaving.push(key),
                    Err(failure) => {
                        self.failures.insert(key, failure);
                    }
                }
            }
        }
        self.granted.retain(|key| !round.gone.contains(key));
        self.wait_until = self.pause(!round.gone.is_empty(), !leaving.is_empty());
        round
    }

    /// Records the prunes before they happen; keeps those that the hour has room for.
    async fn ask(
        &mut self,
        unit: &UnitName,
        wanted: Vec<ObjectKey>,
        pruner: &Pruner<'_>,
    ) -> Vec<ObjectKey> {
        let (mut allowed, new): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|key| self.granted.contains(key));
        if new.is_empty() || pruner.authority.as_ref()().is_err() {
            return allowed;
        }
        let names = new.iter().map(|key| format!("{key} of unit {unit}"));
        match (pruner.grant)(names.collect()).await {
            Ok(room) => {
                let mut new = new;
                let waiting = new.split_off(room.count.min(new.len())).len();
                if waiting > 0 {
                    let hold = throttled(unit, waiting, pruner.limits, room.more_at);
                    self.holds.push(hold);
                }
                self.granted.extend(new.iter().cloned());
                allowed.extend(new);
            }
            Err(message) => {
                for key in new {
                    let message = format!("the prune could not be recorded: {message}");
                    self.failures.insert(key, Failure::Unreachable { message });
                }
            }
        }
        allowed
    }

    fn pause(&self, progress: bool, leaving: bool) -> Option<Instant> {
        let now = Instant::now();
        if leaving || !self.failures.is_empty() {
            Some(now + LOOK_AGAIN)
        } else if progress {
            None
        } else {
            Some(now + LOOK_AT_HELD)
        }
    }
}

impl Pruner<'_> {
    async fn look(
        &mut self,
        unit: &UnitName,
        candidates: Vec<ObjectKey>,
    ) -> Vec<(ObjectKey, Option<Kind>, Found)> {
        let mut known = Vec::new();
        let mut done = Vec::new();
        for key in candidates {
            match self.discovery.of_key(&key).await {
                Ok(Some(kind)) => known.push((key, kind)),
                // With its definition, all objects of a kind go.
                Ok(None) => done.push((key, None, Found::Nothing)),
                Err(failure) => done.push((key, None, Found::Unknown(failure))),
            }
        }
        let client = self.client;
        let mut stale = BTreeSet::new();
        let looks = known.into_iter().map(|(key, kind)| async move {
            let found = look(client, &kind, &key, unit).await;
            (key, Some(kind), found)
        });
        let mut found: Vec<_> = stream::iter(looks)
            .buffered(CONCURRENT_REQUESTS)
            .collect()
            .await;
        for (key, _, found) in &found {
            if matches!(found, Found::Unknown(Failure::NotServed { .. })) {
                stale.insert(key.group.as_str());
            }
        }
        for group in stale {
            self.discovery.forget(group);
        }
        done.append(&mut found);
        done
    }

    /// True when it is gone, false when it is on its way.
    async fn delete(&self, key: &ObjectKey, known: &Known) -> Result<bool, Failure> {
        let api = known.kind.api(self.client, key)?;
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions {
                uid: known.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &params).await {
            Ok(answer) => {
                tracing::info!(object = %key, "pruned");
                Ok(answer.is_right())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
            Err(error) => Err(Failure::of(error, key, WORDS)),
        }
    }
}

async fn look(client: &Client, kind: &Kind, key: &ObjectKey, unit: &UnitName) -> Found {
    let api = match kind.api(client, key) {
        Ok(api) => api,
        // It was announced before its kind was known, and could never be made.
        Err(Failure::NeedsNamespace | Failure::NeedsNoNamespace) => return Found::Nothing,
        Err(failure) => return Found::Unknown(failure),
    };
    match api.get_metadata(&key.name).await {
        Ok(live) => judge(live.metadata, unit),
        Err(kube::Error::Api(status)) if is_absent(&status, key) => Found::Nothing,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let api_version = kind.resource.api_version.clone();
            Found::Unknown(Failure::NotServed { api_version })
        }
        Err(error) => Found::Unknown(Failure::of(error, key, WORDS)),
    }
}

/// The object is not there. Any other 404 means that what we know of its kind is out of date, and tells nothing of it.
fn is_absent(status: &Status, key: &ObjectKey) -> bool {
    let named = status.details.as_ref().is_some_and(|d| d.name == key.name);
    status.code == 404 && named
}

fn judge(meta: ObjectMeta, unit: &UnitName) -> Found {
    let label = meta.labels.as_ref().and_then(|l| l.get(UNIT_LABEL));
    if label.map(String::as_str) != Some(unit.as_str()) {
        return Found::NotOurs;
    }
    if meta.deletion_timestamp.is_some() {
        return Found::Leaving;
    }
    let annotation = meta
        .annotations
        .as_ref()
        .and_then(|a| a.get(PRUNE_ANNOTATION));
    Found::Live {
        uid: meta.uid,
        confirmed: annotation.is_some_and(|value| value == "confirm"),
    }
}

fn not_ours(unit: &UnitName, key: &ObjectKey) -> Hold {
    Hold {
        about: key.to_string(),
        reason: HoldReason::Conflict,
        message: format!(
            "is no longer in the repository and is left alone, because it no longer bears {UNIT_LABEL}={unit}. \
             Delete it by hand if nobody needs it"
        ),
    }
}
