//! The transient unit that a command runs in: starts it, finds it again, and reads what it left.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use fabrik_core::agent::{Command, Outcome, Try};
use fabrik_core::system::Phase;
use jiff::{SignedDuration, Timestamp};
use tokio::process::Command as Process;

use super::activate::{GO_BACK_LIMIT, INNER_UNIT, SHUTDOWN_LIMIT};
use super::state::{State, Trace, Work};
use super::{AgentConfig, NodeError};

/// How often a unit is looked at.
const GLANCE: Duration = Duration::from_millis(500);
/// How long after its unit ended a command may still be heard of.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// As nixpkgs calls it (services.k3s).
const K3S_UNIT: &str = "k3s.service";

/// Starts commands and awaits their end.
pub struct Units {
    config: AgentConfig,
    /// The file that the configuration was read from.
    config_file: PathBuf,
    /// The program that carries commands out.
    fabrik: PathBuf,
    state: State,
}

impl Units {
    /// `fabrik` is this program, as the unit will start it.
    pub fn new(config: &AgentConfig, config_file: &Path, fabrik: &Path) -> Self {
        Self {
            config: config.clone(),
            config_file: config_file.to_owned(),
            fabrik: fabrik.to_owned(),
            state: State::new(&config.state_dir),
        }
    }

    /// Begins `command`, which `current` says was begun, and awaits its end.
    pub async fn run(&self, current: &Try, command: Command) -> Outcome {
        let work = Work::of(current, command);
        if let Err(error) = self.start(&work).await {
            return Outcome {
                nothing_ran: true,
                ..work.ended(Err(error.to_string()))
            };
        }
        self.end_of(current).await
    }

    /// How the command ended that was begun for `current` by an agent before this one, if it is known.
    pub async fn found(&self, current: &Try) -> Option<Outcome> {
        if self.is_active(&unit(current.ticket)).await {
            return Some(self.end_of(current).await);
        }
        self.stop_activation(current).await;
        match self.state.trace(current) {
            Ok(Some(Trace::Ended(outcome))) => Some(outcome),
            Ok(Some(Trace::Rebooting { .. }) | None) => None,
            Err(error) => {
                tracing::warn!(%error, "how the last command ended is not known");
                None
            }
        }
    }

    /// Ends k3s. What it has written down by then keeps it from starting again.
    pub async fn stop_k3s(&self) -> Result<(), NodeError> {
        let program = self.config.programs().find("systemctl");
        let failed = |reason: String| NodeError::Program {
            program: program.display().to_string(),
            reason,
        };
        let stopped = self.systemctl(&["stop", K3S_UNIT]).await;
        let stopped = stopped.map_err(|error| failed(error.to_string()))?;
        if stopped.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&stopped.stderr);
        Err(failed(format!("{}: {}", stopped.status, said.trim_end())))
    }

    async fn start(&self, work: &Work) -> Result<(), NodeError> {
        // One of an attempt before may be at its end.
        while self.is_active(&unit(work.ticket)).await {
            tokio::time::sleep(GLANCE).await;
        }
        let program = self.config.programs().find("systemd-run");
        let failed = |reason: String| NodeError::Program {
            program: program.display().to_string(),
            reason,
        };
        let text = serde_json::to_string(work).map_err(|error| failed(error.to_string()))?;
        let mut path = std::ffi::OsString::from("PATH=");
        path.push(self.config.programs().path());
        let mut command = Process::new(&program);
        command
            .arg(format!("--unit={}", unit(work.ticket)))
            .arg(format!(
                "--property=RuntimeMaxSec={}",
                limit(work).as_secs()
            ))
            .args(["--collect", "--service-type=exec", "--quiet", "-E"])
            .arg(path)
            .arg(&self.fabrik)
            .args(["agent", "--config"])
            .arg(&self.config_file)
            .args(["--carry-out", &text]);
        let output = output(command)
            .await
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(format!("{}: {}", output.status, said.trim_end())))
    }

    async fn end_of(&self, current: &Try) -> Outcome {
        let failed = |why: String| Outcome {
            ticket: current.ticket,
            phase: current.phase,
            attempt: current.attempts,
            result: Err(why),
            nothing_ran: false,
        };
        let mut gone: Option<Instant> = None;
        loop {
            let active = self.is_active(&unit(current.ticket)).await;
            let patience = match self.state.trace(current) {
                // It ends its unit right after its last word.
                Ok(Some(Trace::Ended(outcome))) if !active => return outcome,
                // The machine goes down, and ends all units, this agent's among them.
                Ok(Some(Trace::Rebooting { .. })) => SHUTDOWN_LIMIT,
                Ok(_) => LAST_WORDS,
                Err(error) => {
                    self.stop_activation(current).await;
                    return failed(error.to_string());
                }
            };
            if active {
                gone = None;
            } else if gone.get_or_insert_with(Instant::now).elapsed() > patience {
                self.stop_activation(current).await;
                return failed("it was ended before it said how it went".to_owned());
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// An activation outlives who began it. What runs is known only when it has ended.
    async fn stop_activation(&self, current: &Try) {
        if current.phase != Phase::Applying {
            return;
        }
        while self.is_active(INNER_UNIT).await {
            tracing::warn!("an activation goes on that nobody waits for: it is stopped");
            if let Err(error) = self.systemctl(&["stop", INNER_UNIT]).await {
                tracing::warn!(%error, "systemctl can't be run");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Waits for an answer: what is begun beside a unit that runs on does harm.
    async fn is_active(&self, unit: &str) -> bool {
        loop {
            let why = match self.systemctl(&["is-active", unit]).await {
                Ok(output) => match is_there(&output.stdout) {
                    Some(answer) => return answer,
                    None => String::from_utf8_lossy(&output.stderr).into_owned(),
                },
                Err(error) => error.to_string(),
            };
            tracing::warn!(unit, why = why.trim(), "systemd does not say if it runs");
            tokio::time::sleep(GLANCE).await;
        }
    }

    async fn systemctl(&self, arguments: &[&str]) -> std::io::Result<Output> {
        let mut command = Process::new(self.config.programs().find("systemctl"));
        command.args(arguments);
        output(command).await
    }
}

/// What `systemctl is-active` says: a unit that starts or ends is not gone. `None` is no answer.
pub(super) fn is_there(said: &[u8]) -> Option<bool> {
    match String::from_utf8_lossy(said).trim() {
        "active" | "activating" | "deactivating" | "reloading" | "refreshing" | "maintenance" => {
            Some(true)
        }
        "inactive" | "failed" => Some(false),
        _ => None,
    }
}

/// What hangs without a limit of its own is ended after this, as by a power cut: nothing else is heard before. An activation
/// may be awaited first, and a shutdown last.
fn limit(work: &Work) -> Duration {
    let own = match &work.command {
        Command::Switch { deadline, .. } => deadline.duration_since(Timestamp::now()),
        _ => SignedDuration::ZERO,
    };
    let own = Duration::try_from(own).unwrap_or(Duration::ZERO);
    own + 2 * GO_BACK_LIMIT + SHUTDOWN_LIMIT
}

fn unit(ticket: u64) -> String {
    format!("fabrik-try-{ticket}.service")
}

async fn output(mut command: Process) -> std::io::Result<Output> {
    command
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
}
