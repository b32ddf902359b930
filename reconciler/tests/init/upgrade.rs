//! A newer template: here it is the record that is made older.

use std::fs;

use super::place::{FABRIK, Place, text};

const RECORD: &str = ".fabrik/template.toml";

/// As if the template had said something else in these files, and one file had not been in it.
fn older() -> Place {
    let place = Place::with_repository();
    for (path, now, then) in [
        (
            "ci/check",
            "What a pull or merge request is looked at by",
            "What looks at a request",
        ),
        ("README.md", "## Every day", "## Day by day"),
        ("nixos/all.nix", "pkgs.htop", "pkgs.btop"),
    ] {
        place.edit(path, now, then);
        place.edit(RECORD, now, then);
    }
    let mut record: toml::Table = place.read(RECORD).parse().unwrap();
    let files = record["files"].as_table_mut().unwrap();
    files.remove("nixos/servers.nix").unwrap();
    place.write(RECORD, &record.to_string());
    fs::remove_file(place.repo("nixos/servers.nix")).unwrap();
    place.git(&["add", "--all"]);
    place.git(&["commit", "--quiet", "-m", "Begin"]);
    place
}

#[test]
fn an_upgrade_is_a_patch_that_git_applies_and_then_there_is_nothing_to_do() {
    let place = older();
    // One more line in a file that the template changes elsewhere.
    place.edit(
        "README.md",
        "## The first time",
        "## Mine\n\n## The first time",
    );
    place.git(&["commit", "--quiet", "--all", "-m", "Mine"]);
    let output = place.fabrik(&["init", "demo", "--upgrade"], "");
    assert!(output.status.success(), "{output:?}");
    let (patch, said) = (text(&output.stdout), text(&output.stderr));
    for line in [
        "newer      ci/check\n",
        "newer      nixos/all.nix\n",
        "merged     README.md (you changed it too)\n",
        "new        nixos/servers.nix\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(
        patch.contains("-  environment.systemPackages = [ pkgs.btop ];"),
        "{patch}"
    );
    assert_eq!(
        place.git(&["status", "--porcelain"]),
        "",
        "it changed something"
    );

    place.write("../patch", &patch);
    place.git(&["apply", "../patch"]);
    let readme = place.read("README.md");
    assert!(
        readme.contains("## Mine") && readme.contains("## Every day"),
        "{readme}"
    );
    assert!(place.repo("nixos/servers.nix").exists());
    let again = place.fabrik(&["init", "demo", "--upgrade"], "");
    assert_eq!(text(&again.stdout), "");
    assert!(text(&again.stderr).contains("nothing to do"), "{again:?}");
}

/// The last line of its patch is a blank one.
#[test]
fn a_patch_that_ends_with_a_blank_line_is_whole() {
    let place = Place::with_repository();
    for path in ["nixos/all.nix", RECORD] {
        place.edit(path, "{ pkgs, ... }:", "{ pkgs, lib, ... }:");
    }
    place.git(&["add", "--all"]);
    place.git(&["commit", "--quiet", "-m", "Begin"]);
    let patch = text(&place.fabrik(&["init", "demo", "--upgrade"], "").stdout);
    assert!(patch.ends_with("\n \n"), "it ends otherwise: {patch}");
    place.write("../patch", &patch);
    place.git(&["apply", "../patch"]);
    assert!(place.read("nixos/all.nix").contains("{ pkgs, ... }:"));
}

#[test]
fn apply_takes_only_what_no_person_has_changed() {
    let place = older();
    place.edit("README.md", "## Day by day", "## My days");
    fs::remove_file(place.repo("nixos/all.nix")).unwrap();
    let output = place.fabrik(&["init", "demo", "--upgrade"], "");
    let (patch, said) = (text(&output.stdout), text(&output.stderr));
    assert!(said.contains("CONFLICT   README.md"), "{said}");
    assert!(patch.contains("+<<<<<<< yours"), "{patch}");
    assert!(
        said.contains("left out   nixos/all.nix (you removed it)"),
        "{said}"
    );

    let output = place.fabrik(&["init", "demo", "--upgrade", "--apply"], "");
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("taken      ci/check\n"), "{said}");
    assert!(said.contains("made       nixos/servers.nix\n"), "{said}");
    assert!(said.contains("left alone README.md"), "{said}");
    assert!(place.read("README.md").contains("## My days"));
    assert!(
        place
            .read("ci/check")
            .contains("What a pull or merge request")
    );
    assert!(!place.repo("nixos/all.nix").exists());
    let modes = place.git(&["diff", "--summary"]);
    assert!(!modes.contains("mode change"), "{modes}");
    let again = text(&place.fabrik(&["init", "demo", "--upgrade"], "").stderr);
    assert!(again.starts_with("CONFLICT   README.md"), "{again}");
}

/// `git apply` takes no hunk without context, no file that is called binary, and none that another program made up.
#[test]
fn no_setting_of_a_person_s_git_changes_the_patch() {
    let place = older();
    let plain = text(&place.fabrik(&["init", "demo", "--upgrade"], "").stdout);
    place.write(
        "../home/.config/git/attributes",
        "*.nix diff=x\n*.md -diff\n",
    );
    let settings = "[diff]\n\tcontext = 0\n\trenames = copies\n\tnoprefix = false\n\
                    [diff \"x\"]\n\ttextconv = echo\n\tcommand = echo\n";
    place.write("../settings", settings);
    let mut command = place.command(FABRIK);
    command
        .args(["init", "demo", "--upgrade"])
        .current_dir(place.path(""))
        .env("GIT_CONFIG_GLOBAL", place.path("settings"))
        .env("GIT_DIFF_OPTS", "-u0");
    let patch = text(&command.output().unwrap().stdout);
    assert_eq!(patch, plain);
}

#[test]
fn a_file_that_is_a_link_is_left_alone() {
    let place = older();
    let folder = place.path("out");
    std::fs::create_dir(&folder).unwrap();
    for (path, out) in [("ci/check", "check"), ("nixos/all.nix", "all.nix")] {
        let out = folder.join(out);
        fs::rename(place.repo(path), &out).unwrap();
        std::os::unix::fs::symlink(&out, place.repo(path)).unwrap();
    }
    let before = fs::read_to_string(folder.join("check")).unwrap();
    let patch = text(&place.fabrik(&["init", "demo", "--upgrade"], "").stdout);
    assert!(!patch.contains("b/ci/check"), "{patch}");
    let output = place.fabrik(&["init", "demo", "--upgrade", "--apply"], "");
    let said = text(&output.stderr);
    assert!(said.contains("left alone ci/check"), "{said}");
    assert!(place.repo("ci/check").is_symlink());
    assert_eq!(fs::read_to_string(folder.join("check")).unwrap(), before);
}

#[test]
fn who_has_no_record_is_told_how_to_get_one() {
    let place = Place::new();
    let output = place.fabrik(&["init", "demo", "--upgrade"], "");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("Run `fabrik init` first"), "{said}");
    let alone = place.fabrik(&["init", "demo", "--apply"], "");
    assert_eq!(alone.status.code(), Some(2), "{alone:?}");
}
