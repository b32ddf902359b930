//! Processes of a bed: started with a log file, restarted as a service manager would, never left
//! behind.
//!
//! Each process has one thread of ours that starts it and waits for it. `setpriv --pdeathsig`
//! makes the kernel end a process when that thread ends, so nothing survives us, SIGKILL included.
//! The record in the bed's `run` folder is for what slips through: `slot` reads it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

use crate::namespaces::{Entrance, child_of};

/// How a program is started.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Unique in its bed: names the log and the record.
    pub name: String,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(String, OsString)>,
    /// Output of the process is appended here.
    pub log: PathBuf,
    /// Folder for the record of what runs.
    pub run_dir: PathBuf,
    /// Started again when it ends without being told to.
    pub restart: bool,
    /// Where it runs, when that is not this host's.
    pub inside: Option<Entrance>,
}

impl Spec {
    pub fn new(name: &str, program: &Path, dirs: &Dirs) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            log: dirs.logs.join(format!("{name}.log")),
            run_dir: dirs.run.clone(),
            restart: true,
            inside: dirs.inside,
        }
    }

    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn once(mut self) -> Self {
        self.restart = false;
        self
    }
}

/// Where processes of a bed log to and are recorded, and run.
#[derive(Clone, Debug)]
pub struct Dirs {
    pub logs: PathBuf,
    pub run: PathBuf,
    /// The namespaces of a machine that has its own.
    pub inside: Option<Entrance>,
}

/// A process that runs, or did. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    /// Started by a program that waits for it.
    has_parent: bool,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Not yet reaped: its pid can't belong to anybody else.
    running: Option<Pid>,
    /// No further start.
    told_to_end: bool,
    ended: bool,
    starts: u32,
    start_error: Option<String>,
}

impl Process {
    /// Pause between an unwanted end and the next start.
    const RESTART_PAUSE: Duration = Duration::from_millis(500);
    /// After SIGTERM, before SIGKILL.
    const STOP_TIMEOUT: Duration = Duration::from_secs(20);

