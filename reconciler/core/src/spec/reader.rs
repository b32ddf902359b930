//! Reads a TOML table key by key, noting each fault with its place and going on.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::near::closest;
use crate::diagnostic::{Diagnostic, Place};

const LIST: &str = "a list of strings in quotes";

/// The file that is read, and what was found wrong with it.
pub struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    faults: RefCell<Vec<Diagnostic>>,
    /// Which tables know a key, once they were read.
    known: RefCell<BTreeMap<&'static str, BTreeSet<String>>>,
    unknown: RefCell<Vec<Unknown>>,
}

/// A key that its table does not know.
struct Unknown {
    key: String,
    span: Range<usize>,
    object: String,
    known_here: Vec<&'static str>,
}

/// A string, and where it stands.
#[derive(Debug, Clone)]
pub struct Text<'a> {
    pub value: &'a str,
    pub span: Range<usize>,
}

/// A table whose keys are taken one after the other; `finish` complains of those that nobody took.
pub struct Table<'a> {
    reader: &'a Reader<'a>,
    /// What a person calls it: `pool workers`, `[network]`.
    pub object: String,
    /// Where it begins; `None` when it is not in the file.
    pub span: Option<Range<usize>>,
    entries: BTreeMap<&'a str, Entry<'a>>,
    known: Vec<&'static str>,
}

/// A key and its value.
#[derive(Clone)]
pub struct Entry<'a> {
    pub key: Text<'a>,
    pub value: &'a DeValue<'a>,
    pub span: Range<usize>,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Self {
            file,
            text,
            faults: RefCell::default(),
            known: RefCell::default(),
            unknown: RefCell::default(),
        }
    }

    pub fn place(&self, span: Option<&Range<usize>>) -> Place {
        match span {
            Some(span) => Place::of_offset(self.file, self.text, span.start),
            None => Place::file(self.file),
        }
    }

    /// Notes a fault in a value.
    pub fn fault(
        &self,
        span: &Range<usize>,
        object: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.note(Some(span), object, (problem.into(), remedy.into()));
    }

    /// What is wrong, once all tables were read: then it is known where else a key would be right.
    pub fn into_faults(self) -> Vec<Diagnostic> {
        let known = self.known.take();
        for Unknown {
            key,
            span,
            object,
            known_here,
        } in self.unknown.take()
        {
            let elsewhere = known.get(key.as_str()).and_then(|tables| self.only(tables));
            let remedy = match (elsewhere, closest(&key, &known_here)) {
                (Some(table), _) => format!("it belongs to {table}: move it there"),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => format!("remove it; known here: {}", known_here.join(", ")),
            };
            let problem = format!("`{key}` is not known here");
            self.note(Some(&span), &object, (problem, remedy));
        }
        self.faults.into_inner()
    }

    /// What many tables know may be meant for none of them.
    fn only(&self, tables: &BTreeSet<String>) -> Option<String> {
        let only = tables.first().filter(|_| tables.len() == 1)?;
        Some(match only.as_str() {
            root if root == self.file => format!("the top of {root}"),
            table => table.to_owned(),
        })
    }

    pub fn table(
        &'a self,
        object: impl Into<String>,
        span: Option<Range<usize>>,
        table: &'a DeTable<'a>,
    ) -> Table<'a> {
        let entries = table.iter().map(|(key, value)| {
            let key = Text {
                value: key.get_ref().as_ref(),
                span: key.span(),
            };
            (
                key.value,
                Entry {
                    key,
                    value: value.get_ref(),
                    span: value.span(),
                },
            )
        });
        Table {
            reader: self,
            object: object.into(),
            span,
            entries: entries.collect(),
            known: Vec::new(),
        }
    }

    fn note(&self, span: Option<&Range<usize>>, object: &str, (problem, remedy): (String, String)) {
        let diagnostic = Diagnostic {
            place: self.place(span),
            object: object.to_owned(),
            problem,
            remedy,
        };
        self.faults.borrow_mut().push(diagnostic);
    }

    fn source(&self, span: &Range<usize>) -> &str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    fn wrong_type(&self, object: &str, entry: &Entry<'_>, wanted: &str) {
        let problem = format!(
            "`{}` must be {wanted}, and is {}",
            entry.key.value,
            kind(entry.value)
        );
        let remedy = match (wanted, entry.value) {
            ("a table", _) => format!("write it as `{} = {{ … }}`", entry.key.value),
            ("a whole number", DeValue::String(_)) => "write it without quotes".to_owned(),
            (LIST, DeValue::String(text)) => format!("write `{} = [\"{text}\"]`", entry.key.value),
            ("a string in quotes", value)
                if !matches!(value, DeValue::Array(_) | DeValue::Table(_)) =>
            {
                "write it in quotes".to_owned()
            }
            _ => format!("write {wanted}"),
        };
        self.note(Some(&entry.span), object, (problem, remedy));
    }
}

