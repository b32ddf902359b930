//! What a commit changes, by comparing inventories: no live object is read.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::{Inventory, ObjectKey};
use crate::id::UnitName;
use crate::plan::{ManifestChange, ManifestVerb};

/// The digest of an object that an inventory holds because it is about to be applied, and that may not be there yet.
pub const PENDING: &str = "";

type Units = BTreeMap<UnitName, Inventory>;

/// What is left to do, sorted by unit, object and verb.
///
/// An object that leaves one unit and enters another is one `Move`, in the unit that it enters.
pub fn changes(desired: &Units, observed: &Units) -> Vec<ManifestChange> {
    let known: BTreeSet<&ObjectKey> = observed.values().flat_map(BTreeMap::keys).collect();
    let wanted = moved_or_wanted(desired);
    let mut found = Vec::new();
    for (unit, inventory) in desired {
        for (object, digest) in inventory {
            let before = observed.get(unit).and_then(|i| i.get(object));
            if let Some(verb) = verb(before.map(String::as_str), digest, known.contains(object)) {
                found.push(change(unit, object, verb));
            }
        }
    }
    for (unit, inventory) in observed {
        let pruned = inventory.keys().filter(|object| !wanted.contains(object));
        found.extend(pruned.map(|object| change(unit, object, ManifestVerb::Prune)));
    }
    found.sort();
    found
}

/// Every object that any unit wants: none of them is pruned from another.
fn moved_or_wanted(desired: &Units) -> BTreeSet<&ObjectKey> {
    desired.values().flat_map(BTreeMap::keys).collect()
}

fn verb(before: Option<&str>, digest: &str, known_elsewhere: bool) -> Option<ManifestVerb> {
    match before {
        Some(before) if before == digest => None,
        Some(PENDING) => Some(ManifestVerb::Create),
        Some(_) => Some(ManifestVerb::Update),
        None if known_elsewhere => Some(ManifestVerb::Move),
        None => Some(ManifestVerb::Create),
    }
}

fn change(unit: &UnitName, object: &ObjectKey, verb: ManifestVerb) -> ManifestChange {
    ManifestChange {
        unit: unit.clone(),
        object: object.clone(),
        verb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(list: &[(&str, &[(&str, &str)])]) -> Units {
        let key = |k: &str| ObjectKey::try_from(k.to_owned()).unwrap();
        list.iter()
            .map(|(unit, objects)| {
                let inventory = objects.iter().map(|(k, d)| (key(k), (*d).to_owned()));
                (unit.parse().unwrap(), inventory.collect())
            })
            .collect()
    }

    fn lines(desired: &Units, observed: &Units) -> Vec<String> {
        let line = |c: &ManifestChange| format!("{} {:?} {}", c.unit, c.verb, c.object);
        changes(desired, observed).iter().map(line).collect()
    }

    #[test]
    fn each_object_is_created_updated_or_pruned_once() {
        let observed = units(&[(
            "web",
            &[
                ("Service//a", "1"),
                ("Service//b", "1"),
                ("Service//c", "1"),
            ],
        )]);
        let desired = units(&[(
            "web",
            &[
                ("Service//a", "1"),
                ("Service//b", "2"),
                ("Service//d", "1"),
            ],
        )]);
        assert_eq!(
            lines(&desired, &observed),
            [
                "web Update Service//b",
                "web Prune Service//c",
                "web Create Service//d"
            ]
        );
    }

    #[test]
    fn an_object_that_changes_units_is_moved_and_not_pruned() {
        let observed = units(&[("old", &[("Service//a", "1")])]);
        let desired = units(&[("new", &[("Service//a", "1")])]);
        assert_eq!(lines(&desired, &observed), ["new Move Service//a"]);
    }

    #[test]
    fn after_a_move_that_was_cut_short_nothing_is_pruned() {
        let observed = units(&[
            ("old", &[("Service//a", "1")]),
            ("new", &[("Service//a", "1")]),
        ]);
        let desired = units(&[("new", &[("Service//a", "1")])]);
        assert!(lines(&desired, &observed).is_empty());
    }

    #[test]
    fn an_object_that_was_only_announced_is_still_to_be_created() {
        let observed = units(&[("web", &[("Service//a", PENDING)])]);
        let desired = units(&[("web", &[("Service//a", "1")])]);
        assert_eq!(lines(&desired, &observed), ["web Create Service//a"]);
    }

    #[test]
    fn a_removed_folder_prunes_all_of_its_unit() {
        let observed = units(&[("web", &[("Service//a", "1"), ("Namespace//web", "1")])]);
        assert_eq!(
            lines(&Units::new(), &observed),
            ["web Prune Namespace//web", "web Prune Service//a"]
        );
    }

    #[test]
    fn the_same_on_both_sides_is_no_change() {
        let both = units(&[("web", &[("Service//a", "1")]), ("db", &[])]);
        assert!(lines(&both, &both).is_empty());
    }
}
