//! The formats of SOPS files, and their content as one kind of tree.

use serde_json::{Map, Value};
use zeroize::Zeroize;

/// How SOPS reads a file; it goes by the end of the path, as SOPS itself does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    Yaml,
    Json,
    Dotenv,
    Ini,
    /// Anything else: SOPS wraps it whole in JSON.
    Binary,
}

impl Format {
    pub fn of_path(path: &str) -> Self {
        let ends = |end: &str| path.ends_with(end);
        if ends(".yaml") || ends(".yml") {
            Self::Yaml
        } else if ends(".json") {
            Self::Json
        } else if ends(".env") {
            Self::Dotenv
        } else if ends(".ini") {
            Self::Ini
        } else {
            Self::Binary
        }
    }

    /// SOPS' word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yaml => "yaml",
            Self::Json => "json",
            Self::Dotenv => "dotenv",
            Self::Ini => "ini",
            Self::Binary => "binary",
        }
    }

    /// The documents of an encrypted file. The reason of a refusal names a place, and never quotes.
    pub(super) fn documents(self, text: &str) -> Result<Vec<Value>, String> {
        match self {
            Self::Yaml => yaml(text),
            Self::Json | Self::Binary => json(text).map(|document| vec![document]),
            Self::Dotenv => Ok(vec![dotenv(text)]),
            Self::Ini => Ok(vec![ini(text)]),
        }
    }
}

fn yaml(text: &str) -> Result<Vec<Value>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| match error.location() {
        Some(at) => format!("line {}, column {}: no valid YAML", at.line(), at.column()),
        None => "no valid YAML".to_owned(),
    })
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| {
        format!(
            "line {}, column {}: no valid JSON",
            error.line(),
            error.column()
        )
    })
}

/// Keys and values; the metadata, whose keys begin with `sops_`, goes under `sops` as in the other formats.
fn dotenv(text: &str) -> Value {
    let mut document = Map::new();
    let mut metadata = Map::new();
    for (key, value) in assignments(text) {
        match key.strip_prefix("sops_") {
            Some(key) => metadata.insert(key.to_owned(), Value::String(value)),
            None => document.insert(key.to_owned(), Value::String(value)),
        };
    }
    if !metadata.is_empty() {
        document.insert("sops".to_owned(), Value::Object(metadata));
    }
    Value::Object(document)
}

fn ini(text: &str) -> Value {
    let mut sections = Map::new();
    let mut section = "DEFAULT".to_owned();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            name.clone_into(&mut section);
            continue;
        }
        for (key, value) in assignments(line) {
            let entry = sections
                .entry(section.clone())
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = entry {
                entries.insert(key.to_owned(), Value::String(value));
            }
        }
    }
    Value::Object(sections)
}

fn assignments(text: &str) -> impl Iterator<Item = (&str, String)> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim().to_owned()))
}

/// Overwrites all texts in a tree that was read from plaintext.
pub(super) fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(entries) => entries.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
