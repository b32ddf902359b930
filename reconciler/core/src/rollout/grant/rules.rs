//! The rules that a node must satisfy before it may go, asked in the order in which a person would want to hear of them.

use std::collections::BTreeSet;

use super::{Budget, Candidate};
use crate::hold::{Hold, HoldReason};
use crate::id::{NodeName, StorePath};
use crate::ladder::{self, Rung};
use crate::ledger::Member;
use crate::observed::Role;
use crate::rollout::Rollout;
use crate::servers;
use crate::spec::K3sVersion;
use crate::system::Update;
use crate::window::{Opening, opening};

pub fn may_go(
    rollout: &Rollout<'_>,
    candidate: &Candidate<'_>,
    budget: Budget,
) -> Result<(), Hold> {
    let member = candidate.member;
    let held = |reason, message: String| {
        Err(Hold {
            about: format!("node {}", member.name),
            reason,
            message,
        })
    };
    if let Some(until) = rollout
        .ledger()
        .resting
        .get(candidate.id)
        .filter(|u| **u > rollout.now)
    {
        return held(
            HoldReason::Resting,
            format!(
                "was taken back in the middle of its drain; the next try is not before {until}"
            ),
        );
    }
    let settings = &rollout.desired.spec.update;
    match opening(&settings.windows, settings.try_deadline, rollout.now) {
        Opening::Open => {}
        Opening::TooShort { closes } => {
            return held(
                HoldReason::Window,
                format!("waits: the window closes at {closes}, before it could end"),
            );
        }
        Opening::Closed { opens } => {
            let when = opens.map_or("never".to_owned(), |at| format!("at {at}"));
            return held(
                HoldReason::Window,
                format!("waits for the maintenance window, which opens {when}"),
            );
        }
    }
    canary_first(rollout, candidate)?;
    once_more_first(rollout, candidate)?;
    climbs(rollout, candidate)?;
    if member.role == Role::Server {
        nobody_joins(rollout, member)?;
    }
    within_budget(member, candidate.available, budget)?;
    if member.role == Role::Server {
        leader_last(rollout, candidate)?;
        server_may_go(rollout, member)?;
    }
    Ok(())
}

/// What the leader built is on its own server at once, long before the others have fetched it: it waits for those that
/// can fetch, for it must not go first only because it was there first.
fn leader_last(rollout: &Rollout<'_>, candidate: &Candidate<'_>) -> Result<(), Hold> {
    let observed = rollout.observed;
    let member = candidate.member;
    let settings = &rollout.desired.spec.update;
    let leads = Some(&member.name) == observed.leader.as_ref();
    let goes_first = !candidate.available
        || settings.canary.as_ref() == Some(&member.name)
        || tries_once_more(rollout, candidate);
    if !leads || goes_first {
        return Ok(());
    }
    let is_well = |s: &Member| {
        let node = observed.nodes.get(&s.name);
        node.is_some_and(|n| n.ready && n.uid == s.uid) && rollout.running(s).is_some()
    };
    let fetches = |s: &Member| {
        let system = observed.systems.get(&s.name);
        let staged = system.and_then(|s| s.report.as_ref()?.staged.as_ref());
        let goal = rollout.goal(s).map(|g| &g.output);
        let fails = system.is_some_and(|s| s.says.is_some());
        !rollout.is_there(s) && staged.map(|s| &s.system) != goal && !fails
    };
    let servers = observed.ledger.members.values();
    let mut others = servers.filter(|s| s.role == Role::Server && s.name != member.name);
    let Some(other) =
        others.find(|s| is_well(s) && fetches(s) && !settings.held.contains_key(&s.name))
    else {
        return Ok(());
    };
    Err(Hold {
        about: format!("node {}", member.name),
        reason: HoldReason::Turn,
        message: format!(
            "waits for server {}, which is fetching the new system: the server whose fabrik leads goes last",
            other.name
        ),
    })
}

fn canary_first(rollout: &Rollout<'_>, candidate: &Candidate<'_>) -> Result<(), Hold> {
    let member = candidate.member;
    let canary = rollout.desired.spec.update.canary.as_ref();
    let Some(canary) = canary.filter(|_| !tries_once_more(rollout, candidate)) else {
        return Ok(());
    };
    let waits = rollout
        .ledger()
        .members
        .values()
        .find(|m| m.name == *canary);
    // Servers come first, so an agent can't be the canary of the servers. Who can't go is nobody's canary.
    let held = &rollout.desired.spec.update.held;
    let waits = waits.filter(|c| c.name != member.name && c.role == member.role);
    let waits = waits.filter(|c| rollout.goal(c).is_some() && !held.contains_key(&c.name));
    let waits = waits.filter(|c| !rollout.is_off(c));
    let held = |reason, message: String| {
        Err(Hold {
            about: format!("node {}", member.name),
            reason,
            message,
        })
    };
    match waits {
        Some(canary) if !rollout.is_there(canary) => held(
            HoldReason::Canary,
            format!("waits for the canary, node {}", canary.name),
        ),
        // The canary goes on only when all have taken the first step: those who have not must not wait behind this one.
        Some(canary) if candidate.available && is_between_steps(rollout, canary, candidate) => {
            held(
                HoldReason::VersionSkew,
                format!(
                    "waits for the canary, node {}, which has taken the first of two steps",
                    canary.name
                ),
            )
        }
        _ => Ok(()),
    }
}

