//! The request budget of the project: a bucket that fills again with time.

use jiff::Timestamp;

use crate::settings::RateLimit;

#[derive(Debug)]
pub struct Bucket {
    left: f64,
    as_of: Timestamp,
}

/// What the `RateLimit-*` headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub limit: u32,
    pub remaining: u32,
    /// Unix time at which the bucket is full again.
    pub reset: i64,
    /// Whether this request found something in the bucket.
    pub granted: bool,
}

impl Bucket {
    pub fn full(rules: RateLimit, now: Timestamp) -> Self {
        Self {
            left: f64::from(rules.limit),
            as_of: now,
        }
    }

    pub fn set(&mut self, remaining: u32, now: Timestamp) {
        *self = Self {
            left: f64::from(remaining),
            as_of: now,
        };
    }

    /// Takes one request out of the bucket, if there is one.
    pub fn take(&mut self, rules: RateLimit, now: Timestamp) -> Budget {
        self.refill(rules, now);
        let granted = self.left >= 1.0;
        if granted {
            self.left -= 1.0;
        }
        let missing = f64::from(rules.limit) - self.left;
        let wait = if rules.refill_per_second > 0.0 {
            (missing / rules.refill_per_second).ceil()
        } else {
            3600.0
        };
        Budget {
            limit: rules.limit,
            remaining: whole(self.left),
            reset: now.as_second() + i64::from(whole(wait)),
            granted,
        }
    }

    pub fn remaining(&mut self, rules: RateLimit, now: Timestamp) -> u32 {
        self.refill(rules, now);
        whole(self.left)
    }

    fn refill(&mut self, rules: RateLimit, now: Timestamp) {
        let passed = now.duration_since(self.as_of).as_secs_f64().max(0.0);
        let filled = self.left + passed * rules.refill_per_second;
        *self = Self {
            left: filled.min(f64::from(rules.limit)),
            as_of: now,
        };
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped before"
)]
fn whole(number: f64) -> u32 {
    number.floor().clamp(0.0, f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn an_empty_bucket_refuses_until_a_request_has_come_back() {
        let start = Timestamp::UNIX_EPOCH;
        let rules = RateLimit {
            limit: 2,
            refill_per_second: 1.0,
        };
        let mut bucket = Bucket::full(rules, start);
        assert!(bucket.take(rules, start).granted);
        let last = bucket.take(rules, start);
        assert_eq!(
            last,
            Budget {
                limit: 2,
                remaining: 0,
                reset: 2,
                granted: true
            }
        );
        assert!(!bucket.take(rules, start).granted);
        assert!(
            !bucket
                .take(rules, start + SignedDuration::from_millis(900))
                .granted
        );
        assert!(
            bucket
                .take(rules, start + SignedDuration::from_millis(1100))
                .granted
        );
    }
}
