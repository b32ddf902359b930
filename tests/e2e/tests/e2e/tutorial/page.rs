//! A page of the docs that is played: what it has typed is typed, what it has written is written, and what comes is compared
//! with what it shows, but for what chance decides.
//!
//! A block ```` ```console ```` is typed: lines that begin with `$ ` are commands, the others what is seen then. A block with
//! a file's name after its language is written into that file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;

/// If this is set, the page takes over what came: all of it, so that a commit has one name on the whole page.
const BLESS: &str = "BLESS";

pub struct Page {
    path: PathBuf,
    pieces: Vec<Piece>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Prose, and blocks that are only read.
    Text(String),
    Session(Vec<Exchange>),
    File {
        language: String,
        path: String,
        text: String,
    },
}

/// A command and what is seen then.
#[derive(Debug, PartialEq, Eq)]
pub struct Exchange {
    pub command: String,
    pub shown: String,
}

impl Page {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(Self {
            path: path.to_owned(),
            pieces: parse(&text)?,
        })
    }

    pub fn pieces(&mut self) -> &mut [Piece] {
        &mut self.pieces
    }

    /// Writes what was blessed.
    pub fn end(&self) -> Result<()> {
        if is_blessed() {
            let text: String = self.pieces.iter().map(Piece::text).collect();
            fs::write(&self.path, text)?;
        }
        Ok(())
    }
}

impl Piece {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::File {
                language,
                path,
                text,
            } => format!("```{language} {path}\n{text}```\n"),
            Self::Session(exchanges) => {
                let lines = |e: &Exchange| format!("$ {}\n{}", e.command, e.shown);
                let text: String = exchanges.iter().map(lines).collect();
                format!("```console\n{text}```\n")
            }
        }
    }
}

impl Exchange {
    /// Whether this is what the page shows.
    pub fn is(&self, seen: &str) -> bool {
        without_chance(&self.shown) == without_chance(seen)
    }

    /// Takes it over where the page is blessed, else says what differs.
    pub fn settle(&mut self, seen: &str) -> Result<()> {
        if is_blessed() {
            seen.clone_into(&mut self.shown);
            return Ok(());
        }
        ensure!(
            self.is(seen),
            "`{}` says, without what chance decides:\n{}\n\nthe page has:\n{}",
            self.command,
            without_chance(seen),
            without_chance(&self.shown)
        );
        Ok(())
    }
}

pub fn is_blessed() -> bool {
    std::env::var_os(BLESS).is_some()
}

fn parse(text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut prose = String::new();
    let mut lines = text.split_inclusive('\n');
    while let Some(line) = lines.next() {
        let Some(opened) = line.strip_prefix("```") else {
            prose.push_str(line);
            continue;
        };
        let mut block = String::new();
        loop {
            match lines.next() {
                Some("```\n") => break,
                Some(line) => block.push_str(line),
                None => bail!("the block ```{} has no end", opened.trim()),
            }
        }
        let piece = match opened.trim().split_once(' ') {
            Some((language, path)) => Piece::File {
                language: language.to_owned(),
                path: path.to_owned(),
                text: block,
            },
            None if opened.trim() == "console" => Piece::Session(exchanges(&block)?),
            None => {
                prose.extend([line, block.as_str(), "```\n"]);
                continue;
            }
        };
        pieces.push(Piece::Text(std::mem::take(&mut prose)));
        pieces.push(piece);
    }
    pieces.push(Piece::Text(prose));
    Ok(pieces)
}

fn exchanges(block: &str) -> Result<Vec<Exchange>> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    for line in block.split_inclusive('\n') {
        match (line.strip_prefix("$ "), exchanges.last_mut()) {
            (Some(command), _) => exchanges.push(Exchange {
                command: command.trim_end().to_owned(),
                shown: String::new(),
            }),
            (None, Some(last)) => last.shown.push_str(line),
            (None, None) => bail!(
                "a console begins with a command, not with `{}`",
                line.trim()
            ),
        }
    }
    Ok(exchanges)
}

