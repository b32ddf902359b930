//! Why an object could not be applied or pruned, in words that hold no secret.

use fabrik_core::desired::ObjectKey;
use fabrik_core::diagnostic::{Diagnostic, Place};
use fabrik_core::manifest::Object;
use kube::core::Status;

/// One object's failure. Others go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error("the cluster knows no kind {kind} in {api_version}")]
    UnknownKind { api_version: String, kind: String },
    #[error("the cluster no longer serves {api_version}")]
    NotServed { api_version: String },
    #[error("namespace {namespace} does not exist")]
    NamespaceMissing { namespace: String },
    #[error("is of a namespaced kind and names no namespace")]
    NeedsNamespace,
    #[error("is of a cluster-scoped kind and names a namespace")]
    NeedsNoNamespace,
    /// Fields of ours belong to controllers; the text names both.
    #[error("other controllers set fields of it: {owners}")]
    Conflict { owners: String },
    /// It was changed again and again after we put it back.
    #[error("{manager} changes it again each time it is put back")]
    Fight { manager: String },
    #[error("the API server refuses it: {message}")]
    Refused { message: String },
    #[error("the API server did not answer as it should: {message}")]
    Unreachable { message: String },
}

/// Whether what the API server says about an object may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    Told,
    /// They may quote a secret.
    Hidden,
}

impl Words {
    /// Of a Secret, and of what a SOPS file holds, any value may be secret.
    pub fn about(object: &Object) -> Self {
        if object.encrypted || is_secret(&object.key) {
            Self::Hidden
        } else {
            Self::Told
        }
    }

    /// Fields as they may be named: a path quotes the values that it finds the items of a list by.
    pub fn fields(self, text: &str) -> String {
        match self {
            Self::Told => text.to_owned(),
            Self::Hidden => without_quotes(text),
        }
    }
}

impl Failure {
    pub(super) fn of(error: kube::Error, what: &ObjectKey, words: Words) -> Self {
        let status = match error {
            kube::Error::Api(status) => status,
            kube::Error::SerdeError(_) => {
                return Self::Unreachable {
                    message: "its answer can't be read".to_owned(),
                };
            }
            // The text of a transport error names the server and the fault, never a body.
            other => {
                return Self::Unreachable {
                    message: other.to_string(),
                };
            }
        };
        if status.code == 404 && detail_kind(&status) == "namespaces" {
            return Self::NamespaceMissing {
                namespace: what.namespace.clone(),
            };
        }
        let message = match words {
            Words::Told => without_values(&status.message),
            Words::Hidden => outline(&status),
        };
        // The file's fault, though it comes with a 500 (apiserver, `handlers/patch.go`).
        let mistyped = status.message.starts_with("failed to create typed patch");
        if !mistyped && (status.code >= 500 || status.code == 429) {
            Self::Unreachable { message }
        } else {
            Self::Refused { message }
        }
    }

    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::UnknownKind { .. } => {
                "add the CustomResourceDefinition, or correct apiVersion and kind; it is tried again when a definition appears"
            }
            Self::NotServed { .. } => "nothing: its kind is asked for anew",
            Self::NamespaceMissing { .. } => {
                "add the Namespace to the repository; it is tried again soon"
            }
            Self::NeedsNamespace => "write metadata.namespace",
            Self::NeedsNoNamespace => "remove metadata.namespace",
            Self::Conflict { .. } => {
                "remove these fields from the manifest, or stop the other controller"
            }
            Self::Fight { .. } => {
                "find out what changes it and stop it, or leave the field out of the manifest"
            }
            Self::Refused { .. } => "correct the manifest; it is tried again, less and less often",
            Self::Unreachable { .. } => {
                "nothing, if this passes: it is tried again, less and less often"
            }
        }
    }

    pub(super) fn diagnostic(&self, object: &ObjectKey, place: Place) -> Diagnostic {
        Diagnostic {
            place,
            object: object.to_string(),
            problem: self.to_string(),
            remedy: self.remedy().to_owned(),
        }
    }
}

fn is_secret(object: &ObjectKey) -> bool {
    object.group.is_empty() && object.kind == "Secret"
}

fn detail_kind(status: &Status) -> &str {
    status.details.as_ref().map_or("", |d| d.kind.as_str())
}

/// The reason, the fields, and who refused: enough to find the cause by, and nothing that the object holds.
fn outline(status: &Status) -> String {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    let fields: Vec<String> = causes
        .filter(|c| !c.field.is_empty())
        .map(|c| Words::Hidden.fields(&c.field))
        .collect();
    let by = refuser(&status.message).map_or(String::new(), |by| format!(" by {by}"));
    let reason = format!("{} ({}){by}", status.reason, status.code);
    if fields.is_empty() {
        format!("{reason}; its words are not shown, they may quote a secret")
    } else {
        format!("{reason} in {}", fields.join(", "))
    }
}

/// The webhook or policy that the API server says it asked. It names it before anything of the object.
fn refuser(message: &str) -> Option<String> {
    let said = [
        ("admission webhook \"", "webhook"),
        ("failed calling webhook \"", "webhook"),
        ("ValidatingAdmissionPolicy '", "policy"),
    ];
    said.iter().find_map(|(before, what)| {
        let (_, rest) = message.split_once(before)?;
        let (name, _) = rest.split_once(['"', '\''])?;
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:/".contains(c);
        name.chars()
            .all(is_name)
            .then(|| format!("the {what} {name}"))
    })
}

