//! What the engine remembers of each wanted object, and when it is due.

use std::fmt;
use std::time::{Duration, Instant};

use fabrik_core::apply::Health;
use fabrik_core::diagnostic::Place;
use fabrik_core::id::UnitName;
use fabrik_core::manifest::Object;

use super::failure::Failure;
use super::live::Live;
use super::object::Sent;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);
/// A namespace usually comes soon: with another unit, or by a person's hand.
const NAMESPACE_RETRY: Duration = Duration::from_secs(5);
/// Put back so often within a minute is a fight.
const MAX_DRIFTS: u32 = 5;
const DRIFT_WINDOW: Duration = Duration::from_secs(60);

/// A wanted object.
#[derive(Debug)]
pub(super) struct Track {
    pub unit: UnitName,
    pub place: Place,
    /// The last version of it that the API server took from us.
    pub applied: Option<Applied>,
    pub health: Health,
    pub failed: Option<Failed>,
    /// What became of it since, where that is not to be.
    drifted: Option<Drift>,
    drifts: u32,
    window: Option<Instant>,
}

/// What somebody else did to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Drift {
    /// The last manager that is not us, where there is one.
    Changed(Option<String>),
    Gone,
}

#[derive(Debug)]
pub(super) struct Applied {
    pub digest: String,
    pub live: Live,
    unit: UnitName,
    at: Instant,
}

#[derive(Debug)]
pub(super) struct Failed {
    pub failure: Failure,
    pub retry_at: Instant,
    attempts: u32,
}

impl Track {
    pub fn new(unit: &UnitName, object: &Object) -> Self {
        Self {
            unit: unit.clone(),
            place: object.place.clone(),
            applied: None,
            health: Health::InProgress("is not applied yet".into()),
            failed: None,
            drifted: None,
            drifts: 0,
            window: None,
        }
    }

    /// A new commit wants this object: retries and fights start anew.
    pub fn renew(&mut self, unit: &UnitName, object: &Object) {
        self.unit = unit.clone();
        self.place = object.place.clone();
        self.failed = None;
        self.drifts = 0;
    }

    /// The live object is as its file says, as far as we know.
    pub fn is_applied(&self, digest: &str) -> bool {
        self.drifted.is_none() && self.was_applied(digest)
    }

    /// The API server took this version of it from us once, whatever became of it since.
    pub fn was_applied(&self, digest: &str) -> bool {
        let same = |a: &Applied| a.digest == digest && a.unit == self.unit;
        self.applied.as_ref().is_some_and(same)
    }

    pub fn is_due(&self, digest: &str, now: Instant) -> bool {
        let waits = self.failed.as_ref().is_some_and(|f| f.retry_at > now);
        !waits && !self.is_applied(digest)
    }

    /// What was put right by it, if anything was.
    pub fn sent(&mut self, digest: &str, sent: Sent) -> Option<Drift> {
        self.applied = Some(Applied {
            digest: digest.to_owned(),
            live: sent.live,
            unit: self.unit.clone(),
            at: Instant::now(),
        });
        self.health = sent.health;
        self.failed = None;
        self.drifted.take()
    }

    pub fn fail(&mut self, failure: Failure, now: Instant) {
        let attempts = self.failed.as_ref().map_or(0, |f| f.attempts);
        let wait = backoff(attempts, &failure);
        self.failed = Some(Failed {
            failure,
            retry_at: now + wait,
            attempts: attempts.saturating_add(1),
        });
    }

    /// What it waited for may be there now.
    pub fn retry_now(&mut self, now: Instant) {
        if let Some(failed) = &mut self.failed {
            failed.retry_at = now;
            failed.attempts = 0;
        }
    }

    /// A watch saw the object. True if only its health may have changed.
    pub fn seen(&mut self, live: Live, now: Instant) -> bool {
        let Some(applied) = &mut self.applied else {
            return false;
        };
        if live.version <= applied.live.version {
            return false;
        }
        if live.fingerprint == applied.live.fingerprint && live.uid == applied.live.uid {
            applied.live = live;
            return true;
        }
        applied.live.version = live.version;
        self.drift(Drift::Changed(live.other), now);
        false
    }

    /// A watch saw the object go, at this resource version.
    pub fn gone(&mut self, version: u64, now: Instant) {
        if self
            .applied
            .as_ref()
            .is_some_and(|a| version >= a.live.version)
        {
            self.drift(Drift::Gone, now);
        }
    }

    /// A list that was asked for at `since` does not have it.
    pub fn unlisted(&mut self, since: Instant, now: Instant) {
        if self.applied.as_ref().is_some_and(|a| a.at < since) {
            self.drift(Drift::Gone, now);
        }
    }

    fn drift(&mut self, drift: Drift, now: Instant) {
        if self.drifted.is_some() {
            return;
        }
        if self.window.is_none_or(|start| now - start > DRIFT_WINDOW) {
            self.window = Some(now);
            self.drifts = 0;
        }
        self.drifts += 1;
        if self.drifts > MAX_DRIFTS {
            let manager = drift.who().to_owned();
            self.failed = Some(Failed {
                failure: Failure::Fight { manager },
                retry_at: now + LAST_RETRY,
                attempts: 0,
            });
        }
        self.drifted = Some(drift);
    }
}

