//! When the next pass is due, and how long something that failed is left alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fabrik_core::hold::HoldReason;
use jiff::Timestamp;

/// A pass while something is under way and Hetzner's rate limit has room.
const BUSY: Duration = Duration::from_millis(750);
/// The same with less than half of the limit left.
const BUSY_SPARING: Duration = Duration::from_secs(4);
/// The same with less than a quarter left.
const BUSY_STARVED: Duration = Duration::from_secs(10);
/// From pass to pass where news come and Hetzner need not be asked.
const NEWS: Duration = Duration::from_millis(200);
/// How long a look at Hetzner counts where nothing comes, goes or is begun with.
pub const HETZNER_COUNTS: Duration = Duration::from_secs(10);
/// A pass while nothing is under way: drift at Hetzner is seen this late.
const IDLE: Duration = Duration::from_secs(60);

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// How long to wait before the next pass where nothing happens, and how long it is from the beginning of a pass to that
/// of the next one in any case. `remaining` is the share of Hetzner's rate limit that is left, 0 to 1.
pub fn until_next_pass(
    busy: bool,
    asks_hetzner: bool,
    remaining: Option<f64>,
) -> (Duration, Duration) {
    let least = self::busy(remaining);
    match (busy, asks_hetzner) {
        (false, _) => (IDLE, least),
        (true, true) => (least, least),
        (true, false) => (BUSY, NEWS),
    }
}

/// How long it is until the first of `since` that is not `span` ago will be; for ever, where all are.
pub fn until_over(
    since: impl Iterator<Item = Timestamp>,
    span: Duration,
    now: Timestamp,
) -> Duration {
    let left = since.filter_map(|since| {
        // A clock that jumped back has nothing behind it.
        let been = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        span.checked_sub(been).filter(|left| !left.is_zero())
    });
    left.min().unwrap_or(Duration::MAX)
}

/// How often Hetzner may be asked.
pub fn busy(remaining: Option<f64>) -> Duration {
    match remaining {
        Some(share) if share < 0.25 => BUSY_STARVED,
        Some(share) if share < 0.5 => BUSY_SPARING,
        _ => BUSY,
    }
}

/// What failed, how often in a row, and when it may be tried again. Lost with the process: a restart tries at once.
#[derive(Debug, Default)]
pub struct Backoff(BTreeMap<String, Failure>);

#[derive(Debug)]
struct Failure {
    delay: Duration,
    not_before: Instant,
    reason: HoldReason,
    message: String,
}

impl Backoff {
    /// Why `what` is not tried now, if it is not.
    pub fn resting(&self, what: &str, now: Instant) -> Option<(HoldReason, &str)> {
        let failure = self.0.get(what).filter(|f| now < f.not_before)?;
        Some((failure.reason, &failure.message))
    }

    /// Notes a failure; each one in a row doubles the delay.
    pub fn failed(&mut self, what: &str, reason: HoldReason, message: &str, now: Instant) {
        let delay = self
            .0
            .get(what)
            .map_or(FIRST_BACKOFF, |f| (f.delay * 2).min(MAX_BACKOFF));
        let failure = Failure {
            delay,
            not_before: now + delay,
            reason,
            message: message.to_owned(),
        };
        self.0.insert(what.to_owned(), failure);
    }

    pub fn succeeded(&mut self, what: &str) {
        self.0.remove(what);
    }

    /// Forgets everything: another commit is in force, or a person asks for a pass now.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_rarer_the_less_of_the_rate_limit_is_left() {
        let pause = |busy, left| until_next_pass(busy, true, Some(left)).0;
        let rarer = [1.0, 0.4, 0.1].map(|left| pause(true, left));
        assert!(rarer.is_sorted());
        assert!(pause(false, 1.0) > rarer[2]);
    }

    #[test]
    fn passes_that_do_not_ask_hetzner_are_as_frequent_as_ever_where_its_rate_limit_is_used_up() {
        let least = |asks, left| until_next_pass(true, asks, Some(left)).1;
        assert_eq!(least(false, 0.1), least(false, 1.0));
        assert!(least(false, 0.1) < least(true, 1.0));
    }

    #[test]
    fn the_next_soak_that_ends_is_waited_for_and_those_that_are_over_are_not() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let ago = |secs: i64| now - jiff::SignedDuration::from_secs(secs);
        let soak = Duration::from_secs(30);
        let until = |secs: &[i64]| until_over(secs.iter().map(|s| ago(*s)), soak, now);
        assert_eq!(until(&[10, 25, 30, 31]), Duration::from_secs(5));
        assert_eq!(until(&[30, 40]), Duration::MAX);
        assert_eq!(until(&[-5]), soak);
    }

    #[test]
    fn each_failure_in_a_row_doubles_the_rest_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        for _ in 0..3 {
            backoff.failed("create-server a", HoldReason::OutOfStock, "no stock", start);
        }
        assert_eq!(
            backoff.resting("create-server a", start + Duration::from_secs(3)),
            Some((HoldReason::OutOfStock, "no stock"))
        );
        assert_eq!(
            backoff.resting("create-server a", start + Duration::from_secs(4)),
            None
        );
        for _ in 0..20 {
            backoff.failed("create-server a", HoldReason::OutOfStock, "no stock", start);
        }
        assert_eq!(
            backoff.resting("create-server a", start + MAX_BACKOFF),
            None
        );
        backoff.succeeded("create-server a");
        assert_eq!(backoff.resting("create-server a", start), None);
    }
}
