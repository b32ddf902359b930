//! `[hetzner]`: the project that the cluster has there, where it has one.

use toml::de::{DeTable, DeValue};

use super::super::Hetzner;
use super::super::reader::{Reader, Table};
use super::secret_ref;

const EXAMPLE: &str = "{ file = \"secrets/hetzner.yaml\", key = \"token\" }";

/// What is made at Hetzner, as tables and keys of `cluster.toml`; `*` stands for any.
const MADE_THERE: [&[&str]; 4] = [
    &["servers", "server-types"],
    &["pools", "*", "server-types"],
    &["api", "load-balancer"],
    &["api", "floating-ip"],
];

/// `None` where the table is not there, or a fault was noted.
pub fn hetzner(root: &mut Table<'_>) -> Option<Hetzner> {
    let entry = root.get("hetzner")?;
    let mut table = root.as_table(&entry, "[hetzner]")?;
    let token = match table.get("token") {
        None => {
            table.missing("`token` is missing", &format!("add `token = {EXAMPLE}`"));
            None
        }
        Some(entry) if matches!(entry.value, DeValue::String(_)) => {
            table.fault(&entry.span, "the token is here in the clear", format!("revoke it at Hetzner, put a new one into a SOPS file, and name that: `token = {EXAMPLE}`"));
            None
        }
        Some(entry) => table
            .as_table(&entry, "[hetzner] token")
            .and_then(secret_ref),
    };
    table.finish();
    Some(Hetzner { token: token? })
}

/// Nothing is made at Hetzner without a project there.
pub fn is_named(reader: &Reader<'_>, root: &DeTable<'_>) {
    if root.contains_key("hetzner") {
        return;
    }
    for path in MADE_THERE {
        if let Some((table, keys)) = path.split_first() {
            made_there(reader, root, table, keys, &mut vec![]);
        }
    }
}

/// Notes each key of `table` that leads to something at Hetzner.
fn made_there<'a>(
    reader: &Reader<'_>,
    table: &'a DeTable<'_>,
    key: &str,
    behind: &[&str],
    way: &mut Vec<&'a str>,
) {
    for (name, value) in table
        .iter()
        .filter(|(k, _)| key == "*" || k.get_ref() == key)
    {
        way.push(name.get_ref());
        match (behind.split_first(), value.get_ref()) {
            (None, _) => reader.fault(
                &name.span(),
                &format!("[{}]", way.join(".")),
                "is of Hetzner, and `[hetzner]` is missing",
                format!("add `[hetzner]` with `token = {EXAMPLE}`"),
            ),
            (Some((next, rest)), DeValue::Table(inner)) => {
                made_there(reader, inner, next, rest, way);
            }
            _ => {}
        }
        way.pop();
    }
}