impl<'a> Table<'a> {
    pub fn get(&mut self, key: &'static str) -> Option<Entry<'a>> {
        self.known.push(key);
        self.entries.remove(key)
    }

    /// All keys, for tables whose keys are the user's.
    pub fn take_all(&mut self) -> Vec<Entry<'a>> {
        std::mem::take(&mut self.entries).into_values().collect()
    }

    /// A table that may be left out.
    pub fn table(&mut self, key: &'static str, object: &str) -> Table<'a> {
        let entry = self.get(key);
        let empty = Table {
            reader: self.reader,
            object: object.to_owned(),
            span: None,
            entries: BTreeMap::new(),
            known: Vec::new(),
        };
        entry
            .and_then(|entry| self.as_table(&entry, object))
            .unwrap_or(empty)
    }

    /// A table that must be there.
    pub fn required_table(
        &mut self,
        key: &'static str,
        object: &str,
        example: &str,
    ) -> Option<Table<'a>> {
        let entry = self.get(key);
        if entry.is_none() {
            self.missing(&format!("`{object}` is missing"), example);
        }
        self.as_table(&entry?, object)
    }

    pub fn as_table(&self, entry: &Entry<'a>, object: &str) -> Option<Table<'a>> {
        if let DeValue::Table(table) = entry.value {
            return Some(
                self.reader
                    .table(object, Some(entry.key.span.clone()), table),
            );
        }
        self.reader.wrong_type(object, entry, "a table");
        None
    }

    pub fn string(&mut self, key: &'static str) -> Option<Text<'a>> {
        let entry = self.get(key)?;
        self.as_string(&entry)
    }

    pub fn as_string(&self, entry: &Entry<'a>) -> Option<Text<'a>> {
        if let DeValue::String(value) = entry.value {
            return Some(Text {
                value,
                span: entry.span.clone(),
            });
        }
        self.reader
            .wrong_type(&self.object, entry, "a string in quotes");
        None
    }

    pub fn required_string(&mut self, key: &'static str, example: &str) -> Option<Text<'a>> {
        if !self.entries.contains_key(key) {
            self.missing(
                &format!("`{key}` is missing"),
                &format!("add `{key} = {example}`"),
            );
        }
        self.string(key)
    }

    /// A list that may be left out, and is empty then.
    pub fn strings_or_empty(&mut self, key: &'static str) -> Option<Vec<Text<'a>>> {
        if self.entries.contains_key(key) {
            return self.strings(key);
        }
        self.known.push(key);
        Some(Vec::new())
    }

    fn strings(&mut self, key: &'static str) -> Option<Vec<Text<'a>>> {
        let entry = self.get(key)?;
        let DeValue::Array(array) = entry.value else {
            self.reader.wrong_type(&self.object, &entry, LIST);
            return None;
        };
        let mut texts = Vec::new();
        for item in array {
            if let DeValue::String(value) = item.get_ref() {
                texts.push(Text {
                    value,
                    span: item.span(),
                });
            } else {
                let held = kind(item.get_ref());
                let problem = format!("`{key}` holds {held}, and must hold strings alone");
                self.fault(&item.span(), problem, "write it in quotes");
            }
        }
        Some(texts)
    }

    /// A list of tables that may be left out, and is empty then. Each is called `object`.
    pub fn tables(
        &mut self,
        key: &'static str,
        object: &str,
        example: &str,
    ) -> Option<Vec<Table<'a>>> {
        let Some(entry) = self.get(key) else {
            return Some(Vec::new());
        };
        let DeValue::Array(array) = entry.value else {
            let problem = format!("`{key}` must be a list, and is {}", kind(entry.value));
            self.fault(&entry.span, problem, format!("write `{key} = [{example}]`"));
            return None;
        };
        let mut tables = Vec::new();
        for item in array {
            if let DeValue::Table(table) = item.get_ref() {
                tables.push(self.reader.table(object, Some(item.span()), table));
            } else {
                let held = kind(item.get_ref());
                let problem = format!("`{key}` holds {held}, and must hold tables alone");
                self.fault(&item.span(), problem, format!("write it as {example}"));
            }
        }
        Some(tables)
    }

    pub fn required_strings(&mut self, key: &'static str, example: &str) -> Option<Vec<Text<'a>>> {
        let Some(entry) = self.entries.get(key).cloned() else {
            self.missing(
                &format!("`{key}` is missing"),
                &format!("add `{key} = {example}`"),
            );
            return self.strings(key);
        };
        let texts = self.strings(key)?;
        if matches!(entry.value, DeValue::Array(array) if array.is_empty()) {
            self.fault(
                &entry.span,
                format!("`{key}` is empty"),
                format!("name at least one, as in `{key} = {example}`"),
            );
        }
        Some(texts)
    }

    /// A whole number within `range`, or `default` when it is left out.
    pub fn number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u32>,
        default: Option<u32>,
    ) -> Option<u32> {
        let (low, high) = (*range.start(), *range.end());
        let Some(entry) = self.get(key) else {
            if default.is_none() {
                self.missing(
                    &format!("`{key}` is missing"),
                    &format!("add `{key} = N`, with {low} to {high} for N"),
                );
            }
            return default;
        };
        self.whole(&entry, range)
    }

    /// A whole number within `range`.
    pub fn whole(&self, entry: &Entry<'a>, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        let (low, high) = (*range.start(), *range.end());
        let DeValue::Integer(integer) = entry.value else {
            self.reader
                .wrong_type(&self.object, entry, "a whole number");
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| range.contains(n));
        if number.is_none() {
            self.fault(
                &entry.span,
                format!(
                    "`{}` = {} is out of range",
                    entry.key.value,
                    self.reader.source(&entry.span)
                ),
                format!("use a number from {low} to {high}"),
            );
        }
        number
    }

    /// A fault of this table, at a place in it.
    pub fn fault(
        &self,
        span: &Range<usize>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.reader.fault(span, &self.object, problem, remedy);
    }

    /// Complains of each key that was not asked for.
    pub fn finish(self) {
        for key in &self.known {
            let mut known = self.reader.known.borrow_mut();
            known.entry(key).or_default().insert(self.object.clone());
        }
        let mut unknown = self.reader.unknown.borrow_mut();
        unknown.extend(self.entries.into_values().map(|entry| Unknown {
            key: entry.key.value.to_owned(),
            span: entry.key.span,
            object: self.object.clone(),
            known_here: self.known.clone(),
        }));
    }

    /// A fault of this table as a whole: something is not in it.
    pub fn missing(&self, problem: &str, remedy: &str) {
        self.reader.note(
            self.span.as_ref(),
            &self.object,
            (problem.to_owned(), remedy.to_owned()),
        );
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
