//! The ledger object: read, and replaced by compare-and-swap under the writer's epoch of leadership.

use fabrik_core::ledger::{Ledger, SCHEMA};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::Value;

use super::error::status_code;
use super::resources::{FabrikLedger, FabrikLedgerSpec, LEDGER_NAME};

/// What fits well into one object of etcd (1.5 MiB).
pub const MAX_LEDGER_BYTES: usize = 1024 * 1024;
/// On the ledger: the epoch (the lease's transitions) of the leader that last wrote it.
pub const EPOCH_ANNOTATION: &str = "fabrik.dev/epoch";

/// What was read, so that a write can say what it replaces.
#[derive(Debug, Clone)]
pub struct Version {
    object: FabrikLedger,
}

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(
        "there is no FabrikLedger {LEDGER_NAME}. `fabrik found` makes it; if it was deleted, restore it from a backup"
    )]
    Missing,
    #[error("the ledger was changed by another writer since it was read")]
    Conflict,
    #[error(
        "the ledger was written by a leader of epoch {found}, ours is {ours}: another one leads now"
    )]
    Outdated { found: i64, ours: i64 },
    #[error(
        "the ledger has schema {found}, this fabrik knows {SCHEMA}. Run the newer fabrik on this server as well"
    )]
    Newer { found: u64 },
    #[error(
        "the ledger is malformed: {problem}. Nothing is done until it is restored from a backup"
    )]
    Malformed { problem: String },
    #[error(
        "the ledger would have {bytes} bytes, more than the {MAX_LEDGER_BYTES} that one object may have"
    )]
    TooLarge { bytes: usize },
    #[error("while {doing} the ledger: {source}")]
    Kubernetes {
        doing: &'static str,
        source: kube::Error,
    },
}

type Fields = serde_json::Map<String, Value>;

/// Give it a client that does not repeat requests: a repeated write would meet its own first try as a conflict.
#[derive(Clone)]
pub struct LedgerStore {
    api: Api<FabrikLedger>,
}

impl LedgerStore {
    pub fn new(client: Client) -> Self {
        Self {
            api: Api::all(client),
        }
    }

    pub async fn read(&self) -> Result<(Ledger, Version), LedgerError> {
        let object =
            self.api
                .get_opt(LEDGER_NAME)
                .await
                .map_err(|source| LedgerError::Kubernetes {
                    doing: "reading",
                    source,
                })?;
        let object = object.ok_or(LedgerError::Missing)?;
        Ok((decode(&object.spec)?, Version { object }))
    }

    /// The epoch of the leader that wrote last; 0 where none has written yet.
    pub async fn last_epoch(&self) -> Result<i64, LedgerError> {
        Ok(epoch_of(&self.read().await?.1.object))
    }

    /// Replaces what `version` is, and nothing else, as the leader of `epoch`.
    pub async fn write(
        &self,
        ledger: &Ledger,
        version: Version,
        epoch: i64,
    ) -> Result<Version, LedgerError> {
        let mut object = version.object;
        let found = epoch_of(&object);
        if found > epoch {
            return Err(LedgerError::Outdated { found, ours: epoch });
        }
        object.spec = replacement(&object.spec, ledger)?;
        object
            .annotations_mut()
            .insert(EPOCH_ANNOTATION.to_owned(), epoch.to_string());
        match self
            .api
            .replace(LEDGER_NAME, &PostParams::default(), &object)
            .await
        {
            Ok(object) => Ok(Version { object }),
            Err(error) => Err(match status_code(&error) {
                Some(409) => LedgerError::Conflict,
                Some(404) => LedgerError::Missing,
                _ => LedgerError::Kubernetes {
                    doing: "writing",
                    source: error,
                },
            }),
        }
    }

    /// Makes the ledger, or returns the one that is there.
    pub async fn create_if_absent(&self, ledger: &Ledger) -> Result<Ledger, LedgerError> {
        let object = FabrikLedger::new(LEDGER_NAME, encode(ledger)?);
        match self.api.create(&PostParams::default(), &object).await {
            Ok(object) => decode(&object.spec),
            Err(error) if status_code(&error) == Some(409) => Ok(self.read().await?.0),
            Err(source) => Err(LedgerError::Kubernetes {
                doing: "creating",
                source,
            }),
        }
    }
}

