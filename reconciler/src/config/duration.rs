//! A duration as people write it: `15s`, `1h 30m`. Also for serde, by `with`.

use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serializer, de, ser};

pub fn parse(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration = text
        .parse()
        .map_err(|_| format!("`{text}` is no duration; write `15s`, `5m` or `1h`"))?;
    duration
        .try_into()
        .map_err(|_| format!("`{text}` is a negative duration"))
}

pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let signed = SignedDuration::try_from(*duration).map_err(ser::Error::custom)?;
    serializer.collect_str(&format_args!("{signed:#}"))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(de::Error::custom)
}