    pub fn start(spec: Spec) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let process = Self {
            name: spec.name.clone(),
            log: spec.log.clone(),
            has_parent: spec.inside.is_some(),
            shared: Arc::clone(&shared),
        };
        std::thread::Builder::new()
            .name(spec.name.clone())
            .spawn(move || keep(&spec, &shared))
            .context("starting a thread")?;
        let state = process.wait_for(None, |state| state.running.is_some() || state.ended);
        if let Some(error) = &state.start_error {
            bail!("{}: {error}", process.name);
        }
        drop(state);
        Ok(process)
    }

    pub fn pid(&self) -> Option<u32> {
        let pid = raw(self.shared.lock().running?);
        if self.has_parent {
            child_of(pid).map(raw)
        } else {
            Some(pid)
        }
    }

    pub fn is_running(&self) -> bool {
        self.shared.lock().running.is_some()
    }

    /// How often it was started: more than one start is a restart after an unwanted end.
    pub fn starts(&self) -> u32 {
        self.shared.lock().starts
    }

    /// SIGTERM, and SIGKILL when that did not end it in 20 s. Blocks until it is gone.
    pub fn stop(&self) {
        self.end_with(Signal::TERM);
        let state = self.wait_for(Some(Self::STOP_TIMEOUT), |state| state.ended);
        let ended = state.ended;
        drop(state);
        if !ended {
            self.kill();
        }
    }

    /// SIGKILL. Blocks until it is gone.
    pub fn kill(&self) {
        self.end_with(Signal::KILL);
        drop(self.wait_for(None, |state| state.ended));
    }

    /// SIGKILL that nobody told it about: it is started again if it is a service. False: it does not run.
    pub fn crash(&self) -> Result<bool> {
        let state = self.shared.lock();
        let Some(pid) = state.running else {
            return Ok(false);
        };
        kill_process_group(pid, Signal::KILL)?;
        Ok(true)
    }

    /// Everything it has written to its log.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    fn end_with(&self, signal: Signal) {
        let mut state = self.shared.lock();
        state.told_to_end = true;
        if let Some(pid) = state.running {
            let child = child_of(raw(pid)).filter(|_| self.has_parent && signal == Signal::TERM);
            // The group is gone only when its last process is, and then there is nothing to end.
            let _ = match child {
                // Its parent ends after it, and has to live to see that.
                Some(child) => kill_process(child, signal),
                None => kill_process_group(pid, signal),
            };
        }
        self.shared.changed.notify_all();
    }

    fn wait_for(
        &self,
        timeout: Option<Duration>,
        done: impl Fn(&State) -> bool,
    ) -> MutexGuard<'_, State> {
        let started = Instant::now();
        let mut state = self.shared.lock();
        while !done(&state) {
            let left = timeout.map_or(Duration::from_secs(60), |t| {
                t.saturating_sub(started.elapsed())
            });
            if left.is_zero() {
                break;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        state
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs on the process's own thread: starts it, waits, starts it again while it should run.
fn keep(spec: &Spec, shared: &Shared) {
    loop {
        let mut state = shared.lock();
        if state.told_to_end {
            break;
        }
        let mut child = match spawn(spec) {
            Ok(child) => child,
            Err(error) => {
                state.start_error = Some(format!("{error:#}"));
                break;
            }
        };
        state.running = Pid::from_raw(child.id().cast_signed());
        state.starts += 1;
        shared.changed.notify_all();
        let pid = state.running;
        drop(state);

        let record = pid.and_then(|pid| record(spec, pid).ok());
        if let Some(pid) = pid {
            // Waits without reaping: the pid stays ours until the lock is held.
            while waitid(
                WaitId::Pid(pid),
                WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            )
            .is_err_and(|error| error == rustix::io::Errno::INTR)
            {}
        }
        let mut state = shared.lock();
        if let Some(pid) = state.running.take() {
            // What it left behind in its group ends with it.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = child.wait();
        if let Some(record) = record {
            let _ = fs::remove_file(record);
        }
        if !spec.restart || state.told_to_end {
            break;
        }
        drop(shared.changed.wait_timeout(state, Process::RESTART_PAUSE));
    }
    shared.lock().ended = true;
    shared.changed.notify_all();
}

fn spawn(spec: &Spec) -> Result<Child> {
    let log = open_log(&spec.log)?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .args(spec.inside.map(Entrance::prefix).unwrap_or_default())
        .arg(&spec.program)
        .args(&spec.arguments)
        .envs(spec.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stderr(log.try_clone()?)
        .stdout(log)
        .process_group(0);
    command
        .spawn()
        .context("starting it by setpriv (package util-linux)")
}

fn raw(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

fn open_log(path: &Path) -> Result<File> {
    let open = OpenOptions::new().create(true).append(true).open(path);
    open.with_context(|| format!("opening {}", path.display()))
}

fn record(spec: &Spec, pid: Pid) -> Result<PathBuf> {
    let id = pid.as_raw_nonzero().get();
    let started = start_time(id).context("it is gone")?;
    let path = spec.run_dir.join(format!("{}.pid", spec.name));
    fs::write(&path, format!("{id} {started}\n"))?;
    Ok(path)
}

/// When the process was started, in clock ticks since boot: with its pid an identity.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may contain anything.
    let after_command = stat.rsplit_once(')')?.1;
    after_command.split_whitespace().nth(19)?.parse().ok()
}

/// Kills what a record names, if that very process still runs.
pub(crate) fn kill_recorded(record: &Path) -> Result<()> {
    let text = fs::read_to_string(record)?;
    let (pid, started) = text
        .trim()
        .split_once(' ')
        .context("a pid and a start time")?;
    let (pid, started): (i32, u64) = (pid.parse()?, started.parse()?);
    if start_time(pid) == Some(started)
        && let Some(pid) = Pid::from_raw(pid)
    {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &Path, name: &str, script: &str) -> Spec {
        let dirs = Dirs {
            logs: dir.to_owned(),
            run: dir.to_owned(),
            inside: None,
        };
        Spec::new(name, Path::new("/bin/sh"), &dirs).args(["-c", script])
    }

    #[test]
    fn a_service_that_ends_is_started_again_and_a_stopped_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start(shell(dir.path(), "ends", "echo once")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        drop(process.wait_for(Some(Duration::from_secs(10)), |state| state.starts > 2));
        assert!(process.starts() > 2 && Instant::now() < deadline);
        process.stop();
        assert!(!process.is_running());
        assert!(process.log().matches("once").count() > 1);
    }

    #[test]
    fn nothing_of_its_group_outlives_it() {
        let dir = tempfile::tempdir().unwrap();
        let script = "sleep 1000 & echo $! > child; wait";
        let spec = shell(
            dir.path(),
            "parent",
            &format!("cd {}; {script}", dir.path().display()),
        );
        let process = Process::start(spec).unwrap();
        let child = dir.path().join("child");
        let deadline = Instant::now() + Duration::from_secs(10);
        let pid: i32 = loop {
            if let Ok(pid) = fs::read_to_string(&child)
                .unwrap_or_default()
                .trim()
                .parse()
            {
                break pid;
            }
            assert!(Instant::now() < deadline, "the child was not started");
            std::thread::yield_now();
        };
        process.kill();
        let alive = || {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
        };
        while alive() {
            assert!(Instant::now() < deadline, "the child still runs");
            std::thread::yield_now();
        }
    }
}
