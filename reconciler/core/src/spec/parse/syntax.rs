//! Syntax errors of TOML, in words for people.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::diagnostic::{Diagnostic, Place};

/// Of each line the first one: another there is its consequence, as are most faults elsewhere.
pub fn faults(file: &str, text: &str, errors: &[toml::de::Error]) -> Vec<Diagnostic> {
    let mut spans: Vec<_> = errors
        .iter()
        .map(|error| (error.span().unwrap_or(0..0), error.message()))
        .collect();
    spans.sort_by_key(|(span, _)| span.start);
    let mut first = BTreeMap::new();
    for (span, message) in spans {
        let place = Place::of_offset(file, text, span.start);
        first.entry(place.line).or_insert_with(|| {
            let (problem, remedy) = syntax_error(text, &span, message);
            Diagnostic {
                place,
                object: file.to_owned(),
                problem,
                remedy: remedy.to_owned(),
            }
        });
    }
    first.into_values().collect()
}

/// Problem and remedy. The parser's words are kept but for the two commonest slips.
fn syntax_error(text: &str, span: &Range<usize>, message: &str) -> (String, &'static str) {
    let (before, after) = text.split_at_checked(span.start).unwrap_or((text, ""));
    let rest = after.lines().next().unwrap_or_default().trim();
    if message == "duplicate key" {
        let key = text.get(span.clone()).unwrap_or_default();
        (
            format!("the key `{key}` is here a second time"),
            "keep one of them",
        )
    } else if before.trim_end_matches(' ').ends_with('=')
        && (rest.is_empty() || rest.starts_with('#'))
    {
        (
            "there is nothing behind the `=`".to_owned(),
            "write a value there, or remove the line",
        )
    } else {
        let message = message.split(", expected ").next().unwrap_or(message);
        (
            format!("is not valid TOML: {}", message.replace('\n', "; ")),
            "correct this line (toml.io describes the format)",
        )
    }
}
