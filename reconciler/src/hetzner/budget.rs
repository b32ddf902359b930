//! The project's requests of the hour: as few are left, reading slows down and then stops, so that what must be
//! done can still be done. Others may use the same project; only Hetzner's headers know.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::header::HeaderMap;

/// Below this share of the limit reads come no faster than requests are refilled.
const SLOW_BELOW_PERCENT: u64 = 10;
/// Below this share of the limit nothing is read but what a write needs.
const RESERVE_PERCENT: u64 = 2;

/// What the last answer said, by `RateLimit-Limit`, `-Remaining` and `-Reset` (unix seconds: the bucket is full then).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub limit: u64,
    pub remaining: u64,
    pub at: Timestamp,
    pub full_at: Timestamp,
}

/// What a read may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Go,
    Wait(Duration),
    /// Only the reserve for writes is left.
    Refuse {
        until: Timestamp,
    },
}

/// Gives out the turns of one client's reads.
#[derive(Debug, Default)]
pub struct Pacer(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    budget: Option<Budget>,
    next_turn: Option<Timestamp>,
}

impl Budget {
    pub fn of(headers: &HeaderMap, at: Timestamp) -> Option<Self> {
        let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
        let reset = i64::try_from(number("ratelimit-reset")?).ok()?;
        Some(Self {
            limit: number("ratelimit-limit")?,
            remaining: number("ratelimit-remaining")?,
            at,
            full_at: Timestamp::from_second(reset).ok()?,
        })
    }

    /// How long one request takes to come back.
    pub fn refill(&self) -> SignedDuration {
        let missing = i32::try_from(self.limit.saturating_sub(self.remaining)).unwrap_or(i32::MAX);
        let whole = self
            .full_at
            .duration_since(self.at)
            .max(SignedDuration::ZERO);
        if missing == 0 {
            SignedDuration::ZERO
        } else {
            whole / missing
        }
    }

    /// What is left at `now`, if nobody else has used any.
    fn remaining_at(&self, now: Timestamp) -> u64 {
        let refill = self.refill().as_millis();
        let passed = now.duration_since(self.at).as_millis().max(0);
        let back = match passed.checked_div(refill) {
            Some(count) => u64::try_from(count).unwrap_or(0),
            None => self.limit,
        };
        self.remaining.saturating_add(back).min(self.limit)
    }

    fn share(&self, percent: u64) -> u64 {
        self.limit.saturating_mul(percent) / 100
    }
}

impl Pacer {
    pub fn learn(&self, budget: Budget) {
        self.lock().budget = Some(budget);
    }

    /// The share of the limit that is left, from 0 to 1; `None` before the first answer.
    #[allow(
        clippy::cast_precision_loss,
        reason = "a share needs no more than a few digits"
    )]
    pub fn remaining_share(&self, now: Timestamp) -> Option<f64> {
        let budget = self.lock().budget?;
        Some(budget.remaining_at(now) as f64 / budget.limit.max(1) as f64)
    }

    /// The turn of a read that wants to start at `now`.
    pub fn turn(&self, now: Timestamp) -> Pace {
        let mut state = self.lock();
        let Some(budget) = state.budget else {
            return Pace::Go;
        };
        let left = budget.remaining_at(now);
        let reserve = budget.share(RESERVE_PERCENT);
        if left >= budget.share(SLOW_BELOW_PERCENT) {
            state.next_turn = None;
            return Pace::Go;
        }
        if left < reserve {
            let short = i32::try_from(reserve - left).unwrap_or(i32::MAX);
            let until = now.saturating_add(budget.refill().saturating_mul(short));
            return Pace::Refuse {
                until: until.unwrap_or(budget.full_at),
            };
        }
        let turn = state.next_turn.map_or(now, |next| next.max(now));
        state.next_turn = turn.saturating_add(budget.refill()).ok();
        match Duration::try_from(turn.duration_since(now)) {
            Ok(wait) if !wait.is_zero() => Pace::Wait(wait),
            _ => Pace::Go,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURLY: u64 = 3600;

    fn noon() -> Timestamp {
        "2026-01-01T12:00:00Z".parse().unwrap()
    }

    /// Hetzner's own bucket: 3600 an hour, one back each second.
    fn left(remaining: u64) -> Pacer {
        let pacer = Pacer::default();
        let missing = i64::try_from(HOURLY - remaining).unwrap();
        pacer.learn(Budget {
            limit: HOURLY,
            remaining,
            at: noon(),
            full_at: noon() + SignedDuration::from_secs(missing),
        });
        pacer
    }

    #[test]
    fn with_plenty_left_a_read_goes_at_once() {
        assert_eq!(Pacer::default().turn(noon()), Pace::Go);
        let pacer = left(360);
        assert_eq!(pacer.turn(noon()), Pace::Go);
        assert_eq!(pacer.turn(noon()), Pace::Go);
    }

    #[test]
    fn with_few_left_reads_take_turns_as_requests_come_back() {
        let pacer = left(300);
        let turns: Vec<_> = (0..3).map(|_| pacer.turn(noon())).collect();
        let wait = |secs| Pace::Wait(Duration::from_secs(secs));
        assert_eq!(turns, [Pace::Go, wait(1), wait(2)]);
    }

    #[test]
    fn the_reserve_is_for_writes_and_reading_goes_on_when_it_is_refilled() {
        let pacer = left(70);
        let until = noon() + SignedDuration::from_secs(2);
        assert_eq!(pacer.turn(noon()), Pace::Refuse { until });
        assert_eq!(pacer.turn(until), Pace::Go);
    }

    #[test]
    fn an_old_header_is_not_held_against_a_bucket_that_has_refilled() {
        let later = noon() + SignedDuration::from_secs(400);
        assert_eq!(left(0).turn(later), Pace::Go);
    }

    #[test]
    fn headers_that_make_no_sense_say_nothing() {
        let mut headers = HeaderMap::new();
        assert_eq!(Budget::of(&headers, noon()), None);
        for (name, value) in [
            ("ratelimit-limit", "3600"),
            ("ratelimit-remaining", "-1"),
            ("ratelimit-reset", "1767268800"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        assert_eq!(Budget::of(&headers, noon()), None);
        headers.insert("ratelimit-remaining", "7".parse().unwrap());
        assert_eq!(Budget::of(&headers, noon()).map(|b| b.remaining), Some(7));
    }
}
