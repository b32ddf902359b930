//! `docs/seed.md` shows what the program prints: its blocks are compared with that, but for what chance decides.

use regex::Regex;

const PAGE: &str = include_str!("../../../docs/seed.md");
pub const REPOSITORY: &str = "git@git.example.com:ops/demo.git";
pub const STATE_DIR: &str = "~/.local/state/fabrik/demo";

/// What the page shows between a fence of this name and the next one.
pub fn block(name: &str) -> String {
    let (_, rest) = PAGE.split_once(&format!("```{name}\n")).unwrap();
    without_chance(rest.split_once("```").unwrap().0)
}

/// Without times, ids and keys, and without blanks at the ends.
pub fn without_chance(text: &str) -> String {
    let mut text = text.to_owned();
    for (chance, instead) in [
        (r"[0-9]+\.[0-9] s", "T s"),
        (r"(server|snapshot) [0-9]+", "$1 N"),
        (r"\b[0-9a-f]{8}\b", "COMMIT"),
        (r"AAAA[0-9A-Za-z+/]+", "KEY"),
    ] {
        text = Regex::new(chance)
            .unwrap()
            .replace_all(&text, instead)
            .into_owned();
    }
    let lines = text.trim().lines().map(str::trim);
    lines.collect::<Vec<_>>().join("\n")
}
