//! `[secrets.NAME]`.

use std::collections::{BTreeMap, BTreeSet};

use super::super::reader::{Entry, Table, Text};
use super::super::{FileMode, NodeSecret, Pool};
use super::secret_ref_of;
use crate::id::{PoolName, SecretName};
use crate::names::SERVERS_POOL;

const ROOT: &str = "root";
/// Linux' limit for names of users and groups.
const MAX_OWNER_CHARS: usize = 32;
/// What systemd calls a unit at most.
const MAX_UNIT_CHARS: usize = 255;

/// `pools` are those of the file; `None` where they could not be read, and then nobody asks for theirs.
pub fn secrets(
    root: &mut Table<'_>,
    pools: Option<&BTreeMap<PoolName, Pool>>,
) -> Option<BTreeMap<SecretName, NodeSecret>> {
    let mut table = root.table("secrets", "[secrets]");
    let mut secrets = BTreeMap::new();
    let mut whole = true;
    for entry in table.take_all() {
        match secret(&table, &entry, pools) {
            Some((name, secret)) => drop(secrets.insert(name, secret)),
            None => whole = false,
        }
    }
    table.finish();
    whole.then_some(secrets)
}

fn secret<'a>(
    table: &Table<'a>,
    entry: &Entry<'a>,
    pools: Option<&BTreeMap<PoolName, Pool>>,
) -> Option<(SecretName, NodeSecret)> {
    let name = entry.key.value.parse::<SecretName>();
    if let Err(fault) = &name {
        let remedy = "use at most 63 letters, digits, `.`, `_` and `-`, beginning with a letter or a digit: it is the \
                      name of a file";
        table.fault(&entry.key.span, fault.to_string(), remedy);
    }
    let mut table = table.as_table(entry, &format!("[secrets.{}]", entry.key.value))?;
    let source = secret_ref_of(&mut table);
    let pools = whose(&mut table, pools);
    let mode = mode_of(&mut table);
    let owner = belongs_to(&mut table, "owner");
    let group = belongs_to(&mut table, "group");
    let restart = services(&mut table);
    table.finish();
    let secret = NodeSecret {
        source: source?,
        pools: pools?,
        mode: mode?,
        owner: owner?,
        group: group?,
        restart: restart?,
    };
    Some((name.ok()?, secret))
}

fn whose(
    table: &mut Table<'_>,
    known: Option<&BTreeMap<PoolName, Pool>>,
) -> Option<BTreeSet<PoolName>> {
    let texts = table.required_strings("pools", "[\"workers\"]")?;
    let mut pools = BTreeSet::new();
    let mut whole = true;
    for text in &texts {
        let name = text.value.parse::<PoolName>();
        let is_known = |name: &PoolName| {
            name.as_str() == SERVERS_POOL || known.is_none_or(|known| known.contains_key(name))
        };
        if let Ok(name) = name
            && is_known(&name)
        {
            pools.insert(name);
            continue;
        }
        whole = false;
        let names = known.into_iter().flat_map(BTreeMap::keys);
        let names: Vec<&str> = names.map(PoolName::as_str).chain([SERVERS_POOL]).collect();
        table.fault(
            &text.span,
            format!("there is no pool `{}`", text.value),
            format!("name some of {}", names.join(", ")),
        );
    }
    whole.then_some(pools)
}

fn mode_of(table: &mut Table<'_>) -> Option<FileMode> {
    let Some(entry) = table.get("mode") else {
        return Some(FileMode::OWNER_READS);
    };
    let text = table.as_string(&entry)?;
    let mode = text.value.parse();
    if let Err(problem) = mode {
        let remedy = "write it as `\"0400\"`, or `\"0440\"` for a group that reads it";
        table.fault(&text.span, format!("`{}` {problem}", text.value), remedy);
    }
    mode.ok()
}

fn belongs_to(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let Some(entry) = table.get(key) else {
        return Some(ROOT.to_owned());
    };
    let text = table.as_string(&entry)?;
    if !is_owner(text.value) {
        let problem = format!("`{}` is no name of a user or a group", text.value);
        table.fault(
            &text.span,
            problem,
            "write its name or its number, in quotes",
        );
        return None;
    }
    Some(text.value.to_owned())
}

/// A number, or what `useradd` takes for a name.
fn is_owner(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let number = text.parse::<u32>().is_ok_and(|id| id < u32::MAX);
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    text.len() <= MAX_OWNER_CHARS && (number || (begins && text.chars().all(known)))
}

