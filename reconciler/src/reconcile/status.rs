//! What `FabrikCluster` says of itself, computed from what the leader knows: data in, data out.

mod nodes;
mod verdict;

use std::collections::BTreeMap;

use fabrik_core::desired::Desired;
use fabrik_core::diagnostic::{Diagnostic, Place};
use fabrik_core::endpoint;
use fabrik_core::guard;
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::{CommitId, PoolName};
use fabrik_core::ledger::Ticket;
use fabrik_core::names::API_PORT;
use fabrik_core::observed::Observed;
use fabrik_core::pool;
use fabrik_core::rollout;
use fabrik_core::secrets;
use jiff::Timestamp;

use crate::apply::{UnitReport, UnitsReport};
use crate::cluster::resources::{FabrikClusterStatus, PoolStatus, Refused, Units};

/// How many faults of a refusal the status shows: some 40 KiB of an object that may have 1.5 MiB.
const MAX_DIAGNOSTICS: usize = 100;

/// How many holds the status shows.
const MAX_HOLDS: usize = 100;

/// A commit that may not be in force, and why.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub commit: CommitId,
    pub at: Timestamp,
    pub diagnostics: Vec<Diagnostic>,
}

/// All that a status is made of.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub desired: Option<Desired>,
    pub observed: Option<Observed>,
    pub head: Option<CommitId>,
    pub refusal: Option<Refusal>,
    pub trouble: Option<String>,
    pub paused: Option<String>,
    pub holds: Vec<Hold>,
    pub units: UnitsReport,
    /// Nothing is to be done to servers and Nodes.
    pub idle: bool,
    pub leader: String,
}

/// Servers on their way in or out. A machine of the user's own waits for a person, perhaps for weeks.
pub fn is_moving(observed: &Observed) -> bool {
    let ledger = &observed.ledger;
    ledger.intents.values().any(|i| !i.is_own()) || !ledger.tickets.is_empty()
}

/// The status of now. `before` is the one of the last time: what did not change keeps its time.
pub fn compute(
    facts: &Facts,
    before: &FabrikClusterStatus,
    generation: Option<i64>,
    now: Timestamp,
) -> FabrikClusterStatus {
    let seen = facts.desired.as_ref().zip(facts.observed.as_ref());
    let pools = match seen {
        Some((desired, observed)) => pools(desired, observed),
        _ => before.pools.clone(),
    };
    let ready: u32 = pools.values().map(|p| p.ready).sum();
    let wanted: u32 = pools.values().map(|p| p.wanted).sum();
    let units = units(&facts.units);
    let (systems, rollout, rolled) = match seen {
        Some((desired, observed)) => {
            let forecast = rollout::forecast(desired, observed, now);
            (
                nodes::nodes(desired, observed, &facts.holds, before, now),
                nodes::rollout(desired, observed, forecast.as_ref(), before, now),
                nodes::are_up_to_date(desired, forecast.as_ref()),
            )
        }
        _ => (before.systems.clone(), before.rollout.clone(), false),
    };
    let placed = |(desired, observed)| !secrets::are_under_way(desired, observed);
    let placed = seen.is_some_and(placed);
    let verdict = verdict::judge(facts, &pools, &units, rolled && placed);
    let commit = facts.desired.as_ref().map(|d| d.commit.to_string());
    let applied = verdict.applied.then(|| commit.clone()).flatten();
    FabrikClusterStatus {
        conditions: verdict.conditions(before, generation, now),
        observed_generation: generation,
        admitted_commit: commit,
        head_commit: facts.head.as_ref().map(ToString::to_string),
        applied_commit: applied.or_else(|| before.applied_commit.clone()),
        refused: facts.refusal.as_ref().map(|r| Refused {
            commit: r.commit.to_string(),
            at: r.at,
            diagnostics: shown(&r.diagnostics),
        }),
        holds: few(&facts.holds),
        pools,
        nodes: Some(format!("{ready}/{wanted}")),
        units_ready: Some(format!("{}/{}", units.ready, units.total)),
        units: Some(units),
        systems,
        rollout,
        api: seen.map_or_else(
            || before.api.clone(),
            |(desired, observed)| api(desired, observed),
        ),
        leader: Some(facts.leader.clone()),
        message: Some(verdict.message()),
    }
}

