//! What is in the folder before `fabrik init`, and how that is taken.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Output;

use super::place::{Place, TOKEN, text};

const OWN_SPEC: &str = r#"
[cluster]
name = "own"
[kubernetes]
version = "1.36"
[hetzner]
token = { file = "secrets/hetzner.yaml", key = "hetzner.api-token" }
[pools.web]
count = 1
server-types = ["cx33"]
locations = ["fsn1"]
image = "123"
"#;

/// With a `cluster.toml` that is there, and so answers all else.
fn init(place: &Place, more: &[&str]) -> Output {
    let args = ["init", "demo", "--no-lock", "--forge", "none"];
    let flake = ["--fabrik-flake", "path:/x", "--token-file", "-"];
    place.fabrik(&[&args[..], &flake, more].concat(), TOKEN)
}

#[test]
fn a_cluster_toml_without_the_template_s_pool_and_key_is_valid_afterwards() {
    let place = Place::new();
    place.write("cluster.toml", OWN_SPEC);
    let output = init(&place, &[]);
    assert!(output.status.success(), "{output:?}");
    assert!(!place.repo("nixos/pools").exists(), "{output:?}");
    let valid = place.fabrik(&["validate", "demo"], "");
    assert!(valid.status.success(), "{valid:?}");
    assert!(text(&valid.stdout).contains("1 secret opened\n"));
    let token = place.fabrik(&["secrets", "decrypt", "demo/secrets/hetzner.yaml"], "");
    let token = text(&token.stdout);
    assert!(token.contains(&format!("api-token: {TOKEN}\n")), "{token}");
    let upgrade = place.fabrik(&["init", "demo", "--upgrade"], "");
    assert!(!text(&upgrade.stderr).contains("workers"), "{upgrade:?}");
    assert_eq!(text(&upgrade.stdout), "");
}

#[test]
fn who_named_recipients_beside_rules_of_their_own_is_told_that_the_rules_count() {
    let place = Place::with_repository();
    let rules = place.read(".sops.yaml").replacen('#', "# Mine.", 1);
    fs::remove_dir_all(place.repo("")).unwrap();
    place.write("cluster.toml", OWN_SPEC);
    place.write(".sops.yaml", &rules);
    let output = init(&place, &["--age-recipient", "age1yubikey1qwtszqgp"]);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains("--age-recipient is not looked at: .sops.yaml is there"),
        "{said}"
    );
}

#[test]
fn a_folder_that_is_a_link_is_refused_before_anything_is_written() {
    for folder in ["secrets", "nixos", ".fabrik"] {
        let place = Place::new();
        fs::create_dir(place.path("out")).unwrap();
        fs::create_dir(place.repo("")).unwrap();
        symlink("../out", place.repo(folder)).unwrap();
        let before = place.files();
        let output = place.init("demo", &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.contains(&format!("demo/{folder} is a link")), "{said}");
        assert_eq!(place.files(), before);
    }
}

#[test]
fn a_folder_that_became_a_link_is_refused_by_the_second_run_as_well() {
    let place = Place::with_repository();
    fs::rename(place.repo("nixos"), place.path("out")).unwrap();
    fs::remove_file(place.path("out/all.nix")).unwrap();
    symlink("../out", place.repo("nixos")).unwrap();
    let output = place.fabrik(&["init", "demo"], "");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    fs::rename(place.repo(".fabrik"), place.path("record")).unwrap();
    symlink("../record", place.repo(".fabrik")).unwrap();
    let output = place.fabrik(&["init", "demo", "--upgrade", "--apply"], "");
    let said = text(&output.stderr);
    assert!(said.contains("demo/.fabrik is a link"), "{said}");
}
