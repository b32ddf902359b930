//! The table of bad input: each file of `bad_input/` is a small repository and the whole report that it gets.
//!
//! A case is lines `~ OLD => NEW` (edits of a good `cluster.toml`; `\n` is a line break, an empty OLD appends), then
//! files, each after a line `>>> PATH`, then the report after a line `===`. `BLESS=1` writes the reports anew; read the
//! difference before it is committed.

use std::fs;
use std::path::{Path, PathBuf};

use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::manifest::{self, Budget, Source};
use fabrik_core::spec;
use proptest::prelude::*;

const GOOD_SPEC: &str = r#"[cluster]
name = "demo"

[kubernetes]
version = "1.36.3+k3s1"

[hetzner]
token = { file = "secrets/hetzner.yaml", key = "token" }

[network]
range = "10.0.0.0/16"
nodes = "10.0.1.0/24"
zone = "eu-central"
pods = "10.42.0.0/16"
services = "10.43.0.0/16"

[firewall]
ssh-from = ["203.0.113.0/24"]
api-from = ["0.0.0.0/0", "::/0"]

[ssh-keys]
alice = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f alice"

[pools.workers]
count = 2
server-types = ["cx33", "cx43"]
locations = ["fsn1", "nbg1"]
image = "debian-12"
labels = { tier = "web" }
taints = ["dedicated=web:NoSchedule"]
max-unavailable = 1
local-data = "keep"
drain-deadline = "1h"
empty-dir-data = "discard"
unmanaged-pods = "keep"
may-be-off = false

[limits]
creations-per-hour = 20
deletions-per-hour = 10
prunes-per-hour = 100
max-prune = 25

[update]
canary = "server-1"
soak = "30s"
try-deadline = "15m"
windows = [{ start = "0 2 * * 6", length = "4h", zone = "Europe/Berlin" }]
allow-control-plane-downtime = false

[update.hold]
demo-workers-k3x9qd = "its disk is being looked at"

[nix]
substituters = ["https://cache.example.com"]
trusted-public-keys = ["cache.example.com-1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]
builders = ["ssh-ng://build@arm.example.com aarch64-linux - 4 1 big-parallel"]
"#;

const GOOD_MANIFEST: &str = r"apiVersion: v1
kind: Namespace
metadata:
  name: web
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  namespace: web
  labels: {app: shop}
spec:
  replicas: 2.0
  template:
    spec:
      containers: [{name: shop, image: 'shop:1', args: [a, 0644, yes]}]
";

const FEWEST_CASES: usize = 45;

#[test]
fn each_bad_repository_gets_its_whole_report() {
    let bless = std::env::var_os("BLESS").is_some();
    let cases = cases();
    assert!(cases.len() >= FEWEST_CASES, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for path in cases {
        let text = fs::read_to_string(&path).unwrap();
        let (input, expected) = text.split_once("===\n").unwrap_or((&text, ""));
        let report = report(&files(input));
        assert!(!report.is_empty(), "{} is let in", path.display());
        if bless {
            fs::write(&path, format!("{input}===\n{report}")).unwrap();
        } else if report != expected {
            wrong.push(format!(
                "{}: expected\n{expected}got\n{report}",
                path.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_good_repository_gets_none() {
    let good = [
        ("cluster.toml".to_owned(), GOOD_SPEC.to_owned()),
        (
            "manifests/web/shop.yaml".to_owned(),
            GOOD_MANIFEST.to_owned(),
        ),
    ];
    assert_eq!(report(&good), "");
}

proptest! {
    #[test]
    fn no_mutation_of_a_good_file_makes_it_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), "\\PC{0,3}|[\n\t:\\-{}\\[\\]\"'#&*!|>%@=.,]{0,3}", 0..4_usize), 1..6)
    ) {
        for (path, text) in [("cluster.toml", GOOD_SPEC), ("manifests/web/a.yaml", GOOD_MANIFEST), ("manifests/web/a.json", "{\"kind\": \"List\", \"items\": [{\"a\": 1.5}]}")] {
            let mut chars: Vec<char> = text.chars().collect();
            for (at, insert, remove) in &edits {
                let at = at.index(chars.len() + 1);
                let end = (at + remove).min(chars.len());
                chars.splice(at..end, insert.chars());
            }
            let _report = report(&[(path.to_owned(), chars.into_iter().collect())]);
        }
    }
}

fn cases() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_input");
    let mut cases: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    cases
}

/// The files of a case, in the order of their paths.
fn files(input: &str) -> Vec<(String, String)> {
    let mut spec = GOOD_SPEC.to_owned();
    let mut files: Vec<(String, String)> = Vec::new();
    for line in input.split_inclusive('\n') {
        if let Some(path) = line.strip_prefix(">>> ") {
            files.push((path.trim().to_owned(), String::new()));
        } else if let Some((_, text)) = files.last_mut() {
            text.push_str(line);
        } else if let Some((old, new)) = line
            .strip_prefix("~ ")
            .and_then(|edit| edit.split_once("=> "))
        {
            let (old, new) = (old.trim(), new.trim_end_matches('\n').replace("\\n", "\n"));
            if old.is_empty() {
                spec.push_str(&new);
            } else {
                assert!(spec.contains(old), "`{old}` is not in the good spec");
                spec = spec.replacen(old, &new, 1);
            }
        }
    }
    if !files.iter().any(|(path, _)| path == "cluster.toml") {
        files.push(("cluster.toml".to_owned(), spec));
    }
    files.sort();
    files
}

/// As a person sees it: all diagnostics, by place.
fn report(files: &[(String, String)]) -> String {
    let mut faults: Vec<Diagnostic> = Vec::new();
    let mut objects = Vec::new();
    let mut budget = Budget::default();
    for (path, text) in files {
        if path == "cluster.toml" {
            faults.extend(spec::parse(path, text).err().unwrap_or_default());
        } else if manifest::is_manifest(path) {
            // A file that stands for what a SOPS file decrypts to.
            let encrypted = path.contains(".sops.").then_some(b"ENC".as_slice());
            let source = Source {
                file: path,
                text,
                encrypted,
            };
            let (more, found) = manifest::parse(&source, &mut budget);
            objects.extend(more);
            faults.extend(found);
        }
    }
    faults.extend(manifest::units(objects).1);
    faults.sort();
    let told: Vec<_> = faults.iter().map(|fault| format!("{fault}\n")).collect();
    told.concat()
}
