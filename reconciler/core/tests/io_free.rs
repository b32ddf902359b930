//! `fabrik-core` decides and does no IO. Its dependencies keep it so, and this test keeps its dependencies.

use std::collections::BTreeSet;
use std::process::Command;

/// Whatever brings one of these in brings an async runtime, a network, randomness or a process with it.
const FORBIDDEN: [&str; 14] = [
    "tokio",
    "async-std",
    "smol",
    "mio",
    "reqwest",
    "hyper",
    "kube",
    "gix",
    "rand",
    "getrandom",
    "ring",
    "rustls",
    "tempfile",
    "notify",
];

#[test]
fn the_core_depends_on_nothing_that_can_do_io() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "fabrik-core",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(["--target", "x86_64-unknown-linux-gnu", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let listing = String::from_utf8(output.stdout).expect("names are text");
    let names: BTreeSet<&str> = listing
        .lines()
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(
        names.contains("fabrik-core"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found: Vec<_> = FORBIDDEN
        .iter()
        .filter(|name| names.contains(*name))
        .collect();
    assert!(
        found.is_empty(),
        "fabrik-core must stay free of IO, and now depends on {found:?}"
    );
}

#[test]
fn the_core_s_own_code_reads_no_clock_and_no_file() {
    let words = [
        "SystemTime::now",
        "Instant::now",
        "Timestamp::now",
        "Zoned::now",
        "std::fs",
        "std::net",
        "std::process",
    ];
    let mut pending = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = 0;
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            for word in words {
                assert!(!text.contains(word), "{} uses {word}", path.display());
            }
        }
    }
    assert!(files > 10);
}