/// Where people reach the API servers.
fn api(desired: &Desired, observed: &Observed) -> Option<String> {
    let host = endpoint::host(desired, observed)?;
    let is_ipv6 = host.contains(':');
    let host = if is_ipv6 { format!("[{host}]") } else { host };
    Some(format!("https://{host}:{API_PORT}"))
}

/// Keeps the status small; the log has them all. `systems` has a line for each node, so nodes go last.
fn few(holds: &[Hold]) -> Vec<Hold> {
    let more = holds.len().saturating_sub(MAX_HOLDS);
    if more == 0 {
        return holds.to_vec();
    }
    let is_of_a_node = |hold: &&Hold| hold.about.starts_with("node ");
    let (nodes, others): (Vec<&Hold>, Vec<&Hold>) = holds.iter().partition(is_of_a_node);
    let shown = others.into_iter().chain(nodes).take(MAX_HOLDS);
    let rest = Hold {
        about: "others".to_owned(),
        reason: HoldReason::Unhealthy,
        message: format!("{more} more wait; the leader's log names them"),
    };
    shown.cloned().chain([rest]).collect()
}

/// The first faults of a refusal, and how many more there are: an object of the API server has its bounds.
fn shown(diagnostics: &[Diagnostic]) -> Vec<Diagnostic> {
    let more = diagnostics.len().saturating_sub(MAX_DIAGNOSTICS);
    let mut shown: Vec<Diagnostic> = diagnostics.iter().take(MAX_DIAGNOSTICS).cloned().collect();
    if more > 0 {
        shown.push(Diagnostic {
            place: Place::file("git"),
            object: "the commit".to_owned(),
            problem: format!("has {more} more faults"),
            remedy: "`fabrik validate` and the leader's log list them all".to_owned(),
        });
    }
    shown
}

/// How many units there are, and how many are as they should be.
pub fn units(report: &UnitsReport) -> Units {
    Units {
        total: count(report.units.len()),
        ready: count(report.units.values().filter(|u| is_ready(u)).count()),
    }
}

/// How many nodes each pool should have, and how many it has in which state.
pub fn pools(desired: &Desired, observed: &Observed) -> BTreeMap<String, PoolStatus> {
    let status = |name: &PoolName, wanted: u32| {
        let ledger = &observed.ledger;
        let available = |(id, member): &(&_, &fabrik_core::ledger::Member)| {
            guard::is_available(id, member, observed)
        };
        let of_pool = |pool: &PoolName| pool == name;
        let leaves = |t: &&Ticket| of_pool(&t.pool) && t.leave().is_some();
        PoolStatus {
            wanted,
            ready: count(
                ledger
                    .members
                    .iter()
                    .filter(|(_, m)| of_pool(&m.pool))
                    .filter(available)
                    .count(),
            ),
            joining: count(
                ledger
                    .intents
                    .values()
                    .filter(|i| of_pool(&i.pool) && i.cancelled.is_none())
                    .count(),
            ),
            leaving: count(ledger.tickets.values().filter(leaves).count())
                + count(
                    ledger
                        .intents
                        .values()
                        .filter(|i| of_pool(&i.pool) && i.cancelled.is_some())
                        .count(),
                ),
        }
    };
    let servers = PoolName::servers();
    let asked_for = fabrik_core::servers::pool(&desired.spec, &observed.ledger);
    let control_plane = asked_for.map(|pool| (servers.to_string(), status(&servers, pool.count)));
    let pools = pool::all(desired, observed).into_iter();
    pools
        .map(|(name, pool)| (name.to_string(), status(name, pool.size())))
        .chain(control_plane)
        .collect()
}

fn is_ready(unit: &UnitReport) -> bool {
    let paused = |hold: &Hold| hold.reason == HoldReason::Paused;
    unit.ready == unit.objects && unit.errors.is_empty() && unit.holds.iter().all(paused)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
