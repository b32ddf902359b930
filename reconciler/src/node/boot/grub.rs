//! GRUB's menu as NixOS writes it (`grub.cfg` of nixpkgs' install-grub.pl), and `grubenv`.
//!
//! Pure functions of text. What NixOS writes: `set default=N` unless `next_entry` is set, which it clears by
//! `save_env` before anything is loaded; entry 0 is "NixOS - Default", the system whose switch-to-configuration ran;
//! then the submenu "NixOS - All configurations" with "NixOS - Configuration N (date - version)" for each generation.

use super::{BootError, Entry, Generation, Menu, System};
use std::path::Path;

const ONCE: &str = "next_entry";
const ENVIRONMENT_BYTES: usize = 1024;
const ENVIRONMENT: &[u8] = b"# GRUB Environment Block\n";
const GENERATIONS: &str = " - All configurations";
const GENERATION: &str = " - Configuration ";
const ADVICE: &str = "boot.loader.grub.default must be a number (0), and no extraConfig may set it";

/// The menu, from the text of `grub.cfg` (read at `path`) and of `grubenv`, which need not exist.
pub fn menu(path: &Path, cfg: &str, grubenv: Option<&str>) -> Result<Menu, BootError> {
    let unreadable = |reason: &str| BootError::UnreadableMenu {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    if !cfg.contains("save_env next_entry") {
        return Err(unreadable(
            "it does not take a one-shot entry back (`save_env next_entry`)",
        ));
    }
    let items = items(cfg).ok_or_else(|| unreadable("its braces do not match"))?;
    Ok(Menu {
        default: default(path, cfg, &items)?,
        entries: items.iter().filter_map(Item::entry).collect(),
        once: grubenv.and_then(once),
    })
}

/// A whole `grubenv`, as GRUB's tools make it.
pub fn is_environment(grubenv: &[u8]) -> bool {
    grubenv.len() == ENVIRONMENT_BYTES && grubenv.starts_with(ENVIRONMENT)
}

/// The entry that `grubenv` names for the next boot.
fn once(grubenv: &str) -> Option<String> {
    let value = grubenv
        .lines()
        .find_map(|line| line.strip_prefix(ONCE)?.strip_prefix('='))?;
    // grub-editenv puts a backslash before backslashes and line ends (the file format of `grubenv`).
    let mut unescaped = String::new();
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        unescaped.extend(if char == '\\' {
            chars.next()
        } else {
            Some(char)
        });
    }
    (!unescaped.is_empty()).then_some(unescaped)
}

fn default(path: &Path, cfg: &str, items: &[Item]) -> Result<System, BootError> {
    let unclear = |found: &str| BootError::DefaultUnclear {
        place: path.display().to_string(),
        found: found.to_owned(),
        advice: ADVICE,
    };
    let mut values = cfg
        .lines()
        .filter_map(|line| line.trim().strip_prefix("set default="))
        .map(|value| value.trim_matches('"'))
        .filter(|value| *value != "${next_entry}");
    let (value, others) = (values.next().unwrap_or("nothing"), values.next());
    let number: usize = match others {
        None => value.parse().map_err(|_| unclear(value))?,
        Some(other) => return Err(unclear(&format!("{value}, then {other}"))),
    };
    items
        .iter()
        .filter(|item| item.submenu.is_none())
        .nth(number)
        .and_then(|item| item.system.clone())
        .ok_or_else(|| unclear(value))
}

/// A `menuentry`, or a `submenu` itself (which has no system).
#[derive(Debug, Default)]
struct Item {
    title: String,
    /// The submenu that it is in.
    submenu: Option<String>,
    system: Option<System>,
}

impl Item {
    fn entry(&self) -> Option<Entry> {
        let submenu = self
            .submenu
            .as_deref()
            .filter(|title| title.ends_with(GENERATIONS))?;
        let (_, rest) = self.title.split_once(GENERATION)?;
        let (number, _) = rest.split_once(' ')?;
        // ">" leads into a submenu: a title that has one can't be named.
        (!submenu.contains('>') && !self.title.contains('>')).then_some(())?;
        Some(Entry {
            id: format!("{submenu}>{}", self.title),
            system: self.system.clone()?,
            generation: Generation(number.parse().ok()?),
        })
    }
}

/// All items in their order; nothing when the braces do not match.
fn items(cfg: &str) -> Option<Vec<Item>> {
    let mut items: Vec<Item> = Vec::new();
    let mut open: Vec<Block> = Vec::new();
    for line in cfg.lines().map(str::trim) {
        if line == "}" {
            open.pop()?;
        } else if line.ends_with('{') {
            let block = Block::opened_by(line);
            if let Block::Submenu(title) | Block::Entry(title) = &block {
                let submenu = open.iter().rev().find_map(Block::submenu);
                items.push(Item {
                    title: title.clone(),
                    submenu: submenu.map(str::to_owned),
                    system: None,
                });
            }
            open.push(block);
        } else if let (Some(Block::Entry(_)), Some(arguments)) =
            (open.last(), line.strip_prefix("linux "))
        {
            items.last_mut()?.system = System::of_command_line(arguments);
        }
    }
    open.is_empty().then_some(items)
}

enum Block {
    Submenu(String),
    Entry(String),
    Other,
}

impl Block {
    fn opened_by(line: &str) -> Self {
        match line.split_once(' ') {
            Some(("submenu", rest)) => quoted(rest).map_or(Self::Other, Self::Submenu),
            Some(("menuentry", rest)) => quoted(rest).map_or(Self::Other, Self::Entry),
            _ => Self::Other,
        }
    }

    fn submenu(&self) -> Option<&str> {
        match self {
            Self::Submenu(title) => Some(title),
            Self::Entry(_) | Self::Other => None,
        }
    }
}

/// The first word, which NixOS quotes by `"` and os-prober by `'`.
fn quoted(text: &str) -> Option<String> {
    let text = text.trim_start();
    let quote = text
        .chars()
        .next()
        .filter(|char| matches!(char, '"' | '\''))?;
    let (title, _) = text[1..].split_once(quote)?;
    Some(title.to_owned())
}

#[cfg(test)]
mod tests;
