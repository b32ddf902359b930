//! The system profile: which generation is which system.

use std::collections::BTreeMap;

use super::{Generation, System};

/// The generations of a profile, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Generations(BTreeMap<Generation, System>);

impl Generations {
    /// From the profile folder's links (name, target): `system-<number>-link` → the system. Others are not of this profile.
    pub fn from_links<'a>(links: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(
            links
                .into_iter()
                .filter_map(|(name, target)| {
                    let number = name.strip_prefix("system-")?.strip_suffix("-link")?;
                    Some((
                        Generation(number.parse().ok()?),
                        System::parse(target).ok()?,
                    ))
                })
                .collect(),
        )
    }

    /// The numbers of `system`, lowest first.
    pub fn of(&self, system: &System) -> impl Iterator<Item = Generation> {
        self.0
            .iter()
            .filter(move |(_, of)| *of == system)
            .map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_may_have_several_numbers_and_links_of_others_are_not_ours() {
        let generations = Generations::from_links([
            ("system", "system-10-link"),
            ("system-10-link", "/nix/store/b-two"),
            ("system-9-link", "/nix/store/a-one"),
            ("system-2-link", "/nix/store/b-two"),
            ("system-x-link", "/nix/store/b-two"),
            ("systemd-3-link", "/nix/store/b-two"),
            ("per-user", "/nowhere"),
        ]);
        let two = System::parse("/nix/store/b-two").unwrap();
        assert_eq!(
            generations.of(&two).collect::<Vec<_>>(),
            [Generation(2), Generation(10)]
        );
    }
}
