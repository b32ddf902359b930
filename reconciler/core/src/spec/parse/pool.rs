//! `[pools.NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::kubernetes_syntax::{node_label, node_taint};
use super::super::reader::{Table, Text};
use super::super::{DrainPolicy, LocalData, Loss, Machine, PlacementStrategy, Pool};
use super::invalid_name;
use super::location::locations;
use super::machine::Machines;
use super::stray::{is_stray, stray};
use super::values::{duration, flag};
use crate::id::{MachineName, PoolName};
use crate::names::SERVERS_POOL;
use crate::pool::removed_pool;

const MAX_COUNT: u32 = 1000;
const MAX_DRAIN: Duration = Duration::from_secs(7 * 24 * 3600);
const DEFAULT_DRAIN: Duration = Duration::from_secs(3600);

/// Server types that can't be ordered any more in Hetzner's European locations (docs.hetzner.cloud, changelog: cx11…
/// deprecated on 2024-06-06; cx22… and cpx11… on 2025-10-16, gone since January 2026), each with the one of today that
/// has at least its processors and memory. Types are retired location by location, so in other zones Hetzner's own
/// answer counts.
const RETIRED: [(&str, &str); 14] = [
    ("cx11", "cx23"),
    ("cx21", "cx23"),
    ("cx31", "cx33"),
    ("cx41", "cx43"),
    ("cx51", "cx53"),
    ("cx22", "cx23"),
    ("cx32", "cx33"),
    ("cx42", "cx43"),
    ("cx52", "cx53"),
    ("cpx11", "cpx22"),
    ("cpx21", "cpx32"),
    ("cpx31", "cpx32"),
    ("cpx41", "cpx42"),
    ("cpx51", "cpx62"),
];

const RETIRED_IN: &str = "eu-central";

pub fn pools(
    root: &mut Table<'_>,
    zone: Option<&str>,
    machines: &mut Machines<'_>,
) -> Option<BTreeMap<PoolName, Pool>> {
    let mut table = root.table("pools", "[pools]");
    let mut pools = Vec::new();
    let entries = table.take_all();
    let stray = stray(&table, &entries);
    for entry in &entries {
        let key = entry.key.value;
        if stray.contains(key) || is_stray(&table, entry) {
            pools.push(None);
            continue;
        }
        let object = format!("pool {}", entry.key.value);
        let name = entry.key.value.parse::<PoolName>();
        if let Err(fault) = &name {
            invalid_name(&table, &entry.key.span, fault, 30);
        }
        if entry.key.value == SERVERS_POOL {
            table.fault(
                &entry.key.span,
                format!("the name `{SERVERS_POOL}` is the control plane's own"),
                "call the pool otherwise, `workers` for one; the servers are [servers]",
            );
        }
        let pool = table
            .as_table(entry, &object)
            .and_then(|table| pool(table, zone, name.as_ref().ok(), machines));
        pools.push(name.ok().zip(pool));
    }
    table.finish();
    pools.into_iter().collect()
}

fn pool(
    mut table: Table<'_>,
    zone: Option<&str>,
    name: Option<&PoolName>,
    machines: &mut Machines<'_>,
) -> Option<Pool> {
    let nodes = match table.get("machines") {
        Some(entry) => {
            let machines = machines.read(&table, &entry, name);
            own_machines(&mut table, machines)
        }
        None => at_hetzner(&mut table, zone),
    };
    let labels = labels(&mut table);
    let taints = taints(&mut table);
    let max_unavailable = table.number("max-unavailable", 1..=MAX_COUNT, Some(1));
    let local_data = choice(
        &mut table,
        "local-data",
        &[("keep", LocalData::Keep), ("discard", LocalData::Discard)],
    );
    let drain_deadline = duration(
        &mut table,
        "drain-deadline",
        Duration::from_nanos(1)..=MAX_DRAIN,
        DEFAULT_DRAIN,
    );
    let empty_dir_data = choice(
        &mut table,
        "empty-dir-data",
        &[("discard", Loss::Discard), ("keep", Loss::Keep)],
    );
    let unmanaged_pods = choice(
        &mut table,
        "unmanaged-pods",
        &[("keep", Loss::Keep), ("discard", Loss::Discard)],
    );
    let may_be_off = flag(&mut table, "may-be-off");
    table.finish();
    Some(Pool {
        labels,
        taints: taints?,
        max_unavailable: max_unavailable?,
        local_data: local_data?,
        drain_deadline: drain_deadline?,
        drain_policy: DrainPolicy {
            empty_dir_data: empty_dir_data?,
            unmanaged_pods: unmanaged_pods?,
        },
        may_be_off: may_be_off?,
        ..nodes?
    })
}

/// A pool as far as it is of servers that fabrik makes.
fn at_hetzner(table: &mut Table<'_>, zone: Option<&str>) -> Option<Pool> {
    let count = table.number("count", 0..=MAX_COUNT, None);
    let server_types = server_types(table, zone);
    let locations = locations(table, zone);
    let image = image(table);
    let placement = placement(table);
    Some(Pool {
        count: count?,
        server_types: server_types?,
        locations: locations?,
        image,
        placement: placement?,
        ..removed_pool()
    })
}

