//! What a commit will do, from what it wants and what is there.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::desired::{Desired, ObjectKey};
use crate::disruption::Blocker;
use crate::effect::Effect;
use crate::hold::Hold;
use crate::id::{CommitId, IntentId, PoolName, UnitName};
use crate::infrastructure::{self, Ground};
use crate::ledger::{Member, Purpose, Reason, Ticket};
use crate::observed::{Observed, Power};
use crate::pool::{self, Resize};
use crate::rollout::{self, Forecast};
use crate::spec::{Limits, Pool};
use crate::step::step;
use crate::{apply, arrival, departure, secrets, servers};

/// All that is left to do, in the order in which each thing's steps follow one another. Read by people and, as JSON, by
/// programs (`fabrik plan --output json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub commit: CommitId,
    pub effects: Vec<Planned>,
    pub manifests: Vec<ManifestChange>,
    /// How the nodes come to their systems, where those are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Forecast>,
    /// What stands in the way as things are now.
    pub holds: Vec<Hold>,
    /// Pods that would keep a node from being drained, as things are now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<Blocker>,
}

/// One effect to come: the verb of an `Effect`, and its target's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Planned {
    pub verb: String,
    pub target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// What a person wants to know of it: the server type and location, why a node goes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ManifestChange {
    pub unit: UnitName,
    pub object: ObjectKey,
    pub verb: ManifestVerb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ManifestVerb {
    /// In no inventory yet.
    Create,
    /// In its unit's inventory with another digest.
    Update,
    /// In another unit's inventory: it changes units and is not deleted.
    Move,
    /// In an inventory and no longer in the commit.
    Prune,
}

/// All that the leader will do to bring `observed` to `desired`. Its brakes decide when and are among the holds.
pub fn plan(desired: &Desired, observed: &Observed, now: Timestamp) -> Plan {
    let infrastructure = infrastructure::step(desired, observed).effects;
    let mut effects: Vec<Planned> = infrastructure
        .iter()
        .map(|effect| Planned::of(effect, None))
        .collect();

    let mut ground = Ground::new(desired, observed);
    let mut of_pools = Vec::new();
    let mut next_intent = observed.ledger.next_intent;
    let mut given = BTreeSet::new();
    let control_plane = PoolName::servers();
    let of_servers = servers::pool(&desired.spec, &observed.ledger);
    let pools = of_servers.map(|pool| (&control_plane, pool)).into_iter();
    for (name, pool) in pools.chain(pool::all(desired, observed)) {
        let resize = if servers::is_servers(name) {
            servers::resize(desired, &pool, observed, now)
        } else {
            pool::resize(&desired.spec, name, &pool, observed, now)
        };
        let planner = PoolPlan {
            name,
            pool: &pool,
            observed,
        };
        let new = pool::next_servers(
            next_intent,
            resize.create,
            name,
            &desired.spec,
            observed,
            &mut given,
        );
        for server in new {
            next_intent = server.sequence + 1;
            let _placed = ground.for_server(name, &pool);
            of_pools.extend(planner.arrival(server.name.as_str()));
        }
        of_pools.extend(planner.arrivals_under_way(&resize, &mut ground));
        of_pools.extend(planner.labels());
        of_pools.extend(planner.departures_under_way(&resize));
        let going = resize.remove.iter();
        of_pools.extend(going.flat_map(|(id, reason)| planner.departure(id, *reason, now)));
    }
    effects.extend(
        ground
            .missing_groups()
            .map(|effect| Planned::of(&effect, None)),
    );
    effects.extend(of_pools);
    let delivered = secrets::step(desired, observed).effects;
    effects.extend(delivered.iter().map(|effect| Planned::of(effect, None)));

    let manifests = apply::changes(&desired.units, &observed.units);
    let mut drained = rollout::to_drain(desired, observed, now);
    let cordoned = effects.iter().filter(|e| e.verb == "cordon");
    drained.extend(cordoned.filter_map(|e| e.target.parse().ok()));
    let blockers = observed.blockers.iter();
    let blockers = blockers.filter(|b| drained.contains(&b.node));
    let mut holds = step(desired, observed, now).holds;
    holds.extend(guarded_prunes(&manifests, &desired.spec.limits));
    Plan {
        commit: desired.commit.clone(),
        effects,
        manifests,
        rollout: rollout::forecast(desired, observed, now),
        holds,
        blockers: blockers.cloned().collect(),
    }
}

/// Prunes that will wait for a person. Whether one has confirmed them already, an observation does not tell.
fn guarded_prunes(manifests: &[ManifestChange], limits: &Limits) -> Vec<Hold> {
    let mut units = BTreeMap::<_, Vec<_>>::new();
    for change in manifests {
        if change.verb == ManifestVerb::Prune {
            units
                .entry(&change.unit)
                .or_default()
                .push(apply::Candidate {
                    object: change.object.clone(),
                    confirmed: false,
                });
        }
    }
    let verdicts = units
        .into_iter()
        .map(|(unit, candidates)| apply::prune(unit, &candidates, 0, limits));
    verdicts.flat_map(|verdict| verdict.holds).collect()
}

