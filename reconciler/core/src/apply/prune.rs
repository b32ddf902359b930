//! What may be deleted: guards against a mistake that a commit makes or that we make.

use jiff::Timestamp;

use crate::desired::ObjectKey;
use crate::hold::{Hold, HoldReason, goes_on};
use crate::id::UnitName;
use crate::ledger::{EventKind, Ledger};
use crate::manifest::own;
use crate::names::{PRUNE_ANNOTATION, UNIT_LABEL};
use crate::spec::Limits;

use super::order::{Stage, stage};

/// An object that is live, bears its unit's label, and is no longer wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub object: ObjectKey,
    /// The live object is annotated `fabrik.dev/prune=confirm`.
    pub confirmed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruning {
    /// May be deleted, as far as the hour's allowance goes.
    pub allowed: Vec<ObjectKey>,
    pub holds: Vec<Hold>,
}

/// Sorts the candidates of one unit into what may go and what is held. `unseen` others were not looked at: they may be
/// live, so they count, or a commit that removes too much would go through piece by piece.
pub fn prune(unit: &UnitName, candidates: &[Candidate], unseen: usize, limits: &Limits) -> Pruning {
    let max = usize::try_from(limits.max_prune).unwrap_or(usize::MAX);
    if candidates.len() + unseen > max {
        return Pruning {
            allowed: Vec::new(),
            holds: vec![too_many(unit, candidates.len(), unseen, max)],
        };
    }
    let mut pruning = Pruning::default();
    for Candidate { object, confirmed } in candidates {
        if own::objection(object).is_some() {
            pruning.holds.push(own_part(object));
        } else if is_protected(object) && !confirmed {
            pruning.holds.push(protected(object));
        } else {
            pruning.allowed.push(object.clone());
        }
    }
    pruning
}

/// Whether pruning `candidate` waits for `missing`, an object of its unit that was never applied as it is wanted now: what
/// replaces an object should be there before the object goes. A webhook waits for webhooks alone, because it may itself
/// be what refuses all others.
pub fn waits_for(candidate: &ObjectKey, missing: &ObjectKey) -> bool {
    stage(candidate) != Stage::Webhooks || stage(missing) == Stage::Webhooks
}

/// Says that `waiting` prunes wait until `missing` is applied.
pub fn waiting(unit: &UnitName, waiting: usize, missing: &ObjectKey) -> Hold {
    Hold {
        about: format!("unit {unit}"),
        reason: HoldReason::PruneGuard,
        message: format!(
            "{waiting} objects wait to be pruned until {missing} is applied, which may replace them. If they are what \
             keeps it from being applied, take it out of the repository until they are gone"
        ),
    }
}

/// How many more objects may be pruned within an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowance {
    pub count: usize,
    /// When it will be more, where it is none.
    pub more_at: Option<Timestamp>,
}

/// What is left of the hour that ends `now`.
pub fn allowance(ledger: &Ledger, limits: &Limits, now: Timestamp) -> Allowance {
    let per_hour = usize::try_from(limits.prunes_per_hour).unwrap_or(usize::MAX);
    Allowance {
        count: per_hour.saturating_sub(ledger.count_last_hour(EventKind::Prune, now)),
        more_at: ledger.room_at(EventKind::Prune, per_hour, now),
    }
}

/// Says that `waiting` prunes wait until the hour's allowance has room.
pub fn throttled(
    unit: &UnitName,
    waiting: usize,
    limits: &Limits,
    more_at: Option<Timestamp>,
) -> Hold {
    Hold {
        about: format!("unit {unit}"),
        reason: HoldReason::Throttled,
        message: format!(
            "{waiting} objects wait to be pruned: [limits] prunes-per-hour is {} and is used up{}",
            limits.prunes_per_hour,
            goes_on(more_at)
        ),
    }
}

/// Kinds whose deletion takes other objects or data with it.
pub fn is_protected(object: &ObjectKey) -> bool {
    let kind = (object.group.as_str(), object.kind.as_str());
    matches!(
        kind,
        (
            "",
            "Namespace" | "PersistentVolume" | "PersistentVolumeClaim"
        ) | ("apiextensions.k8s.io", "CustomResourceDefinition")
    )
}

fn too_many(unit: &UnitName, live: usize, unseen: usize, max: usize) -> Hold {
    let count = live + unseen;
    let unseen = match unseen {
        0 => String::new(),
        unseen => format!(" ({unseen} of them not seen yet)"),
    };
    Hold {
        about: format!("unit {unit}"),
        reason: HoldReason::PruneGuard,
        message: format!(
            "{count} objects would be pruned{unseen}, and `max-prune` allows {max}; nothing of the unit is pruned. \
             Put them back, remove them in smaller steps, or raise `max-prune` in cluster.toml"
        ),
    }
}

