//! `fabrik scale` and `fabrik upgrade`, where no cluster can be asked for a plan.

use super::place::{Place, text};

fn committed() -> Place {
    let place = Place::with_repository();
    place.git(&["commit", "--quiet", "-m", "Begin"]);
    place
}

#[test]
fn the_edit_is_committed_alone_and_says_that_there_is_no_plan() {
    let place = committed();
    place.write("notes", "mine\n");
    place.git(&["add", "notes"]);
    let scaled = place.fabrik(&["scale", "workers", "5", "--dir", "demo"], "");
    assert!(scaled.status.success(), "{scaled:?}");
    assert_eq!(text(&scaled.stdout), "committed: Scale workers to 5\n");
    let said = text(&scaled.stderr);
    assert!(
        said.contains("no plan was shown. This was checked against the commit before it alone"),
        "{said}"
    );
    let changed = place.git(&["show", "--format=%s", "--unified=0"]);
    assert!(changed.starts_with("Scale workers to 5\n"), "{changed}");
    assert!(changed.contains("-count = 3\n+count = 5\n"), "{changed}");
    assert_eq!(place.git(&["status", "--porcelain"]), "A  notes\n");
    let again = place.fabrik(&["scale", "workers", "5", "--dir", "demo"], "");
    assert!(
        text(&again.stdout).starts_with("nothing to do"),
        "{again:?}"
    );
}

#[test]
fn what_would_be_wrong_changes_nothing() {
    let place = committed();
    let before = place.read("cluster.toml");
    for (args, why) in [
        (["upgrade", "1.x"], "cluster.toml:"),
        (["upgrade", "latest"], "cluster.toml:"),
    ] {
        let refused = place.fabrik(&[&args[..], &["--dir", "demo"]].concat(), "");
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(text(&refused.stderr).contains(why), "{refused:?}");
    }
    let unknown = place.fabrik(&["scale", "web", "5", "--dir", "demo"], "");
    assert!(text(&unknown.stderr).contains("no pool `web`; it has workers"));
    assert_eq!(place.read("cluster.toml"), before);
    assert_eq!(place.git(&["rev-list", "--count", "HEAD"]), "1\n");
}

#[test]
fn a_step_that_kubernetes_does_not_take_is_refused_where_no_cluster_can_be_asked() {
    let place = committed();
    let before = place.read("cluster.toml");
    for (version, why) in [
        ("1.38", "`version` skips from 1.36 to 1.38"),
        ("1.35", "`version` goes back from 1.36 to 1.35"),
    ] {
        let refused = place.fabrik(&["upgrade", version, "--dir", "demo"], "");
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(text(&refused.stderr).contains(why), "{refused:?}");
    }
    assert_eq!(place.read("cluster.toml"), before);
    assert_eq!(place.git(&["rev-list", "--count", "HEAD"]), "1\n");

    // Two steps one after the other, with no push between them, are one to the cluster.
    let bare = place.path("demo.git");
    let bare = bare.to_str().unwrap();
    place.git(&["init", "--quiet", "--bare", bare]);
    place.git(&["remote", "add", "origin", bare]);
    place.git(&["push", "--quiet", "--set-upstream", "origin", "HEAD"]);
    let first = place.fabrik(&["upgrade", "1.37", "--dir", "demo"], "");
    assert!(first.status.success(), "{first:?}");
    let said = text(&first.stderr);
    assert!(
        said.contains("against what was pushed last alone"),
        "{said}"
    );
    assert!(said.ends_with("next: git push\n"), "{said}");
    let second = place.fabrik(&["upgrade", "1.38", "--dir", "demo"], "");
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(text(&second.stderr).contains("`version` skips from 1.36 to 1.38"));
}

#[test]
fn what_a_person_has_not_committed_is_left_to_them() {
    let place = committed();
    place.edit("cluster.toml", "count = 3", "count = 4");
    let refused = place.fabrik(&["scale", "workers", "5", "--dir", "demo"], "");
    assert!(
        text(&refused.stderr).contains("not committed"),
        "{refused:?}"
    );
    assert!(place.read("cluster.toml").contains("count = 4"));
}

#[test]
fn what_no_plan_was_shown_of_is_not_pushed() {
    let place = committed();
    place.git(&["init", "--quiet", "--bare", "../origin"]);
    place.git(&["remote", "add", "origin", "../origin"]);
    place.git(&["push", "--quiet", "origin", "main"]);
    let args = [
        "upgrade", "1.37", "--dir", "demo", "--branch", "newer", "--push",
    ];
    let upgraded = place.fabrik(&args, "");
    assert_eq!(upgraded.status.code(), Some(1), "{upgraded:?}");
    assert!(
        text(&upgraded.stderr).contains("not pushed"),
        "{upgraded:?}"
    );
    let advice = "`git push --set-upstream origin newer`";
    assert!(text(&upgraded.stderr).contains(advice), "{upgraded:?}");
    assert_eq!(place.git(&["branch", "--show-current"]), "newer\n");
    let subject = ["log", "-1", "--format=%s"];
    assert_eq!(place.git(&subject), "Upgrade Kubernetes to 1.37\n");
    assert!(place.read("cluster.toml").contains("version = \"1.37\" "));
    assert!(!place.git(&["branch", "--remotes"]).contains("newer"));
}

#[test]
fn a_commit_that_is_refused_leaves_neither_a_branch_nor_an_edit() {
    let place = committed();
    let before = place.read("cluster.toml");
    place.script("demo/.git/hooks/pre-commit", "#!/bin/sh\nexit 1\n");
    let args = ["scale", "workers", "5", "--dir", "demo", "--branch", "more"];
    let refused = place.fabrik(&args, "");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(place.git(&["branch", "--show-current"]), "main\n");
    assert_eq!(place.read("cluster.toml"), before);
    std::fs::remove_file(place.repo(".git/hooks/pre-commit")).unwrap();
    let scaled = place.fabrik(&args, "");
    assert!(scaled.status.success(), "{scaled:?}");
    place.git(&["switch", "--quiet", "--detach"]);
    let detached = place.fabrik(&["scale", "workers", "6", "--dir", "demo"], "");
    assert!(text(&detached.stderr).contains("no branch is checked out"));
}

#[test]
fn line_ends_stay() {
    let place = committed();
    let crlf = place.read("cluster.toml").replace('\n', "\r\n");
    place.write("cluster.toml", &crlf);
    place.git(&["commit", "--quiet", "-am", "As others write it"]);
    let scaled = place.fabrik(&["scale", "workers", "5", "--dir", "demo"], "");
    assert!(scaled.status.success(), "{scaled:?}");
    let expected = crlf.replace("count = 3", "count = 5");
    assert_eq!(place.read("cluster.toml"), expected);
}
