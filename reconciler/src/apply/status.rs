//! How a unit is, as `FabrikUnit` shows it: kstatus conditions, counts, errors.

use fabrik_core::apply::Health;
use fabrik_core::desired::ObjectKey;
use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::UnitName;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::UnitReport;
use super::failure::Failure;

/// An object holds some hundred bytes of errors at most so many times; the log and the report have all.
const MAX_STORED_ERRORS: usize = 50;

/// Where a unit stands, from the worst to the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Something needs a person.
    Stalled,
    /// Held, or on its way.
    Reconciling,
    Ready,
}

pub(super) fn standing(report: &UnitReport, pending: usize) -> Standing {
    if !report.errors.is_empty() {
        Standing::Stalled
    } else if !report.holds.is_empty() || pending > 0 || report.ready < report.objects {
        Standing::Reconciling
    } else {
        Standing::Ready
    }
}

/// The status without inventory and commit. Times of conditions that did not change are taken from `before`.
pub(super) fn render(report: &UnitReport, pending: usize, before: &Value, now: Timestamp) -> Value {
    let standing = standing(report, pending);
    let message = message(report, pending);
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        let reason = match standing {
            Standing::Ready => "Applied",
            Standing::Reconciling => "InProgress",
            Standing::Stalled => "Failed",
        };
        json!({"type": kind, "status": status, "reason": reason, "message": message,
               "lastTransitionTime": since(before, kind, status, now)})
    };
    let conditions = [
        condition("Ready", standing == Standing::Ready),
        condition("Reconciling", standing == Standing::Reconciling),
        condition("Stalled", standing == Standing::Stalled),
    ];
    let errors = report.errors.iter().take(MAX_STORED_ERRORS);
    let errors: Vec<String> = errors.map(ToString::to_string).collect();
    json!({
        "conditions": conditions,
        "objects": report.objects,
        "ready": report.ready,
        "errors": errors,
    })
}

/// What a failing or unhealthy object is for the report: a hold where somebody else must act or time may help, an error
/// where a file is wrong.
pub(super) fn tell(
    failure: &Failure,
    object: &ObjectKey,
    diagnostic: Diagnostic,
    report: &mut UnitReport,
) {
    match failure {
        Failure::Conflict { .. } | Failure::Fight { .. } => report.holds.push(Hold {
            about: object.to_string(),
            reason: HoldReason::Conflict,
            message: format!("{}. {}", failure, failure.remedy()),
        }),
        Failure::Unreachable { .. } | Failure::NotServed { .. } => report.holds.push(Hold {
            about: object.to_string(),
            reason: HoldReason::Unhealthy,
            message: format!("{failure}. It is tried again, less and less often"),
        }),
        _ => report.errors.push(diagnostic),
    }
}

impl UnitReport {
    /// What the cluster's status says of this unit's errors. All of them are in the unit's own.
    pub fn failing(&self, unit: &UnitName) -> Option<Hold> {
        let first = self.errors.first()?;
        let count = match self.errors.len() {
            1 => "an object is".to_owned(),
            more => format!("{more} objects are"),
        };
        Some(Hold {
            about: format!("unit {unit}"),
            reason: HoldReason::Unhealthy,
            message: format!(
                "{count} not as wanted: {}: {}: {}. {}",
                first.place, first.object, first.problem, first.remedy
            ),
        })
    }
}

pub(super) fn unhealthy(health: &Health, object: &ObjectKey) -> Option<Hold> {
    let message = match health {
        Health::Current => return None,
        Health::InProgress(why) => format!("is not ready yet: {why}"),
        Health::Failed(why) => format!("has failed: {why}"),
    };
    Some(Hold {
        about: object.to_string(),
        reason: HoldReason::Unhealthy,
        message,
    })
}

