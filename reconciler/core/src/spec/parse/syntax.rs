//! Syntax errors of TOML, in words for people.

use std::collections::BTreeSet;
use std::ops::Range;

use super::super::reader::{Category, Reader};
use crate::diagnostic::Diagnostic;

/// The syntax errors, and those faults that can't be a consequence of one.
pub fn beside_syntax_errors(
    file: &str,
    text: &str,
    errors: &[toml::de::Error],
    walked: Vec<(Category, Diagnostic)>,
) -> Vec<Diagnostic> {
    let spans: Vec<Range<usize>> = errors.iter().map(|e| e.span().unwrap_or(0..0)).collect();
    let broken: BTreeSet<_> = spans.iter().map(|span| line_of(text, span)).collect();
    let on_a_broken_line = |diagnostic: &Diagnostic| {
        diagnostic
            .place
            .line
            .is_some_and(|line| broken.contains(&(line as usize)))
    };
    let syntax = errors.iter().zip(&spans).map(|(error, span)| {
        let (problem, remedy) = syntax_error(text, span, error.message());
        Diagnostic {
            place: Reader::new(file, text).place(Some(span)),
            object: file.to_owned(),
            problem,
            remedy: remedy.to_owned(),
        }
    });
    let others = walked
        .into_iter()
        .filter(|(category, _)| *category == Category::Value);
    syntax
        .chain(others.map(|(_, d)| d).filter(|d| !on_a_broken_line(d)))
        .collect()
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

fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.get(..span.start)
        .map_or(0, |before| before.matches('\n').count())
        + 1
}
