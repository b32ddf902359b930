//! `fabrik init` on a repository that it has made before, to its end or not.

use std::fs;

use super::place::{Place, TOKEN, text};

const KEY_FLAGS: [&str; 6] = [
    "--token-file",
    "-",
    "--age-recipient",
    "age1yubikey1qwtszqgp",
    "--cluster-age-recipient",
    "age1yubikey1qwtszqgp",
];

#[test]
fn flags_that_come_too_late_are_named_with_the_way_to_change_what_they_are_about() {
    let place = Place::with_repository();
    let before = place.read("secrets/hetzner.yaml");
    let args = ["init", "demo", "--no-lock", "--workers", "5"];
    let output = place.fabrik(&[&args[..], &KEY_FLAGS].concat(), "another");
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stderr);
    for words in [
        "--token-file, --age-recipient, --cluster-age-recipient",
        "`sops edit secrets/hetzner.yaml`",
        "the answers are those of the first time",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(place.read("secrets/hetzner.yaml"), before);
    let silent = place.fabrik(&["init", "demo", "--no-lock"], "");
    assert_eq!(text(&silent.stderr), "");
}

#[test]
fn a_token_that_is_missing_is_made_anew_by_the_rules_that_are_there() {
    let place = Place::with_repository();
    fs::remove_file(place.repo("secrets/hetzner.yaml")).unwrap();
    place.edit("cluster.toml", "key = \"token\"", "key = \"other\"");
    let args = ["init", "demo", "--no-lock", "--token-file", "-"];
    let output = place.fabrik(&args, TOKEN);
    assert!(output.status.success(), "{output:?}");
    let told = text(&output.stdout);
    assert!(told.contains("made      secrets/hetzner.yaml\n"), "{told}");
    assert_eq!(text(&output.stderr), "");
    let open = place.fabrik(&["secrets", "decrypt", "demo/secrets/hetzner.yaml"], "");
    assert_eq!(text(&open.stdout), format!("other: {TOKEN}\n"));

    for path in ["secrets/hetzner.yaml", ".sops.yaml"] {
        fs::remove_file(place.repo(path)).unwrap();
    }
    let refused = place.fabrik(&args, TOKEN);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(text(&refused.stderr).contains("Restore .sops.yaml"));
    assert!(!place.repo("secrets/hetzner.yaml").exists());
}

#[test]
fn what_a_failed_commit_left_is_committed_by_the_next_run() {
    let place = Place::new();
    fs::create_dir(place.repo("")).unwrap();
    place.git(&["init", "--quiet", "--initial-branch=main"]);
    fs::create_dir_all(place.repo(".git/hooks")).unwrap();
    place.script("demo/.git/hooks/pre-commit", "#!/bin/sh\nexit 1\n");
    let failed = place.init("demo", &["--commit"]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    fs::remove_file(place.repo(".git/hooks/pre-commit")).unwrap();
    place.write("notes", "mine\n");

    let commit = ["init", "demo", "--no-lock", "--commit"];
    let output = place.fabrik(&commit, "");
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).ends_with("committed\n"), "{output:?}");
    assert_eq!(place.git(&["status", "--porcelain"]), "?? notes\n");
    let files = place.git(&["ls-tree", "-r", "--name-only", "HEAD"]);
    for path in [
        "cluster.toml",
        "secrets/age.key",
        "secrets/hetzner.yaml",
        ".fabrik/template.toml",
    ] {
        assert!(files.contains(&format!("{path}\n")), "{files}");
    }

    place.edit("cluster.toml", "count = 3", "count = 5");
    let output = place.fabrik(&commit, "");
    let told = text(&output.stdout);
    assert!(told.ends_with("nothing to commit\n"), "{told}");
    assert_eq!(place.git(&["rev-list", "--count", "HEAD"]), "1\n");
    assert!(place.git(&["diff"]).contains("count = 5"));
}

#[test]
fn what_a_person_wrote_before_is_theirs_to_commit() {
    let place = Place::new();
    fs::create_dir(place.repo("")).unwrap();
    place.git(&["init", "--quiet", "--initial-branch=main"]);
    place.write("ci/check", "TOKEN=mine\n");
    let output = place.init("demo", &["--commit"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(place.git(&["status", "--porcelain"]), "?? ci/\n");
}

#[test]
fn what_git_ignores_is_no_reason_to_say_that_all_is_committed() {
    let place = Place::new();
    place.write(".gitignore", "*.key\n");
    for args in [
        place.init("demo", &["--commit"]),
        place.fabrik(&["init", "demo", "--no-lock", "--commit"], ""),
    ] {
        assert_eq!(args.status.code(), Some(1), "{args:?}");
        assert!(text(&args.stderr).contains("secrets/age.key"), "{args:?}");
    }
}

#[test]
fn a_token_in_the_clear_is_never_committed() {
    let place = Place::new();
    place.write("secrets/hetzner.yaml", "token: planted\n");
    let output = place.init("demo", &["--commit"]);
    assert!(output.status.success(), "{output:?}");
    let files = place.git(&["ls-tree", "-r", "--name-only", "HEAD"]);
    assert!(files.contains("secrets/age.key\n"), "{files}");
    assert!(!files.contains("hetzner.yaml"), "{files}");
}

#[test]
fn rules_that_a_run_made_before_it_was_cut_off_are_the_template_s() {
    let place = Place::with_repository();
    let record = place.read(".fabrik/template.toml");
    let rules = place.read(".sops.yaml");
    for path in [".fabrik/template.toml", "README.md"] {
        fs::remove_file(place.repo(path)).unwrap();
    }
    let output = place.init("demo", &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(place.read(".fabrik/template.toml"), record);
    assert_eq!(place.read(".sops.yaml"), rules);

    // What somebody changed is theirs.
    fs::remove_file(place.repo(".fabrik/template.toml")).unwrap();
    place.edit(".sops.yaml", "# Whom", "# Who");
    let output = place.init("demo", &[]);
    assert!(output.status.success(), "{output:?}");
    let record = place.read(".fabrik/template.toml");
    assert!(!record.contains("recipients"), "{record}");
}
