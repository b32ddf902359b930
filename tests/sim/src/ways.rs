//! The ways that tickets went, held against the core's table of them.

use fabrik_core::rollout::ways::{WAYS, leads};

use crate::coverage::Coverage;

/// Such as are in no table: the table is wrong, or what was done.
pub fn unknown(cover: &Coverage) -> Vec<String> {
    let met = cover.transitions.keys();
    let unknown = met.filter(|(from, to)| !leads(from, to));
    unknown.map(|(from, to)| format!("{from} → {to}")).collect()
}

/// Such as the table draws and nobody went.
pub fn never(cover: &Coverage) -> Vec<String> {
    let drawn = WAYS
        .iter()
        .flat_map(|way| way.next.iter().map(|to| (way.from, *to)));
    let never = drawn.filter(|way| !cover.transitions.contains_key(way));
    never.map(|(from, to)| format!("{from} → {to}")).collect()
}
