//! Hetzner's locations, and the network zones that they are in.

use super::super::reader::{Table, Text};
use super::pool::once_each;

/// Hetzner's locations and the zone of each (docs.hetzner.cloud, "Locations"). Others may come.
const LOCATIONS: [(&str, &str); 6] = [
    ("fsn1", "eu-central"),
    ("nbg1", "eu-central"),
    ("hel1", "eu-central"),
    ("ash", "us-east"),
    ("hil", "us-west"),
    ("sin", "ap-southeast"),
];

/// The zone of one of Hetzner's locations, where this build knows it.
pub fn zone_of(location: &str) -> Option<&'static str> {
    let known = LOCATIONS.iter().find(|(name, _)| *name == location);
    known.map(|(_, zone)| *zone)
}

fn locations_of(zone: &str) -> String {
    let there = LOCATIONS.iter().filter(|(_, its)| *its == zone);
    there.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Whether a location that this build knows is in that network zone.
pub fn is_zone(text: &str) -> bool {
    LOCATIONS.iter().any(|(_, zone)| *zone == text)
}

pub(super) fn locations(table: &mut Table<'_>, zone: Option<&str>) -> Option<Vec<String>> {
    let texts = table.required_strings("locations", "[\"fsn1\"]")?;
    for text in &texts {
        check_location(table, text, zone);
    }
    Some(once_each(table, &texts))
}

/// Whether servers there can be in the cluster's network; a fault is noted where not.
pub(super) fn check_location(table: &Table<'_>, text: &Text<'_>, zone: Option<&str>) -> bool {
    match (zone_of(text.value), zone) {
        (Some(its_zone), Some(zone)) if its_zone != zone => {
            table.fault(
                &text.span,
                format!(
                    "`{}` is in the network zone {its_zone}, and the network in {zone}",
                    text.value
                ),
                format!(
                    "use locations of {zone}, or `zone = \"{its_zone}\"` in [network] of a new cluster"
                ),
            );
            false
        }
        (None, _) if is_zone(text.value) => {
            table.fault(
                &text.span,
                format!("`{}` is a network zone, and no location", text.value),
                format!(
                    "name locations that are in it: {}",
                    locations_of(text.value)
                ),
            );
            false
        }
        (None, _) if !is_location(text.value) => {
            table.fault(
                &text.span,
                format!("`{}` is not a location", text.value),
                "use one of Hetzner's: fsn1, nbg1, hel1, ash, hil, sin",
            );
            false
        }
        _ => true,
    }
}

fn is_location(text: &str) -> bool {
    let letters = text.trim_end_matches(|c: char| c.is_ascii_digit());
    letters.len() == 3 && letters.chars().all(|c| c.is_ascii_lowercase())
}
