//! People whose key is behind a program of theirs: an age plugin, as that of a YubiKey.

use super::place::{Place, TOKEN, text};

const RECIPIENT: &str = "age1fake1veskkeg0grne9";
const IDENTITY: &str = "AGE-PLUGIN-FAKE-1VESKKEGTE2VN9\n";
/// A plugin (C2SP's age-plugin) that encrypts nothing: its stanza is the file key itself.
const PLUGIN: &str = r#"#!/bin/sh
key=
while read -r line; do
    case $line in
    '-> wrap-file-key'* | '-> recipient-stanza'*' fake') read -r key ;;
    '-> done'*) read -r _ && break ;;
    esac
done
if [ -n "$key" ]; then
    case $1 in
    *recipient-v1) printf -- '-> recipient-stanza 0 fake\n%s\n' "$key" ;;
    *) printf -- '-> file-key 0\n%s\n' "$key" ;;
    esac
    read -r _ && read -r _
fi
printf -- '-> done\n\n'
"#;

#[test]
fn secrets_are_encrypted_to_a_plugin_s_recipient_and_opened_by_it() {
    let place = Place::new();
    place.script("bin/age-plugin-fake", PLUGIN);
    let output = place.init("demo", &["--age-recipient", RECIPIENT]);
    assert!(output.status.success(), "{output:?}");
    place.write("../plugin.key", IDENTITY);
    let key = ["--age-key-file", "plugin.key"];
    for path in ["demo/secrets/hetzner.yaml", "demo/secrets/age.key"] {
        let opened = place.fabrik(&[&["secrets", "decrypt", path], &key[..]].concat(), "");
        assert!(opened.status.success(), "{opened:?}");
    }
    let valid = place.fabrik(&[&["validate", "demo"], &key[..]].concat(), "");
    assert!(valid.status.success(), "{valid:?}");
    assert!(text(&valid.stdout).contains("1 secret opened"), "{valid:?}");
    let log = std::fs::read_to_string(place.path("sops.log")).unwrap();
    assert!(!log.contains(TOKEN));
}

#[test]
fn what_the_plugin_does_not_open_is_not_opened_and_no_fault() {
    let place = Place::with_repository();
    // sops looks there as well.
    std::fs::remove_file(place.path(super::KEY_FILE)).unwrap();
    place.script("bin/age-plugin-fake", PLUGIN);
    place.write("../plugin.key", IDENTITY);
    let key = ["demo", "--age-key-file", "plugin.key"];
    let valid = place.fabrik(&[&["validate"], &key[..]].concat(), "");
    assert!(valid.status.success(), "{valid:?}");
    assert!(
        text(&valid.stdout).contains("0 secrets opened"),
        "{valid:?}"
    );
    let check = place.fabrik(&[&["secrets", "check"], &key[..]].concat(), "");
    assert!(check.status.success(), "{check:?}");
}
