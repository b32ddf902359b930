//! Who may go next. Each rule is asked here, in one place; the first one that is against it is the reason shown.

mod rules;
mod spread;

use std::collections::{BTreeMap, BTreeSet};

use self::rules::may_go;
pub(super) use self::rules::{may_still_climb, rung, tries_before};
use self::spread::Busy;

use super::update::Stage;
use super::{Rollout, stage};
use crate::desired::Desired;
use crate::guard;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, PoolName, StorePath};
use crate::ledger::{Change, Member, Purpose, Ticket};
use crate::observed::{Observed, Role};
use crate::secrets;
use crate::servers;
use crate::step::Step;
use crate::system::{Needs, Phase, Report, System, Target, Update};

/// What is left of a pool's `max-unavailable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub max_unavailable: u32,
    /// Members that count and are unavailable, those with a ticket among them.
    pub unavailable: usize,
    /// Tickets, for whatever reason.
    pub ticketed: usize,
}

/// What the pools have left once the grants among `changes` are made. The servers' is one, whatever for (S3). Nodes that
/// a person keeps out, and those that are off and may be, do not count (S2).
pub fn budgets(
    desired: &Desired,
    observed: &Observed,
    changes: &[Change],
) -> BTreeMap<PoolName, Budget> {
    let ledger = &observed.ledger;
    let granted = |id: &IntentId| {
        changes
            .iter()
            .any(|c| matches!(c, Change::Grant { id: other, .. } if other == id))
    };
    let mut budgets = BTreeMap::<PoolName, Budget>::new();
    for (id, member) in &ledger.members {
        let pool = desired.spec.pools.get(&member.pool);
        let max_unavailable = match pool {
            Some(pool) if member.role == Role::Agent => pool.max_unavailable,
            _ => 1,
        };
        let budget = budgets.entry(member.pool.clone()).or_insert(Budget {
            max_unavailable,
            unavailable: 0,
            ticketed: 0,
        });
        let ticketed = granted(id) || ledger.tickets.contains_key(id);
        if desired.spec.update.held.contains_key(&member.name) && !ticketed {
            continue;
        }
        let available = !ticketed && guard::is_available(id, member, observed);
        let may_be_off = pool.is_some_and(|p| p.may_be_off);
        if may_be_off && !ticketed && !available {
            continue;
        }
        budget.unavailable += usize::from(!available);
        budget.ticketed += usize::from(ticketed);
    }
    // S3: a server that joins is a disturbance of etcd until it is a member.
    let asked_for = |c: &&Change| match c {
        Change::Intend { pool, .. } | Change::Expect { pool, .. } => servers::is_servers(pool),
        _ => false,
    };
    let joining = servers::coming(ledger).count() + changes.iter().filter(asked_for).count();
    if let Some(budget) = budgets.get_mut(&PoolName::servers()) {
        budget.unavailable += joining;
        budget.ticketed += joining;
    }
    budgets
}

/// A member that does not run its goal.
struct Candidate<'a> {
    id: &'a IntentId,
    member: &'a Member,
    goal: &'a System,
    report: &'a Report,
    needs: Needs,
    available: bool,
}

/// Tickets for those who may go now, from `number` on, and why the others wait.
pub(super) fn step(
    rollout: &Rollout<'_>,
    budgets: &mut BTreeMap<PoolName, Budget>,
    granted: &BTreeSet<IntentId>,
    mut number: u64,
) -> Step {
    let mut step = Step::default();
    if let Some(hold) = halted(rollout) {
        step.holds.extend(hold);
        return step;
    }
    let (servers, agents): (Vec<_>, Vec<_>) = outdated(rollout, granted, &mut step.holds)
        .into_iter()
        .partition(|c| c.member.role == Role::Server);
    let mut busy = Busy::now(rollout);
    for (pool, candidates) in by_pool(servers).into_iter().chain(by_pool(agents)) {
        let Some(budget) = budgets.get_mut(pool) else {
            continue;
        };
        let mut queue = candidates;
        while let Some(candidate) = busy.next(&mut queue) {
            let allowed = match candidate.member.role {
                Role::Agent => after_servers(rollout, &candidate),
                _ => Ok(()),
            };
            let allowed = allowed.and_then(|()| may_go(rollout, &candidate, *budget));
            if let Err(hold) = &allowed
                && concerns_one_node(hold)
            {
                step.holds.push(hold.clone());
                continue;
            }
            if let Err(mut hold) = allowed {
                let behind = queue.len();
                if behind > 0 {
                    hold.message = format!("{}; {behind} more wait behind it", hold.message);
                }
                step.holds.push(hold);
                break;
            }
            step.changes.push(Change::Grant {
                id: candidate.id.clone(),
                ticket: ticket(rollout, &candidate, number),
            });
            number += 1;
            busy.add(candidate.member.server);
            budget.unavailable += usize::from(candidate.available);
            budget.ticketed += 1;
            if candidate.member.role == Role::Server {
                // S3: one server at a time, for any reason.
                break;
            }
        }
    }
    step
}

