//! What a boot loader will do at the next boot, whichever loader it is.

use super::{BootError, Generation, System};

/// One bootable entry of the system profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the loader's one-shot names it by.
    pub id: String,
    pub system: System,
    pub generation: Generation,
}

/// Read from the loader's own files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Menu {
    /// What is booted when nothing else is asked for.
    pub default: System,
    pub entries: Vec<Entry>,
    /// The entry that the next boot, and only that one, takes.
    pub once: Option<String>,
}

impl Menu {
    /// The default is `system`.
    pub fn defaults_to(&self, system: &System) -> Result<(), BootError> {
        if self.default == *system {
            Ok(())
        } else {
            Err(BootError::WrongDefault {
                wanted: system.clone(),
                found: self.default.clone(),
            })
        }
    }

    /// The default is `system`, and the next boot takes the default.
    pub fn boots_next(&self, system: &System) -> Result<(), BootError> {
        self.defaults_to(system)?;
        match &self.once {
            None => Ok(()),
            Some(found) => Err(BootError::OnceNotCleared {
                found: found.clone(),
            }),
        }
    }

    /// The default is `old`, and `new` has an entry under its own generation: that entry.
    pub fn ready(
        &self,
        old: &System,
        new: &System,
        generation: Generation,
    ) -> Result<&Entry, BootError> {
        self.defaults_to(old)?;
        self.entries
            .iter()
            .find(|entry| entry.system == *new && entry.generation == generation)
            .ok_or_else(|| BootError::NoEntry {
                system: new.clone(),
                generation,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(name: &str) -> System {
        System::parse(&format!("/nix/store/{name}")).unwrap()
    }

    fn menu() -> Menu {
        let entry = |id: &str, name, number| Entry {
            id: id.to_owned(),
            system: system(name),
            generation: Generation(number),
        };
        Menu {
            default: system("old"),
            entries: vec![
                entry("five", "new", 5),
                entry("six", "new", 6),
                entry("four", "old", 4),
            ],
            once: None,
        }
    }

    #[test]
    fn of_two_entries_for_one_system_the_generation_chooses() {
        let menu = menu();
        let entry = menu
            .ready(&system("old"), &system("new"), Generation(6))
            .unwrap();
        assert_eq!(entry.id, "six");
    }

    #[test]
    fn a_number_that_belongs_to_another_system_is_no_entry() {
        let ready = menu()
            .ready(&system("old"), &system("new"), Generation(4))
            .unwrap_err();
        assert!(matches!(ready, BootError::NoEntry { .. }), "{ready}");
    }

    #[test]
    fn nothing_is_ready_while_the_default_is_another() {
        let ready = menu()
            .ready(&system("older"), &system("new"), Generation(6))
            .unwrap_err();
        assert!(matches!(ready, BootError::WrongDefault { .. }), "{ready}");
    }
}
