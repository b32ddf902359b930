//! Carries one command out. It runs in a transient unit of its own, so that it outlives the agent, which the new system
//! may restart; how it ended is left in a file.
//!
//! Calls block. Each command may be begun again after a crash at any point of it.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fabrik_core::agent::{Command, Outcome};
use fabrik_core::id::StorePath;
use jiff::Timestamp;

use super::boot::{self, BootError, Machine, System};
use super::state::{State, Trace, Work};
use super::{AgentConfig, NodeError, look, unit};

/// How long the old system may take to be put back.
pub(super) const GO_BACK_LIMIT: Duration = Duration::from_secs(600);
/// How long a shutdown may take. NixOS' default for RebootWatchdogSec is as long.
pub(super) const SHUTDOWN_LIMIT: Duration = Duration::from_secs(600);
/// As switch-to-configuration says that the system is switched to, and a unit of it failed.
const SOME_UNIT_FAILED: i32 = 4;
/// How often a child is looked at.
const GLANCE: Duration = Duration::from_millis(50);
/// So much of what a program said last is shown.
const MAX_SAID_CHARS: usize = 2000;
/// Where nixos-rebuild runs the activation itself (nixos-rebuild-ng, services.py).
pub(super) const INNER_UNIT: &str = "nixos-rebuild-switch-to-configuration.service";

/// Carries out `work`, and leaves behind how it ended.
pub fn carry_out(config: &AgentConfig, work: &Work) -> Result<(), NodeError> {
    let state = State::new(&config.state_dir);
    let activation = Activation {
        config,
        machine: config.machine(),
        state: &state,
    };
    let done = activation.run(work);
    if let Err(error) = &done {
        tracing::error!(ticket = work.ticket, %error, "not carried out");
    }
    // What is wrong with the boot loader shows before the reboot.
    let boots = matches!(work.command, Command::BootOnce { .. });
    let nothing_ran = boots && matches!(done, Err(NodeError::Boot(_) | NodeError::Late));
    let outcome = Outcome {
        nothing_ran,
        ..work.ended(done.map_err(|error| error.to_string()))
    };
    state.write_trace(&Trace::Ended(outcome))
}

struct Activation<'a> {
    config: &'a AgentConfig,
    machine: Machine,
    state: &'a State,
}