/// Whether the next node need not wait for the same reason.
fn concerns_one_node(hold: &Hold) -> bool {
    matches!(hold.reason, HoldReason::Resting | HoldReason::VersionSkew)
}

/// Why nobody gets a ticket: a system that failed is still wanted, a node needs a person, or one has paused it.
fn halted(rollout: &Rollout<'_>) -> Option<Vec<Hold>> {
    let wanted = |path: &StorePath| {
        let mut goals = rollout.desired.targets.values().flat_map(Target::systems);
        goals.any(|s| s.output == *path)
    };
    let ledger = rollout.ledger();
    let denied = ledger.denied.iter().filter(|(path, _)| wanted(path)).map(|(path, denied)| Hold {
        about: "rollout".to_owned(),
        reason: HoldReason::Denied,
        message: format!(
            "stands still: node {} tried {path} and went back: {}. Push a fix, or revert the commit",
            denied.node, denied.why
        ),
    });
    let stuck = ledger.tickets.iter().filter_map(|(id, ticket)| {
        let stage = stage(rollout, id, ticket, ticket.update()?);
        matches!(stage, Stage::Stuck(_)).then(|| Hold {
            about: "rollout".to_owned(),
            reason: HoldReason::Stuck,
            message: format!("stands still until node {} is mended", ticket.node),
        })
    });
    let paused = paused(rollout.desired);
    let holds: Vec<Hold> = denied.chain(stuck).chain(paused).collect();
    (!holds.is_empty()).then_some(holds)
}

/// What the repository says of it.
pub(super) fn paused(desired: &Desired) -> Option<Hold> {
    let reason = desired.spec.update.paused.as_ref()?;
    Some(Hold {
        about: "rollout".to_owned(),
        reason: HoldReason::Paused,
        message: format!("is paused in cluster.toml ([update] paused): {reason}"),
    })
}

/// Members that do not run their goal and have it on disk. Who can't be asked is named.
fn outdated<'a>(
    rollout: &Rollout<'a>,
    granted: &BTreeSet<IntentId>,
    holds: &mut Vec<Hold>,
) -> Vec<Candidate<'a>> {
    let ledger = rollout.ledger();
    let mut candidates = Vec::new();
    for (id, member) in &ledger.members {
        let Some(goal) = rollout.goal(member) else {
            continue;
        };
        let ticketed = ledger.tickets.contains_key(id) || granted.contains(id);
        if rollout.is_there(member) || ticketed {
            continue;
        }
        // A machine that is gone, and a Node that is missing, going or made anew, is told of elsewhere, and is nobody to
        // update.
        let joined = rollout.observed.nodes.get(&member.name);
        if rollout.observed.hetzner.gone.contains(&member.server) {
            continue;
        }
        if joined.is_none_or(|n| n.uid != member.uid || n.deleting) {
            continue;
        }
        let held = |reason, message: &str| Hold {
            about: format!("node {}", member.name),
            reason,
            message: message.to_owned(),
        };
        if let Some(why) = rollout.desired.spec.update.held.get(&member.name) {
            holds.push(held(
                HoldReason::HeldOut,
                &format!("is held out of updates: {why}"),
            ));
            continue;
        }
        if rollout.is_off(member) {
            holds.push(held(
                HoldReason::HeldOut,
                "is off, as nodes of its pool may be; it is updated when it is back",
            ));
            continue;
        }
        let system = rollout.observed.systems.get(&member.name);
        let Some(report) = system.and_then(|s| s.report.as_ref()) else {
            holds.push(held(
                HoldReason::NotReporting,
                "its `fabrik agent` has not reported yet",
            ));
            continue;
        };
        if let Some(why) = half_way(member, report, goal) {
            holds.push(held(HoldReason::Stuck, &why));
            continue;
        }
        if secrets::lacks(rollout.desired, rollout.observed, id, member) {
            let why = "waits for the secrets that its new system is to find";
            holds.push(held(HoldReason::Secrets, why));
            continue;
        }
        let staged = report.staged.as_ref();
        let Some(staged) = staged.filter(|s| s.system == goal.output) else {
            holds.push(held(HoldReason::Fetching, "is fetching the new system"));
            continue;
        };
        if staged.needs == Needs::Reboot && report.default.is_none() {
            let why = "what it would boot can't be read, so it could not go back; its FabrikNode says why";
            holds.push(held(HoldReason::Stuck, why));
            continue;
        }
        candidates.push(Candidate {
            id,
            member,
            goal,
            report,
            needs: staged.needs,
            available: guard::is_available(id, member, rollout.observed),
        });
    }
    candidates
}