fn message(report: &UnitReport, pending: usize) -> String {
    let UnitReport { ready, objects, .. } = report;
    if let Some(error) = report.errors.first() {
        let more = match report.errors.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more errors)"),
        };
        return format!("{}: {}: {}{more}", error.place, error.object, error.problem);
    }
    if let Some(hold) = report.holds.first() {
        return hold.to_string();
    }
    if pending > 0 {
        return format!("{pending} objects are still to be applied or pruned");
    }
    format!("{ready} of {objects} objects are ready")
}

fn since(before: &Value, kind: &str, status: &str, now: Timestamp) -> Value {
    let conditions = before["conditions"].as_array();
    let same = |c: &&Value| c["type"] == kind && c["status"] == status;
    let old = conditions.and_then(|list| list.iter().find(same));
    match old.map(|c| &c["lastTransitionTime"]) {
        Some(time) if time.is_string() => time.clone(),
        // Kubernetes' times have no fractions of a second.
        _ => json!(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
    }
}

#[cfg(test)]
mod tests {
    use fabrik_core::diagnostic::Place;

    use super::*;

    fn report(objects: usize, ready: usize) -> UnitReport {
        UnitReport {
            objects,
            ready,
            ..UnitReport::default()
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn exactly_one_condition_is_true() {
        let mut failing = report(2, 1);
        failing.errors.push(Diagnostic {
            place: Place::at("manifests/web/a.yaml", 3, 1),
            object: "Service/web/a".into(),
            problem: "no".into(),
            remedy: "correct it".into(),
        });
        let table = [
            (report(2, 2), 0, "Ready", "2 of 2 objects are ready"),
            (report(2, 1), 0, "Reconciling", "1 of 2 objects are ready"),
            (
                report(2, 2),
                1,
                "Reconciling",
                "1 objects are still to be applied or pruned",
            ),
            (
                failing,
                0,
                "Stalled",
                "manifests/web/a.yaml:3:1: Service/web/a: no",
            ),
        ];
        for (report, pending, expected, message) in table {
            let status = render(&report, pending, &Value::Null, at("2026-01-01T00:00:00Z"));
            let conditions = status["conditions"].as_array().unwrap();
            let held: Vec<_> = conditions
                .iter()
                .filter(|c| c["status"] == "True")
                .collect();
            assert_eq!(held.len(), 1, "{status}");
            assert_eq!(held[0]["type"], expected);
            assert_eq!(held[0]["message"], message);
        }
    }

    #[test]
    fn an_api_server_that_is_busy_does_not_stall_a_unit() {
        let object = ObjectKey::try_from("Service/web/a".to_owned()).unwrap();
        let message = || "etcd is slow".to_owned();
        let table = [
            (
                Failure::Unreachable { message: message() },
                Standing::Reconciling,
            ),
            (Failure::Refused { message: message() }, Standing::Stalled),
        ];
        assert_eq!(report(1, 0).failing(&"web".parse().unwrap()), None);
        for (failure, expected) in table {
            let mut told = report(1, 0);
            let diagnostic = failure.diagnostic(&object, Place::file("manifests/web/a.yaml"));
            tell(&failure, &object, diagnostic, &mut told);
            assert_eq!(standing(&told, 1), expected, "{failure}");
            let stalled = expected == Standing::Stalled;
            let hold = told.failing(&"web".parse().unwrap());
            assert_eq!(hold.is_some(), stalled, "{hold:?}");
        }
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_changes() {
        let first = render(&report(1, 0), 0, &Value::Null, at("2026-01-01T00:00:00.5Z"));
        let again = render(&report(1, 0), 0, &first, at("2026-01-01T00:01:00Z"));
        assert_eq!(first, again);
        let ready = render(&report(1, 1), 0, &again, at("2026-01-01T00:02:00Z"));
        assert_eq!(
            ready["conditions"][0]["lastTransitionTime"],
            "2026-01-01T00:02:00Z"
        );
        assert_eq!(
            ready["conditions"][2]["lastTransitionTime"],
            "2026-01-01T00:00:00Z"
        );
    }
}
