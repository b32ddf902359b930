//! What a person hears first, and the conditions that say it in Kubernetes' way.

use std::collections::BTreeMap;

use fabrik_core::hold::HoldReason;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Facts, shown};
use crate::cluster::resources::{FabrikClusterStatus, PoolStatus, Units};

/// What a person hears first.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is the state of one condition"
)]
pub struct Verdict {
    ready: bool,
    reconciling: bool,
    stalled: bool,
    reason: &'static str,
    message: String,
    /// More than `message`, where one line is too short.
    details: Option<String>,
    /// The commit in force is carried out.
    pub applied: bool,
}

/// `rolled`: the nodes run what they should, and have the secrets for it.
pub fn judge(
    facts: &Facts,
    pools: &BTreeMap<String, PoolStatus>,
    units: &Units,
    rolled: bool,
) -> Verdict {
    let may_be_off = |pool: &str| {
        let mut pools = facts.desired.iter().flat_map(|d| &d.spec.pools);
        pools.any(|(name, settings)| name.as_str() == pool && settings.may_be_off)
    };
    let sized = pools.iter().all(|(name, p)| {
        p.leaving == 0 && (p.joining == 0 && p.ready == p.wanted || may_be_off(name))
    });
    let commit = facts.desired.as_ref().map(|d| &d.commit);
    let units_applied = facts.units.applied && facts.units.commit.as_ref() == commit;
    let applied = facts.idle && sized && units_applied && rolled;
    let healthy = units.ready == units.total;
    let of = |reason, message: String, reconciling, stalled| Verdict {
        ready: false,
        reconciling,
        stalled,
        reason,
        message,
        details: None,
        applied,
    };
    if let Some(reason) = &facts.paused {
        return of("Paused", format!("PAUSED: {reason}"), false, true);
    }
    if let Some(refusal) = &facts.refusal {
        let all = shown(&refusal.diagnostics);
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        let besides = facts.trouble.as_ref();
        let besides = besides.map(|trouble| format!("\nBesides, {trouble}"));
        let besides = besides.unwrap_or_default();
        let stays = format!("{} is refused, and what was in force stays", refusal.commit);
        // The faults themselves once: an object says its message in four places.
        let details = format!("{stays}:\n{}{besides}", all.join("\n"));
        let message = format!("{stays}: `fabrik status` says why{besides}");
        return Verdict {
            details: Some(details),
            ..of("Refused", message, false, true)
        };
    }
    if let Some(trouble) = &facts.trouble {
        return of("Trouble", trouble.clone(), true, false);
    }
    let Some(commit) = commit else {
        return of(
            "NoCommit",
            "no commit was admitted yet".to_owned(),
            true,
            false,
        );
    };
    if applied && healthy {
        let message = format!("{} is carried out", commit.short());
        return Verdict {
            ready: true,
            reconciling: false,
            stalled: false,
            reason: "Applied",
            message,
            details: None,
            applied,
        };
    }
    // What nobody can explain is rarely what the rest waits for.
    let explained = facts
        .holds
        .iter()
        .find(|h| h.reason != HoldReason::Unexplained);
    match explained.or(facts.holds.first()) {
        Some(hold) => of("Held", hold.to_string(), true, false),
        None => of(
            "Progressing",
            format!("{} is being carried out", commit.short()),
            true,
            false,
        ),
    }
}

impl Verdict {
    pub fn message(&self) -> String {
        shorten(&self.message)
    }

    /// What was so `before` keeps its time.
    pub fn conditions(
        &self,
        before: &FabrikClusterStatus,
        generation: Option<i64>,
        now: Timestamp,
    ) -> Vec<Condition> {
        let states = [
            ("Ready", self.ready),
            ("Reconciling", self.reconciling),
            ("Stalled", self.stalled),
        ];
        let condition = |(type_, state): (&str, bool)| {
            let status = if state { "True" } else { "False" };
            let details = self.details.as_ref().filter(|_| type_ == "Stalled");
            let same = before
                .conditions
                .iter()
                .find(|c| c.type_ == type_ && c.status == status);
            Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: self.reason.to_owned(),
                message: shorten(details.unwrap_or(&self.message)),
                observed_generation: generation,
                last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
            }
        };
        states.into_iter().map(condition).collect()
    }
}

/// A condition's message may have 32 KiB; the whole refusal is in `status.refused` as well.
fn shorten(message: &str) -> String {
    const MAX_CHARS: usize = 8000;
    message.chars().take(MAX_CHARS).collect()
}
