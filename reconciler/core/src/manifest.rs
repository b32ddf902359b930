//! Kubernetes manifests: from the bytes of a file to objects with a place, or to every fault in them.

mod budget;
mod document;
mod metadata;
pub(crate) mod own;
mod scope;
mod units;

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::desired::ObjectKey;
use crate::diagnostic::{Diagnostic, Place};
use crate::merge;

pub use self::budget::Budget;
pub use self::scope::Scopes;
pub use self::units::{Units, unit_of, units};

/// The files of a repository that hold manifests are in here, each in the folder of its unit.
pub const FOLDER: &str = "manifests/";
const DIGEST_DIGITS: usize = 16;

/// One object of a manifest, decrypted where it was a SOPS file.
#[derive(Clone, PartialEq)]
pub struct Object {
    pub key: ObjectKey,
    pub api_version: String,
    /// The whole object, as JSON. May hold a secret.
    pub value: serde_json::Value,
    /// Where its document begins.
    pub place: Place,
    /// SHA-256 of the document's bytes in git (before decryption), in hex, shortened to 16 digits.
    pub digest: String,
    /// It is from a SOPS file: any value in it may be a secret, whatever its kind.
    pub encrypted: bool,
}

/// One file of manifests.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub file: &'a str,
    /// Its text, decrypted if it was a SOPS file.
    pub text: &'a str,
    /// The bytes in git of a SOPS file. Then no fault quotes what the file holds, and digests are of these bytes.
    pub encrypted: Option<&'a [u8]>,
}

/// Whether this entry of the repository is the folder of the manifests, or in it.
pub fn is_inside(path: &str) -> bool {
    path.starts_with(FOLDER) || FOLDER.strip_suffix('/') == Some(path)
}