impl Planned {
    fn of(effect: &Effect, pool: Option<&PoolName>) -> Self {
        let detail = match effect {
            Effect::DeleteLoadBalancer { .. } | Effect::DeleteFloatingIp { .. } => {
                "kubeconfigs that lead there lead nowhere then"
            }
            _ => "",
        };
        Self {
            verb: effect.verb().to_owned(),
            target: effect.target(),
            pool: pool.cloned(),
            detail: detail.to_owned(),
        }
    }
}

/// One pool's part of the plan.
struct PoolPlan<'a> {
    name: &'a PoolName,
    pool: &'a Pool,
    observed: &'a Observed,
}

impl PoolPlan<'_> {
    /// A server from nothing to a labelled Node; those of the control plane get no label.
    fn arrival(&self, server: &str) -> Vec<Planned> {
        let first = |choices: &[String]| choices.first().cloned().unwrap_or_default();
        let detail = format!(
            "{} in {}",
            first(&self.pool.server_types),
            first(&self.pool.locations)
        );
        let create = self.planned("create-server", server, &detail);
        std::iter::once(create).chain(self.label(server)).collect()
    }

    fn label(&self, node: &str) -> Option<Planned> {
        let labelled = !servers::is_servers(self.name);
        labelled.then(|| self.planned("label-node", node, ""))
    }

    fn arrivals_under_way(&self, resize: &Resize, ground: &mut Ground) -> Vec<Planned> {
        let mut planned = Vec::new();
        for (id, intent) in self
            .observed
            .ledger
            .intents
            .iter()
            .filter(|(_, i)| i.pool == *self.name && !i.is_own())
        {
            let name = intent.name.as_str();
            let server = intent
                .server
                .and_then(|id| self.observed.hetzner.servers.get(&id));
            let wanted = intent.cancelled.is_none() && !resize.cancel.contains(id);
            match (wanted, server) {
                (true, None) => {
                    let _placed = ground.for_server(self.name, self.pool);
                    planned.extend(self.arrival(name));
                }
                (true, Some(_)) => planned.extend(self.label(name)),
                (false, Some(server)) => {
                    if server.power == Power::Running {
                        planned.push(self.planned(
                            "power-off",
                            name,
                            "not joined, no longer wanted",
                        ));
                    }
                    planned.push(self.planned("delete-server", name, ""));
                }
                (false, None) => {}
            }
        }
        planned
    }

    fn labels(&self) -> Vec<Planned> {
        if servers::is_servers(self.name) {
            return Vec::new();
        }
        let wanted = arrival::node_labels(self.name, self.pool);
        let ledger = &self.observed.ledger;
        let staying = ledger
            .members
            .iter()
            .filter(|(id, m)| m.pool == *self.name && !ledger.tickets.contains_key(*id));
        staying
            .filter_map(|(_, m)| self.observed.nodes.get(&m.name).filter(|n| n.uid == m.uid))
            .filter_map(|node| arrival::relabel(node, &wanted))
            .map(|effect| Planned::of(&effect, Some(self.name)))
            .collect()
    }

    fn departures_under_way(&self, resize: &Resize) -> Vec<Planned> {
        let mut planned = Vec::new();
        for (id, ticket) in self
            .observed
            .ledger
            .tickets
            .iter()
            .filter(|(_, t)| t.pool == *self.name && t.leave().is_some())
        {
            if !resize.take_back.contains(id) {
                planned.extend(self.way_out(id, ticket));
            } else if departure::uncordon(id, ticket, self.observed).is_some() {
                planned.push(self.planned("uncordon", ticket.node.as_str(), "wanted again"));
            }
        }
        planned
    }

    fn departure(&self, id: &IntentId, reason: Reason, now: Timestamp) -> Vec<Planned> {
        let ticket = |member: &Member| Ticket {
            pool: self.name.clone(),
            node: member.name.clone(),
            uid: member.uid.clone(),
            server: member.server,
            purpose: Purpose::Leave {
                reason,
                retiring: None,
            },
            at: now,
        };
        self.observed
            .ledger
            .members
            .get(id)
            .map(|member| self.way_out(id, &ticket(member)))
            .unwrap_or_default()
    }

    fn way_out(&self, id: &IntentId, ticket: &Ticket) -> Vec<Planned> {
        let verbs = if servers::is_servers(self.name) {
            servers::remaining(id, ticket, self.observed)
        } else {
            departure::remaining(id, ticket, self.observed)
        };
        verbs
            .into_iter()
            .map(|verb| {
                self.planned(
                    verb,
                    ticket.node.as_str(),
                    ticket.leave().map_or("", Reason::words),
                )
            })
            .collect()
    }

    fn planned(&self, verb: &str, target: &str, detail: &str) -> Planned {
        Planned {
            verb: verb.to_owned(),
            target: target.to_owned(),
            pool: Some(self.name.clone()),
            detail: detail.to_owned(),
        }
    }
}
