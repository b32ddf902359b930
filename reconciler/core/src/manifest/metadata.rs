//! What each object must say of itself, whatever its kind.

use serde_json::{Map, Value};

use super::document::Document;
use super::{Object, Source};
use crate::desired::ObjectKey;
use crate::diagnostic::Diagnostic;

/// Written by the API server alone. In git they are left over from an export, and two of them would make each apply fail.
const SERVER_FIELDS: [&str; 3] = ["managedFields", "resourceVersion", "uid"];
/// Written by the API server alone and found in many published manifests: left out without a word.
const IGNORED_FIELDS: [&str; 4] = [
    "creationTimestamp",
    "deletionTimestamp",
    "generation",
    "selfLink",
];
const LABEL_DOMAIN: &str = "fabrik.dev/";
const KUSTOMIZE: &str = "kustomize.config.k8s.io/";
/// A document with none of these is not meant to be an object.
const ESSENTIALS: [&str; 3] = ["apiVersion", "kind", "metadata"];

pub fn check(
    source: &Source<'_>,
    document: &Document<'_>,
    value: Value,
    digest: String,
) -> Result<Object, Vec<Diagnostic>> {
    let mut faults = Faults {
        source,
        document,
        object: document.name(),
        found: Vec::new(),
    };
    let mut object = match value {
        Value::Object(object) if ESSENTIALS.iter().any(|key| object.contains_key(*key)) => object,
        _ => {
            faults.add(
                &[],
                "is not a Kubernetes object: it has no `apiVersion`, `kind` and `metadata`",
                "add them, or keep the file outside of `manifests/`",
            );
            return Err(faults.found);
        }
    };
    let kind = required(&mut faults, &object, "kind", "kind: ConfigMap");
    let name = object
        .get("metadata")
        .and_then(|m| m.get("name"))
        .and_then(Value::as_str);
    // What a SOPS file holds is told only where it can be nothing but a name.
    let name = name.filter(|name| source.encrypted.is_none() || is_subdomain(name));
    faults.object = match (&kind, name) {
        (Some(kind), _) if source.encrypted.is_some() && !is_kind(kind) => faults.object,
        (Some(kind), Some(name)) => format!("{kind} {name}"),
        (Some(kind), None) => kind.clone(),
        (None, _) => faults.object,
    };
    if let Some(api_version) = object.get("apiVersion").and_then(Value::as_str)
        && api_version.starts_with(KUSTOMIZE)
    {
        faults.add(
            &[],
            "is for kustomize, which fabrik does not run",
            "commit what `kubectl kustomize` prints instead",
        );
        return Err(faults.found);
    }
    let api_version = required(&mut faults, &object, "apiVersion", "apiVersion: v1");
    let group = api_version
        .as_deref()
        .and_then(|text| group(&mut faults, text));
    object.remove("status");
    let metadata = match object.get_mut("metadata") {
        Some(Value::Object(metadata)) => Some(metadata),
        Some(_) => {
            faults.add(
                &["metadata"],
                "`metadata` is not a mapping",
                "write `metadata:` with `name:` under it",
            );
            None
        }
        None => {
            faults.add(
                &[],
                "`metadata` is missing",
                "add `metadata:` with `name:` under it",
            );
            None
        }
    };
    let names = metadata.and_then(|metadata| {
        let name = name_of(&mut faults, metadata, group.as_deref(), kind.as_deref());
        let namespace = namespace_of(&mut faults, metadata);
        strings(&mut faults, metadata, "labels");
        strings(&mut faults, metadata, "annotations");
        server_fields(&mut faults, metadata);
        name.zip(namespace)
    });
    match (group, kind, api_version, names) {
        (Some(group), Some(kind), Some(api_version), Some((name, namespace)))
            if faults.found.is_empty() =>
        {
            Ok(Object {
                key: ObjectKey {
                    group,
                    kind,
                    namespace,
                    name,
                },
                api_version,
                value: Value::Object(object),
                place: document.place(source),
                digest,
                encrypted: source.encrypted.is_some(),
            })
        }
        _ => Err(faults.found),
    }
}

struct Faults<'a> {
    source: &'a Source<'a>,
    document: &'a Document<'a>,
    object: String,
    found: Vec<Diagnostic>,
}