/// Whether the canary has taken the first of two steps, and the candidate would be the first to take the second.
fn is_between_steps(rollout: &Rollout<'_>, canary: &Member, candidate: &Candidate<'_>) -> bool {
    let target = rollout.desired.targets.get(&canary.pool);
    let first = target.and_then(|t| t.first.as_ref());
    first.is_some_and(|first| {
        rollout.running(canary) == Some(&first.output) && candidate.goal.output != first.output
    })
}

/// Whether it has tried its goal already, and went back only because nobody spoke: all others wait for it, the canary too.
pub fn tries_once_more(rollout: &Rollout<'_>, candidate: &Candidate<'_>) -> bool {
    let lapses = rollout.ledger().lapses.get(&candidate.goal.output);
    lapses.is_some_and(|l| l.node == candidate.member.name)
}

/// Who went back from `system` only because nobody spoke, and tries it again before `member` does.
pub fn tries_before<'a>(
    rollout: &Rollout<'a>,
    member: &Member,
    system: &StorePath,
) -> Option<&'a Member> {
    let ledger = rollout.ledger();
    let lapses = ledger.lapses.get(system)?;
    let first = ledger.members.values().find(|m| m.name == lapses.node)?;
    let held = &rollout.desired.spec.update.held;
    let waits_for = first.name != member.name
        && !held.contains_key(&first.name)
        && !rollout.is_off(first)
        && !rollout.is_there(first);
    waits_for.then_some(first)
}

fn once_more_first(rollout: &Rollout<'_>, candidate: &Candidate<'_>) -> Result<(), Hold> {
    match tries_before(rollout, candidate.member, &candidate.goal.output) {
        None => Ok(()),
        Some(first) => Err(Hold {
            about: format!("node {}", candidate.member.name),
            reason: HoldReason::Canary,
            message: format!(
                "waits for node {}, which tries the system once more",
                first.name
            ),
        }),
    }
}

fn climbs(rollout: &Rollout<'_>, candidate: &Candidate<'_>) -> Result<(), Hold> {
    may_climb(rollout, candidate.member, candidate.goal.kubernetes.minor)
}

/// S4, asked again right before a node is told: another server may have joined meanwhile.
pub fn may_still_climb(
    rollout: &Rollout<'_>,
    member: &Member,
    update: &Update,
) -> Result<(), Hold> {
    may_climb(rollout, member, update.kubernetes.minor)
}

fn may_climb(rollout: &Rollout<'_>, member: &Member, minor: u32) -> Result<(), Hold> {
    let known = |member: &Member| {
        rung(rollout, member).ok_or_else(|| Hold {
            about: format!("node {}", member.name),
            reason: HoldReason::VersionSkew,
            message: "has no Node that tells its kubelet's version".to_owned(),
        })
    };
    let own = known(member)?;
    let unadopted = rollout.unadopted_servers().next();
    if let Some(server) = unadopted.filter(|_| own.runs.minor != minor) {
        return Err(Hold {
            about: format!("node {}", member.name),
            reason: HoldReason::VersionSkew,
            message: format!(
                "waits: server {server} is no member, so it would be left behind at {}",
                own.runs
            ),
        });
    }
    let members = rollout.ledger().members.values();
    let servers = members.filter(|m| m.role == Role::Server).map(known);
    let servers = servers.collect::<Result<Vec<Rung>, Hold>>()?;
    ladder::may_start(&own, minor, &servers)
}

/// The k3s that a member runs, by its Node.
pub fn rung(rollout: &Rollout<'_>, member: &Member) -> Option<Rung> {
    let node = rollout.observed.nodes.get(&member.name);
    let node = node.filter(|n| n.uid == member.uid)?;
    Some(Rung {
        node: member.name.clone(),
        role: member.role,
        runs: K3sVersion::of_kubelet(&node.kubelet_version)?,
    })
}

/// S2, for an update: as for a departure, a sick node may go although it counts already, if nobody else is going.
fn within_budget(member: &Member, available: bool, budget: Budget) -> Result<(), Hold> {
    let after = budget.unavailable + usize::from(available);
    if after <= budget.max_unavailable as usize || (!available && budget.ticketed == 0) {
        return Ok(());
    }
    Err(Hold {
        about: format!("node {}", member.name),
        reason: HoldReason::Budget,
        message: format!(
            "waits: {} of pool {} are unavailable and max-unavailable is {}",
            budget.unavailable, member.pool, budget.max_unavailable
        ),
    })
}

/// S3: whoever is sick, too.
fn nobody_joins(rollout: &Rollout<'_>, member: &Member) -> Result<(), Hold> {
    let Some((_, intent)) = servers::coming(rollout.ledger()).next() else {
        return Ok(());
    };
    Err(Hold {
        about: format!("node {}", member.name),
        reason: HoldReason::Turn,
        message: format!(
            "waits: one server at a time, and {} is on its way in",
            intent.name
        ),
    })
}

/// S3.
fn server_may_go(rollout: &Rollout<'_>, member: &Member) -> Result<(), Hold> {
    let ledger = rollout.ledger();
    let held = |message: String| {
        Err(Hold {
            about: format!("node {}", member.name),
            reason: HoldReason::Quorum,
            message,
        })
    };
    let servers: BTreeSet<&NodeName> = ledger
        .members
        .values()
        .filter(|m| m.role == Role::Server)
        .map(|m| &m.name)
        .collect();
    if let Some(other) = ledger.tickets.values().find(|t| servers.contains(&t.node)) {
        return held(format!(
            "waits for server {}: one server at a time",
            other.node
        ));
    }
    rollout.etcd_allows(&member.name)
}
