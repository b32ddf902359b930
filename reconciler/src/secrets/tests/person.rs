//! What a person's `sops` may do that the cluster's may not: start plugins of theirs.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// An identity of a plugin that is not installed.
const PLUGIN_IDENTITY: &str = "AGE-PLUGIN-MISSING-1DEHKUEGHL3VTW\n";

#[tokio::test]
async fn what_a_plugin_s_identity_does_not_open_is_no_fault_to_a_person() {
    let keys = Keys::new();
    let dir = tempfile::tempdir().unwrap();
    let content = encrypt("a.yaml", SECRET_YAML, &["--age", &keys.stranger]);
    std::fs::write(dir.path().join("a.yaml"), &content).unwrap();
    let tree = Tree::of_directory(dir.path()).unwrap();
    let plugin = keys.dir.path().join("plugin");
    std::fs::write(&plugin, PLUGIN_IDENTITY).unwrap();
    let person = Sops::of_person(plugin.clone(), Some(binary()));
    let checked = check(&tree, Some(&person)).await.unwrap();
    let expected = ("a.yaml".to_owned(), Verdict::WellFormed);
    assert_eq!(
        (checked.files, checked.diagnostics),
        (vec![expected], vec![])
    );
    let cluster = Sops::new(plugin.clone(), Some(binary()));
    assert!(open(&cluster, "a.yaml", &content).await.is_err());

    // Where the recipient is known to be ours, what does not open is a fault as ever.
    let ours = std::fs::read_to_string(keys.dir.path().join("ours")).unwrap();
    std::fs::write(&plugin, ours + PLUGIN_IDENTITY).unwrap();
    let content = encrypt("a.yaml", SECRET_YAML, &["--age", &keys.ours]);
    let content = content.replacen(
        "token: ENC[AES256_GCM,data:",
        "token: ENC[AES256_GCM,data:AAAA",
        1,
    );
    std::fs::write(dir.path().join("a.yaml"), &content).unwrap();
    let tree = Tree::of_directory(dir.path()).unwrap();
    let checked = check(&tree, Some(&person)).await.unwrap();
    assert_eq!(checked.files[0].1, Verdict::Faulty);
}

#[tokio::test]
async fn only_a_person_s_sops_gets_an_environment_and_that_a_small_one() {
    let keys = Keys::new();
    let content = encrypt("a.yaml", SECRET_YAML, &["--age", &keys.ours]);
    let (program, seen) = (keys.dir.path().join("sops"), keys.dir.path().join("seen"));
    let script = format!("#!/bin/sh\nexport -p >'{}'\nexit 1\n", seen.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let key = keys.dir.path().join("ours");
    let cluster = Sops::new(key.clone(), Some(program.clone()));
    let person = Sops::of_person(key, Some(program));
    for (sops, names) in [
        (cluster, vec!["PWD", "SOPS_AGE_KEY_FILE"]),
        (person, vec!["HOME", "PATH", "PWD", "SOPS_AGE_KEY_FILE"]),
    ] {
        assert!(open(&sops, "a.yaml", &content).await.is_err());
        let seen = std::fs::read_to_string(&seen).unwrap();
        let given = |name: &&str| seen.contains(&format!(" {name}="));
        assert!(names.iter().all(&given), "{seen}");
        assert!(!["CARGO_PKG_NAME", "CARGO"].iter().any(&given), "{seen}");
        assert_eq!(given(&"HOME"), names.contains(&"HOME"), "{seen}");
    }
}
