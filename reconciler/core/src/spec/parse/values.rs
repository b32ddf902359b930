//! Kinds of values that several tables have.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::SignedDuration;
use toml::de::DeValue;

use super::super::reader::{Table, Text};

/// A time that may be left out.
pub fn duration(
    table: &mut Table<'_>,
    key: &'static str,
    range: RangeInclusive<Duration>,
    default: Duration,
) -> Option<Duration> {
    let Some(entry) = table.get(key) else {
        return Some(default);
    };
    let text = table.as_string(&entry)?;
    read_duration(table, key, &text, range)
}

pub fn read_duration(
    table: &Table<'_>,
    key: &str,
    text: &Text<'_>,
    range: RangeInclusive<Duration>,
) -> Option<Duration> {
    let duration = text.value.parse::<SignedDuration>().ok();
    let duration = duration.and_then(|d| Duration::try_from(d).ok());
    let duration = duration.filter(|d| range.contains(d));
    if duration.is_none() {
        let hours = range.end().as_secs() / 3600;
        table.fault(
            &text.span,
            format!("`{key}` can't be `{}`", text.value),
            format!("write a time of at most {hours}h, like `90s`, `15m` or `1h 30m`"),
        );
    }
    duration
}

/// `true` or `false`, which is what leaving it out means.
pub fn flag(table: &mut Table<'_>, key: &'static str) -> Option<bool> {
    let Some(entry) = table.get(key) else {
        return Some(false);
    };
    match entry.value {
        DeValue::Boolean(value) => Some(*value),
        DeValue::String(_) => {
            let problem = format!("`{key}` must be true or false");
            table.fault(&entry.span, problem, "write it without quotes");
            None
        }
        _ => {
            let problem = format!("`{key}` must be true or false");
            table.fault(&entry.span, problem, format!("write `{key} = true`"));
            None
        }
    }
}
