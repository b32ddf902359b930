//! A file's documents, and a document's objects as JSON.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, alias_limits, budget, options};

use super::Source;
use crate::diagnostic::{Diagnostic, Place};

/// The parsers' words for what is too deep or too much.
const TOO_MUCH: [&str; 3] = [
    "budget breached",
    "alias replay limit exceeded",
    "recursion limit exceeded",
];

/// A document with its `---` line, so that the parser's line numbers need only be moved.
#[derive(Clone)]
pub struct Document<'a> {
    pub text: &'a str,
    /// The line of the file that it begins with.
    pub line: u32,
    /// Which item of a list it is, from 1. Then its first line holds the dash.
    pub item: Option<usize>,
}

impl Document<'_> {
    /// What it holds, without the line that begins it.
    pub fn body(&self) -> &str {
        if is_separator(self.text.lines().next().unwrap_or_default()) {
            self.text.strip_prefix("---").unwrap_or(self.text).trim()
        } else {
            self.text.trim()
        }
    }

    /// What to call it before it is known what it holds.
    pub fn name(&self) -> String {
        self.item
            .map_or_else(|| "document".to_owned(), |item| format!("item {item}"))
    }

    /// Where its first line with content is.
    pub fn place(&self, source: &Source<'_>) -> Place {
        let first = self.lines().next();
        let (number, indent) = first.map_or((0, 0), |line| (line.number, line.indent));
        self.place_at(source, number, indent)
    }

    /// Where a key stands, given by the keys that lead to it; or the innermost of these that has a line of its own (in flow
    /// style and JSON, it may have none).
    pub fn place_of(&self, source: &Source<'_>, path: &[&str]) -> Place {
        let mut wanted = path.iter();
        let Some(mut key) = wanted.next() else {
            return self.place(source);
        };
        let base = self.base_indent();
        let (mut outer_indent, mut place) = (None, self.place(source));
        for line in self.lines() {
            if outer_indent.is_some_and(|outer| line.indent <= outer) {
                break;
            }
            if line.is_key(key) && (outer_indent.is_some() || line.indent == base) {
                place = self.place_at(source, line.number, line.indent);
                match wanted.next() {
                    Some(next) => (key, outer_indent) = (next, Some(line.indent)),
                    None => break,
                }
            }
        }
        place
    }

    /// The items of a list in block style, or none where they can't be told apart by their lines.
    fn items(&self) -> Vec<Document<'_>> {
        let base = self.base_indent();
        let body = self
            .lines()
            .skip_while(|line| !(line.is_key("items") && line.indent == base))
            .skip(1)
            .take_while(|line| line.indent > base || line.is_dash());
        let mut starts = Vec::new();
        let (mut dash, mut end) = (None, 0);
        for line in body {
            if line.is_dash() && *dash.get_or_insert(line.indent) == line.indent {
                starts.push((line.number, line.start));
            }
            end = line.start + line.length;
        }
        let ends = starts.iter().skip(1).map(|(_, start)| *start).chain([end]);
        let parts = starts.iter().zip(ends).zip(1..);
        parts
            .filter_map(|(((number, start), end), item)| {
                self.text.get(*start..end).map(|text| Document {
                    text,
                    line: self.line.saturating_add(*number),
                    item: Some(item),
                })
            })
            .collect()
    }

    fn base_indent(&self) -> usize {
        self.lines().next().map_or(0, |line| line.indent)
    }

    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let mut start = 0;
        let numbered = (0..).zip(self.text.split_inclusive('\n'));
        let lines = numbered.map(move |(number, whole)| {
            let mut content = whole.trim_start();
            if number == 0 {
                content = content.strip_prefix("---").unwrap_or(content).trim_start();
                if self.item.is_some() {
                    content = content.strip_prefix('-').unwrap_or(content).trim_start();
                }
            }
            let line = Line {
                number,
                start,
                length: whole.len(),
                indent: whole.len() - content.len(),
                content: content.trim_end(),
            };
            start += whole.len();
            line
        });
        lines.filter(|line| {
            !line.content.is_empty()
                && !line.content.starts_with(['#', '%'])
                && line.content != "..."
        })
    }

    fn place_at(&self, source: &Source<'_>, line: u32, indent: usize) -> Place {
        let column = u32::try_from(indent).unwrap_or(0).saturating_add(1);
        Place::at(source.file, self.line.saturating_add(line), column)
    }
}

/// A line with content: no comment, no directive and no end of a document.
struct Line<'a> {
    /// Within the document, from 0.
    number: u32,
    /// The offset within the document.
    start: usize,
    length: usize,
    indent: usize,
    content: &'a str,
}

impl Line<'_> {
    fn is_key(&self, key: &str) -> bool {
        self.content
            .strip_prefix(key)
            .is_some_and(|rest| rest.starts_with(':'))
    }

    fn is_dash(&self) -> bool {
        self.content == "-" || self.content.starts_with("- ")
    }
}

/// Documents with content. A line that is `---`, or begins with it and a space, begins one (YAML 1.2 §9.1.2); nothing
/// else can hold such a line.
pub fn split(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (number, line) in (1_u32..).zip(text.split_inclusive('\n')) {
        if is_separator(line) && offset > start {
            documents.push((start, offset, start_line));
            (start, start_line) = (offset, number);
        }
        offset += line.len();
    }
    documents.push((start, offset, start_line));
    let documents = documents.into_iter().filter_map(|(from, to, line)| {
        let item = None;
        text.get(from..to).map(|text| Document { text, line, item })
    });
    documents
        .filter(|document| document.lines().next().is_some())
        .collect()
}

