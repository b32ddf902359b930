//! What can be said of a SOPS file without a key: whether it is one, whole, and to whom it is encrypted.

use regex::Regex;
use serde_json::{Map, Value};

use super::Format;

/// What a file is, to SOPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// No SOPS file.
    Plain,
    Sops(SopsFile),
}

/// A SOPS file by its looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SopsFile {
    pub format: Format,
    /// The age recipients of all its key groups.
    pub recipients: Vec<String>,
    /// Its MAC does not cover what is in the clear.
    pub mac_only_encrypted: bool,
    /// Why it can't be whole; none when it is well-formed. Key paths are named, values never.
    pub problems: Vec<String>,
}

/// Looks at a file; its format goes by `path`.
pub fn shape(path: &str, bytes: &[u8]) -> Shape {
    let format = Format::of_path(path);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Shape::Plain;
    };
    if !text.contains("sops") && !text.contains(CIPHERTEXT_START) {
        return Shape::Plain;
    }
    let documents = match format.documents(text) {
        Ok(documents) => documents,
        // Broken YAML may still be recognised; broken "binary" is any file that speaks of sops.
        Err(reason) if format != Format::Binary && text.contains(CIPHERTEXT_START) => {
            return Shape::Sops(SopsFile::broken(format, reason));
        }
        Err(_) => return Shape::Plain,
    };
    let metadata = documents.iter().find_map(metadata_of);
    let Some(metadata) = metadata else {
        return match documents
            .iter()
            .find_map(|document| find_ciphertext(document, &mut Vec::new()))
        {
            Some(key) => Shape::Sops(SopsFile::broken(
                format,
                format!("`{key}` is encrypted, and the file has no `sops` metadata"),
            )),
            None => Shape::Plain,
        };
    };
    Shape::Sops(SopsFile::of(format, &documents, metadata))
}

const CIPHERTEXT_START: &str = "ENC[AES256_GCM,";
/// At most so many values in the clear are named.
const MAX_NAMED: usize = 10;

impl SopsFile {
    fn broken(format: Format, problem: String) -> Self {
        Self {
            format,
            recipients: Vec::new(),
            mac_only_encrypted: false,
            problems: vec![problem],
        }
    }