/// What machines are, in Nix' words.
pub(super) fn system(table: &mut Table<'_>) -> Option<&'static str> {
    choice(
        table,
        "system",
        &[
            ("x86_64-linux", "x86_64-linux"),
            ("aarch64-linux", "aarch64-linux"),
        ],
    )
}

/// A pool as far as it is of the user's own `machines`.
fn own_machines(
    table: &mut Table<'_>,
    machines: Option<BTreeMap<MachineName, Machine>>,
) -> Option<Pool> {
    for key in ["count", "server-types", "locations", "image", "placement"] {
        if let Some(entry) = table.get(key) {
            table.fault(
                &entry.key.span,
                format!("`{key}` is of servers at Hetzner, and this pool has machines of your own"),
                "remove it, or make two pools",
            );
        }
    }
    let system = system(table);
    Some(Pool {
        machines: machines?,
        system: Some(system?.to_owned()),
        ..removed_pool()
    })
}

pub(super) fn server_types(table: &mut Table<'_>, zone: Option<&str>) -> Option<Vec<String>> {
    let texts = table.required_strings("server-types", "[\"cx33\"]")?;
    for text in &texts {
        let retired = RETIRED.iter().find(|(retired, _)| *retired == text.value);
        if let Some((_, current)) = retired.filter(|_| zone == Some(RETIRED_IN)) {
            table.fault(
                &text.span,
                format!("Hetzner no longer sells the server type `{}`", text.value),
                format!("use `{current}`"),
            );
        } else if !is_letters_then_digits(text.value) {
            table.fault(
                &text.span,
                format!("`{}` is not a server type", text.value),
                "use one of Hetzner's, like `cx33`, `cpx32`, `cax21` or `ccx23`",
            );
        }
    }
    one_architecture(table, &texts);
    Some(once_each(table, &texts))
}

/// Hetzner's Ampere types are called `cax…`; all others are x86_64 (docs.hetzner.com, "Server types").
fn one_architecture(table: &mut Table<'_>, types: &[Text<'_>]) {
    let is_arm = |text: &Text<'_>| text.value.starts_with("cax");
    let arm = types.iter().find(|text| is_arm(text));
    let other = types.iter().find(|text| !is_arm(text));
    if let (Some(arm), Some(other)) = (arm, other) {
        table.fault(
            &arm.span,
            format!(
                "`{}` (x86_64) and `{}` (aarch64) can't run the one system of a pool",
                other.value, arm.value
            ),
            "keep those of one architecture, or make two pools of workers",
        );
    }
}

fn image(table: &mut Table<'_>) -> Option<String> {
    let text = table.string("image")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.value.is_empty() || !text.value.chars().all(fits) {
        table.fault(
            &text.span,
            format!("`{}` is not an image", text.value),
            "use a name of Hetzner's like `debian-12`, or the id of a snapshot",
        );
        return None;
    }
    Some(text.value.to_owned())
}

pub(super) fn placement(table: &mut Table<'_>) -> Option<PlacementStrategy> {
    choice(
        table,
        "placement",
        &[
            ("spread", PlacementStrategy::Spread),
            ("anywhere", PlacementStrategy::Anywhere),
        ],
    )
}

/// One of a few words; the first is the default.
fn choice<T: Copy>(table: &mut Table<'_>, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
    let Some(entry) = table.get(key) else {
        return choices.first().map(|(_, value)| *value);
    };
    let text = table.as_string(&entry)?;
    let chosen = choices.iter().find(|(word, _)| *word == text.value);
    if chosen.is_none() {
        let words: Vec<_> = choices
            .iter()
            .map(|(word, _)| format!("`{word}`"))
            .collect();
        table.fault(
            &text.span,
            format!("`{key}` can't be `{}`", text.value),
            format!("use {}", words.join(" or ")),
        );
    }
    chosen.map(|(_, value)| *value)
}

fn labels(table: &mut Table<'_>) -> BTreeMap<String, String> {
    let object = format!("{} labels", table.object);
    let mut given = table.table("labels", &object);
    let mut labels = BTreeMap::new();
    for entry in given.take_all() {
        let Some(text) = given.as_string(&entry) else {
            continue;
        };
        let key = entry.key.value;
        if let Err((problem, remedy)) = node_label(key, text.value) {
            given.fault(&entry.key.span, format!("`{key}` {problem}"), remedy);
        }
        labels.insert(key.to_owned(), text.value.to_owned());
    }
    given.finish();
    labels
}

fn taints(table: &mut Table<'_>) -> Option<Vec<String>> {
    let texts = table.strings_or_empty("taints")?;
    let mut seen = BTreeSet::new();
    for text in &texts {
        match node_taint(text.value) {
            Err((problem, remedy)) => table.fault(
                &text.span,
                format!("the taint `{}` {problem}", text.value),
                remedy,
            ),
            Ok(taint) if !seen.insert(taint) => {
                table.fault(
                    &text.span,
                    format!("there are two taints of `{}` with {}", taint.0, taint.1),
                    "keep one of them",
                );
            }
            Ok(_) => {}
        }
    }
    Some(
        texts
            .into_iter()
            .map(|text| text.value.to_owned())
            .collect(),
    )
}

pub(super) fn once_each(table: &Table<'_>, texts: &[Text<'_>]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    for text in texts {
        if !seen.insert(text.value) {
            table.fault(
                &text.span,
                format!("`{}` is here twice", text.value),
                "keep the first: they are tried in order",
            );
        }
    }
    texts.iter().map(|text| text.value.to_owned()).collect()
}

pub(super) fn is_letters_then_digits(text: &str) -> bool {
    let letters = text.trim_end_matches(|c: char| c.is_ascii_digit());
    !letters.is_empty()
        && letters.len() < text.len()
        && letters.chars().all(|c| c.is_ascii_lowercase())
}
