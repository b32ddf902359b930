//! What the pages say of themselves and of the command line is there: links lead somewhere, and each verb and flag of
//! `fabrik` that a page has typed exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use fabrik::cli::Cli;
use regex::Regex;

/// Where pages are, from the repository's root. Other Markdown files beside them are read as well.
const FOLDERS: [&str; 11] = [
    ".",
    "docs",
    "docs/how-to",
    "cluster-repo-template",
    "tests/bed",
    "tests/boot",
    "tests/hetzner-emulator",
    "tests/units",
    "nixos",
    "manifests",
    "reconciler",
];

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    assert!(pages.len() > 25, "only {} pages", pages.len());
    let anchors: BTreeMap<&PathBuf, BTreeSet<String>> = pages
        .iter()
        .map(|(path, text)| (path, anchors(text)))
        .collect();
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut dead = Vec::new();
    for (page, text) in &pages {
        let is_odd = |line: &str| line.contains("```") && !line.trim_start().starts_with("```");
        if let Some(line) = text.lines().find(|line| is_odd(line)) {
            dead.push(format!(
                "{}: `{line}` begins no block of code",
                page.display()
            ));
        }
        for found in link.captures_iter(&without_blocks(text)) {
            let target = &found[1];
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            let Ok(file) = file.canonicalize() else {
                dead.push(format!("{}: {target}", page.display()));
                continue;
            };
            let has = |anchors: &BTreeSet<String>| anchors.contains(anchor);
            if !anchor.is_empty() && !anchors.get(&file).is_some_and(has) {
                dead.push(format!(
                    "{}: {target}, which has no such heading",
                    page.display()
                ));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

/// `docs/PAGE.md`, and `docs/PAGE.md, "Heading"`, in what the binary says.
#[test]
fn pages_that_the_code_names_are_there() {
    let named = Regex::new(r#"docs/([a-z0-9/-]+\.md)(?:, \\"([^"\\]+)\\")?"#).unwrap();
    let broken_line = Regex::new(r"\\\n\s*").unwrap();
    let (mut dead, mut known) = (Vec::new(), 0);
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        for found in named.captures_iter(&broken_line.replace_all(&text, "")) {
            known += 1;
            let page = fs::read_to_string(root().join("docs").join(&found[1]));
            let has = |heading: regex::Match| {
                let page = page.as_deref().unwrap_or_default();
                let mut headings = page.lines().filter(|line| line.starts_with('#'));
                headings.any(|line| line.trim_matches(['#', ' ', '`']) == heading.as_str())
            };
            if page.is_err() || !found.get(2).is_none_or(has) {
                dead.push(format!("{}: {}", file.display(), &found[0]));
            }
        }
    }
    assert!(known > 10, "only {known} pages are named");
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn what_is_typed_exists() {
    let inline = Regex::new(r"`(fabrik [^`]+)`").unwrap();
    let mut faults = Vec::new();
    let mut known = 0;
    for (page, text) in pages() {
        let prose = without_blocks(&text).replace('\n', " ");
        let spans = inline.captures_iter(&prose);
        let spans = spans.map(|found| found[1].split('|').next().unwrap().to_owned());
        for command in commands_in_blocks(&text).into_iter().chain(spans) {
            known += 1;
            if let Err(fault) = is_known(&command) {
                faults.push(format!("{}: `{command}`: {fault}", page.display()));
            }
        }
    }
    assert!(known > 100, "only {known} commands");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_verb_or_a_flag_that_is_not_there_is_found() {
    assert_eq!(is_known("fabrik secrets check --age-key-file F"), Ok(()));
    assert_eq!(is_known("fabrik ssh NODE journalctl --since today"), Ok(()));
    for wrong in [
        "fabrik brew",
        "fabrik secrets bake",
        "fabrik seed --fast",
        "fabrik status --watch --fast=1",
    ] {
        assert!(is_known(wrong).is_err(), "{wrong}");
    }
    let page = "a\n```\ngit push && fabrik wait HEAD\nfabrik pause --reason \"x\"   stops; fabrik resume\n```\n";
    assert_eq!(
        commands_in_blocks(page),
        ["fabrik wait HEAD", "fabrik pause --reason \"x\""]
    );
    assert_eq!(
        anchors("# A `b`: c, d?\n## x\n```\n# no\n```\n## x\n")
            .into_iter()
            .collect::<Vec<_>>(),
        ["a-b-c-d", "x", "x-1"]
    );
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The Rust files of the binary.
fn sources() -> Vec<PathBuf> {
    let (mut dirs, mut files) = (Vec::new(), Vec::new());
    dirs.extend(["src", "core/src"].map(|dir| root().join("reconciler").join(dir)));
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// Each page by its path.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages = Vec::new();
    for folder in FOLDERS {
        let Ok(entries) = fs::read_dir(root().join(folder)) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ext| ext == "md") {
                let text = fs::read_to_string(&path).unwrap();
                pages.push((path.canonicalize().unwrap(), text));
            }
        }
    }
    pages
}

/// The page's text and its blocks of code, each line with whether it is of a block.
fn lines(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut within = false;
    text.lines().filter_map(move |line| {
        if line.trim_start().starts_with("```") {
            within = !within;
            return None;
        }
        Some((within, line))
    })
}

fn without_blocks(text: &str) -> String {
    let prose = lines(text).filter(|(within, _)| !within);
    prose.map(|(_, line)| format!("{line}\n")).collect()
}

/// The headings, as GitHub names them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let prose = without_blocks(text);
    for heading in prose.lines().filter(|line| line.starts_with('#')) {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let name: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let twins = (1..).take_while(|n| anchors.contains(&format!("{name}-{n}")));
        let again = format!("{name}-{}", twins.count() + 1);
        if !anchors.insert(name) {
            anchors.insert(again);
        }
    }
    anchors
}

/// What blocks of code have typed. After two blanks comes what it does.
fn commands_in_blocks(text: &str) -> Vec<String> {
    let blocks: Vec<&str> = lines(text)
        .filter(|(within, _)| *within)
        .map(|(_, line)| line)
        .collect();
    let continued = Regex::new(r"\\\n\s*").unwrap();
    let joined = blocks.join("\n");
    let joined = continued.replace_all(&joined, "");
    let mut commands = Vec::new();
    for line in joined.lines() {
        let line = line.trim().trim_start_matches("$ ");
        let line = line.split("  ").next().unwrap_or_default();
        let parts = line.split(['|', ';']).flat_map(|part| part.split("&&"));
        let ours = parts
            .map(str::trim)
            .filter(|part| part.starts_with("fabrik "));
        commands.extend(ours.map(str::to_owned));
    }
    commands
}

fn is_known(command: &str) -> Result<(), String> {
    let mut at = Cli::command();
    at.build();
    let mut words = command.split_whitespace().skip(1).peekable();
    while at.has_subcommands()
        && let Some(word) = words.next()
    {
        if word.starts_with('-') {
            return has_flag(&at, word);
        }
        if word == "VERB" {
            return Ok(());
        }
        let verb = at.find_subcommand(word).cloned();
        at = verb.ok_or_else(|| format!("there is no verb `{word}`"))?;
    }
    // What comes after a node is its own command.
    if at.get_name() == "ssh" {
        return Ok(());
    }
    words
        .filter(|word| word.starts_with("--"))
        .try_for_each(|word| has_flag(&at, word))
}

fn has_flag(verb: &clap::Command, word: &str) -> Result<(), String> {
    let name = word
        .trim_start_matches('-')
        .split(['=', ',', ']', ')'])
        .next()
        .unwrap_or_default();
    let known = |arg: &clap::Arg| arg.get_long() == Some(name);
    let is_there = name == "help" || name == "version" || verb.get_arguments().any(known);
    if is_there {
        Ok(())
    } else {
        Err(format!("there is no flag --{name}"))
    }
}