    fn of(format: Format, documents: &[Value], metadata: &Map<String, Value>) -> Self {
        let mut problems = Vec::new();
        let text = |key: &str| {
            metadata
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        if !is_ciphertext(text("mac")) {
            problems.push("`sops.mac` is missing or no ciphertext".to_owned());
        }
        if text("lastmodified").parse::<jiff::Timestamp>().is_err() {
            problems.push("`sops.lastmodified` is missing or no time".to_owned());
        }
        let mut recipients = Vec::new();
        collect_recipients(metadata, &mut recipients);
        recipients.sort_unstable();
        recipients.dedup();
        if recipients.is_empty() && !OTHER_KEYS.iter().any(|key| has_key(metadata, key)) {
            problems.push("it names no recipient".to_owned());
        }
        match Rules::of(metadata) {
            Ok(rules) => problems.extend(clear_values(&rules, documents)),
            Err(problem) => problems.push(problem),
        }
        let mac_only = metadata.get("mac_only_encrypted");
        let mac_only_encrypted = mac_only
            .is_some_and(|value| value.as_bool() == Some(true) || value.as_str() == Some("true"));
        Self {
            format,
            recipients,
            mac_only_encrypted,
            problems,
        }
    }
}

/// What of a SOPS file is not encrypted, or may be changed unseen, whatever its own rules let be.
pub fn in_the_clear(path: &str, bytes: &[u8]) -> Vec<String> {
    let Shape::Sops(mut file) = shape(path, bytes) else {
        return vec!["it is in the clear".to_owned()];
    };
    if file.mac_only_encrypted {
        file.problems
            .push("anybody may change what is in the clear".to_owned());
    }
    let documents = str::from_utf8(bytes).map(|text| file.format.documents(text));
    if let Ok(Ok(documents)) = documents {
        let all = Rules::default();
        file.problems.extend(clear_values(&all, &documents));
        file.problems.sort_unstable();
        file.problems.dedup();
    }
    file.problems
}

/// Whether a SOPS file has a value at `key` that is not encrypted. What can't be looked at is not known to be.
pub fn is_clear(path: &str, bytes: &[u8], key: &str) -> bool {
    let value = super::field(path, &super::Secret::new(bytes.to_vec()), key);
    value.is_ok_and(|value| !value.expose_str().is_some_and(is_ciphertext))
}

/// The other key services of SOPS: a file may be encrypted to these alone.
const OTHER_KEYS: [&str; 6] = ["kms", "gcp_kms", "azure_kv", "hc_vault", "pgp", "hckms"];

fn metadata_of(document: &Value) -> Option<&Map<String, Value>> {
    let metadata = document.get("sops")?.as_object()?;
    ["mac", "lastmodified", "version", "age"]
        .iter()
        .any(|key| metadata.contains_key(*key))
        .then_some(metadata)
}

/// Recipients are at `age[].recipient` and `key_groups[].age[].recipient`, in flat formats at
/// `age__list_0__map_recipient` and the like.
fn collect_recipients(metadata: &Map<String, Value>, recipients: &mut Vec<String>) {
    for (key, value) in metadata {
        let flat = key.contains("age__list_") && key.ends_with("__map_recipient");
        match value {
            Value::String(recipient) if flat || key == "recipient" => {
                recipients.push(recipient.clone());
            }
            Value::Array(items) if key == "age" || key == "key_groups" => {
                for item in items.iter().filter_map(Value::as_object) {
                    collect_recipients(item, recipients);
                }
            }
            _ => {}
        }
    }
}

fn has_key(metadata: &Map<String, Value>, service: &str) -> bool {
    let flat = format!("{service}__list_");
    let grouped = |value: &Value| {
        let groups = value.as_array().into_iter().flatten();
        groups
            .filter_map(Value::as_object)
            .any(|group| has_key(group, service))
    };
    metadata.iter().any(|(key, value)| {
        key.contains(&flat)
            || key == service && value.as_array().is_some_and(|keys| !keys.is_empty())
            || key == "key_groups" && grouped(value)
    })
}

/// Which values of a file are encrypted: by the names of the keys above them (sops.go, `shouldBeEncrypted`).
#[derive(Default)]
struct Rules {
    unencrypted_suffix: Option<String>,
    encrypted_suffix: Option<String>,
    unencrypted_regex: Option<Regex>,
    encrypted_regex: Option<Regex>,
    /// Then only comments tell, which we don't see.
    by_comments: bool,
}

impl Rules {
    fn of(metadata: &Map<String, Value>) -> Result<Self, String> {
        let text = |key: &str| {
            metadata
                .get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let regex = |key: &str| {
            text(key)
                .map(Regex::new)
                .transpose()
                .map_err(|_| format!("`sops.{key}` is no regular expression"))
        };
        let mut rules = Self {
            unencrypted_suffix: text("unencrypted_suffix").map(str::to_owned),
            encrypted_suffix: text("encrypted_suffix").map(str::to_owned),
            unencrypted_regex: regex("unencrypted_regex")?,
            encrypted_regex: regex("encrypted_regex")?,
            by_comments: text("unencrypted_comment_regex")
                .or(text("encrypted_comment_regex"))
                .is_some(),
        };
        let none = rules.unencrypted_suffix.is_none()
            && rules.encrypted_suffix.is_none()
            && rules.unencrypted_regex.is_none()
            && rules.encrypted_regex.is_none();
        if none {
            rules.unencrypted_suffix = Some("_unencrypted".to_owned());
        }
        Ok(rules)
    }

    fn encrypts(&self, keys: &[&str]) -> bool {
        let any = |fits: &dyn Fn(&str) -> bool| keys.iter().any(|key| fits(key));
        let mut encrypts = true;
        if let Some(suffix) = &self.unencrypted_suffix {
            encrypts = !any(&|key| key.ends_with(suffix.as_str()));
        }
        if let Some(suffix) = &self.encrypted_suffix {
            encrypts = any(&|key| key.ends_with(suffix.as_str()));
        }
        if let Some(regex) = &self.unencrypted_regex
            && any(&|key| regex.is_match(key))
        {
            encrypts = false;
        }
        if let Some(regex) = &self.encrypted_regex {
            encrypts = any(&|key| regex.is_match(key));
        }
        encrypts
    }
}

fn clear_values(rules: &Rules, documents: &[Value]) -> Vec<String> {
    if rules.by_comments {
        return Vec::new();
    }
    let mut found = Vec::new();
    for entries in documents.iter().filter_map(Value::as_object) {
        for (key, value) in entries.iter().filter(|(key, _)| *key != "sops") {
            find_clear(rules, value, &mut vec![key], &mut found);
        }
    }
    let more = found.len().saturating_sub(MAX_NAMED);
    found.truncate(MAX_NAMED);
    if more > 0 {
        found.push(format!("{more} more values are in the clear"));
    }
    found
}

fn find_clear<'a>(
    rules: &Rules,
    value: &'a Value,
    keys: &mut Vec<&'a str>,
    found: &mut Vec<String>,
) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                keys.push(key);
                find_clear(rules, value, keys, found);
                keys.pop();
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| find_clear(rules, item, keys, found)),
        // SOPS leaves these two as they are.
        Value::Null => {}
        Value::String(text) if text.is_empty() || is_ciphertext(text) => {}
        Value::String(_) | Value::Number(_) | Value::Bool(_) => {
            if rules.encrypts(keys) {
                found.push(format!("`{}` is in the clear", keys.join(".")));
            }
        }
    }
}

fn find_ciphertext<'a>(value: &'a Value, keys: &mut Vec<&'a str>) -> Option<String> {
    match value {
        Value::String(text) => is_ciphertext(text).then(|| keys.join(".")),
        Value::Array(items) => items.iter().find_map(|item| find_ciphertext(item, keys)),
        Value::Object(entries) => entries.iter().find_map(|(key, value)| {
            keys.push(key);
            let found = find_ciphertext(value, keys);
            keys.pop();
            found
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// `ENC[AES256_GCM,data:…,iv:…,tag:…,type:…]`
fn is_ciphertext(text: &str) -> bool {
    let Some(inner) = text
        .strip_prefix(CIPHERTEXT_START)
        .and_then(|text| text.strip_suffix(']'))
    else {
        return false;
    };
    let mut parts = inner.split(',');
    let names = ["data:", "iv:", "tag:", "type:"];
    names.iter().all(|name| {
        parts
            .next()
            .and_then(|part| part.strip_prefix(name))
            .is_some_and(|value| !value.is_empty())
    }) && parts.next().is_none()
}
