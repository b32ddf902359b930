//! One object by server-side apply: first without force, then, if every field in conflict is a person's, with it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use fabrik_core::apply::{Conflict, Health, Verdict, has_health, health, verdict};
use fabrik_core::desired::ObjectKey;
use fabrik_core::id::UnitName;
use fabrik_core::manifest::Object;
use fabrik_core::names::{APPLIER_MANAGER, UNIT_LABEL};
use kube::Client;
use kube::api::{DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::Status;
use serde_json::{Value, json};

use super::Authority;
use super::discovery::Kind;
use super::failure::{Failure, Words};
use super::live::Live;

/// The object as it was when our request ended.
pub(super) struct Sent {
    pub live: Live,
    pub health: Health,
}

/// `Ok(None)`: leadership ended between two requests.
pub(super) async fn apply(
    client: &Client,
    kind: &Kind,
    unit: &UnitName,
    object: &Object,
    authority: &Authority,
) -> Result<Option<Sent>, Failure> {
    let api = kind.api(client, &object.key)?;
    let patch = Patch::Apply(as_sent(object, unit));
    let mut params = PatchParams {
        field_manager: Some(APPLIER_MANAGER.to_owned()),
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::default()
    };
    let name = &object.key.name;
    let words = Words::about(object);
    if authority().is_err() {
        return Ok(None);
    }
    let mut answer = api.patch(name, &params, &patch).await;
    if let Err(kube::Error::Api(status)) = &answer
        && status.code == 409
        && let conflicts = conflicts(status)
        && !conflicts.is_empty()
    {
        if let Verdict::Refuse(owners) = verdict(&conflicts) {
            let owners = words.fields(&owners);
            return Err(Failure::Conflict { owners });
        }
        if authority().is_err() {
            return Ok(None);
        }
        params.force = true;
        answer = api.patch(name, &params, &patch).await;
    }
    let live = answer.map_err(|error| Failure::of(error, &object.key, words))?;
    Ok(Some(Sent {
        live: Live::of(&live.metadata),
        health: judge(&object.key, &live),
    }))
}

/// The health of an object that is there, or `None` when it isn't.
pub(super) async fn look(
    client: &Client,
    kind: &Kind,
    key: &ObjectKey,
) -> Result<Option<Health>, Failure> {
    let api = kind.api(client, key)?;
    let live = api.get_opt(&key.name).await;
    let live = live.map_err(|error| Failure::of(error, key, Words::Hidden))?;
    Ok(live.map(|live| judge(key, &live)))
}

fn judge(key: &ObjectKey, live: &DynamicObject) -> Health {
    if !has_health(key) {
        return Health::Current;
    }
    serde_json::to_value(live).map_or(Health::Current, |value| health(&value))
}

/// The object as its file says, with the unit's label, and fit to be owned.
fn as_sent(object: &Object, unit: &UnitName) -> Value {
    let mut value = object.value.clone();
    if object.key.group.is_empty() && object.key.kind == "Secret" {
        fold_string_data(&mut value);
    }
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if labels.is_null() {
            *labels = json!({});
        }
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(UNIT_LABEL.to_owned(), json!(unit.as_str()));
        }
    }
    value
}

/// `stringData` as `data`. The API server makes it so itself when it writes, but lets nobody own what came of it: a value
/// that was changed by hand, or a key that left the repository, would stay. What is no text is left for it to refuse.
fn fold_string_data(secret: &mut Value) {
    let Some(fields) = secret.as_object_mut() else {
        return;
    };
    let texts = fields.get("stringData").and_then(Value::as_object);
    let all_text = texts.is_some_and(|texts| texts.values().all(Value::is_string));
    let data = fields.get("data").unwrap_or(&Value::Null);
    if !all_text || !(data.is_null() || data.is_object()) {
        return;
    }
    let Some(Value::Object(texts)) = fields.remove("stringData") else {
        return;
    };
    let data = fields.entry("data").or_insert(Value::Null);
    if data.is_null() {
        *data = json!({});
    }
    for (key, text) in texts {
        let text = text.as_str().unwrap_or_default();
        data[key] = BASE64_STANDARD.encode(text).into();
    }
}

fn conflicts(status: &Status) -> Vec<Conflict> {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    causes
        .filter(|c| c.reason == "FieldManagerConflict")
        .filter_map(|c| Conflict::parse(&c.message, &c.field))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_data_become_data_and_what_is_no_text_stays() {
        let table = [
            (
                json!({"stringData": {"a": "b"}}),
                json!({"data": {"a": "Yg=="}}),
            ),
            (
                json!({"data": {"a": "eA==", "c": "eA=="}, "stringData": {"a": "b"}}),
                json!({"data": {"a": "Yg==", "c": "eA=="}}),
            ),
            (
                json!({"data": null, "stringData": {"a": ""}}),
                json!({"data": {"a": ""}}),
            ),
            (
                json!({"stringData": {"a": 5}}),
                json!({"stringData": {"a": 5}}),
            ),
            (
                json!({"data": [], "stringData": {"a": "b"}}),
                json!({"data": [], "stringData": {"a": "b"}}),
            ),
            (json!({"stringData": null}), json!({"stringData": null})),
        ];
        for (mut secret, expected) in table {
            fold_string_data(&mut secret);
            assert_eq!(secret, expected);
        }
    }
}
