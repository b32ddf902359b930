//! What somebody runs into who does it for the first time.

use std::fs;

use super::place::{Place, SSH_KEY, text};

#[test]
fn a_folder_that_can_not_name_the_cluster_and_an_owner_that_is_none_are_told() {
    let place = Place::new();
    let output = place.init("Demo_x", &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains("called after this folder: `Demo_x` "),
        "{said}"
    );
    assert!(said.contains("Give also --name NAME\n"), "{said}");
    assert!(place.init("Demo_x", &["--name", "demo"]).status.success());

    let flake = ["--fabrik-flake", "github:OWNER/fabrik"];
    let output = place.fabrik(&[&["init", "demo"], &flake[..]].concat(), "");
    let said = text(&output.stderr);
    assert!(said.contains("in the place of OWNER"), "{said}");
}

#[test]
fn an_age_key_that_was_made_is_told_even_if_nothing_comes_of_it_and_at_the_end_what_to_do_with_it()
{
    let place = Place::new();
    let file = place.path("home/.config/sops/age/keys.txt");
    let file = file.display();
    place.script("bin/sops", "#!/bin/sh\nexit 1\n");
    let failed = place.init("demo", &[]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let made = format!("made      {file}, your age key\n");
    assert_eq!(text(&failed.stdout), made);

    let place = Place::new();
    let output = place.init("demo", &[]);
    let file = place.path("home/.config/sops/age/keys.txt");
    let file = file.display();
    let said = text(&output.stderr);
    let only = format!("note: {file} is the only copy of your age key.");
    assert!(said.contains(&only), "{said}");
    assert!(said.contains("Keep a copy off this machine"), "{said}");
    let last: Vec<_> = said.lines().rev().take(2).collect();
    assert!(
        last[0].starts_with("next: ") && last[1].starts_with(&only),
        "{said}"
    );

    fs::remove_dir_all(place.repo("")).unwrap();
    let said = text(&place.init("demo", &[]).stderr);
    let known = format!("note: the secrets are for your age key, {file}: keep a copy");
    assert!(said.contains(&known) && !said.contains(&only), "{said}");
}

#[test]
fn a_cluster_of_own_machines_begins_without_a_token() {
    let place = Place::new();
    let args = ["init", "demo", "--own", "--no-lock", "--forge", "none"];
    let more = ["--fabrik-flake", "path:/x", "--ssh-key", SSH_KEY];
    let output = place.fabrik(&[&args[..], &more].concat(), "");
    assert!(output.status.success(), "{output:?}");
    for left_out in ["secrets/hetzner.yaml", "nixos/pools"] {
        assert!(!place.repo(left_out).exists(), "{left_out}");
    }
    let machine = "[servers.machines.attic]\naddress = \"10.0.9.20\"\ndisk = \"/dev/sda\"\n\
                   host-key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk\"\n";
    place.edit("cluster.toml", "# [servers.machines.attic]\n", machine);
    let valid = place.fabrik(&["validate", "demo"], "");
    assert!(valid.status.success(), "{valid:?}");
    let said = text(&valid.stdout);
    assert!(
        said.contains("\nnote: machine attic: `/dev/sda` may be"),
        "{said}"
    );
    assert!(
        !said.contains("Hetzner") && !said.contains("[ssh-keys]"),
        "{said}"
    );
    place.edit("cluster.toml", "alice = ", "# alice = ");
    let said = text(&place.fabrik(&["validate", "demo"], "").stdout);
    assert!(said.contains("\nnote: [ssh-keys] is empty"), "{said}");
    place.write("nixos/pools/workers.nix", "{ }\n");
    let said = text(&place.fabrik(&["validate", "demo"], "").stderr);
    assert!(said.contains("→ remove it, or add that pool"), "{said}");
    let upgrade = place.fabrik(&["init", "demo", "--upgrade"], "");
    assert!(!text(&upgrade.stdout).contains("hetzner"), "{upgrade:?}");
}

#[test]
fn a_seed_elsewhere_than_in_a_repository_says_what_is_missing() {
    let place = Place::with_repository();
    let seed = |dir: &str| {
        let output = place.fabrik(&["seed", dir], "");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        text(&output.stderr)
    };
    assert!(seed(".").contains("has no cluster.toml"), "{}", seed("."));
    let said = seed("demo");
    assert!(said.contains("nothing is committed in demo yet"), "{said}");
    fs::remove_dir_all(place.repo(".git")).unwrap();
    let said = seed("demo");
    assert!(said.contains("demo is no git repository"), "{said}");
}

#[test]
fn who_names_no_kubeconfig_is_told_of_the_one_that_a_seed_wrote() {
    let place = Place::new();
    let said = || text(&place.fabrik(&["status"], "").stderr);
    let home = place.path("home/.kube/config");
    let looked_at = format!("KUBECONFIG name none, and {} is not there", home.display());
    assert!(
        said().starts_with("error: no kubeconfig was found"),
        "{}",
        said()
    );
    assert!(said().contains(&looked_at), "{}", said());
    let dir = place.path("home/.local/state/fabrik/demo");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("kubeconfig"), "").unwrap();
    let wrote = format!(
        "; `fabrik seed` wrote {}/kubeconfig. Name one",
        dir.display()
    );
    assert!(said().contains(&wrote), "{}", said());
}

#[test]
fn a_kubeconfig_that_leads_nowhere_is_named_with_where_it_leads_and_nothing_else_is_said() {
    let place = Place::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "demo",
        "clusters": [{"name": "demo", "cluster": {"server": server}}],
        "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "admin"}}],
        "users": [{"name": "admin", "user": {"token": "t"}}],
    });
    fs::write(place.path("kubeconfig"), kubeconfig.to_string()).unwrap();
    for verb in [
        &["status"][..],
        &["wait", "0123456"],
        &["ssh", "server-1"],
        &["kubeconfig", "--as", "ada", "--output", "-"],
    ] {
        let args = [verb, &["--kubeconfig", "kubeconfig"]].concat();
        let args = if verb[0] == "ssh" {
            vec!["ssh", "--kubeconfig", "kubeconfig", "server-1"]
        } else {
            args
        };
        let output = place.fabrik(&args, "");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = text(&output.stderr);
        let begin = format!(
            "error: kubeconfig leads to {server}, which can't be asked: Connection refused"
        );
        assert!(said.starts_with(&begin), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    fs::write(place.path("kubeconfig"), "clusters: []\n").unwrap();
    let said = text(
        &place
            .fabrik(&["status", "--kubeconfig", "kubeconfig"], "")
            .stderr,
    );
    assert!(
        said.starts_with("error: kubeconfig is of no use as a kubeconfig: "),
        "{said}"
    );
    let said = text(&place.fabrik(&["status", "--kubeconfig", "none"], "").stderr);
    assert!(
        said.contains("none is of no use") && said.contains("No such file"),
        "{said}"
    );
}

#[test]
fn a_restore_on_a_laptop_says_what_it_is_for_and_where() {
    let place = Place::new();
    let output = place.fabrik(&["restore", "--config", "config.toml"], "");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    for words in [
        "error: this is no server of a cluster: config.toml is not there",
        "When a quorum of the control plane is lost for good",
        "Run it there, as root",
    ] {
        assert!(said.contains(words), "{said}");
    }
}
