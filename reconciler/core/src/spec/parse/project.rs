//! `[hetzner]`: the project that the cluster has there, where it has one.

use toml::de::{DeTable, DeValue};

use super::super::Hetzner;
use super::super::reader::{Reader, Table};
use super::secret_ref;

const EXAMPLE: &str = "{ file = \"secrets/hetzner.yaml\", key = \"token\" }";

/// What is made at Hetzner, as tables and keys of `cluster.toml`; `*` stands for any.
const MADE_THERE: [&[&str]; 2] = [
    &["servers", "server-types"],
    &["pools", "*", "server-types"],
];
/// What is made there and leads to the servers, if they are there.
const LEADS_THERE: [&[&str]; 2] = [&["api", "load-balancer"], &["api", "floating-ip"]];

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

/// Nothing is made at Hetzner without a project there, and nothing that is made there leads to the user's own machines.
pub fn is_named(reader: &Reader<'_>, root: &DeTable<'_>) {
    let note = |paths: &[&[&str]], words: (&str, &str)| {
        for (table, keys) in paths.iter().filter_map(|path| path.split_first()) {
            made_there(reader, root, (*table, keys), words, &mut vec![]);
        }
    };
    let is_missing = !root.contains_key("hetzner");
    let add = format!("add `[hetzner]` with `token = {EXAMPLE}`");
    let missing = ("is of Hetzner, and `[hetzner]` is missing", add.as_str());
    let elsewhere = (
        "leads to servers at Hetzner, and `[servers.machines]` are machines of your own",
        "remove it; [api] `name` may be a DNS name that leads to them",
    );
    if has_own_servers(root) {
        note(&LEADS_THERE, elsewhere);
    } else if is_missing {
        note(&LEADS_THERE, missing);
    }
    if is_missing {
        note(&MADE_THERE, missing);
    }
}

fn has_own_servers(root: &DeTable<'_>) -> bool {
    let has_machines =
        |table: &DeValue<'_>| matches!(table, DeValue::Table(t) if t.contains_key("machines"));
    root.get("servers")
        .is_some_and(|servers| has_machines(servers.get_ref()))
}

/// Notes each key of `table` that leads to something at Hetzner.
fn made_there<'a>(
    reader: &Reader<'_>,
    table: &'a DeTable<'_>,
    (key, behind): (&str, &[&str]),
    (problem, remedy): (&str, &str),
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
                problem,
                remedy,
            ),
            (Some((next, rest)), DeValue::Table(inner)) => {
                made_there(reader, inner, (*next, rest), (problem, remedy), way);
            }
            _ => {}
        }
        way.pop();
    }
}

#[cfg(test)]
mod tests {
    use crate::spec::parse;

    #[test]
    fn nothing_at_hetzner_leads_to_machines_of_the_user_s_own() {
        let without = "[network]\nrange = \"192.168.1.0/24\"\nnodes = \"192.168.1.0/24\"";
        let with = "[hetzner]\ntoken = { file = \"secrets/hetzner.yaml\", key = \"token\" }\n\
                    [network]\nrange = \"192.168.0.0/16\"\nnodes = \"192.168.2.0/24\"";
        for project in [without, with] {
            let text = format!(
                r#"
[cluster]
name = "demo"
[kubernetes]
version = "1.36"
{project}
[servers.machines.attic]
address = "192.168.1.20"
host-key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk"
disk = "/dev/sda"
[api.floating-ip]
type = "ipv4"
location = "fsn1"
"#
            );
            let faults = parse("cluster.toml", &text).unwrap_err();
            let told = faults
                .iter()
                .map(|f| (f.object.as_str(), f.problem.as_str()));
            let problem =
                "leads to servers at Hetzner, and `[servers.machines]` are machines of your own";
            let expected = [("[api.floating-ip]", problem)];
            assert_eq!(told.collect::<Vec<_>>(), expected, "{text}");
        }
    }
}
