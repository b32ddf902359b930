//! systemd-boot's `loader.conf`, entries and EFI variables, as NixOS and systemd write them.
//!
//! Pure functions of text. nixpkgs' systemd-boot-builder.py names an entry `nixos-generation-N.conf`, in newer versions
//! `nixos-<hash of the text>.conf`, with a counter (`+3-1`) where boot counting is on. So an entry's generation is read
//! from its `version Generation N …`, and its system from `init=`. What is booted by default is, by rank (systemd-boot(7),
//! loader.conf(5)): LoaderEntryPreferred, `preferred`, LoaderEntryDefault, `default`; a loader older than 260 does not
//! know the preferred ones. So all that are set must agree.

use super::{BootError, Entry, Generation, Menu, System};

/// The vendor of the boot loader interface's variables (systemd.io/BOOT_LOADER_INTERFACE).
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// efivarfs puts the variable's attributes before its value.
const ATTRIBUTES_BYTES: usize = 4;
const ADVICE: &str = "boot counting must be off (boot.loader.systemd-boot.bootCounting), and no default set by `bootctl \
                      set-default` or in the menu";

/// The EFI variables that are read, by the file's name in efivarfs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    pub preferred: Option<String>,
    pub default: Option<String>,
    pub once: Option<String>,
}

/// The file of a variable of the boot loader interface.
pub fn variable_file(name: &str) -> String {
    format!("{name}-{VENDOR}")
}

/// A text in UTF-16 with a NUL at its end, as efivarfs gives it. Empty is none.
pub fn variable_text(bytes: &[u8]) -> Option<String> {
    let units = bytes
        .get(ATTRIBUTES_BYTES..)?
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0);
    let text: String = char::decode_utf16(units)
        .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    (!text.is_empty()).then_some(text)
}

/// The menu, from `loader.conf`, the entries (file name, text) and the EFI variables.
pub fn menu(
    conf: &str,
    entries: &[(String, String)],
    variables: Variables,
) -> Result<Menu, BootError> {
    let read: Vec<(String, System, Option<Generation>)> = entries
        .iter()
        .filter_map(|(file, text)| Some((id(file)?, system(text)?, generation(text))))
        .collect();
    let defaults = [
        (
            "the EFI variable LoaderEntryPreferred",
            variables.preferred.as_deref(),
        ),
        ("loader.conf, preferred", value(conf, "preferred")),
        (
            "the EFI variable LoaderEntryDefault",
            variables.default.as_deref(),
        ),
        ("loader.conf, default", value(conf, "default")),
    ];
    let mut default: Option<System> = None;
    for (place, name) in defaults {
        let Some(name) = name else { continue };
        let unclear = || BootError::DefaultUnclear {
            place: place.to_owned(),
            found: name.to_owned(),
            advice: ADVICE,
        };
        // An entry whose name is in capitals is the same to the loader, and never written by NixOS.
        let (_, named, _) = read
            .iter()
            .find(|(id, ..)| id == name)
            .ok_or_else(unclear)?;
        if default.get_or_insert_with(|| named.clone()) != named {
            return Err(unclear());
        }
    }
    Ok(Menu {
        default: default.ok_or_else(|| BootError::DefaultUnclear {
            place: "loader.conf".to_owned(),
            found: "nothing".to_owned(),
            advice: ADVICE,
        })?,
        entries: read
            .into_iter()
            .filter_map(|(id, system, generation)| {
                Some(Entry {
                    id,
                    system,
                    generation: generation?,
                })
            })
            .collect(),
        once: variables.once,
    })
}

/// What the loader calls an entry: its file's name without the counter ("a+2-1.conf" is "a.conf").
fn id(file: &str) -> Option<String> {
    let stem = file.strip_suffix(".conf")?;
    let is_counter = |text: &str| {
        let (left, done) = text.split_once('-').unwrap_or((text, "0"));
        [left, done]
            .iter()
            .all(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    match stem.rsplit_once('+') {
        Some((name, counter)) if is_counter(counter) => Some(format!("{name}.conf")),
        _ => Some(file.to_owned()),
    }
}

fn system(entry: &str) -> Option<System> {
    System::of_command_line(value(entry, "options")?)
}

/// Of the system profile only: the entries of others have its name in their title ("NixOS [name]").
fn generation(entry: &str) -> Option<Generation> {
    if value(entry, "title")?.ends_with(']') {
        return None;
    }
    let version = value(entry, "version")?.strip_prefix("Generation ")?;
    version
        .split(|char: char| !char.is_ascii_digit())
        .next()?
        .parse()
        .ok()
        .map(Generation)
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line
            .trim()
            .split_once(|char: char| char.is_ascii_whitespace())?;
        (found == key).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests;
