//! Labels and label selectors, by the rules of the official description ("Labels", "Label Selector").

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub type Labels = BTreeMap<String, String>;

const MAX_NAME_CHARS: usize = 63;
const MAX_PREFIX_CHARS: usize = 253;
const RESERVED_PREFIX: &str = "hetzner.cloud";

/// A conjunction of requirements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Missing(String),
    In(String, Vec<String>),
    /// Also true when the key is missing.
    NotIn(String, Vec<String>),
}

/// Reads a `labels` object; the error lists everything that is wrong.
pub fn parse(object: &Map<String, Value>) -> Result<Labels, Vec<String>> {
    let mut labels = Labels::new();
    let mut errors = Vec::new();
    for (key, value) in object {
        if !valid_key(key) {
            errors.push(format!("label key '{key}' is not valid"));
        } else if key
            .split_once('/')
            .is_some_and(|(prefix, _)| reserved(prefix))
        {
            errors.push(format!(
                "label key '{key}' uses the reserved prefix '{RESERVED_PREFIX}/'"
            ));
        }
        match value.as_str() {
            Some(text) if text.is_empty() || valid_name(text) => {
                labels.insert(key.clone(), text.to_owned());
            }
            _ => errors.push(format!("label value of '{key}' is not valid")),
        }
    }
    if errors.is_empty() {
        Ok(labels)
    } else {
        Err(errors)
    }
}

impl Selector {
    /// Reads `k==v`, `k=v`, `k!=v`, `k`, `!k`, `k in (a,b)` and `k notin (a,b)`, joined by commas.
    pub fn parse(text: &str) -> Result<Self, String> {
        let requirements = split_outside_parentheses(text)?
            .into_iter()
            .map(requirement)
            .collect::<Result<_, _>>()?;
        Ok(Self(requirements))
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Missing(key) => !labels.contains_key(key),
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
        })
    }
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let text = text.trim();
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement::Missing(key_of(key)?));
    }
    if let Some(list) = text.strip_suffix(')') {
        let (head, values) = list.split_once('(').ok_or_else(|| unreadable(text))?;
        let (key, operator) = head
            .trim()
            .rsplit_once(char::is_whitespace)
            .ok_or_else(|| unreadable(text))?;
        let values = values.split(',').map(value_of).collect::<Result<_, _>>()?;
        return match operator {
            "in" => Ok(Requirement::In(key_of(key)?, values)),
            "notin" => Ok(Requirement::NotIn(key_of(key)?, values)),
            _ => Err(unreadable(text)),
        };
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(key_of(key)?, vec![value_of(value)?]));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(key_of(key)?, vec![value_of(value)?]));
    }
    Ok(Requirement::Exists(key_of(text)?))
}

fn key_of(text: &str) -> Result<String, String> {
    let key = text.trim();
    if valid_key(key) {
        Ok(key.to_owned())
    } else {
        Err(format!("'{key}' is not a label key"))
    }
}

fn value_of(text: &str) -> Result<String, String> {
    let value = text.trim();
    if value.is_empty() || valid_name(value) {
        Ok(value.to_owned())
    } else {
        Err(format!("'{value}' is not a label value"))
    }
}

fn unreadable(text: &str) -> String {
    format!("'{text}' is not a label selector")
}

fn split_outside_parentheses(text: &str) -> Result<Vec<&str>, String> {
    let mut parts = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (at, character) in text.char_indices() {
        match character {
            '(' if !inside => inside = true,
            ')' if inside => inside = false,
            '(' | ')' => return Err(unreadable(text)),
            ',' if !inside => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(unreadable(text));
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn valid_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => valid_prefix(prefix) && valid_name(name),
        None => valid_name(key),
    }
}

fn valid_prefix(prefix: &str) -> bool {
    prefix.len() <= MAX_PREFIX_CHARS
        && prefix.split('.').all(|part| {
            valid_name(part)
                && part
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        })
}

/// Up to 63 characters, letters and digits at both ends, `-`, `_` and `.` between them.
fn valid_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= MAX_NAME_CHARS
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn reserved(prefix: &str) -> bool {
    prefix == RESERVED_PREFIX || prefix.ends_with(&format!(".{RESERVED_PREFIX}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn every_form_of_a_selector_selects_what_it_says() {
        let server = labels(&[("env", "prod"), ("fabrik.dev/role", "agent")]);
        let cases = [
            ("env==prod", true),
            ("env=prod", true),
            ("env=test", false),
            ("env!=test", true),
            ("env!=prod", false),
            ("missing!=prod", true),
            ("env", true),
            ("missing", false),
            ("!missing", true),
            ("!env", false),
            ("env in (test, prod)", true),
            ("env in (test)", false),
            ("env notin (test,dev)", true),
            ("env notin (test,prod)", false),
            ("missing notin (a)", true),
            ("fabrik.dev/role==agent,env in (prod,test),!gone", true),
            ("fabrik.dev/role==agent,env=test", false),
        ];
        for (text, expected) in cases {
            let selector = Selector::parse(text).unwrap();
            assert_eq!(selector.matches(&server), expected, "{text}");
        }
    }

    #[test]
    fn an_unreadable_selector_is_refused() {
        for text in [
            "",
            "a,",
            "a in b",
            "a in (b",
            "a of (b)",
            "=b",
            "a==b==c",
            "a b",
            "a in (b))",
        ] {
            assert!(Selector::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn labels_keep_to_the_rules_of_the_api() {
        let long = "x".repeat(64);
        let good = json!({"a": "", "fabrik.dev/cluster": "k3x9", "A_b.c-d": "V1.2"});
        assert!(parse(good.as_object().unwrap()).is_ok());
        for bad in [
            json!({"": "v"}),
            json!({"-a": "v"}),
            json!({"a": "-v"}),
            json!({"a": 1}),
            json!({"a/b/c": "v"}),
            json!({"UPPER.dev/x": "v"}),
            json!({"hetzner.cloud/x": "v"}),
            json!({"a": "white space"}),
            json!({ "a": long }),
            json!({ (long.as_str()): "v" }),
        ] {
            assert!(parse(bad.as_object().unwrap()).is_err(), "{bad}");
        }
    }
}
