//! What `FabrikCluster` says of itself, computed from what the leader knows: data in, data out.

mod nodes;

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
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

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
    let verdict = verdict(facts, &pools, &units, rolled && placed);
    let commit = facts.desired.as_ref().map(|d| d.commit.to_string());
    let applied = verdict.applied.then(|| commit.clone()).flatten();
    FabrikClusterStatus {
        conditions: conditions(&verdict, before, generation, now),
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
        message: Some(shorten(&verdict.message)),
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

/// What a person hears first.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is the state of one condition"
)]
struct Verdict {
    ready: bool,
    reconciling: bool,
    stalled: bool,
    reason: &'static str,
    message: String,
    /// More than `message`, where one line is too short.
    details: Option<String>,
    applied: bool,
}

/// `rolled`: the nodes run what they should, and have the secrets for it.
fn verdict(
    facts: &Facts,
    pools: &BTreeMap<String, PoolStatus>,
    units: &Units,
    rolled: bool,
) -> Verdict {
    let may_be_off = |pool: &str| {
        let mut pools = facts.desired.iter().flat_map(|d| &d.spec.pools);
        pools.any(|(name, settings)| name.as_str() == pool && settings.may_be_off)
    };
    let sized = pools.iter().all(|(name, p)| {
        p.leaving == 0 && (p.joining == 0 && p.ready == p.wanted || may_be_off(name))
    });
    let commit = facts.desired.as_ref().map(|d| &d.commit);
    let units_applied = facts.units.applied && facts.units.commit.as_ref() == commit;
    let applied = facts.idle && sized && units_applied && rolled;
    let healthy = units.ready == units.total;
    let of = |reason, message: String, reconciling, stalled| Verdict {
        ready: false,
        reconciling,
        stalled,
        reason,
        message,
        details: None,
        applied,
    };
    if let Some(reason) = &facts.paused {
        return of("Paused", format!("PAUSED: {reason}"), false, true);
    }
    if let Some(refusal) = &facts.refusal {
        let all = shown(&refusal.diagnostics);
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        let besides = facts.trouble.as_ref();
        let besides = besides.map(|trouble| format!("\nBesides, {trouble}"));
        let besides = besides.unwrap_or_default();
        let stays = format!("{} is refused, and what was in force stays", refusal.commit);
        // The faults themselves once: an object says its message in four places.
        let details = format!("{stays}:\n{}{besides}", all.join("\n"));
        let message = format!("{stays}: `fabrik status` says why{besides}");
        return Verdict {
            details: Some(details),
            ..of("Refused", message, false, true)
        };
    }
    if let Some(trouble) = &facts.trouble {
        return of("Trouble", trouble.clone(), true, false);
    }
    let Some(commit) = commit else {
        return of(
            "NoCommit",
            "no commit was admitted yet".to_owned(),
            true,
            false,
        );
    };
    if applied && healthy {
        let message = format!("{} is carried out", commit.short());
        return Verdict {
            ready: true,
            reconciling: false,
            stalled: false,
            reason: "Applied",
            message,
            details: None,
            applied,
        };
    }
    // What nobody can explain is rarely what the rest waits for.
    let explained = facts
        .holds
        .iter()
        .find(|h| h.reason != HoldReason::Unexplained);
    match explained.or(facts.holds.first()) {
        Some(hold) => of("Held", hold.to_string(), true, false),
        None => of(
            "Progressing",
            format!("{} is being carried out", commit.short()),
            true,
            false,
        ),
    }
}

