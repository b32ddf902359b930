//! `[nix]`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::Nix;
use super::super::reader::{Table, Text};

const CACHE_EXAMPLE: &str = "https://cache.example.com";
const KEY_EXAMPLE: &str = "cache.example.com-1:BASE64";
const BUILDER_EXAMPLE: &str = "ssh-ng://builder.example.com aarch64-linux";
/// Of an Ed25519 key.
const KEY_BYTES: usize = 32;

pub fn nix(root: &mut Table<'_>) -> Option<Nix> {
    let mut table = root.table("nix", "[nix]");
    let substituters = list(
        &mut table,
        "substituters",
        |text| {
            let host = text.strip_prefix("https://")?;
            let known = |c: char| c.is_ascii_graphic() && !"\"'`<>\\@".contains(c);
            let whole = !host.is_empty() && !host.starts_with('/') && host.chars().all(known);
            whole.then_some(())
        },
        "an https:// URL",
        CACHE_EXAMPLE,
    );
    let trusted_public_keys = list(
        &mut table,
        "trusted-public-keys",
        |text| {
            let (name, key) = text.split_once(':')?;
            let named = !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic());
            let whole = STANDARD.decode(key).ok()?.len() == KEY_BYTES;
            (named && whole).then_some(())
        },
        "a public key as Nix writes it",
        KEY_EXAMPLE,
    );
    let builders = list(
        &mut table,
        "builders",
        |text| {
            let url = text.split(' ').next()?;
            let host = url
                .strip_prefix("ssh://")
                .or_else(|| url.strip_prefix("ssh-ng://"))?;
            // A `;` or a line break begins another builder, which then nobody checked.
            let one = |c: char| (c.is_ascii_graphic() || c == ' ') && c != ';';
            (!host.is_empty() && text.chars().all(one)).then_some(())
        },
        "a builder that Nix reaches by ssh",
        BUILDER_EXAMPLE,
    );
    table.finish();
    Some(Nix {
        substituters: substituters?,
        trusted_public_keys: trusted_public_keys?,
        builders: builders?,
    })
}

/// The strings of a list, each of which `check` has to let pass.
fn list(
    table: &mut Table<'_>,
    key: &'static str,
    check: fn(&str) -> Option<()>,
    meant: &str,
    example: &str,
) -> Option<Vec<String>> {
    let texts = table.strings_or_empty(key)?;
    let complain = |text: &Text<'_>| {
        // Not what it says: it may be a secret key, or a URL with a password.
        let problem = format!("what is here in `{key}` is not {meant}");
        table.fault(&text.span, problem, format!("write it like `{example}`"));
    };
    let bad = texts.iter().filter(|text| check(text.value).is_none());
    bad.for_each(complain);
    Some(texts.iter().map(|text| text.value.to_owned()).collect())
}
