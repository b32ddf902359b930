//! One object by server-side apply: first without force, then, if every field in conflict is a person's, with it.

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
    let patch = Patch::Apply(labelled(object, unit));
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

/// The object as its file says, with the unit's label.
fn labelled(object: &Object, unit: &UnitName) -> Value {
    let mut value = object.value.clone();
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

fn conflicts(status: &Status) -> Vec<Conflict> {
    let causes = status.details.iter().flat_map(|d| &d.causes);
    causes
        .filter(|c| c.reason == "FieldManagerConflict")
        .filter_map(|c| Conflict::parse(&c.message, &c.field))
        .collect()
}
