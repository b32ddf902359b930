//! What a person sees of a seed: a line for each thing that was done, with the time that it took.

use std::cell::Cell;
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// A transient line is written this often at most.
const PACE: Duration = Duration::from_millis(200);
/// Goes to the line's beginning and clears it.
const CLEAR: &str = "\r\x1b[K";

/// Something that is being done.
pub struct Task {
    words: String,
    began: Instant,
    noted: Cell<Option<Instant>>,
    is_terminal: bool,
}

impl Task {
    pub fn begin(words: impl Into<String>) -> Self {
        let task = Self {
            words: words.into(),
            began: Instant::now(),
            noted: Cell::new(None),
            is_terminal: io::stderr().is_terminal(),
        };
        task.note("");
        task
    }

    /// How far it is. Seen on a terminal alone, until the next note.
    pub fn note(&self, far: impl fmt::Display) {
        let is_due = self.noted.get().is_none_or(|at| at.elapsed() >= PACE);
        if self.is_terminal && is_due {
            self.noted.set(Some(Instant::now()));
            eprint!("{CLEAR}{:>9}  {} {far}", "…", self.words);
        }
    }

    /// A line that stays, in between.
    pub fn tell(&self, line: &str) -> io::Result<()> {
        self.clear();
        tell(format_args!("{:>9}  {line}", ""))
    }

    pub fn end(self) -> io::Result<()> {
        self.clear();
        let secs = self.began.elapsed().as_secs_f64();
        tell(format_args!(
            "{:>9}  {}",
            format!("{secs:.1} s"),
            self.words
        ))
    }

    fn clear(&self) {
        if self.is_terminal {
            eprint!("{CLEAR}");
        }
    }
}

/// A line on standard output. Whoever reads no further has read enough.
pub fn tell(line: impl fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        told => told,
    }
}

/// `812 MB of 3.1 GB, 94 MB/s`
pub fn far(done: u64, all: u64, taken: Duration) -> String {
    let millis = u64::try_from(taken.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1000) / millis;
    format!("{} of {}, {}/s", size(done), size(all), size(rate))
}

/// Bytes in a unit that people read, with a digit after the point where it tells something.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) if bytes < unit * 10 => {
            let tenths = bytes * 10 / unit;
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        Some((name, unit)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_are_shown_in_units_that_people_read() {
        for (bytes, expected) in [
            (999, "999 B"),
            (1000, "1.0 kB"),
            (94_700_000, "94 MB"),
            (3_190_000_000, "3.1 GB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
        let shown = far(1_000_000_000, 4_000_000_000, Duration::from_secs(10));
        assert_eq!(shown, "1.0 GB of 4.0 GB, 100 MB/s");
    }
}
