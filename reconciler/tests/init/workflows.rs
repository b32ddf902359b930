//! The workflows' script, run as the forges run it: in a checkout, without a key.

use std::fs;
use std::process::Output;

use fabrik_core::ledger::Ledger;
use serde_json::{Value, json};

use super::place::{Place, text};

fn check(place: &Place, variables: &[(&str, &str)]) -> Output {
    let mut command = place.command("./ci/check");
    command
        .current_dir(place.repo(""))
        .envs(variables.iter().copied());
    command.env("HOME", place.path("nobody")).output().unwrap()
}

#[test]
fn a_good_request_passes_and_says_that_there_is_no_plan() {
    let place = Place::with_repository();
    let output = check(&place, &[]);
    assert!(output.status.success(), "{output:?}");
    let told = text(&output.stdout);
    assert!(told.starts_with("ok: 1 pool"), "{told}");
    assert!(
        told.contains("no plan: FABRIK_OBSERVED names no observation"),
        "{told}"
    );
}

#[test]
fn a_bad_request_fails_with_its_faults_on_the_forge_s_page_as_well() {
    let place = Place::with_repository();
    place.edit("cluster.toml", "count = 3", "count = -3");
    let page = place.path("page");
    let output = check(&place, &[("GITHUB_STEP_SUMMARY", page.to_str().unwrap())]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    for told in [text(&output.stdout), fs::read_to_string(page).unwrap()] {
        assert!(told.contains("`count` = -3 is out of range"), "{told}");
    }
}

#[test]
fn where_an_observation_can_be_had_the_plan_is_shown() {
    let place = Place::with_repository();
    let file = place.path("observed.json");
    fs::write(&file, nothing_there().to_string()).unwrap();
    let page = place.path("page");
    let output = check(
        &place,
        &[
            ("FABRIK_OBSERVED", file.to_str().unwrap()),
            ("GITHUB_STEP_SUMMARY", page.to_str().unwrap()),
        ],
    );
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("### fabrik plan\n"), "{page}");
    let workers = "3 × create in pool workers (cx53 in hel1)";
    assert!(page.contains(workers), "{page}");
}

#[test]
fn each_forge_s_workflow_calls_the_script_and_nothing_else_of_ours() {
    for (forge, file) in [
        ("github", ".github/workflows/fabrik.yml"),
        ("gitlab", ".gitlab-ci.yml"),
        ("forgejo", ".forgejo/workflows/fabrik.yml"),
    ] {
        let place = Place::new();
        let output = place.init_for(forge, "demo", &[]);
        assert!(output.status.success(), "{output:?}");
        let workflow: Value = serde_saphyr::from_str(&place.read(file)).unwrap();
        let steps = if forge == "gitlab" {
            workflow["fabrik"]["script"].clone()
        } else {
            workflow["jobs"]["check"]["steps"].clone()
        };
        let last = steps.as_array().unwrap().last().unwrap();
        let last = last.get("run").unwrap_or(last).as_str().unwrap();
        assert!(
            last.ends_with(" develop --no-update-lock-file --command ci/check"),
            "{last}"
        );
    }
}

/// A cluster before its first commit.
fn nothing_there() -> Value {
    let at = "2026-11-29T12:00:00Z";
    json!({
        "schema": 1, "publishedAt": at, "fabrikVersion": "0.1.0", "inForce": null, "truncated": [],
        "observed": {
            "at": at,
            "hetzner": {
                "servers": {}, "gone": [], "network": null, "firewall": null,
                "ssh_keys": {}, "placement_groups": {}, "taken": {},
            },
            "nodes": {}, "pods": {}, "pinned": [], "tokens": [], "units": {},
            "ledger": Ledger::new("abcdefgh01234567".parse().unwrap()),
        },
    })
}