fn services(table: &mut Table<'_>) -> Option<Vec<String>> {
    let texts = table.strings_or_empty("restart")?;
    let bad: Vec<&Text<'_>> = texts.iter().filter(|t| !is_service(t.value)).collect();
    for text in &bad {
        let problem = format!("`{}` is no name of a service of systemd", text.value);
        table.fault(
            &text.span,
            problem,
            "write it whole, like `wireguard-wg0.service`",
        );
    }
    let services = || texts.iter().map(|text| text.value.to_owned()).collect();
    bad.is_empty().then(services)
}

/// By systemd.unit(5), without templates that nobody has filled in.
fn is_service(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let Some(name) = text.strip_suffix(".service") else {
        return false;
    };
    let whole = !name.is_empty() && !name.ends_with('@') && text.chars().all(known);
    whole && text.len() <= MAX_UNIT_CHARS
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const SMALL: &str = r#"
[cluster]
name = "demo"
[kubernetes]
version = "1.36.3+k3s1"
[hetzner]
token = { file = "secrets/hetzner.yaml", key = "token" }
[pools.workers]
count = 2
server-types = ["cx33"]
locations = ["fsn1"]
image = "debian-12"
"#;

    fn told(secret: &str) -> Vec<String> {
        let faults = parse("c", &format!("{SMALL}{secret}")).unwrap_err();
        let told = faults.iter();
        told.map(|f| format!("{} {}", f.place, f.problem)).collect()
    }

    #[test]
    fn a_secret_is_read_with_what_is_left_out() {
        let text = "[secrets.wg0]\nfile = \"secrets/vpn.yaml\"\nkey = \"a.b\"\npools = [\"workers\", \"servers\"]\n";
        let spec = parse("c", &format!("{SMALL}{text}")).unwrap();
        let secret = &spec.secrets[&"wg0".parse().unwrap()];
        assert_eq!(secret.source.key, "a.b");
        assert_eq!(secret.pools.len(), 2);
        assert_eq!(secret.mode.to_string(), "0400");
        assert_eq!((secret.owner.as_str(), secret.group.as_str()), (ROOT, ROOT));
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(
            serde_json::from_str::<crate::spec::Spec>(&json).unwrap(),
            spec
        );
        assert!(parse("c", SMALL).unwrap().secrets.is_empty());
    }

    #[test]
    fn all_faults_of_all_secrets_are_told_at_once() {
        let text = r#"
[secrets.".."]
file = "../x"
key = ""
pools = ["nobody", "workers"]
mode = "0666"
owner = "a b"
restart = ["wg0", "wg@.service"]
[secrets.good]
file = "x"
fiel = "y"
pools = []
group = 7
"#;
        let begin = |line: &str, problem: &str| format!("c:{line} {problem}");
        assert_eq!(
            told(text),
            [
                begin("14:10", "`..` is no name for a file of secrets"),
                begin("15:8", "`../x` is not a path within the repository"),
                begin("16:7", "`key` is empty"),
                begin("17:10", "there is no pool `nobody`"),
                begin("18:8", "`0666` lets everybody write the file"),
                begin("19:9", "`a b` is no name of a user or a group"),
                begin("20:12", "`wg0` is no name of a service of systemd"),
                begin("20:19", "`wg@.service` is no name of a service of systemd"),
                begin("21:10", "`key` is missing"),
                begin("23:1", "`fiel` is not known here"),
                begin("24:9", "`pools` is empty"),
                begin(
                    "25:9",
                    "`group` must be a string in quotes, and is a whole number"
                ),
            ]
        );
    }

    #[test]
    fn names_of_files_users_and_units_are_safe_ones() {
        for bad in ["", ".", "..", ".a", "a/b", "-a", "ä", "a b", "a\n"] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
        for bad in ["", "-x", "a:b", "4294967295", "a/b", "x\n", "1x"] {
            assert!(!is_owner(bad), "{bad:?}");
        }
        assert!(is_owner("0") && is_owner("systemd-network") && is_owner("_x"));
        for bad in [
            "a",
            ".service",
            "a.timer",
            "a b.service",
            "x@.service",
            "a/b.service",
        ] {
            assert!(!is_service(bad), "{bad:?}");
        }
        assert!(is_service("wg-quick@wg0.service"));
        for bad in ["", "400 ", "8", "1777", "0402", "+400", "00400"] {
            assert!(bad.parse::<FileMode>().is_err(), "{bad:?}");
        }
    }
}
