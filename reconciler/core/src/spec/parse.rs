//! From the text of `cluster.toml` to a `Spec`, or to all that is wrong with it.

mod api;
mod location;
mod machine;
mod network;
mod nix;
mod pods;
mod pool;
mod project;
mod secrets;
mod servers;
mod stray;
mod syntax;
mod update;
mod values;

use std::collections::BTreeMap;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use toml::de::DeTable;

pub use self::location::{is_zone, zone_of};
use self::machine::Machines;
use super::reader::{Reader, Table, Text};
use super::{K3sRelease, Kubernetes, Limits, SecretRef, Spec};
use crate::diagnostic::Diagnostic;
use crate::id::{ClusterName, InvalidId};
use crate::merge;

const MAX_PER_HOUR: u32 = 1000;
const MAX_PRUNES: u32 = 100_000;

/// Where the Hetzner token is, from a spec that may be wrong elsewhere.
pub fn token_reference(text: &str) -> Option<SecretRef> {
    let root: toml::Table = text.parse().ok()?;
    let token = root.get("hetzner")?.get("token")?;
    let text = |key| token.get(key)?.as_str().map(str::to_owned);
    Some(SecretRef {
        file: text("file")?,
        key: text("key")?,
    })
}

/// `file` is the name that the places of faults bear.
///
/// # Errors
/// All that is wrong, by place; of what is no TOML that alone.
pub fn parse(file: &str, text: &str) -> Result<Spec, Vec<Diagnostic>> {
    if let Some(conflict) = merge::conflict(file, text) {
        return Err(vec![conflict]);
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(syntax::faults(file, text, &errors));
    }
    let reader = Reader::new(file, text);
    let spec = read(&reader, root.get_ref());
    let mut faults = reader.into_faults();
    faults.sort();
    faults.dedup();
    match spec {
        Some(spec) if faults.is_empty() => Ok(spec),
        _ => Err(faults),
    }
}

/// `None` only when a fault was noted.
fn read<'a>(reader: &'a Reader<'a>, tables: &'a DeTable<'a>) -> Option<Spec> {
    let mut root = reader.table("cluster.toml", None, tables);
    let name = cluster_name(&mut root);
    let kubernetes = kubernetes(&mut root);
    let hetzner = project::hetzner(&mut root);
    project::is_named(reader, tables);
    let network = network::network(reader, &mut root);
    let firewall = network::firewall(&mut root);
    let ssh_keys = ssh_keys(&mut root);
    let zone = network.as_ref().map(|network| network.zone.as_str());
    let at_hetzner = tables.contains_key("hetzner");
    let mut machines = Machines::new(name.as_ref(), network.as_ref(), at_hetzner);
    let control_plane = servers::servers(&mut root, zone, &mut machines);
    let (servers, own_servers, system) = control_plane.unwrap_or_default();
    let api = api::api(&mut root, zone, firewall.as_ref());
    let pools = pool::pools(&mut root, zone, &mut machines);
    let limits = limits(&mut root);
    let update = update::update(&mut root);
    let nix = nix::nix(&mut root);
    let secrets = secrets::secrets(&mut root, pools.as_ref());
    if let (Some(network), Some(pools)) = (&network, &pools) {
        network::holds_all_nodes(reader, network, servers.as_ref(), pools);
    }
    root.finish();
    Some(Spec {
        name: name?,
        kubernetes: kubernetes?,
        hetzner,
        network: network?.into_network(),
        firewall: firewall?,
        api: api?,
        ssh_keys,
        servers,
        own_servers,
        own_servers_system: system.map(str::to_owned),
        pools: pools?,
        limits: limits?,
        update: update?,
        nix: nix?,
        secrets: secrets?,
    })
}

fn cluster_name(root: &mut Table<'_>) -> Option<ClusterName> {
    let mut table = root.required_table(
        "cluster",
        "[cluster]",
        "add `[cluster]` with `name = \"…\"`",
    )?;
    let name = table.required_string("name", "\"…\"");
    let name = name.and_then(|text| match text.value.parse() {
        Ok(name) => Some(name),
        Err(fault) => {
            invalid_name(&table, &text.span, &fault, 20);
            None
        }
    });
    table.finish();
    name
}

fn invalid_name(table: &Table<'_>, span: &Range<usize>, fault: &InvalidId, max_chars: usize) {
    let remedy = format!("use at most {max_chars} of a-z, 0-9 and -, beginning with a letter");
    table.fault(span, format!("the name {fault}"), remedy);
}

fn kubernetes(root: &mut Table<'_>) -> Option<Kubernetes> {
    const EXAMPLE: &str = "\"1.36.3+k3s1\"";
    let mut table = root.required_table(
        "kubernetes",
        "[kubernetes]",
        &format!("add `[kubernetes]` with `version = {EXAMPLE}`"),
    )?;
    let version = table.required_string("version", EXAMPLE);
    let version = version.filter(|text| match text.value.parse::<K3sRelease>() {
        Ok(_) => true,
        Err(problem) => {
            table.fault(
                &text.span,
                format!("the version `{}` {problem}", text.value),
                format!("write it as k3s names its releases, without the `v`: {EXAMPLE}"),
            );
            false
        }
    });
    table.finish();
    Some(Kubernetes {
        version: version?.value.to_owned(),
    })
}

