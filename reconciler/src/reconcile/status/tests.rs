use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
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
    assert!(stalled.message.contains("first fault") && stalled.message.contains("second fault"));
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