fn epoch_of(object: &FabrikLedger) -> i64 {
    let epoch = object.annotations().get(EPOCH_ANNOTATION);
    epoch.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn decode(spec: &FabrikLedgerSpec) -> Result<Ledger, LedgerError> {
    let schema = spec.content.get("schema").and_then(Value::as_u64);
    if let Some(found) = schema.filter(|&found| found > u64::from(SCHEMA)) {
        return Err(LedgerError::Newer { found });
    }
    serde_json::from_value(Value::Object(spec.content.clone())).map_err(|error| {
        LedgerError::Malformed {
            problem: error.to_string(),
        }
    })
}

fn encode(ledger: &Ledger) -> Result<FabrikLedgerSpec, LedgerError> {
    let malformed = |problem: String| LedgerError::Malformed { problem };
    let bytes = serde_json::to_vec(ledger)
        .map_err(|e| malformed(e.to_string()))?
        .len();
    if bytes > MAX_LEDGER_BYTES {
        return Err(LedgerError::TooLarge { bytes });
    }
    match serde_json::to_value(ledger) {
        Ok(Value::Object(content)) => Ok(FabrikLedgerSpec { content }),
        Ok(_) => Err(malformed("it is no object".to_owned())),
        Err(error) => Err(malformed(error.to_string())),
    }
}

/// `ledger` in the place of `before`, with what a newer fabrik of the same layout has added to `before` and this one does
/// not know: it leads again, and goes by it.
fn replacement(
    before: &FabrikLedgerSpec,
    ledger: &Ledger,
) -> Result<FabrikLedgerSpec, LedgerError> {
    let known = encode(&decode(before)?)?;
    let mut spec = encode(ledger)?;
    keep_unknown(&before.content, &known.content, &mut spec.content);
    Ok(spec)
}

/// Adds to `now` what is in `before` and not in `known`, which is all that this fabrik reads of `before`.
fn keep_unknown(before: &Fields, known: &Fields, now: &mut Fields) {
    for (key, value) in before {
        match (value, known.get(key), now.get_mut(key)) {
            (_, None, None) => drop(now.insert(key.clone(), value.clone())),
            (Value::Object(value), Some(Value::Object(known)), Some(Value::Object(now))) => {
                keep_unknown(value, known, now);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_newer_fabrik_has_added_stays_where_it_belongs() {
        let member = |name: &str| json!({"pool": "workers", "name": name, "server": 1, "uid": "u", "later": name});
        let mut spec = encode(&ledger()).unwrap();
        let members = json!({"abc234": member("w-1"), "abc235": member("w-2")});
        spec.content.insert("members".to_owned(), members);
        spec.content.insert("later".to_owned(), json!({"a": [1]}));
        let mut ledger = decode(&spec).unwrap();
        ledger.members.pop_last();
        ledger.next_intent = 7;
        let written = Value::Object(replacement(&spec, &ledger).unwrap().content);
        assert_eq!(written["later"], json!({"a": [1]}));
        assert_eq!(written["nextIntent"], 7);
        let member = &written["members"]["abc234"];
        assert_eq!(
            (&member["later"], &member["role"]),
            (&json!("w-1"), &json!("agent"))
        );
        assert_eq!(written["members"].as_object().unwrap().len(), 1);
    }

    /// `alarmed` was added without another layout, and the fabrik of before could not read a ledger with it.
    #[test]
    fn a_reason_of_a_newer_fabrik_is_read_and_stays() {
        let ticket = json!({"pool": "servers", "node": "s-1", "uid": "u", "server": 1, "at": "2026-11-21T22:00:00Z",
            "purpose": "leave", "reason": "later"});
        let mut spec = encode(&ledger()).unwrap();
        spec.content
            .insert("tickets".to_owned(), json!({"abc234": ticket}));
        let mut ledger = decode(&spec).unwrap();
        let leaves = ledger.tickets.values().next().unwrap().leave();
        assert_eq!(leaves, Some(fabrik_core::ledger::Reason::Unknown));
        ledger.next_intent = 7;
        let written = Value::Object(replacement(&spec, &ledger).unwrap().content);
        assert_eq!(written["tickets"]["abc234"], ticket);
        assert_eq!(written["nextIntent"], 7);
    }

    #[test]
    fn what_is_known_and_gone_does_not_come_back() {
        let mut ledger = ledger();
        ledger.admitted = serde_json::from_value(json!({
            "commit": "2f3a".repeat(10), "at": "2026-11-21T22:00:00Z", "kubernetes": "1.36.3+k3s1",
        }))
        .unwrap();
        let before = encode(&ledger).unwrap();
        ledger.admitted.as_mut().unwrap().kubernetes = None;
        assert_eq!(
            replacement(&before, &ledger).unwrap(),
            encode(&ledger).unwrap()
        );
    }

    fn ledger() -> Ledger {
        Ledger::new("abcdefgh01234567".parse().unwrap())
    }

    #[test]
    fn a_ledger_survives_the_trip() {
        assert_eq!(decode(&encode(&ledger()).unwrap()).unwrap(), ledger());
    }

    #[test]
    fn a_newer_schema_is_refused_although_it_would_read() {
        let mut spec = encode(&ledger()).unwrap();
        spec.content.insert("schema".to_owned(), json!(SCHEMA + 1));
        assert!(matches!(
            decode(&spec),
            Err(LedgerError::Newer { found: 2 })
        ));
    }

    #[test]
    fn a_ledger_that_no_object_can_hold_is_refused_before_it_is_sent() {
        let mut ledger = ledger();
        let event = fabrik_core::ledger::Event {
            at: jiff::Timestamp::UNIX_EPOCH,
            kind: fabrik_core::ledger::EventKind::Prune,
            subject: "x".repeat(MAX_LEDGER_BYTES),
            reason: String::new(),
        };
        ledger.history.push(event);
        assert!(matches!(encode(&ledger), Err(LedgerError::TooLarge { .. })));
    }
}