fn secret_ref(mut table: Table<'_>) -> Option<SecretRef> {
    let reference = secret_ref_of(&mut table);
    table.finish();
    reference
}

/// `file` and `key` of a table that may have more.
fn secret_ref_of(table: &mut Table<'_>) -> Option<SecretRef> {
    let file = table.required_string("file", "\"secrets/hetzner.yaml\"");
    let key = table.required_string("key", "\"token\"");
    let file = file.filter(|text| {
        let inside = is_path_within(text.value);
        if !inside {
            table.fault(
                &text.span,
                format!("`{}` is not a path within the repository", text.value),
                "name a file from the repository's root on, like `secrets/hetzner.yaml`",
            );
        }
        inside
    });
    let key = key.filter(|text| {
        if text.value.is_empty() {
            table.fault(
                &text.span,
                "`key` is empty",
                "name the key of the file that holds it",
            );
        }
        !text.value.is_empty()
    });
    Some(SecretRef {
        file: file?.value.to_owned(),
        key: key?.value.to_owned(),
    })
}

fn is_path_within(path: &str) -> bool {
    !path.contains('\\') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn ssh_keys(root: &mut Table<'_>) -> BTreeMap<String, String> {
    let mut table = root.table("ssh-keys", "[ssh-keys]");
    let mut keys = BTreeMap::new();
    let mut owners = BTreeMap::new();
    for entry in table.take_all() {
        let name = entry.key.value;
        let Some(text) = table.as_string(&entry) else {
            continue;
        };
        if !is_resource_name(name) {
            table.fault(
                &entry.key.span,
                format!("`{name}` is not a name for a key"),
                "use at most 63 letters, digits, `-`, `_` and `.`",
            );
        }
        match public_key(&text) {
            Err((problem, remedy)) => {
                table.fault(&text.span, format!("the key `{name}` {problem}"), remedy);
            }
            Ok(material) => {
                if let Some(other) = owners.insert(material, name) {
                    table.fault(
                        &text.span,
                        format!("the key `{name}` is the same as `{other}`"),
                        "keep one of them: Hetzner takes each key once",
                    );
                }
                keys.insert(name.to_owned(), text.value.trim().to_owned());
            }
        }
    }
    table.finish();
    keys
}

/// An OpenSSH public key: its type and, in base64, a blob that begins with the type's name (RFC 4253 §6.6). Returns both.
fn public_key<'a>(text: &Text<'a>) -> Result<(&'a str, &'a str), (&'static str, &'static str)> {
    const TYPES: [&str; 7] = [
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    ];
    const REMEDY: &str = "paste the one line of the `.pub` file, like `ssh-ed25519 AAAA… alice`";
    if text.value.contains("PRIVATE KEY") {
        return Err((
            "is a private key",
            "it is known to all who read the repository: make a new one, and put its `.pub` file here",
        ));
    }
    let mut words = text.value.split_whitespace();
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else {
        return Err(("is not a public key", REMEDY));
    };
    if !TYPES.contains(&kind) || text.value.trim().contains('\n') {
        return Err(("is of a type that is not known", REMEDY));
    }
    let decoded = STANDARD
        .decode(blob)
        .map_err(|_| ("is cut off or mistyped", REMEDY))?;
    let length = u32::try_from(kind.len()).unwrap_or(u32::MAX).to_be_bytes();
    let rest = decoded
        .strip_prefix(&length)
        .and_then(|rest| rest.strip_prefix(kind.as_bytes()));
    match rest {
        Some(rest) if rest.len() >= 32 => Ok((kind, blob)),
        _ => Err(("is cut off or mistyped", REMEDY)),
    }
}

/// Becomes a name and a label value at Hetzner.
fn is_resource_name(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    (1..=63).contains(&name.len())
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name
            .chars()
            .all(|c| edge(c) || matches!(c, '-' | '_' | '.'))
}

