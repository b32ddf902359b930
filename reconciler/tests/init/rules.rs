//! A `.sops.yaml` that was there first, and does not do what it should.

use std::fs;

use super::place::{Place, TOKEN, text};

/// Nobody here has the key to it.
const PERSON: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

#[test]
fn rules_that_would_leave_the_token_in_the_clear_are_refused_and_nothing_is_written() {
    for option in [
        "encrypted_regex: ^(data|stringData)$",
        "unencrypted_regex: ^token$",
        "mac_only_encrypted: true",
    ] {
        let place = Place::new();
        fs::create_dir(place.repo("")).unwrap();
        let rule = format!("creation_rules:\n  - age: {PERSON}\n    {option}\n");
        place.write(".sops.yaml", &rule);
        let before = place.files();
        let output = place.init("demo", &["--cluster-age-recipient", PERSON]);
        assert_eq!(output.status.code(), Some(1), "{option}: {output:?}");
        let said = text(&output.stderr);
        assert!(said.contains("secrets/hetzner.yaml"), "{said}");
        assert!(said.contains("not be encrypted whole"), "{said}");
        assert!(said.contains("have a rule"), "{said}");
        assert!(!said.contains(TOKEN), "{said}");
        let mut after = place.files();
        after.retain(|path, _| path != "sops.log");
        assert_eq!(after, before, "{option}");
    }
}
