//! The names of what is booted: a system's store path, and its number in the profile.

use std::fmt;

use super::BootError;

const STORE: &str = "/nix/store/";

/// A NixOS system: its path in the Nix store (`/nix/store/<hash>-nixos-system-…`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct System(String);

impl System {
    pub fn parse(text: &str) -> Result<Self, BootError> {
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b))
        };
        match text.strip_prefix(STORE) {
            Some(name) if is_name(name) => Ok(Self(text.to_owned())),
            _ => Err(BootError::NoSystem {
                text: text.to_owned(),
            }),
        }
    }

    /// The system that a kernel command line boots: the parent of its `init=`.
    pub(super) fn of_command_line(line: &str) -> Option<Self> {
        let init = line
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix("init="))?;
        Self::parse(init.strip_suffix("/init")?).ok()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a system in the profile. One system may have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_one_name_in_the_store() {
        assert!(System::parse("/nix/store/0c1abc-nixos-system-web-25.05").is_ok());
        for bad in [
            "",
            "/nix/store/",
            "/nix/store/a/b",
            "/nix/store/..",
            "nix/store/a",
            "/nix/store/a b",
        ] {
            assert!(System::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_line_names_its_system_by_init() {
        let of = |line| System::of_command_line(line).map(|system| system.to_string());
        assert_eq!(
            of("init=/nix/store/a-x/init loglevel=4"),
            Some("/nix/store/a-x".into())
        );
        assert_eq!(of("quiet rdinit=/nix/store/a-x/init"), None);
        assert_eq!(of("init=/bin/sh"), None);
    }
}
