//! Waiting for what can be watched: polled, with a deadline, and with the logs when it does not come.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// What comes soon is seen soon; what takes long is asked for less often, because to ask takes time from what is waited for.
const POLL: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_millis(500);
const TAIL_LINES: usize = 15;

/// Asks `probe` until it gives a value; an error counts as "not yet".
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let left = deadline.saturating_sub(started.elapsed());
        let last = match tokio::time::timeout(left.max(POLL), probe()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => "not yet".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no answer".to_owned(),
        };
        if started.elapsed() >= deadline {
            return Err(anyhow!(
                "{what}: not within {deadline:?}; the last answer: {last}"
            ));
        }
        tokio::time::sleep((started.elapsed() / 10).clamp(POLL, SELDOM)).await;
    }
}

/// The last lines of each log in a folder.
pub fn log_tails(logs: &Path) -> String {
    let mut files: Vec<_> = fs::read_dir(logs)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    let mut text = String::from("the ends of the logs:\n");
    for file in files {
        let content = fs::read(&file).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        let lines: Vec<_> = content.lines().rev().take(TAIL_LINES).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "--- {}", file.display());
        for line in lines.iter().rev() {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_that_passes_says_what_did_not_come() {
        let error = until("the end of days", Duration::from_millis(1), async || {
            Err::<Option<()>, _>(anyhow!("the sun still shines"))
        })
        .await
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("the end of days") && text.contains("the sun still shines"),
            "{text}"
        );
    }
}