fn own_part(object: &ObjectKey) -> Hold {
    Hold {
        about: object.to_string(),
        reason: HoldReason::PruneGuard,
        message: format!(
            "is no longer in the repository and is kept, because fabrik itself is made of it. To have it forgotten, \
             take the label {UNIT_LABEL} off it"
        ),
    }
}

fn protected(object: &ObjectKey) -> Hold {
    Hold {
        about: object.to_string(),
        reason: HoldReason::PruneGuard,
        message: format!(
            "is no longer in the repository and is kept, because deleting a {} takes other things with it. \
             To let it go, annotate it with {PRUNE_ANNOTATION}=confirm",
            object.kind
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(key: &str, confirmed: bool) -> Candidate {
        let object = ObjectKey::try_from(key.to_owned()).unwrap();
        Candidate { object, confirmed }
    }

    fn limits(max_prune: u32) -> Limits {
        Limits {
            max_prune,
            ..Limits::default()
        }
    }

    #[test]
    fn protected_kinds_stay_until_a_person_confirms() {
        let unit = "web".parse().unwrap();
        let live = [
            candidate("Service/web/a", false),
            candidate("Namespace//web", false),
            candidate("PersistentVolumeClaim/web/data", true),
            candidate("CustomResourceDefinition.apiextensions.k8s.io//a.b", false),
            candidate("PersistentVolume//data", false),
            candidate("ClusterRole.rbac.authorization.k8s.io//fabrik-leader", true),
        ];
        let verdict = prune(&unit, &live, 0, &limits(25));
        let allowed: Vec<_> = verdict.allowed.iter().map(ToString::to_string).collect();
        assert_eq!(allowed, ["Service/web/a", "PersistentVolumeClaim/web/data"]);
        assert_eq!(verdict.holds.len(), 4);
        assert!(
            verdict
                .holds
                .iter()
                .all(|h| h.reason == HoldReason::PruneGuard)
        );
        assert!(
            verdict.holds[0]
                .message
                .contains("fabrik.dev/prune=confirm")
        );
    }

    #[test]
    fn one_object_too_many_holds_the_whole_unit() {
        let unit = "web".parse().unwrap();
        let live = [
            candidate("Service/web/a", false),
            candidate("Service/web/b", false),
        ];
        assert_eq!(prune(&unit, &live, 0, &limits(2)).allowed.len(), 2);
        let verdict = prune(&unit, &live, 0, &limits(1));
        assert!(verdict.allowed.is_empty());
        assert_eq!(verdict.holds.len(), 1);
        assert_eq!(verdict.holds[0].about, "unit web");
        assert!(
            verdict.holds[0]
                .message
                .contains("2 objects would be pruned")
        );
    }

    #[test]
    fn what_was_not_looked_at_counts_as_live() {
        let unit = "web".parse().unwrap();
        let live = [candidate("Service/web/a", false)];
        assert_eq!(prune(&unit, &live, 1, &limits(2)).allowed.len(), 1);
        let verdict = prune(&unit, &live, 2, &limits(2));
        assert!(verdict.allowed.is_empty());
        let said = "3 objects would be pruned (2 of them not seen yet)";
        assert!(
            verdict.holds[0].message.contains(said),
            "{:?}",
            verdict.holds
        );
    }

    #[test]
    fn prunes_wait_for_what_may_replace_them_but_a_webhook_for_webhooks_alone() {
        let webhook = "ValidatingWebhookConfiguration.admissionregistration.k8s.io//w";
        let table = [
            ("Service/web/a", "Service/web/b", true),
            ("Service/web/a", webhook, true),
            (webhook, "Service/web/b", false),
            (webhook, webhook, true),
        ];
        for (pruned, missing, expected) in table {
            let key = |text: &str| ObjectKey::try_from(text.to_owned()).unwrap();
            let waits = waits_for(&key(pruned), &key(missing));
            assert_eq!(waits, expected, "{pruned} for {missing}");
        }
    }

    #[test]
    fn the_hour_s_allowance_shrinks_with_each_recorded_prune_and_comes_back() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut ledger = Ledger::new("abcdefghijklmnop".parse().unwrap());
        let limits = Limits {
            prunes_per_hour: 2,
            ..Limits::default()
        };
        let prune = crate::ledger::Change::Prune {
            subject: "Service/web/a".into(),
            reason: "not wanted".into(),
        };
        assert_eq!(allowance(&ledger, &limits, start).count, 2);
        ledger.apply(&prune, start);
        assert_eq!(allowance(&ledger, &limits, start).count, 1);
        ledger.apply(&prune, start);
        ledger.apply(&prune, start);
        assert_eq!(allowance(&ledger, &limits, start).count, 0);
        let later = start + jiff::SignedDuration::from_mins(61);
        assert_eq!(allowance(&ledger, &limits, later).count, 2);
    }
}
