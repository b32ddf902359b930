//! `fabrik validate` of a directory judges what a commit of it would hold.

use super::place::{Place, text};

#[test]
fn what_git_ignores_is_neither_demanded_nor_refused() {
    let place = Place::with_repository();
    place.write("my.agekey", "AGE-SECRET-KEY-1");
    place.write("secrets/hetzner.decrypted.yaml", "token: planted\n");
    place.write(".git/info/exclude", "*.bad\n");
    place.write("manifests/hello/x.yaml", "kind: [\n");
    let valid = ["validate", "demo"];
    assert_eq!(place.fabrik(&valid, "").status.code(), Some(1));
    place.write(".git/info/exclude", "x.yaml\n");
    let output = place.fabrik(&valid, "");
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    let ignored = "not checked: manifests/hello/x.yaml, secrets/hetzner.decrypted.yaml: git ignores this, so no commit has it";
    assert!(said.contains(ignored), "{said}");
    assert!(!said.contains("my.agekey"), "{said}");
}

#[test]
fn what_is_needed_and_ignored_is_a_fault() {
    let place = Place::with_repository();
    for (path, rule) in [
        ("secrets/hetzner.yaml", "secrets/hetzner.yaml"),
        ("cluster.toml", "*.toml"),
    ] {
        place.git(&["rm", "--quiet", "--cached", path]);
        place.write(".git/info/exclude", &format!("{rule}\n"));
        let output = place.fabrik(&["validate", "demo"], "");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.contains("git ignores it"), "{said}");
        let remedy = format!("`git check-ignore -v {path}`");
        assert!(said.contains(&remedy), "{said}");
    }
    let check = place.fabrik(&["secrets", "check", "demo"], "");
    let said = text(&check.stderr);
    assert!(said.contains("git ignores demo/cluster.toml"), "{said}");
}
