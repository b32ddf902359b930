//! Kinds of which the cluster had none when they were last listed: what nobody wants and nobody has costs no request at each look.
//!
//! A client is made for each commit that comes into force, so what an earlier commit may have made is looked for again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Then it is looked again: a create whose reply was lost could have come late.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// By the path of the kind, when none was there.
#[derive(Default)]
pub struct Absent(Mutex<BTreeMap<&'static str, Instant>>);

impl Absent {
    pub fn is_known(&self, path: &'static str, now: Instant) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |at: &Instant| now.saturating_duration_since(*at) < LOOK_AGAIN;
        seen.get(path).is_some_and(is_fresh)
    }

    /// What a list has just shown.
    pub fn learn(&self, path: &'static str, there_are_some: bool, now: Instant) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if there_are_some {
            seen.remove(path);
        } else {
            seen.insert(path, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_there_is_not_looked_for_until_a_while_is_over_or_it_was_seen() {
        let (absent, now) = (Absent::default(), Instant::now());
        assert!(!absent.is_known("floating_ips", now));
        absent.learn("floating_ips", false, now);
        assert!(absent.is_known("floating_ips", now + LOOK_AGAIN / 2));
        assert!(!absent.is_known("load_balancers", now));
        assert!(!absent.is_known("floating_ips", now + LOOK_AGAIN));
        absent.learn("floating_ips", true, now);
        assert!(!absent.is_known("floating_ips", now));
    }
}