fn limits(root: &mut Table<'_>) -> Option<Limits> {
    let mut table = root.table("limits", "[limits]");
    let default = Limits::default();
    let creations = table.number(
        "creations-per-hour",
        1..=MAX_PER_HOUR,
        Some(default.creations_per_hour),
    );
    let deletions = table.number(
        "deletions-per-hour",
        1..=MAX_PER_HOUR,
        Some(default.deletions_per_hour),
    );
    let prunes = table.number(
        "prunes-per-hour",
        1..=MAX_PER_HOUR,
        Some(default.prunes_per_hour),
    );
    let max_prune = table.number("max-prune", 0..=MAX_PRUNES, Some(default.max_prune));
    table.finish();
    Some(Limits {
        creations_per_hour: creations?,
        deletions_per_hour: deletions?,
        prunes_per_hour: prunes?,
        max_prune: max_prune?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::spec::{Firewall, LocalData, PlacementStrategy, Update};

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

    #[test]
    fn what_is_left_out_has_the_documented_default() {
        let spec = parse("cluster.toml", SMALL).unwrap();
        assert_eq!(spec.network.range, "10.0.0.0/16");
        assert_eq!(spec.network.services, "10.43.0.0/16");
        assert_eq!(spec.network.zone, "eu-central");
        assert_eq!(spec.firewall, Firewall::default());
        assert_eq!(spec.limits, Limits::default());
        assert_eq!(spec.update, Update::default());
        let pool = spec.pools.values().next().unwrap();
        assert_eq!(pool.placement, PlacementStrategy::Spread);
        assert_eq!(pool.local_data, LocalData::Keep);
        assert_eq!(pool.max_unavailable, 1);
        assert_eq!(pool.drain_deadline, Duration::from_secs(3600));
    }

    #[test]
    fn an_update_is_read_whole() {
        let text = r#"
may-be-off = true
[update]
canary = "server-1"
soak = "0s"
try-deadline = "20m"
windows = [{ start = "0 2 * * 6", length = "4h", zone = "Europe/Berlin" }]
allow-control-plane-downtime = true
paused = "the holidays"
[update.hold]
demo-workers-k3x9qd = "its disk is being looked at"
"#;
        let spec = parse("cluster.toml", &format!("{SMALL}{text}")).unwrap();
        assert!(spec.pools.values().all(|pool| pool.may_be_off));
        let update = spec.update;
        assert_eq!(update.canary, Some("server-1".parse().unwrap()));
        assert_eq!(update.soak, Duration::ZERO);
        assert_eq!(update.try_deadline, Duration::from_secs(1200));
        assert_eq!(update.windows.len(), 1);
        assert_eq!(update.windows[0].length, Duration::from_secs(4 * 3600));
        assert!(update.allow_control_plane_downtime);
        assert_eq!(update.paused.as_deref(), Some("the holidays"));
        let why = &update.held[&"demo-workers-k3x9qd".parse().unwrap()];
        assert_eq!(why, "its disk is being looked at");
    }

    #[test]
    fn all_faults_are_told_at_once_each_at_its_place() {
        let text = SMALL
            .replace("count = 2", "conut = 2\nlabels = { tier = 1 }")
            .replace("cx33", "cx11");
        let faults = parse("cluster.toml", &text).unwrap_err();
        let told: Vec<_> = faults
            .iter()
            .map(|f| (f.place.to_string(), f.problem.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("cluster.toml:8:8".to_owned(), "`count` is missing"),
                ("cluster.toml:9:1".to_owned(), "`conut` is not known here"),
                (
                    "cluster.toml:10:19".to_owned(),
                    "`tier` must be a string in quotes, and is a whole number"
                ),
                (
                    "cluster.toml:11:17".to_owned(),
                    "Hetzner no longer sells the server type `cx11`"
                ),
            ]
        );
    }

    #[test]
    fn a_syntax_error_is_told_alone_with_those_of_other_lines() {
        let servers = "[servers]\ncount = = 1\nserver-types = [\"cx33\"]\nlocations = [\"fsn1\"]\n";
        for (text, expected) in [
            (
                format!("{SMALL}{servers}"),
                vec![(14, 9, "is not valid TOML: extra `=`")],
            ),
            (
                SMALL
                    .replace("[hetzner]", "[hetzner")
                    .replace("cx33", "cx11"),
                vec![(6, 9, "is not valid TOML: unclosed table")],
            ),
            (
                SMALL
                    .replace("count = 2", "count = ")
                    .replace("\"debian-12\"", "debian 12"),
                vec![
                    (9, 9, "there is nothing behind the `=`"),
                    (12, 9, "is not valid TOML: string values must be quoted"),
                ],
            ),
        ] {
            let faults = parse("cluster.toml", &text).unwrap_err();
            let told = faults.iter().map(|f| {
                let (line, column) = (f.place.line.unwrap(), f.place.column.unwrap());
                (line, column, f.problem.as_str())
            });
            assert_eq!(told.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_cluster_without_a_project_names_nothing_of_hetzner() {
        let without = SMALL.replace(
            "[hetzner]\ntoken = { file = \"secrets/hetzner.yaml\", key = \"token\" }\n",
            "",
        );
        let none = without.split("[pools").next().unwrap();
        assert_eq!(parse("cluster.toml", none).unwrap().hetzner, None);

        let all = "[servers]\ncount = 1\nserver-types = [\"cx33\"]\nlocations = [\"fsn1\"]\n\
                   [api.load-balancer]\ntype = \"lb11\"\nlocation = \"fsn1\"\nprivate = true\n";
        let faults = parse("cluster.toml", &format!("{without}{all}")).unwrap_err();
        let told = faults
            .iter()
            .map(|f| (f.place.line, f.object.as_str(), f.problem.as_str()));
        let problem = "is of Hetzner, and `[hetzner]` is missing";
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                (Some(8), "[pools.workers.server-types]", problem),
                (Some(13), "[servers.server-types]", problem),
                (Some(15), "[api.load-balancer]", problem),
            ]
        );
    }
}