/// Whether fabrik reads this file of the repository as a manifest.
pub fn is_manifest(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let hidden = name.starts_with('.');
    path.starts_with(FOLDER)
        && !hidden
        && [".yaml", ".yml", ".json"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// All objects of a file that are right in themselves, and all faults of the others, as far as the budget goes. Namespaces
/// are as written; `units` completes them.
pub fn parse(source: &Source<'_>, budget: &mut Budget) -> (Vec<Object>, Vec<Diagnostic>) {
    if budget.is_spent() {
        return (Vec::new(), Vec::new());
    }
    if let Some(conflict) = merge::conflict(source.file, source.text) {
        return (Vec::new(), vec![conflict]);
    }
    let mut read = Read {
        objects: Vec::new(),
        faults: Vec::new(),
    };
    for (index, document) in document::split(source.text).into_iter().enumerate() {
        read.document(source, &document, index, budget);
        if budget.is_spent() {
            read.faults.push(too_much(source, &document));
            break;
        }
    }
    if source.encrypted.is_some() {
        for fault in &mut read.faults {
            fault
                .remedy
                .push_str(" (with `sops edit`; the place is that in the decrypted text)");
        }
    }
    (read.objects, read.faults)
}

/// What was found in a file so far.
struct Read {
    objects: Vec<Object>,
    faults: Vec<Diagnostic>,
}

impl Read {
    fn document(
        &mut self,
        source: &Source<'_>,
        document: &document::Document<'_>,
        index: usize,
        budget: &mut Budget,
    ) {
        let values = match document::read(source, document) {
            Ok(values) => values,
            Err(fault) => {
                budget.spend_on_faults(std::slice::from_ref(&fault));
                self.faults.push(fault);
                return;
            }
        };
        for (item, (part, value)) in values.into_iter().enumerate() {
            budget.spend_on_value(&value);
            if budget.is_spent() {
                return;
            }
            let digest = digest(source, document, index, item);
            match metadata::check(source, &part, value, digest) {
                Ok(object) => self.objects.push(object),
                Err(more) => {
                    budget.spend_on_faults(&more);
                    self.faults.extend(more);
                }
            }
        }
    }
}

fn too_much(source: &Source<'_>, document: &document::Document<'_>) -> Diagnostic {
    Diagnostic {
        place: document.place(source),
        object: source.file.to_owned(),
        problem:
            "from here on, the manifests of this commit take more memory than fabrik gives them"
                .to_owned(),
        remedy: "write aliases out, and keep only what belongs to the cluster".to_owned(),
    }
}

fn digest(
    source: &Source<'_>,
    document: &document::Document<'_>,
    index: usize,
    item: usize,
) -> String {
    let mut hash = Sha256::new();
    match source.encrypted {
        Some(bytes) => {
            hash.update(bytes);
            hash.update(index.to_le_bytes());
        }
        None => hash.update(document.body()),
    }
    hash.update(item.to_le_bytes());
    let mut digest = hex(&hash.finalize());
    digest.truncate(DIGEST_DIGITS);
    digest
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// Says which object it is and nothing of what it holds.
impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("key", &self.key.to_string())
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

    fn parsed(file: &str, text: &str) -> Vec<Object> {
        let encrypted = None;
        let source = Source {
            file,
            text,
            encrypted,
        };
        let (objects, faults) = parse(&source, &mut Budget::default());
        assert_eq!(faults, []);
        objects
    }

    fn value(text: &str) -> serde_json::Value {
        parsed("manifests/a/a.yaml", text).pop().unwrap().value
    }

    #[test]
    fn files_of_manifests_are_known_by_folder_and_ending() {
        for yes in [
            "manifests/a/b.yaml",
            "manifests/a/b/c.yml",
            "manifests/a.json",
        ] {
            assert!(is_manifest(yes), "{yes}");
        }
        for no in [
            "manifests/a/README.md",
            "manifests/a/.sops.yaml",
            "other/a.yaml",
            "manifests.yaml",
            "secrets/a.yaml",
        ] {
            assert!(!is_manifest(no), "{no}");
        }
    }

    #[test]
    fn documents_keep_their_places_and_empty_ones_are_no_fault() {
        let text = format!(
            "\u{feff}# a\n---\n---\n# only a comment\n---\n\n{CONFIG}--- # next\nnull\n...\n---\r\n{CONFIG}"
        );
        let lines: Vec<_> = parsed("manifests/a/a.yaml", &text)
            .iter()
            .map(|object| object.place.line)
            .collect();
        assert_eq!(lines, [Some(7), Some(14)]);
    }

    #[test]
    fn a_file_may_begin_with_a_directive() {
        let text = format!("%YAML 1.2\n---\n{CONFIG}");
        assert_eq!(
            parsed("manifests/a/a.yaml", &text)[0].place.to_string(),
            "manifests/a/a.yaml:3:1"
        );
    }

    #[test]
    fn a_line_of_dashes_inside_a_text_begins_no_document() {
        let data = value(&format!("{CONFIG}data:\n  k: |\n    ---\n    x\n"));
        assert_eq!(data["data"]["k"], "---\nx\n");
    }

    #[test]
    fn scalars_mean_what_kubectl_reads() {
        let data = value(&format!(
            "{CONFIG}d: [0644, 0o17, 2.0, 1e3, 1.5, -0.0, on, 'yes', ~, 1_000, 2001-01-01]\n"
        ));
        assert_eq!(
            data["d"],
            serde_json::json!([
                420,
                15,
                2,
                1000,
                1.5,
                0,
                true,
                "yes",
                null,
                1000,
                "2001-01-01"
            ])
        );
    }

    #[test]
    fn lists_are_taken_apart_and_each_item_has_its_place() {
        let text = "kind: List\napiVersion: v1\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata:\n    name: a\n# between\n-\n  apiVersion: v1\n  kind: Secret\n  metadata:\n    name: b\nmetadata: {}\n";
        let objects = parsed("manifests/a/a.yaml", text);
        let told: Vec<_> = objects
            .iter()
            .map(|o| format!("{} {}", o.place, o.key.name))
            .collect();
        assert_eq!(
            told,
            ["manifests/a/a.yaml:4:3 a", "manifests/a/a.yaml:10:3 b"]
        );
        assert_ne!(objects[0].digest, objects[1].digest);
    }

    #[test]
    fn json_is_read_as_well_and_a_list_in_one_line_stands_where_it_begins() {
        let text = r#"{"kind": "ConfigMapList", "apiVersion": "v1", "items": [
          {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}]}"#;
        let objects = parsed("manifests/a/a.json", text);
        assert_eq!(objects[0].key.name, "a");
        assert_eq!(objects[0].place, Place::at("manifests/a/a.json", 1, 1));
    }

    #[test]
    fn what_only_the_server_writes_is_left_out() {
        let object = value(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  creationTimestamp: null\n  labels: null\nstatus: {phase: x}\n",
        );
        assert_eq!(
            object,
            serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}})
        );
    }

    #[test]
    fn a_digest_is_of_the_document_and_of_nothing_around_it() {
        let digest = |text: &str| parsed("manifests/a/a.yaml", text).pop().unwrap().digest;
        let alone = digest(CONFIG);
        assert_eq!(alone.len(), 16);
        assert_eq!(digest(&format!("---\n{CONFIG}\n\n")), alone);
        assert_ne!(digest(&CONFIG.replace("name: a", "name: b")), alone);
        let encrypted = |bytes: &[u8]| {
            let source = Source {
                file: "manifests/a/a.yaml",
                text: CONFIG,
                encrypted: Some(bytes),
            };
            parse(&source, &mut Budget::default()).0.pop().unwrap()
        };
        assert_ne!(encrypted(b"1").digest, encrypted(b"2").digest);
        assert!(encrypted(b"1").encrypted);
    }

    #[test]
    fn an_object_shows_nothing_of_what_it_holds() {
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {k: hunter2}\n";
        let shown = format!("{:?}", parsed("manifests/a/a.yaml", text));
        assert!(
            shown.contains("Secret") && !shown.contains("hunter2"),
            "{shown}"
        );
    }

    #[test]
    fn of_what_a_sops_file_holds_no_value_is_quoted() {
        for text in [
            "a: [hunter2",
            "hunter2",
            "apiVersion: hunter2\nkind: hunter 2\nmetadata: {name: hunter2 x}\n",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a, labels: {k: [hunter2]}, namespace: hunter 2}\n",
        ] {
            let source = Source {
                file: "manifests/a/a.yaml",
                text,
                encrypted: Some(b"ENC"),
            };
            let (_, faults) = parse(&source, &mut Budget::default());
            assert!(!faults.is_empty());
            assert!(!format!("{faults:?}").contains("hunter"), "{faults:?}");
        }
    }
}
