//! How far the nodes' systems have come, as `FabrikCluster` shows it.

use fabrik_core::desired::Desired;
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::PoolName;
use fabrik_core::names::SERVERS_POOL;
use fabrik_core::observed::Observed;
use fabrik_core::rollout::{self, Forecast, NodeState, State};
use fabrik_core::servers;
use jiff::{SignedDuration, Timestamp};

use crate::cluster::resources::{FabrikClusterStatus, RolloutStatus, SystemStatus};

/// An estimate that moves by less than this is the same.
const SAME_END: SignedDuration = SignedDuration::from_mins(1);

/// What `before` said already keeps its time.
pub fn nodes(
    desired: &Desired,
    observed: &Observed,
    holds: &[Hold],
    before: &FabrikClusterStatus,
    now: Timestamp,
) -> Vec<SystemStatus> {
    let states = rollout::states(desired, observed, holds, now);
    // What a pool is to run now is being found out: its nodes are where they were.
    let mut systems: Vec<SystemStatus> = before.systems.clone();
    systems.retain(|s| {
        let pool = format!("pool {}", s.pool);
        let mut members = observed.ledger.members.values();
        holds
            .iter()
            .any(|h| h.reason == HoldReason::Evaluation && h.about == pool)
            && members.any(|m| m.name.as_str() == s.name)
            && states.iter().all(|known| known.node.as_str() != s.name)
    });
    let status = |state: NodeState| {
        let name = state.node.to_string();
        let known = before.systems.iter().find(|s| s.name == name);
        let same = known.filter(|s| s.state == state.state.to_string());
        SystemStatus {
            since: same.map_or(now, |s| s.since),
            name,
            pool: state.pool.to_string(),
            state: state.state.to_string(),
            message: Some(state.message).filter(|m| !m.is_empty()),
            system: state.running.map(|path| path.short()),
            wants: state.wants.map(|path| path.short()),
        }
    };
    systems.extend(states.into_iter().map(status));
    let servers = servers::standings(observed).into_iter();
    for standing in servers {
        let name = standing.node.to_string();
        let state = if standing.leaves {
            "leaving"
        } else {
            "joining"
        };
        let known = before.systems.iter().find(|s| s.name == name);
        let since = known.filter(|s| s.state == state).map_or(now, |s| s.since);
        let told = systems.iter_mut().find(|s| s.name == name);
        if let Some(told) = told {
            told.message = Some(standing.words);
            continue;
        }
        systems.push(SystemStatus {
            name,
            pool: SERVERS_POOL.to_owned(),
            state: state.to_owned(),
            since,
            message: Some(standing.words),
            system: None,
            wants: None,
        });
    }
    let agent = |s: &SystemStatus| s.pool != SERVERS_POOL;
    systems.sort_by(|a, b| (agent(a), &a.pool, &a.name).cmp(&(agent(b), &b.pool, &b.name)));
    systems
}

/// Whether each node runs what the commit wants, but for those that are held out and those that may be off.
pub fn are_up_to_date(desired: &Desired, forecast: Option<&Forecast>) -> bool {
    let may_be_off = |pool: &PoolName| {
        let pool = desired.spec.pools.get(pool);
        pool.is_some_and(|pool| pool.may_be_off)
    };
    forecast.is_none_or(|forecast| forecast.waves.iter().all(|wave| may_be_off(&wave.pool)))
}

/// `None` where no node has a system to run.
pub fn rollout(
    desired: &Desired,
    observed: &Observed,
    forecast: Option<&Forecast>,
    before: &FabrikClusterStatus,
    now: Timestamp,
) -> Option<RolloutStatus> {
    let states = rollout::states(desired, observed, &[], now);
    let done = states.iter().filter(|s| s.state == State::UpToDate);
    let done = u32::try_from(done.count()).unwrap_or(u32::MAX);
    let total = u32::try_from(states.len()).unwrap_or(u32::MAX);
    let said = before.rollout.as_ref().and_then(|r| r.ends);
    let ends = forecast.map(|forecast| {
        let near = |said: &Timestamp| forecast.ends.duration_since(*said).abs() < SAME_END;
        said.filter(near).unwrap_or(forecast.ends)
    });
    (total > 0).then_some(RolloutStatus {
        done,
        total,
        summary: forecast.map(ToString::to_string),
        ends,
    })
}
