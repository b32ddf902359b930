//! Maintenance windows: when a rollout may begin a step, and whether that step can end inside the window.
//!
//! Zones come from the database that is compiled in, so that every server reads a window alike.

use std::str::FromStr;
use std::time::Duration;

use croner::Cron;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How long a window may be: a longer one says nothing.
const MAX_LENGTH: Duration = Duration::from_secs(7 * 24 * 3600);

/// Opens whenever `start` fires in `zone`, and stays open for `length`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// Five fields of cron (POSIX): minute, hour, day of month, month, day of week.
    pub start: String,
    pub length: Duration,
    /// An IANA name, `Europe/Berlin` for one.
    pub zone: String,
}

/// What a set of windows says of a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// A step that takes no longer than was asked may begin.
    Open,
    /// One is open, and a step would not end inside it.
    TooShort {
        closes: Timestamp,
    },
    Closed {
        opens: Option<Timestamp>,
    },
}

impl Window {
    /// # Errors
    /// What is wrong with it, in words that complete "the window …".
    pub fn check(&self) -> Result<(), String> {
        let zone = zone(&self.zone)?;
        let cron = Cron::from_str(&self.start)
            .map_err(|e| format!("has a `start` that is no cron expression: {e}"))?;
        cron.find_next_occurrence(&Timestamp::UNIX_EPOCH.to_zoned(zone), false)
            .map_err(|_| "never opens: no such day exists".to_owned())?;
        if self.length.is_zero() || self.length > MAX_LENGTH {
            return Err("has to be longer than nothing and no longer than a week".to_owned());
        }
        Ok(())
    }

    /// When the window that is open at `now` closes.
    fn closes(&self, now: Timestamp) -> Option<Timestamp> {
        let began = self.occurrence(now, Way::Back)?;
        let closes = began.checked_add(signed(self.length)).ok()?;
        (closes > now).then_some(closes)
    }

    fn occurrence(&self, now: Timestamp, way: Way) -> Option<Timestamp> {
        let here = now.to_zoned(zone(&self.zone).ok()?);
        let cron = Cron::from_str(&self.start).ok()?;
        let found = match way {
            Way::Back => cron.find_previous_occurrence(&here, true),
            Way::On => cron.find_next_occurrence(&here, false),
        };
        found.ok().map(|zoned| zoned.timestamp())
    }
}

#[derive(Clone, Copy)]
enum Way {
    Back,
    On,
}

/// Whether a step of `need` may begin at `now`. No windows: always.
pub fn opening(windows: &[Window], need: Duration, now: Timestamp) -> Opening {
    if windows.is_empty() {
        return Opening::Open;
    }
    match windows.iter().filter_map(|w| w.closes(now)).max() {
        Some(closes) if now + signed(need) <= closes => Opening::Open,
        Some(closes) => Opening::TooShort { closes },
        None => Opening::Closed {
            opens: opens(windows, now),
        },
    }
}

/// When one opens next.
pub fn opens(windows: &[Window], now: Timestamp) -> Option<Timestamp> {
    let next = windows.iter().filter_map(|w| w.occurrence(now, Way::On));
    next.min()
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZoneDatabase::bundled().get(name).map_err(|_| {
        format!("names a `zone` that is not known: `{name}`; write one as `Europe/Berlin`")
    })
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn window(start: &str, hours: u32, zone: &str) -> Window {
        Window {
            start: start.to_owned(),
            length: HOUR * hours,
            zone: zone.to_owned(),
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Weekday nights in Berlin, 22:00 to 03:00.
    fn nights() -> Vec<Window> {
        vec![window("0 22 * * 1-5", 5, "Europe/Berlin")]
    }

    #[test]
    fn a_step_begins_only_where_it_can_end() {
        // A Friday. Berlin is an hour ahead of UTC in winter.
        assert_eq!(
            opening(&nights(), HOUR, at("2026-11-20T21:00:00Z")),
            Opening::Open
        );
        assert_eq!(
            opening(&nights(), HOUR, at("2026-11-21T01:00:00Z")),
            Opening::Open
        );
        assert_eq!(
            opening(&nights(), HOUR, at("2026-11-21T01:00:01Z")),
            Opening::TooShort {
                closes: at("2026-11-21T02:00:00Z")
            }
        );
        assert_eq!(
            opening(&nights(), HOUR, at("2026-11-21T02:00:00Z")),
            Opening::Closed {
                opens: Some(at("2026-11-23T21:00:00Z"))
            }
        );
        assert_eq!(
            opening(&nights(), HOUR, at("2026-11-20T20:59:59Z")),
            Opening::Closed {
                opens: Some(at("2026-11-20T21:00:00Z"))
            }
        );
        assert_eq!(
            opening(&[], HOUR, at("2026-11-20T20:59:59Z")),
            Opening::Open
        );
    }

    #[test]
    fn summer_time_moves_the_window_and_not_its_length() {
        // The night of 2026-10-25 has the hour from 2 to 3 twice: five hours from 22:00 end at 02:00 winter time.
        let saturday = [window("0 22 * * 6", 5, "Europe/Berlin")];
        assert_eq!(
            opening(&saturday, HOUR, at("2026-10-24T20:00:00Z")),
            Opening::Open
        );
        assert_eq!(
            opening(&saturday, HOUR, at("2026-10-25T00:30:00Z")),
            Opening::TooShort {
                closes: at("2026-10-25T01:00:00Z")
            }
        );
        // 02:30 does not exist on 2026-03-29: it opens at 03:00 summer time.
        let gap = [window("30 2 * * *", 1, "Europe/Berlin")];
        assert_eq!(
            opening(&gap, HOUR, at("2026-03-29T00:00:00Z")),
            Opening::Closed {
                opens: Some(at("2026-03-29T01:00:00Z"))
            }
        );
    }

    #[test]
    fn of_two_windows_the_one_that_closes_later_counts() {
        let both = [
            window("0 22 * * *", 1, "UTC"),
            window("30 22 * * *", 2, "UTC"),
        ];
        assert_eq!(
            opening(&both, HOUR, at("2026-11-20T22:45:00Z")),
            Opening::Open
        );
    }

    #[test]
    fn what_can_never_open_is_told() {
        let told = |w: Window| w.check().unwrap_err();
        assert_eq!(nights()[0].check(), Ok(()));
        assert!(told(window("0 3 31 2 *", 1, "UTC")).starts_with("never opens"));
        assert!(told(window("at night", 1, "UTC")).starts_with("has a `start`"));
        assert!(told(window("0 3 * * *", 1, "Europe/Bonn")).contains("`Europe/Bonn`"));
        assert!(told(window("0 3 * * *", 0, "UTC")).contains("longer than nothing"));
    }
}
