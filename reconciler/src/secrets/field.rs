//! One value out of a decrypted file, such as the Hetzner token.

use serde_json::Value;

use super::format::wipe;
use super::{Format, Secret, SecretsError};

/// The text or number at `key` in a decrypted file; a dot leads into a map, unless a key with the dot is there. The
/// format goes by `path`, as SOPS does.
///
/// # Errors
/// The file is no tree, or has no such value. Names of keys are told, values are not.
pub fn field(path: &str, plaintext: &Secret, key: &str) -> Result<Secret, SecretsError> {
    let not_a_tree = |reason: String| SecretsError::NotATree {
        path: path.to_owned(),
        key: key.to_owned(),
        reason,
    };
    let text = plaintext
        .expose_str()
        .ok_or_else(|| not_a_tree("not UTF-8".to_owned()))?;
    let mut documents = Format::of_path(path).documents(text).map_err(not_a_tree)?;
    let found = documents
        .first()
        .and_then(|document| find(document, key))
        .and_then(as_secret);
    let present = keys(documents.first());
    documents.iter_mut().for_each(wipe);
    found.ok_or_else(|| SecretsError::NoSuchField {
        path: path.to_owned(),
        key: key.to_owned(),
        present,
    })
}

fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    if let Some(found) = value.get(key) {
        return Some(found);
    }
    let (outer, inner) = key.split_once('.')?;
    find(value.get(outer)?, inner)
}

fn as_secret(value: &Value) -> Option<Secret> {
    match value {
        Value::String(text) if !text.is_empty() => Some(Secret::new(text.clone().into_bytes())),
        Value::Number(number) => Some(Secret::new(number.to_string().into_bytes())),
        _ => None,
    }
}

fn keys(document: Option<&Value>) -> Vec<String> {
    let entries = document.and_then(Value::as_object);
    entries.map_or_else(Vec::new, |entries| {
        entries.keys().map(|key| format!("`{key}`")).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, text: &str, key: &str) -> Result<String, String> {
        let plaintext = Secret::new(text.as_bytes().to_vec());
        match field(path, &plaintext, key) {
            Ok(secret) => Ok(secret.expose_str().unwrap().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_key_is_found_in_each_format() {
        assert_eq!(get("a.yaml", "token: abc\n", "token"), Ok("abc".to_owned()));
        assert_eq!(
            get("a.yaml", "hetzner:\n  token: abc\n", "hetzner.token"),
            Ok("abc".to_owned())
        );
        assert_eq!(get("a.yaml", "a.b: abc\n", "a.b"), Ok("abc".to_owned()));
        assert_eq!(
            get("a.json", r#"{"token": 42}"#, "token"),
            Ok("42".to_owned())
        );
        assert_eq!(get("a.env", "TOKEN=abc\n", "TOKEN"), Ok("abc".to_owned()));
        assert_eq!(
            get("a.ini", "[hetzner]\ntoken = abc\n", "hetzner.token"),
            Ok("abc".to_owned())
        );
    }

    #[test]
    fn a_missing_key_is_told_with_the_names_that_are_there_and_no_value() {
        for (path, text) in [
            ("a.yaml", "other: hunter2\n"),
            ("a.json", r#"{"other":"hunter2"}"#),
        ] {
            let error = get(path, text, "token").unwrap_err();
            assert!(
                error.contains("`other`") && !error.contains("hunter2"),
                "{error}"
            );
        }
        for (path, text) in [
            ("a.yaml", "token: ''\n"),
            ("a.yaml", "token: [hunter2]\n"),
            ("a", "hunter2"),
        ] {
            let error = get(path, text, "token").unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn plaintext_that_does_not_parse_is_not_quoted() {
        let error = get("a.yaml", "a: [hunter2\nb: hunter3: x", "a").unwrap_err();
        assert!(
            error.contains("no valid YAML") && !error.contains("hunter"),
            "{error}"
        );
        let error = get("a.json", "{\"a\": hunter2}", "a").unwrap_err();
        assert!(
            error.contains("no valid JSON") && !error.contains("hunter"),
            "{error}"
        );
    }
}
