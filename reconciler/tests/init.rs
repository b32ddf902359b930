//! `fabrik init` by the real binary, with real git and sops: what a person gets, and what of theirs is left alone.

#[path = "init/again.rs"]
mod again;
#[path = "init/edit.rs"]
mod edit;
#[path = "init/ignored.rs"]
mod ignored;
#[path = "init/newcomer.rs"]
mod newcomer;
#[path = "init/place.rs"]
mod place;
#[path = "init/plugin.rs"]
mod plugin;
#[path = "init/rules.rs"]
mod rules;
#[path = "init/there.rs"]
mod there;
#[path = "init/upgrade.rs"]
mod upgrade;
#[path = "init/workflows.rs"]
mod workflows;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use self::place::{Place, TOKEN, text};

const KEY_FILE: &str = "home/.config/sops/age/keys.txt";

#[test]
fn what_init_writes_is_valid_at_once_and_its_secrets_open() {
    let place = Place::new();
    let output = place.init("demo", &[]);
    assert!(output.status.success(), "{output:?}");
    let told = text(&output.stdout);
    for path in [
        "cluster.toml",
        "flake.nix",
        "secrets/age.key",
        ".github/workflows/fabrik.yml",
    ] {
        assert!(told.contains(&format!("made      {path}\n")), "{told}");
    }
    let tracked = place.git(&["ls-files"]);
    assert!(tracked.contains("secrets/hetzner.yaml\n"), "{tracked}");
    assert!(
        !place.repo(".git/refs/heads/main").exists(),
        "it committed unasked"
    );

    place.git(&["commit", "--quiet", "-m", "Begin"]);
    assert_eq!(place.git(&["status", "--porcelain"]), "");
    let valid = place.fabrik(&["validate", "demo"], "");
    assert!(valid.status.success(), "{valid:?}");
    let said = text(&valid.stdout);
    assert!(
        said.starts_with("ok: 1 pool, 1 unit with 3 objects, 1 secret opened\n"),
        "{said}"
    );
    assert!(
        said.contains("\nnot opened, and need not be: secrets/age.key, "),
        "{said}"
    );
    for unchecked in [
        "flake.nix and nixos/: ",
        "flake.lock, which is not there",
        "whether Hetzner has",
    ] {
        assert!(
            said.contains(&format!("\nnot checked: {unchecked}")),
            "{said}"
        );
    }

    let open = |path: &str| {
        let output = place.fabrik(&["secrets", "decrypt", &format!("demo/{path}")], "");
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    assert_eq!(open("secrets/hetzner.yaml"), format!("token: {TOKEN}\n"));
    let cluster_key = open("secrets/age.key");
    let recipient = cluster_key.strip_prefix("# public key: ").unwrap();
    let recipient = recipient.lines().next().unwrap();
    // The cluster opens the token, and not its own key, which people keep for it.
    assert!(place.read("secrets/hetzner.yaml").contains(recipient));
    assert!(!place.read("secrets/age.key").contains(recipient));
    place.write("../cluster.key", &cluster_key);
    let valid = ["validate", "demo", "--age-key-file", "cluster.key"];
    let valid = text(&place.fabrik(&valid, "").stdout);
    assert!(valid.contains("1 secret opened\n"), "{valid}");
}

#[test]
fn a_new_repository_is_valid_for_who_has_no_key_and_no_nix() {
    let place = Place::with_repository();
    fs::remove_file(place.path(KEY_FILE)).unwrap();
    let output = place.fabrik(&["validate", "demo"], "");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn no_secret_is_in_a_file_an_argument_an_environment_or_a_word_that_is_said() {
    let place = Place::new();
    let output = place.init("demo", &["--commit"]);
    assert!(output.status.success(), "{output:?}");
    let key = fs::read_to_string(place.path(KEY_FILE)).unwrap();
    let key = key.lines().last().unwrap().to_owned();
    let decrypted = place.fabrik(&["secrets", "decrypt", "demo/secrets/age.key"], "");
    let cluster_key = text(&decrypted.stdout).lines().last().unwrap().to_owned();
    for private in [&key, &cluster_key] {
        assert!(private.starts_with("AGE-SECRET-KEY-1"), "{private}");
    }
    let mut seen = place.files();
    assert!(!seen["sops.log"].is_empty());
    let mode = fs::metadata(place.path(KEY_FILE))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    seen.remove(KEY_FILE);
    seen.insert("stdout".to_owned(), output.stdout);
    seen.insert("stderr".to_owned(), output.stderr);
    for (name, content) in &seen {
        let content = String::from_utf8_lossy(content);
        for secret in [TOKEN, &key, &cluster_key] {
            assert!(!content.contains(secret), "{name} has a secret in it");
        }
    }
    assert!(
        place
            .git(&["log", "--format=%s"])
            .starts_with("Begin the cluster demo")
    );
    let left: Vec<_> = fs::read_dir(place.path("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn done_again_it_changes_nothing_that_a_person_wrote_or_removed() {
    let place = Place::with_repository();
    place.edit("cluster.toml", "count = 3", "count = 5");
    place.write("nixos/pools/gpu.nix", "{ }\n");
    fs::remove_file(place.repo("manifests/hello/hello.yaml")).unwrap();
    let log = |mut files: std::collections::BTreeMap<_, _>| {
        files.retain(|path: &String, _| path != "sops.log" && !path.starts_with("demo/.git/"));
        files
    };
    let before = log(place.files());
    for _ in 0..2 {
        let output = place.fabrik(&["init", "demo"], "");
        assert!(output.status.success(), "{output:?}");
        let told = text(&output.stdout);
        assert!(told.contains("kept      cluster.toml\n"), "{told}");
        let removed = "left out  manifests/hello/hello.yaml (you removed it)\n";
        assert!(told.contains(removed) && !told.contains("made "), "{told}");
        let said = text(&output.stderr);
        assert!(
            said.contains("flake.lock was not made: nix is not on PATH"),
            "{said}"
        );
        assert_eq!(log(place.files()), before);
    }
}

#[test]
fn without_a_terminal_all_missing_flags_are_told_and_nothing_is_made() {
    let place = Place::new();
    let before = place.files();
    let output = place.fabrik(&["init", "Not_A_Name", "--workers", "3"], "");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    let missing = "Give also --name NAME, --locations LOCATIONS, --server-types TYPES, --ssh-key KEY|FILE, --forge FORGE, ";
    assert!(said.contains(missing), "{said}");
    assert!(said.contains("--token-file FILE\n"), "{said}");
    assert_eq!(place.files(), before);

    let wrong = place.init("demo", &["--server-types", "cx11"]);
    let said = text(&wrong.stderr);
    assert!(
        said.contains("cluster.toml:") && said.contains("no longer sells"),
        "{said}"
    );
    let private = place.init("demo", &["--age-recipient", "AGE-SECRET-KEY-1PLANTED"]);
    let said = text(&private.stderr);
    assert!(
        said.contains("private age key") && !said.contains("PLANTED"),
        "{said}"
    );
    assert_eq!(place.files(), before);
}

#[test]
fn what_is_there_before_is_kept_and_used() {
    let place = Place::with_repository();
    let other = place.path("other");
    fs::create_dir_all(other.join("secrets")).unwrap();
    for file in ["cluster.toml", ".sops.yaml"] {
        fs::copy(place.repo(file), other.join(file)).unwrap();
    }
    fs::write(other.join("README.md"), "mine\n").unwrap();
    let args = [
        "init",
        "other",
        "--forge",
        "none",
        "--fabrik-flake",
        "path:/x",
        "--token-file",
        "-",
    ];
    let output = place.fabrik(&args, &format!("HCLOUD_TOKEN={TOKEN}\n"));
    assert!(output.status.success(), "{output:?}");
    let told = text(&output.stdout);
    for kept in ["cluster.toml", "README.md"] {
        assert!(told.contains(&format!("kept      {kept}\n")), "{told}");
    }
    assert!(
        !told.contains("secrets/age.key"),
        "the rules are for another key: {told}"
    );
    assert_eq!(
        fs::read_to_string(other.join("README.md")).unwrap(),
        "mine\n"
    );
    assert!(place.fabrik(&["validate", "other"], "").status.success());

    // A cluster that was founded before has its key already.
    fs::remove_dir_all(place.repo("")).unwrap();
    let rules = fs::read_to_string(other.join(".sops.yaml")).unwrap();
    let own = rules
        .lines()
        .find_map(|line| line.trim().strip_prefix("age: "));
    let output = place.init("demo", &["--cluster-age-recipient", own.unwrap()]);
    assert!(output.status.success(), "{output:?}");
    assert!(!place.repo("secrets/age.key").exists());
}

#[test]
fn a_token_that_is_closed_to_somebody_is_told_by_who_can_open_it() {
    let place = Place::with_repository();
    let rule = "path_regex: ^secrets/\n    age: ";
    place.edit(".sops.yaml", rule, &format!("{rule}age1somebody,"));
    let output = place.fabrik(&["validate", "demo"], "");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    let fault = "secrets/hetzner.yaml: is not encrypted to age1somebody, whom .sops.yaml names\n  \
                 → encrypt it anew: `sops updatekeys secrets/hetzner.yaml`\n";
    assert!(said.starts_with(fault), "{said}");
}

#[test]
fn a_folder_of_another_repository_is_refused_unless_that_ignores_it() {
    let place = Place::with_repository();
    let output = place.init("demo/clusters/other", &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("lies within the git repository"), "{said}");
    assert!(!place.repo("clusters").exists());
    place.write(".git/info/exclude", "/clusters\n");
    let output = place.init("demo/clusters/other", &[]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn without_sops_nothing_is_written_and_the_way_out_is_told() {
    let place = Place::new();
    fs::remove_file(place.path("bin/sops")).unwrap();
    let output = place.init("demo", &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("can't find the program `sops`"), "{said}");
    assert!(!place.path("demo").exists());
}
