//! What a process has used, by `/proc`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

/// Of the clock of `/proc/PID/stat`: USER_HZ, which is the same on all of Linux' usual architectures.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time so far.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// The process itself.
    pub own: Duration,
    /// Its children that have ended (`sops`, `nix`).
    pub children: Duration,
}

impl Cpu {
    pub fn of(pid: u32) -> Result<Self> {
        let stat = std::fs::read_to_string(file(pid, "stat"))?;
        // The name, in brackets, may hold anything.
        let (_, fields) = stat.rsplit_once(") ").context("stat has a name")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |number: usize| -> Result<u64> {
            let field = fields.get(number).context("stat has all its fields")?;
            Ok(field.parse()?)
        };
        let time = |user: usize| -> Result<Duration> {
            let ticks = ticks(user)? + ticks(user + 1)?;
            Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
        };
        // proc(5) counts utime as 14 and cutime as 16; the state, which is first here, is 3.
        Ok(Self {
            own: time(11)?,
            children: time(13)?,
        })
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            own: self.own.saturating_sub(before.own),
            children: self.children.saturating_sub(before.children),
        }
    }
}

/// From `/proc/PID/status`: `VmRSS` now, `VmHWM` at its highest.
pub fn kib(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(file(pid, "status"))?;
    let found = status.lines().find_map(|l| l.strip_prefix(field));
    let line = found.with_context(|| format!("a process has a {field}"))?;
    let figure = line.trim_start_matches(':').split_whitespace().next();
    Ok(figure.context("it has a figure")?.parse()?)
}

/// `VmHWM` counts from now on.
pub fn forget_peak(pid: u32) -> Result<()> {
    Ok(std::fs::write(file(pid, "clear_refs"), "5")?)
}

fn file(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_memory_and_no_more_time_than_there_was() {
        let pid = std::process::id();
        let before = Cpu::of(pid).unwrap();
        assert!(kib(pid, "VmHWM").unwrap() >= kib(pid, "VmRSS").unwrap() / 2);
        let used = Cpu::of(pid).unwrap().since(before);
        assert!(used.own < Duration::from_secs(60), "{used:?}");
    }
}