/// S9: its agent would refuse the order, for what runs is not what it would go back to. A server with a try that has not
/// ended well may be stuck on a k3s minor, and gets its fix all the same.
fn half_way(member: &Member, report: &Report, goal: &System) -> Option<String> {
    let activity = report.activity.as_ref();
    let may_be_stuck =
        member.role == Role::Server && activity.is_some_and(|a| a.phase != Phase::Kept);
    let refuses = report.is_half_way() && report.running != goal.output && !may_be_stuck;
    refuses.then(|| {
        format!(
            "runs {} and would boot another system: somebody has changed the one without the other. Reboot it, or make \
             what runs its default (nixos-rebuild boot --no-reexec --store-path {0})",
            report.running
        )
    })
}

/// S4: agents wait for the last server, whether it is a member or not. Who stays on its k3s minor does not wait for one
/// that a person keeps out, perhaps for weeks.
fn after_servers(rollout: &Rollout<'_>, agent: &Candidate<'_>) -> Result<(), Hold> {
    let hold = |message: String| {
        Err(Hold {
            about: "agents".to_owned(),
            reason: HoldReason::ServersFirst,
            message,
        })
    };
    let held = &rollout.desired.spec.update.held;
    let runs = rung(rollout, agent.member).map(|r| r.runs.minor);
    let stays = runs == Some(agent.goal.kubernetes.minor);
    let mut unadopted = rollout.unadopted_servers();
    if let Some(server) = unadopted.find(|s| !(stays && held.contains_key(*s))) {
        return hold(format!(
            "wait for server {server}, which is no member: servers come first, and nobody updates it"
        ));
    }
    let members = rollout.ledger().members.values();
    let servers: Vec<&Member> = members.filter(|m| m.role == Role::Server).collect();
    if servers.is_empty() {
        return hold("wait: servers come first, and none is known".to_owned());
    }
    let updating = |s: &Member| ledger_has_ticket(rollout, s);
    let done = |s: &Member| {
        let target = rollout.desired.targets.get(&s.pool);
        let last = target.map(|t| &t.system.output);
        last.is_some() && rollout.running(s) == last && rollout.is_there(s) && !updating(s)
    };
    let left_out = |s: &Member| stays && held.contains_key(&s.name) && !updating(s);
    let behind = servers.into_iter().find(|s| !done(s) && !left_out(s));
    behind.map_or(Ok(()), |server| {
        let held = held.get(&server.name);
        let held = held.map(|why| format!(", which is held out of updates ({why})"));
        let held = held.unwrap_or_default();
        hold(format!(
            "wait for server {}{held}: servers come first",
            server.name
        ))
    })
}

fn ledger_has_ticket(rollout: &Rollout<'_>, member: &Member) -> bool {
    let mut tickets = rollout.ledger().tickets.values();
    tickets.any(|t| t.node == member.name)
}

fn by_pool(candidates: Vec<Candidate<'_>>) -> BTreeMap<&PoolName, Vec<Candidate<'_>>> {
    let mut pools = BTreeMap::<_, Vec<_>>::new();
    for candidate in candidates {
        pools
            .entry(&candidate.member.pool)
            .or_default()
            .push(candidate);
    }
    pools
}

fn ticket(rollout: &Rollout<'_>, candidate: &Candidate<'_>, number: u64) -> Ticket {
    let Candidate {
        member,
        goal,
        report,
        needs,
        ..
    } = candidate;
    let runs = rung(rollout, member).map(|r| r.runs.minor);
    let minor = runs != Some(goal.kubernetes.minor);
    Ticket {
        pool: member.pool.clone(),
        node: member.name.clone(),
        uid: member.uid.clone(),
        server: member.server,
        at: rollout.now,
        purpose: Purpose::Update(Update {
            number,
            system: goal.output.clone(),
            kubernetes: goal.kubernetes,
            from: report.running.clone(),
            boot: report.boot.clone(),
            needs: if minor {
                (*needs).max(Needs::Drain)
            } else {
                *needs
            },
            minor,
            started_minor: false,
            ordered: None,
            deadline: None,
            reset: None,
        }),
    }
}