impl Activation<'_> {
    fn run(&self, work: &Work) -> Result<(), NodeError> {
        tracing::info!(ticket = work.ticket, command = ?work.command, "carrying out");
        let replaces = matches!(
            work.command,
            Command::Switch { .. } | Command::SwitchBack { .. }
        );
        self.end_activation(replaces)?;
        match &work.command {
            Command::Switch { to, deadline } => self.switch(to, *deadline),
            Command::BootOnce { from, to, deadline } => {
                let (old, new) = (system(from)?, system(to)?);
                // A slow disk may take all the time there is. By then the node may have been given up, and have pods again.
                let in_time = || match deadline {
                    Some(deadline) if Timestamp::now() > *deadline => Err(NodeError::Late),
                    _ => Ok(()),
                };
                boot::prepare(&self.machine, &old, &new)?;
                in_time()?;
                boot::boot_once(&self.machine, &old, &new)?;
                in_time()?;
                self.reboot(work)
            }
            Command::MakeDefault {
                system: new,
                booted,
            } if *booted => Ok(boot::keep(&self.machine, &system(new)?)?),
            Command::MakeDefault { system, .. } => self.make_default(system),
            Command::SwitchBack { to } => self.switch_back(to),
            Command::RebootBack { to, from } => {
                let (old, new) = (system(to)?, system(from)?);
                if let Err(error) = boot::abandon(&self.machine, &old, &new) {
                    // The reboot is the way back: what could not be tidied up is, after it.
                    if boot::boots_next(&self.machine, &old).is_err() {
                        return Err(error.into());
                    }
                    tracing::warn!(%error, "the new system is still in the boot menu");
                }
                self.reboot(work)
            }
            Command::TidyUp { keep, drop } => self.tidy_up(keep, drop),
        }
    }

    fn switch(&self, to: &StorePath, deadline: Timestamp) -> Result<(), NodeError> {
        let left = deadline.duration_since(Timestamp::now());
        let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
        let arguments = ["test", "--store-path", to.as_str(), "--no-reexec"];
        let program = self.config.programs().find("nixos-rebuild");
        let switched = self.program(&program, &arguments, left);
        if switched.is_err()
            && let Err(error) = self.end_activation(true)
        {
            tracing::error!(%error, "an activation that failed may go on");
        }
        switched
    }

    /// What nixos-rebuild has started goes on without it: nothing is begun beside that. It is stopped if `stop`, and
    /// its end awaited.
    fn end_activation(&self, stop: bool) -> Result<(), NodeError> {
        let begun = Instant::now();
        while self.is_activating()? {
            if begun.elapsed() >= GO_BACK_LIMIT {
                return Err(NodeError::Program {
                    program: INNER_UNIT.to_owned(),
                    reason: format!("it did not end within {GO_BACK_LIMIT:?}"),
                });
            }
            // One that has just ended can't be stopped.
            if stop && let Err(error) = self.systemctl(&["stop", INNER_UNIT]) {
                tracing::warn!(%error, "an activation is not stopped");
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn is_activating(&self) -> Result<bool, NodeError> {
        let arguments = ["is-active", INNER_UNIT];
        let failed = |reason: String| NodeError::Program {
            program: format!("systemctl {}", arguments.join(" ")),
            reason,
        };
        let output = Process::new(self.config.programs().find("systemctl"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed(error.to_string()))?;
        unit::is_there(&output.stdout).ok_or_else(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            failed(format!("{}: {}", output.status, said.trim_end()))
        })
    }

    fn switch_back(&self, to: &StorePath) -> Result<(), NodeError> {
        let system = self.config.on_machine(to.as_str());
        let program = system.join("bin/switch-to-configuration");
        let switched = self.ended(&program, &["test"], GO_BACK_LIMIT)?;
        // Any unit of the machine may be the failed one. Whether the node is well is asked later, and not of them.
        if switched.status.code() == Some(SOME_UNIT_FAILED) && look::running(self.config)? == *to {
            tracing::warn!(said = switched.said, "gone back, and a unit has failed");
            return Ok(());
        }
        switched.expect_success()
    }

    fn make_default(&self, new: &StorePath) -> Result<(), NodeError> {
        match boot::make_default(&self.machine, &system(new)?) {
            Err(BootError::UnknownLoader { .. }) => self.install(new),
            made => Ok(made?),
        }
    }

    /// Where the boot loader is one that fabrik does not know, nothing can be done but what NixOS does.
    fn install(&self, system: &StorePath) -> Result<(), NodeError> {
        let program = self.config.programs().find("nixos-rebuild");
        let arguments = ["boot", "--store-path", system.as_str(), "--no-reexec"];
        self.program(&program, &arguments, GO_BACK_LIMIT)?;
        self.program(&self.config.programs().find("sync"), &[], GO_BACK_LIMIT)?;
        let default = look::default(self.config)?;
        if default == *system {
            Ok(())
        } else {
            Err(NodeError::Program {
                program: program.display().to_string(),
                reason: format!("it made {default} the default and not {system}"),
            })
        }
    }

    /// Only what is there is taken away: a system that was switched to is no generation.
    fn tidy_up(&self, keep: &StorePath, drop: &StorePath) -> Result<(), NodeError> {
        if keep != drop && boot::is_prepared(&self.machine, &system(drop)?)? {
            return Ok(boot::abandon(
                &self.machine,
                &system(keep)?,
                &system(drop)?,
            )?);
        }
        // A menu that can't be read is written anew.
        if look::default(self.config).is_ok_and(|default| default == *keep) {
            return Ok(());
        }
        self.make_default(keep)
    }

    /// Comes back only when the machine did not go down.
    fn reboot(&self, work: &Work) -> Result<(), NodeError> {
        self.state.write_trace(&Trace::Rebooting {
            ticket: work.ticket,
            phase: work.phase,
            attempt: work.attempt,
        })?;
        self.systemctl(&["reboot"])?;
        thread::sleep(SHUTDOWN_LIMIT);
        Err(NodeError::Program {
            program: "systemctl reboot".to_owned(),
            reason: format!("the machine did not go down within {SHUTDOWN_LIMIT:?}"),
        })
    }

    fn systemctl(&self, arguments: &[&str]) -> Result<(), NodeError> {
        let program = self.config.programs().find("systemctl");
        self.program(&program, arguments, GO_BACK_LIMIT)
    }

    fn program(&self, path: &Path, arguments: &[&str], limit: Duration) -> Result<(), NodeError> {
        self.ended(path, arguments, limit)?.expect_success()
    }

    /// Runs a program to its end, for `limit` at most. What it says goes to the log.
    fn ended(&self, path: &Path, arguments: &[&str], limit: Duration) -> Result<Ended, NodeError> {
        let told = format!("{} {}", path.display(), arguments.join(" "));
        let failed = |reason: String| NodeError::Program {
            program: told.clone(),
            reason,
        };
        let log = self.state.log();
        let output = File::create(&log).map_err(NodeError::io(&log))?;
        let errors = output.try_clone().map_err(NodeError::io(&log))?;
        let child = Process::new(path)
            .args(arguments)
            .env("PATH", self.config.programs().path())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        match wait(child, limit).map_err(|error| failed(error.to_string()))? {
            Some(status) => Ok(Ended {
                told,
                status,
                said: said(&log),
            }),
            None => Err(failed(format!("it did not end in time: {}", said(&log)))),
        }
    }
}

/// How a program ended.
struct Ended {
    /// The program and its arguments.
    told: String,
    status: ExitStatus,
    said: String,
}

impl Ended {
    fn expect_success(self) -> Result<(), NodeError> {
        if self.status.success() {
            return Ok(());
        }
        Err(NodeError::Program {
            program: self.told,
            reason: format!("{}: {}", self.status, self.said),
        })
    }
}

/// `None` where it did not end in time; then it is killed.
fn wait(mut child: Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(GLANCE);
    }
}

/// The end of what a program said, for people.
fn said(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let text = text.trim_end();
    let skipped = text.chars().count().saturating_sub(MAX_SAID_CHARS);
    text.chars().skip(skipped).collect()
}

fn system(path: &StorePath) -> Result<System, NodeError> {
    Ok(System::parse(path.as_str())?)
}