/// Without times, ids, keys and the names that fabrik makes up, without what is told on the way of what takes a while, and
/// with one blank where there are many.
fn without_chance(text: &str) -> String {
    let mut text = text.to_owned();
    for (chance, instead) in [
        (r"(?m)^ {13}\S.*\n", ""),
        (r"(?m)^.* \(id [0-9]+\): (power off|delete|gone)\n", ""),
        (r"\bDate: .*", "DATE"),
        (r"[0-9]+\.[0-9] s\b", "T s"),
        (r"\b([0-9]+ (d|h|min|s) ?)+\b", "T "),
        (r"\b([0-9]+[dhms])+\b", "T"),
        (r"\b[0-9]{10,}\b", "ID"),
        (r"-(servers|workers)-[a-z0-9]{6}\b", "-$1-NAME"),
        (r"\b[0-9a-z]{7}-nixos", "HASH-nixos"),
        (r"\(id [0-9a-z]{16}\)", "(id ID)"),
        (r"\b[0-9a-f]{7,8}\b", "COMMIT"),
        (r"AAAA[0-9A-Za-z+/]+", "KEY"),
        (r" +", " "),
    ] {
        let chance = Regex::new(chance).expect("an expression of ours");
        text = chance.replace_all(&text, instead).into_owned();
    }
    let lines = text.trim().lines().map(str::trim);
    lines.collect::<Vec<_>>().join("\n")
}

/// Puts lines into a file as a person does who follows the page: what stands there behind a `#` loses it, what is there
/// already stays, and all else comes after the line before.
pub fn edit(file: &str, lines: &str) -> String {
    let mut text: Vec<String> = file.lines().map(str::to_owned).collect();
    let mut after = text.len();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let key = line.split_once('=').map_or(line, |(key, _)| key).trim();
        let begins = |there: &str| {
            there.strip_prefix(key).is_some_and(|rest| {
                rest.trim_start().is_empty() || rest.trim_start().starts_with(['=', '#'])
            })
        };
        let bare = |there: &String| begins(there.strip_prefix("# ").unwrap_or(there));
        // A key belongs to the table that was named before it.
        let from = if line.starts_with('[') { 0 } else { after };
        let table_ends = |at: usize| {
            !line.starts_with('[')
                && text[from..at]
                    .iter()
                    .any(|l| l.starts_with('[') || l.starts_with("# ["))
        };
        let there = (from..text.len()).find(|at| bare(&text[*at]) && !table_ends(*at));
        if let Some(at) = there {
            line.clone_into(&mut text[at]);
            after = at + 1;
        } else {
            text.insert(after, line.to_owned());
            after += 1;
        }
    }
    text.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A page\n\n```\nread\n```\n\n```console\n$ a b\nc\n\n$ d\n```\n```toml x.toml\n[a]\n```\nend\n";

    #[test]
    fn a_page_is_read_into_what_is_typed_and_written_and_back() {
        let pieces = parse(PAGE).unwrap();
        let text: String = pieces.iter().map(Piece::text).collect();
        assert_eq!(text, PAGE);
        let Piece::Session(exchanges) = &pieces[1] else {
            panic!("{pieces:?}")
        };
        assert_eq!(
            (exchanges[0].command.as_str(), exchanges[0].shown.as_str()),
            ("a b", "c\n\n")
        );
        assert!(parse("```console\nx\n```\n").is_err() && parse("```\nx\n").is_err());
    }

    #[test]
    fn lines_lose_their_sign_of_a_comment_where_they_stand() {
        let file = "[f]\n# ssh = [\"a\"]\n\n# [servers]\n# count = 1   # or 3\n\n[pools.w]\ncount = 2\n\n# [update]\n# windows = []\n";
        let lines = "[f]\nssh = [\"b\"]\n\n[servers]\ncount = 1\n\n[update]\ndowntime = true\n";
        let expected = "[f]\nssh = [\"b\"]\n\n[servers]\ncount = 1\n\n[pools.w]\ncount = 2\n\n[update]\ndowntime = true\n# windows = []\n";
        assert_eq!(edit(file, lines), expected);
    }

    #[test]
    fn what_chance_decides_is_no_difference() {
        let one = "in force   1a2b3c4d  carried out\nnode  demo-workers-k3x9qd  for 1 min 3 s, 0.6 s, 2m12s";
        let other = "in force 99887766 carried out\nnode demo-workers-aaaaaa for 12 s, 3.0 s, 3m\n";
        assert_eq!(without_chance(one), without_chance(other));
        assert_ne!(
            without_chance("1 of 2 ready"),
            without_chance("2 of 2 ready")
        );
    }
}