impl Faults<'_> {
    fn add(&mut self, path: &[&str], problem: impl Into<String>, remedy: impl Into<String>) {
        self.found.push(Diagnostic {
            place: self.document.place_of(self.source, path),
            object: self.object.clone(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }
}

fn required(
    faults: &mut Faults<'_>,
    object: &Map<String, Value>,
    key: &str,
    example: &str,
) -> Option<String> {
    match object.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
        None => {
            faults.add(
                &[],
                format!("`{key}` is missing"),
                format!("add it, like `{example}`"),
            );
            None
        }
        Some(_) => {
            faults.add(
                &[key],
                format!("`{key}` must be a string"),
                format!("write it like `{example}`"),
            );
            None
        }
    }
}

fn group(faults: &mut Faults<'_>, api_version: &str) -> Option<String> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = version.starts_with('v')
        && version.chars().all(word)
        && group.chars().all(|c| word(c) || matches!(c, '.' | '-'))
        && (!api_version.contains('/') || !group.is_empty());
    if !fits {
        faults.add(
            &["apiVersion"],
            "`apiVersion` is not a version of an API",
            "write `v1`, or GROUP/VERSION like `apps/v1`",
        );
        return None;
    }
    Some(group.to_owned())
}

fn name_of(
    faults: &mut Faults<'_>,
    metadata: &Map<String, Value>,
    group: Option<&str>,
    kind: Option<&str>,
) -> Option<String> {
    if metadata.contains_key("generateName") {
        faults.add(
            &["metadata", "generateName"],
            "`generateName` would make another object each time it is applied",
            "give it a `name` of its own",
        );
        return None;
    }
    let Some(name) = metadata.get("name") else {
        faults.add(
            &["metadata"],
            "`metadata.name` is missing",
            "add `name:` under `metadata:`",
        );
        return None;
    };
    let path = ["metadata", "name"];
    let Value::String(name) = name else {
        faults.add(
            &path,
            "`metadata.name` must be a string",
            "write it in quotes",
        );
        return None;
    };
    let (fits, rule) = match (group, kind) {
        (Some("rbac.authorization.k8s.io"), _) => (is_path_segment(name), "use no `/` and no `%`"),
        (Some(""), Some("Namespace" | "Service")) => (
            is_label(name),
            "use at most 63 of a-z, 0-9 and -, with a letter or a digit at both ends",
        ),
        _ => (
            is_subdomain(name),
            "use at most 253 of a-z, 0-9, - and ., with a letter or a digit at both ends",
        ),
    };
    if !fits {
        faults.add(
            &path,
            "`metadata.name` is not a name that Kubernetes takes",
            rule,
        );
        return None;
    }
    Some(name.clone())
}

fn namespace_of(faults: &mut Faults<'_>, metadata: &Map<String, Value>) -> Option<String> {
    match metadata.get("namespace") {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::String(name)) if name.is_empty() || is_label(name) => Some(name.clone()),
        Some(_) => {
            faults.add(
                &["metadata", "namespace"],
                "`metadata.namespace` is not the name of a namespace",
                "use at most 63 of a-z, 0-9 and -, in quotes if it is a number",
            );
            None
        }
    }
}

/// Labels and annotations hold strings alone, and their `null` is left out.
fn strings(faults: &mut Faults<'_>, metadata: &mut Map<String, Value>, field: &str) {
    match metadata.get_mut(field) {
        None => {}
        Some(Value::Null) => {
            metadata.remove(field);
        }
        Some(Value::Object(map)) => {
            for (key, value) in map {
                let path = ["metadata", field, key];
                if !value.is_string() {
                    faults.add(
                        &path,
                        format!("the value of `{key}` in `metadata.{field}` must be a string"),
                        "write it in quotes",
                    );
                } else if field == "labels" && key.starts_with(LABEL_DOMAIN) {
                    faults.add(
                        &path,
                        format!("the label `{key}` belongs to fabrik, which sets it itself"),
                        "remove it",
                    );
                }
            }
        }
        Some(_) => faults.add(
            &["metadata", field],
            format!("`metadata.{field}` is not a mapping"),
            "write `KEY: \"VALUE\"` lines under it",
        ),
    }
}

fn server_fields(faults: &mut Faults<'_>, metadata: &mut Map<String, Value>) {
    for field in IGNORED_FIELDS {
        metadata.remove(field);
    }
    for field in SERVER_FIELDS {
        if metadata.contains_key(field) {
            faults.add(
                &["metadata", field],
                format!("`metadata.{field}` is the API server's to set"),
                "remove it: it is left from an export",
            );
        }
    }
}

fn is_kind(kind: &str) -> bool {
    kind.len() <= 63 && kind.chars().all(|c| c.is_ascii_alphanumeric())
}

fn is_path_segment(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '%'])
}

fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label_of_any_length)
}

fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_label_of_any_length(name)
}

fn is_label_of_any_length(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.starts_with(edge) && name.ends_with(edge) && name.chars().all(|c| edge(c) || c == '-')
}