impl Drift {
    fn who(&self) -> &str {
        match self {
            Self::Changed(Some(manager)) => manager,
            Self::Changed(None) | Self::Gone => "somebody",
        }
    }
}

/// Completes "Deployment.apps/web/shop …".
impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed(_) => write!(f, "was changed by {} and is put back", self.who()),
            Self::Gone => f.write_str("was deleted and is made anew"),
        }
    }
}

fn backoff(attempts: u32, failure: &Failure) -> Duration {
    let longest = match failure {
        Failure::NamespaceMissing { .. } => NAMESPACE_RETRY,
        _ => LAST_RETRY,
    };
    doubling(attempts).min(longest)
}

/// 1 s, doubling to 5 min.
pub(super) fn doubling(attempts: u32) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(attempts));
    doubled.min(LAST_RETRY)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn track() -> Track {
        let object = Object {
            key: "Service/web/a".to_owned().try_into().unwrap(),
            api_version: "v1".into(),
            value: json!({}),
            place: Place::file("a.yaml"),
            digest: "1".into(),
            encrypted: false,
        };
        Track::new(&"web".parse().unwrap(), &object)
    }

    fn live(version: u64, fingerprint: u64) -> Live {
        Live {
            uid: "u".into(),
            version,
            fingerprint: Some(fingerprint),
            other: Some("kubectl-edit".into()),
        }
    }

    fn sent(version: u64) -> Sent {
        Sent {
            live: live(version, 7),
            health: Health::Current,
        }
    }

    #[test]
    fn an_object_is_due_until_it_is_applied_and_again_with_another_digest_or_unit() {
        let (mut track, now) = (track(), Instant::now());
        assert!(track.is_due("1", now));
        track.sent("1", sent(10));
        assert!(!track.is_due("1", now));
        assert!(track.is_due("2", now));
        track.unit = "other".parse().unwrap();
        assert!(track.is_due("1", now), "its label must change");
    }

    #[test]
    fn only_a_later_change_of_our_fields_is_drift() {
        let (mut track, now) = (track(), Instant::now());
        track.sent("1", sent(10));
        assert!(
            !track.seen(live(9, 5), now),
            "a late event from before our write"
        );
        assert!(!track.is_due("1", now));
        assert!(track.seen(live(11, 7), now), "only its status");
        assert!(!track.is_due("1", now));
        assert!(!track.seen(live(12, 8), now));
        assert!(track.is_due("1", now));
        let drift = track.sent("1", sent(13)).unwrap();
        let told = "was changed by kubectl-edit and is put back";
        assert_eq!(drift.to_string(), told);
        assert_eq!(track.sent("2", sent(14)), None, "a new commit is no drift");
    }

    #[test]
    fn an_object_that_goes_away_is_due_again() {
        let (mut track, now) = (track(), Instant::now());
        track.sent("1", sent(10));
        track.gone(9, now);
        assert!(!track.is_due("1", now), "deleted before we made it anew");
        track.unlisted(now.checked_sub(SECOND).unwrap(), now);
        assert!(!track.is_due("1", now), "listed before we made it");
        track.gone(11, now);
        assert!(track.is_due("1", now));
        track.sent("1", sent(12));
        track.unlisted(Instant::now() + SECOND, now);
        assert!(track.is_due("1", now));
    }

    #[test]
    fn a_fight_is_reported_and_not_fought_until_a_new_commit() {
        let (mut track, now) = (track(), Instant::now());
        track.sent("1", sent(10));
        for round in 0..5 {
            track.seen(live(11 + round * 2, 100 + round), now);
            assert!(track.is_due("1", now), "round {round}");
            track.sent("1", sent(12 + round * 2));
        }
        track.seen(live(50, 99), now);
        assert!(!track.is_due("1", now));
        let failure = &track.failed.as_ref().unwrap().failure;
        let manager = "kubectl-edit".to_owned();
        assert_eq!(*failure, Failure::Fight { manager });
        assert!(track.is_due("1", now + LAST_RETRY));
    }

    #[test]
    fn retries_back_off_from_a_second_to_five_minutes() {
        let (mut track, now) = (track(), Instant::now());
        let refused = || Failure::Refused {
            message: "no".into(),
        };
        let mut waits = Vec::new();
        for _ in 0..11 {
            track.fail(refused(), now);
            waits.push((track.failed.as_ref().unwrap().retry_at - now).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert!(!track.is_due("1", now));
        track.retry_now(now);
        assert!(track.is_due("1", now));
        for _ in 0..9 {
            let namespace = "web".to_owned();
            track.fail(Failure::NamespaceMissing { namespace }, now);
        }
        assert_eq!(track.failed.as_ref().unwrap().retry_at - now, 5 * SECOND);
    }
}