/// `a[name="x"]` becomes `a[name=…]`.
fn without_quotes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('"') {
        let (before, quoted) = rest.split_at(at);
        out.push_str(before);
        out.push('…');
        rest = quoted.get(value_len(quoted)..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// `spec.a: Invalid value: "x": must be b` becomes `spec.a: Invalid value: …: must be b`. The API server quotes a value
/// after `value: ` (field errors: JSON or a Go literal) or in `Value:` (structured-merge-diff's type errors).
fn without_values(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    loop {
        let found = ["alue: ", "Value:"]
            .iter()
            .filter_map(|marker| rest.find(marker).map(|at| at + marker.len()))
            .min();
        let Some(start) = found else { break };
        let (before, value) = rest.split_at(start);
        out.push_str(before);
        out.push('…');
        rest = value.get(value_len(value)..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// The length of the literal at the start of `text`: a quoted string, something in brackets, or a word.
fn value_len(text: &str) -> usize {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => {
                quoted = !quoted;
                if !quoted && depth == 0 {
                    return at + 1;
                }
            }
            _ if quoted => {}
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' | ':' | ',' if depth == 0 => return at,
            '}' | ']' | ')' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn api(value: serde_json::Value) -> kube::Error {
        kube::Error::Api(Box::new(serde_json::from_value(value).unwrap()))
    }

    fn key(text: &str) -> ObjectKey {
        ObjectKey::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn what_the_api_server_quotes_of_a_secret_is_not_repeated() {
        let error = json!({"code": 422, "reason": "Invalid",
            "message": "Secret \"a\" is invalid: data[password]: Invalid value: \"hunter2\": bad",
            "details": {"causes": [{"field": "data[password]", "message": "Invalid value: \"hunter2\""}]}});
        let failure = Failure::of(api(error), &key("Secret/web/a"), Words::Hidden);
        assert_eq!(
            failure.to_string(),
            "the API server refuses it: Invalid (422) in data[password]"
        );
        let error =
            json!({"code": 400, "reason": "BadRequest", "message": "illegal base64 near hunter2"});
        let failure = Failure::of(api(error), &key("Secret/web/a"), Words::Hidden);
        assert!(!failure.to_string().contains("hunter2"), "{failure}");
    }

    #[test]
    fn values_are_taken_out_of_other_messages_and_the_rest_is_kept() {
        let table = [
            (
                "a.b: Invalid value: \"hun\\\"ter2: x\": must be c, d: Required value",
                "a.b: Invalid value: …: must be c, d: Required value",
            ),
            (
                "a: Unsupported value: \"hunter2\": supported values: \"x\"",
                "a: Unsupported value: …: supported values: \"x\"",
            ),
            (
                "a: Invalid value: map[string]any{\"p\": \"hunter2\"}: no",
                "a: Invalid value: …: no",
            ),
            (
                ".a: expected string, got &value.valueUnstructured{Value:hunter2}",
                ".a: expected string, got &value.valueUnstructured{Value:…}",
            ),
            (
                "a: Invalid value: 17: too big",
                "a: Invalid value: …: too big",
            ),
            (
                "unknown field \"spec.replica\"",
                "unknown field \"spec.replica\"",
            ),
        ];
        for (message, expected) in table {
            assert_eq!(without_values(message), expected);
        }
    }

    #[test]
    fn what_a_file_can_mend_is_told_from_what_time_mends() {
        let error = json!({"code": 404, "reason": "NotFound", "message": "namespaces \"web\" not found",
            "details": {"name": "web", "kind": "namespaces"}});
        let failure = Failure::of(api(error), &key("ConfigMap/web/a"), Words::Told);
        assert_eq!(
            failure,
            Failure::NamespaceMissing {
                namespace: "web".into()
            }
        );
        let typo = json!({"code": 500, "reason": "InternalError",
            "message": "failed to create typed patch object (web/t; /v1, Kind=ConfigMap): .dta: field not declared in schema"});
        let failure = Failure::of(api(typo), &key("ConfigMap/web/t"), Words::Told);
        assert!(matches!(failure, Failure::Refused { .. }), "{failure}");
        let busy = json!({"code": 503, "message": "etcd is slow"});
        assert!(matches!(
            Failure::of(api(busy), &key("ConfigMap/web/a"), Words::Told),
            Failure::Unreachable { .. }
        ));
    }

    #[test]
    fn of_what_a_sops_file_holds_no_word_is_repeated_that_may_be_a_value() {
        let object = |encrypted| Object {
            key: key("Database.example.org/web/a"),
            api_version: "example.org/v1".into(),
            value: json!({}),
            place: Place::file("a.yaml"),
            digest: "1".into(),
            encrypted,
        };
        assert_eq!(Words::about(&object(false)), Words::Told);
        let words = Words::about(&object(true));
        let table = [
            (
                "admission webhook \"w.example.org\" denied the request: hunter2 is weak",
                "Forbidden (403) by the webhook w.example.org; ",
            ),
            (
                "databases \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: hunter2",
                "Forbidden (403) by the policy p; ",
            ),
            ("time: invalid duration \"hunter2\"", "Forbidden (403); "),
            (
                "admission webhook \"HUNTER2 hunter2\" is unknown",
                "Forbidden (403); ",
            ),
        ];
        for (message, expected) in table {
            let error = json!({"code": 403, "reason": "Forbidden", "message": message});
            let told = Failure::of(api(error), &object(true).key, words).to_string();
            assert!(told.contains(expected), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
        let owners = "x-operator (.spec.tokens[v=\"hun\\\"ter2\"], .spec.a)";
        assert_eq!(
            words.fields(owners),
            "x-operator (.spec.tokens[v=…], .spec.a)"
        );
    }
}
