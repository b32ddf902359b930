//! `GET` and `PUT /_emulator/settings`.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::{Refused, SharedState};
use crate::error::ApiError;
use crate::gate::Gate;
use crate::settings::Settings;

pub async fn read(State(shared): SharedState) -> Json<Value> {
    shared.with(|gate| Json(shown(gate)))
}

/// Changes what the body names and leaves the rest; inside `rate_limit` as well. What is left in the
/// bucket can be set there as `remaining`; a new `limit` without it comes with a full bucket.
pub async fn write(
    State(shared): SharedState,
    Json(change): Json<Value>,
) -> Result<Json<Value>, Refused> {
    shared.with(|gate| {
        apply(gate, change)?;
        Ok(Json(shown(gate)))
    })
}

fn shown(gate: &mut Gate) -> Value {
    let now = gate.project.now;
    let rules = gate.project.settings.rate_limit;
    let mut shown = json!(gate.project.settings);
    shown["rate_limit"]["remaining"] = gate.bucket.remaining(rules, now).into();
    shown
}

fn apply(gate: &mut Gate, mut change: Value) -> Result<(), ApiError> {
    let rate_limit = change.get_mut("rate_limit").and_then(Value::as_object_mut);
    let (remaining, new_limit) = match rate_limit {
        Some(rules) => (rules.remove("remaining"), rules.get("limit").cloned()),
        None => (None, None),
    };
    let mut merged = json!(gate.project.settings);
    merge(&mut merged, change);
    let settings: Settings = serde_json::from_value(merged)
        .map_err(|error| ApiError::invalid("settings", error.to_string()))?;
    let refill = remaining.or(new_limit).map(|value| {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| ApiError::invalid("rate_limit", "must be a number of requests"))
    });
    let refill = refill.transpose()?;
    gate.project.settings = settings;
    gate.know_tokens();
    if let Some(remaining) = refill {
        gate.bucket.set(remaining, gate.project.now);
    }
    Ok(())
}

/// The fields of `change` replace those of `settings`; only `rate_limit` is merged itself.
fn merge(settings: &mut Value, change: Value) {
    let Value::Object(change) = change else {
        *settings = change;
        return;
    };
    for (name, value) in change {
        match (name.as_str(), value) {
            ("rate_limit", Value::Object(rules)) => {
                for (rule, value) in rules {
                    settings["rate_limit"][rule] = value;
                }
            }
            (_, value) => settings[name] = value,
        }
    }
}
