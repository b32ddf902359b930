//! The table of bad commits: each file of `bad_input/` changes a good repository, and holds the whole report that a
//! person gets for the outcome. The commits, the SOPS files and their keys are real.
//!
//! A case is lines of changes, as `Change` reads them, and the report after a line `===`. `BLESS=1` writes the reports
//! anew; read the difference before it is committed.

#[path = "bad_input/repository.rs"]
mod repository;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fabrik::gate::{Access, Faulty, Standing, judge, read_commit};
use fabrik::repo::Tree;
use fabrik::secrets::Sops;
use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::id::CommitId;
use fabrik_core::ledger::{Admitted, Ledger};
use fabrik_core::spec;

use self::repository::{Keys, Repository, sops_binary};

const FEWEST_CASES: usize = 30;

#[tokio::test]
async fn each_bad_commit_gets_its_whole_report() {
    let keys = Keys::new();
    let good = Repository::good(&keys);
    let bless = std::env::var_os("BLESS").is_some();
    let cases = cases();
    assert!(cases.len() >= FEWEST_CASES, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for path in cases {
        let case = fs::read_to_string(&path).unwrap();
        let (changes, expected) = case.split_once("===\n").unwrap_or((&case, ""));
        let repository = good.changed(changes, &keys);
        let report = report(&repository, &keys).await;
        assert!(!report.is_empty(), "{} is let in", path.display());
        assert!(!report.contains("planted"), "{report}");
        if bless {
            fs::write(&path, format!("{changes}===\n{report}")).unwrap();
        } else if report != expected {
            let path = path.display();
            wrong.push(format!("{path}: expected\n{expected}got\n{report}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_good_commit_is_let_in_and_its_token_opened() {
    let keys = Keys::new();
    let repository = Repository::good(&keys);
    assert_eq!(report(&repository, &keys).await, "");
    let sops = keys.sops();
    let candidate = read_commit(&repository.committed().unwrap().1, Access::Cluster(&sops))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(candidate.token.unwrap().expose_str(), Some("planted-token"));
    assert_eq!((candidate.opened, candidate.unopened.len()), (2, 0));
    assert_eq!(candidate.units.values().map(Vec::len).sum::<usize>(), 2);
}

#[tokio::test]
async fn a_person_s_key_that_opens_less_than_the_cluster_s_is_no_fault() {
    let keys = Keys::new();
    let repository = Repository::good(&keys);
    let strange = Sops::new(keys.stranger_file(), Some(sops_binary()));
    let tree = Tree::of_directory(repository.dir()).unwrap();
    for access in [Access::Person(&strange), Access::NoKey] {
        let candidate = read_commit(&tree, access).await.unwrap().unwrap();
        assert!(candidate.token.is_none());
        assert_eq!(
            candidate.unopened,
            ["manifests/web/password.yaml", "secrets/hetzner.yaml"]
        );
    }
}

#[test]
fn validate_tells_all_faults_and_fails() {
    let keys = Keys::new();
    let repository = Repository::good(&keys).changed(
        "~ cluster.toml: count = 2 => count = -1\n>>> manifests/stray.yaml\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
        &keys,
    );
    let output = validate(&repository, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(
        text(&output.stderr),
        "cluster.toml:9:9: pool workers: `count` = -1 is out of range\n  → use a number from 0 to 1000\n\
         manifests/stray.yaml: is directly in `manifests/` and belongs to no unit\n  → move it into a folder like `manifests/web/`: each folder there is a unit\n\
         2 faults: fabrik would refuse this.\n"
    );
    let output = validate(&repository, &["--output", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["valid"], false);
    assert_eq!(
        told["diagnostics"][0]["place"],
        serde_json::json!({"file": "cluster.toml", "line": 9, "column": 9})
    );
}

#[test]
fn validate_says_what_it_opened_and_what_it_could_not() {
    let keys = Keys::new();
    let repository = Repository::good(&keys);
    let output = validate(&repository, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        text(&output.stdout),
        "ok: 1 pool, 1 unit with 2 objects, 0 secrets opened\n\
         note: [ssh-keys] is empty, so no node will let anybody in: `fabrik ssh` will be refused. Put your public key there\n\
         not opened (no key for them here, or fabrik does not use them), checked for their shape only: manifests/web/password.yaml, secrets/hetzner.yaml\n\
         not checked: whether Hetzner has these types, locations and images, and the API server takes these objects\n\
         not checked: pool workers: whether servers of `debian-12` join by their user data. Hetzner's own images don't; \
         docs/nixos.md, \"The disk\", says how to make one that does\n"
    );
    let key = keys.our_file();
    let output = validate(&repository, &["--age-key-file", key.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        text(&output.stdout),
        "ok: 1 pool, 1 unit with 2 objects, 2 secrets opened\n\
         note: [ssh-keys] is empty, so no node will let anybody in: `fabrik ssh` will be refused. Put your public key there\n\
         not checked: whether Hetzner has these types, locations and images, and the API server takes these objects\n\
         not checked: pool workers: whether servers of `debian-12` join by their user data. Hetzner's own images don't; \
         docs/nixos.md, \"The disk\", says how to make one that does\n"
    );
}

fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_input");
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut cases: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|end| end == "case"))
        .collect();
    cases.sort();
    cases
}

/// What the leader would say of it, where the good repository is in force.
async fn report(repository: &Repository, keys: &Keys) -> String {
    let sops = keys.sops();
    let tree = if repository.is_read_from_directory() {
        Tree::of_directory(repository.dir()).map(|tree| (commit('b'), tree))
    } else {
        repository.committed()
    };
    let (id, read) = match tree {
        Ok((id, tree)) => {
            let read = read_commit(&tree, Access::Cluster(&sops)).await.unwrap();
            (id, read)
        }
        Err(error) => (
            commit('b'),
            Err(Faulty::of(error.into_diagnostic().unwrap())),
        ),
    };
    let in_force = spec::parse("cluster.toml", repository::GOOD_SPEC).unwrap();
    let mut ledger = Ledger::new("abcdefgh01234567".parse().unwrap());
    ledger.foundation = Some(in_force.foundation());
    ledger.admitted = Some(Admitted {
        commit: commit('a'),
        at: jiff::Timestamp::UNIX_EPOCH,
        kubernetes: Some(in_force.kubernetes.version.clone()),
    });
    let standing = Standing {
        ledger: &ledger,
        commit: &id,
        founded: &in_force.name,
        descends: !repository.is_a_rewind(),
        in_force: Some(&in_force),
    };
    let faults = judge(read, &standing).err().unwrap_or_default();
    let told = faults.iter().map(|fault: &Diagnostic| format!("{fault}\n"));
    keys.named(&told.collect::<Vec<_>>().concat())
        .replace(&id.to_string(), "COMMIT")
}

fn commit(digit: char) -> CommitId {
    digit.to_string().repeat(40).parse().unwrap()
}

/// The real binary, as a person without a key of sops runs it.
fn validate(repository: &Repository, options: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_fabrik"))
        .arg("validate")
        .args(options)
        .arg(repository.dir())
        .env_remove("SOPS_AGE_KEY_FILE")
        .env_remove("XDG_CONFIG_HOME")
        .env("HOME", home.path())
        .env("FABRIK_SOPS", sops_binary())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