fn conditions(
    verdict: &Verdict,
    before: &FabrikClusterStatus,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let states = [
        ("Ready", verdict.ready),
        ("Reconciling", verdict.reconciling),
        ("Stalled", verdict.stalled),
    ];
    let condition = |(type_, state): (&str, bool)| {
        let status = if state { "True" } else { "False" };
        let details = verdict.details.as_ref().filter(|_| type_ == "Stalled");
        let same = before
            .conditions
            .iter()
            .find(|c| c.type_ == type_ && c.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.to_owned(),
            message: shorten(details.unwrap_or(&verdict.message)),
            observed_generation: generation,
            last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
        }
    };
    states.into_iter().map(condition).collect()
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

/// A condition's message may have 32 KiB; the whole refusal is in `status.refused` as well.
fn shorten(message: &str) -> String {
    const MAX_CHARS: usize = 8000;
    message.chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts(units: &UnitsReport) -> Facts {
        Facts {
            units: units.clone(),
            idle: true,
            leader: "server-1".to_owned(),
            ..Facts::default()
        }
    }

    fn condition<'a>(status: &'a FabrikClusterStatus, type_: &str) -> &'a Condition {
        status.conditions.iter().find(|c| c.type_ == type_).unwrap()
    }

    #[test]
    fn a_refusal_is_told_whole_and_nothing_is_called_applied() {
        let units = UnitsReport::default();
        let diagnostic = |problem: &str| Diagnostic {
            place: fabrik_core::diagnostic::Place::at("cluster.toml", 3, 1),
            object: "pool workers".to_owned(),
            problem: problem.to_owned(),
            remedy: "mend it".to_owned(),
        };
        let refusal = Refusal {
            commit: "a".repeat(40).parse().unwrap(),
            at: Timestamp::UNIX_EPOCH,
            diagnostics: vec![diagnostic("first fault"), diagnostic("second fault")],
        };
        let facts = Facts {
            refusal: Some(refusal),
            ..facts(&units)
        };
        let status = compute(
            &facts,
            &FabrikClusterStatus::default(),
            Some(1),
            Timestamp::UNIX_EPOCH,
        );
        let stalled = condition(&status, "Stalled");
        assert_eq!(
            (stalled.status.as_str(), stalled.reason.as_str()),
            ("True", "Refused")
        );
        assert!(
            stalled.message.contains("first fault") && stalled.message.contains("second fault")
        );
        let told = serde_json::to_string(&status).unwrap();
        let words = "cluster.toml:3:1: pool workers: first fault";
        assert_eq!(told.matches(words).count(), 1, "{told}");
        assert_eq!(status.refused.unwrap().diagnostics.len(), 2);
        assert_eq!(status.applied_commit, None);
        let both = Facts {
            trouble: Some("the commit in force can't be read any more".to_owned()),
            ..facts
        };
        let status = compute(
            &both,
            &FabrikClusterStatus::default(),
            Some(1),
            Timestamp::UNIX_EPOCH,
        );
        let whole = &condition(&status, "Stalled").message;
        assert!(
            whole.contains("first fault") && whole.contains("can't be read any more"),
            "{whole}"
        );
        let message = status.message.unwrap();
        assert!(message.contains("can't be read any more"), "{message}");
    }

    #[test]
    fn a_commit_is_carried_out_when_the_nodes_run_it() {
        let path = |name: &str| format!("/nix/store/{}-{name}", "0".repeat(32));
        let spec = r#"
[cluster]
name = "demo"
[kubernetes]
version = "1.36.3+k3s1"
[hetzner]
token = { file = "secrets/hetzner.yaml", key = "token" }
"#;
        let commit: CommitId = "a".repeat(40).parse().unwrap();
        let target = json!({"servers": {"system":
            {"output": path("new"), "derivation": path("new.drv"), "kubernetes": "1.36.3+k3s1"}}});
        let desired = Desired {
            commit: commit.clone(),
            spec: fabrik_core::spec::parse("cluster.toml", spec).unwrap(),
            units: BTreeMap::new(),
            targets: serde_json::from_value(target).unwrap(),
            sources: BTreeMap::new(),
        };
        let units = UnitsReport {
            commit: Some(commit.clone()),
            applied: true,
            ..UnitsReport::default()
        };
        for (running, default, carried_out) in [
            ("old", "old", false),
            ("new", "old", false),
            ("new", "new", true),
        ] {
            let observed: Observed = serde_json::from_value(json!({
                "at": "2026-11-21T12:00:00Z", "hetzner": fabrik_core::observed::Hetzner::default(), "nodes": {},
                "pods": {}, "pinned": [], "tokens": [], "units": {}, "paused": null,
                "ledger": {"schema": 1, "cluster": "abcdefgh01234567", "members": {"abc234":
                    {"role": "server", "pool": "servers", "name": "server-1", "server": 1, "uid": "u-1"}}},
                "systems": {"server-1": {"unreadyDaemons": [], "report": {
                    "boot": "00000000-0000-0000-0000-000000000001",
                    "running": path(running), "default": path(default)}}},
            }))
            .unwrap();
            let facts = Facts {
                desired: Some(desired.clone()),
                observed: Some(observed.clone()),
                ..facts(&units)
            };
            let before = FabrikClusterStatus::default();
            let status = compute(&facts, &before, Some(1), observed.at);
            let applied = carried_out.then(|| commit.to_string());
            assert_eq!(status.applied_commit, applied, "{running}, {default}");
        }
    }

    #[test]
    fn a_machine_that_may_be_off_is_not_waited_for() {
        for (may_be_off, carried_out) in [(true, true), (false, false)] {
            let spec = format!(
                "[cluster]\nname = \"demo\"\n[kubernetes]\nversion = \"1.36.3+k3s1\"\n[hetzner]\n\
                 token = {{ file = \"secrets/hetzner.yaml\", key = \"token\" }}\n[pools.desk]\ncount = 1\n\
                 server-types = [\"cx33\"]\nlocations = [\"fsn1\"]\nimage = \"debian-12\"\n\
                 may-be-off = {may_be_off}\n"
            );
            let commit: CommitId = "a".repeat(40).parse().unwrap();
            let desired = Desired {
                commit: commit.clone(),
                spec: fabrik_core::spec::parse("cluster.toml", &spec).unwrap(),
                units: BTreeMap::new(),
                targets: BTreeMap::new(),
                sources: BTreeMap::new(),
            };
            let observed: Observed = serde_json::from_value(json!({
                "at": "2026-11-21T12:00:00Z", "hetzner": fabrik_core::observed::Hetzner::default(), "nodes": {},
                "pods": {}, "pinned": [], "tokens": [], "units": {}, "paused": null,
                "ledger": {"schema": 1, "cluster": "abcdefgh01234567", "members": {"abc234":
                    {"pool": "desk", "name": "demo-desk-abc234", "server": 1, "uid": "u-1"}}},
            }))
            .unwrap();
            let units = UnitsReport {
                commit: Some(commit.clone()),
                applied: true,
                ..UnitsReport::default()
            };
            let facts = Facts {
                desired: Some(desired.clone()),
                observed: Some(observed.clone()),
                ..facts(&units)
            };
            let status = compute(
                &facts,
                &FabrikClusterStatus::default(),
                Some(1),
                observed.at,
            );
            assert_eq!(status.applied_commit.is_some(), carried_out, "{may_be_off}");
        }
    }

    #[test]
    fn of_many_holds_those_of_nodes_are_left_out_first() {
        let hold = |about: String| Hold {
            about,
            reason: HoldReason::Fetching,
            message: "waits".to_owned(),
        };
        let nodes = (0..MAX_HOLDS).map(|n| hold(format!("node w-{n:03}")));
        let holds: Vec<Hold> = nodes.chain([hold("servers".to_owned())]).collect();
        assert_eq!(few(&holds[1..]), holds[1..]);
        let shown = few(&holds);
        assert_eq!(shown.len(), MAX_HOLDS + 1);
        assert_eq!(shown[0], holds[MAX_HOLDS]);
        assert_eq!(shown[1], holds[0]);
        assert!(shown[MAX_HOLDS].message.starts_with("1 more"), "{shown:?}");
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_changes() {
        let units = UnitsReport::default();
        let first = compute(
            &facts(&units),
            &FabrikClusterStatus::default(),
            Some(1),
            Timestamp::UNIX_EPOCH,
        );
        let later: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let second = compute(&facts(&units), &first, Some(1), later);
        assert_eq!(second.conditions, first.conditions);
        let paused = Facts {
            paused: Some("night".to_owned()),
            ..facts(&units)
        };
        let third = compute(&paused, &second, Some(1), later);
        assert_eq!(
            condition(&third, "Stalled").last_transition_time,
            Time(later)
        );
        assert!(third.message.unwrap().contains("PAUSED: night"));
    }
}
