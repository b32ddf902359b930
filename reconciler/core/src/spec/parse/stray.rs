//! What stands in `[pools]` and is no pool.

use std::collections::BTreeSet;

use toml::de::DeValue;

use super::super::reader::{Entry, Table};

/// What is said of pools.
const KEYS: [&str; 15] = [
    "count",
    "drain-deadline",
    "empty-dir-data",
    "image",
    "labels",
    "local-data",
    "locations",
    "machines",
    "max-unavailable",
    "may-be-off",
    "placement",
    "server-types",
    "system",
    "taints",
    "unmanaged-pods",
];

/// The keys of a pool that has no name: one fault for all of them.
pub fn stray<'a>(table: &Table<'_>, entries: &[Entry<'a>]) -> BTreeSet<&'a str> {
    let is_key = |entry: &&Entry<'_>| KEYS.contains(&entry.key.value);
    let stray = entries.iter().filter(is_key).filter(|e| !is_table(e));
    let Some(first) = stray.min_by_key(|e| e.key.span.start) else {
        return BTreeSet::new();
    };
    let stray: BTreeSet<_> = entries.iter().filter(is_key).map(|e| e.key.value).collect();
    let keys: Vec<_> = stray.iter().map(|key| format!("`{key}`")).collect();
    let are = if keys.len() == 1 { "belongs" } else { "belong" };
    table.fault(
        &first.key.span,
        format!(
            "{} {are} to a pool, and the pool has no name",
            keys.join(", ")
        ),
        "write them below the pool's own table: `[pools.workers]`",
    );
    stray
}

/// Whether it is no pool, which is noted.
pub fn is_stray(table: &Table<'_>, entry: &Entry<'_>) -> bool {
    if !is_table(entry) {
        let key = entry.key.value;
        let problem = format!("`{key}` is no pool: each pool is a table");
        table.fault(
            &entry.key.span,
            problem,
            format!("write it as `[pools.{key}]`, with what is its own below"),
        );
    }
    !is_table(entry)
}

fn is_table(entry: &Entry<'_>) -> bool {
    matches!(entry.value, DeValue::Table(_))
}