/// The document's objects, each with where it stands: none if it is `null`, several if it is a `List`.
pub fn read<'a>(
    source: &Source<'_>,
    document: &'a Document<'a>,
) -> Result<Vec<(Document<'a>, Value)>, Diagnostic> {
    let value = if is_json(source.file) {
        json(source, document)?
    } else {
        yaml(source, document)?
    };
    let mut value = match value {
        Value::Null => return Ok(Vec::new()),
        value => value,
    };
    whole_numbers(&mut value);
    let is_list = value
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"));
    match value.get_mut("items") {
        Some(Value::Array(items)) if is_list => Ok(placed(document, std::mem::take(items))),
        _ => Ok(vec![(document.clone(), value)]),
    }
}

fn placed<'a>(document: &'a Document<'a>, values: Vec<Value>) -> Vec<(Document<'a>, Value)> {
    let mut items = document.items();
    if items.len() != values.len() {
        let item = |number| Document {
            item: Some(number),
            ..document.clone()
        };
        items = (1..=values.len()).map(item).collect();
    }
    items.into_iter().zip(values).collect()
}

fn yaml(source: &Source<'_>, document: &Document<'_>) -> Result<Value, Diagnostic> {
    // As kubectl reads it, but for duplicate keys, of which kubectl silently takes the last.
    let options = options! {
        legacy_octal_numbers: true,
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
        budget: budget! { max_events: 1_000_000, max_nodes: 1_000_000, max_depth: 128 },
        // Published manifests have next to no aliases.
        alias_limits: alias_limits! { max_total_replayed_events: 50_000 },
    };
    serde_saphyr::from_str_with_options(document.text, options).map_err(|error| {
        let place = error.location().map_or_else(
            || document.place(source),
            |location| {
                let line = u32::try_from(location.line())
                    .unwrap_or(1)
                    .saturating_sub(1);
                let column = u32::try_from(location.column()).unwrap_or(1);
                Place::at(source.file, document.line.saturating_add(line), column)
            },
        );
        broken(source, place, "YAML", error.without_snippet())
    })
}

fn json(source: &Source<'_>, document: &Document<'_>) -> Result<Value, Diagnostic> {
    let parsed: Result<OnceEach, _> = serde_json::from_str(document.text);
    parsed.map(|value| value.0).map_err(|error| {
        let line = u32::try_from(error.line()).unwrap_or(1).saturating_sub(1);
        let column = u32::try_from(error.column()).unwrap_or(1).max(1);
        let place = Place::at(source.file, document.line.saturating_add(line), column);
        broken(source, place, "JSON", &error)
    })
}

/// The parsers' words are for programmers, and end with a place of their own; what is common is said in ours.
fn broken(source: &Source<'_>, place: Place, format: &str, error: &dyn fmt::Display) -> Diagnostic {
    let told = error.to_string();
    let told = told.lines().next().unwrap_or_default();
    let told = told.split(" at line ").next().unwrap_or_default();
    let (problem, remedy) = if source.encrypted.is_some() {
        (
            format!("what it decrypts to is not valid {format}"),
            "correct it",
        )
    } else if TOO_MUCH.iter().any(|words| told.contains(words)) {
        (
            "is nested too deeply, or its aliases make it grow beyond all measure".to_owned(),
            "write it without aliases, or split it",
        )
    } else if let Some(key) = told.strip_prefix("duplicate mapping key: ") {
        let key = key.split(", set ").next().unwrap_or_default();
        (
            format!("the key `{key}` is here a second time"),
            "keep one of them",
        )
    } else {
        (
            format!("is not valid {format}: {told}"),
            "correct it here, or just above",
        )
    };
    Diagnostic {
        place,
        object: source.file.to_owned(),
        problem,
        remedy: remedy.to_owned(),
    }
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn is_json(file: &str) -> bool {
    file.rsplit_once('.').is_some_and(|(_, end)| end == "json")
}

/// `1.0` becomes `1`: Kubernetes' own YAML reader makes no difference, and its API refuses fractions for integers.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|_| number.is_f64()).and_then(whole) {
                *value = Value::Number(whole);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "in the range where a double holds each integer"
)]
fn whole(float: f64) -> Option<Number> {
    const LARGEST: f64 = 9_007_199_254_740_991.0;
    let fits = float.fract() == 0.0 && float.abs() <= LARGEST;
    fits.then(|| Number::from(float as i64))
}

/// JSON whose objects have each key once.
struct OnceEach(Value);

impl<'de> Deserialize<'de> for OnceEach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceEachVisitor)
    }
}

struct OnceEachVisitor;

impl<'de> Visitor<'de> for OnceEachVisitor {
    type Value = OnceEach;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<OnceEach, E> {
        Ok(OnceEach(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<OnceEach, E> {
        Ok(OnceEach(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<OnceEach, E> {
        Ok(OnceEach(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<OnceEach, E> {
        Ok(OnceEach(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<OnceEach, E> {
        Ok(OnceEach(value.into()))
    }

    fn visit_unit<E>(self) -> Result<OnceEach, E> {
        Ok(OnceEach(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<OnceEach, A::Error> {
        let mut items = Vec::new();
        while let Some(OnceEach(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(OnceEach(Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<OnceEach, A::Error> {
        let mut map = Map::new();
        while let Some((key, OnceEach(value))) = access.next_entry::<String, _>()? {
            if map.contains_key(&key) {
                let told = format!("duplicate mapping key: {key}");
                return Err(serde::de::Error::custom(told));
            }
            map.insert(key, value);
        }
        Ok(OnceEach(Value::Object(map)))
    }
}
