//! What `systemctl` on a machine is asked about the services that the bed plays there: a file for each request, and one for its
//! answer. The machine looks for them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::Root;

const LOOK: Duration = Duration::from_millis(50);

/// A service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    Sshd,
    K3s,
    Fabrik,
    FabrikAgent,
    /// Ends the first boot of a server that was given its secrets.
    FabrikFounding,
}

impl Unit {
    pub const ALL: [Self; 5] = [
        Self::Sshd,
        Self::K3s,
        Self::Fabrik,
        Self::FabrikAgent,
        Self::FabrikFounding,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Sshd => "sshd",
            Self::K3s => "k3s",
            Self::Fabrik => "fabrik",
            Self::FabrikAgent => "fabrik-agent",
            Self::FabrikFounding => "fabrik-founding",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    Restart,
    /// SIGKILL; it stays down.
    Kill,
}

/// What `systemctl is-active` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    Active,
    Activating,
    Inactive,
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Activating => "activating",
            Self::Inactive => "inactive",
        })
    }
}

/// Somebody waits for this.
#[derive(Debug)]
pub struct Request {
    pub verb: Verb,
    pub unit: Unit,
    answer: PathBuf,
}

impl Request {
    /// `Err` is what systemctl says when it fails.
    pub fn answer(&self, said: Result<(), String>) -> Result<()> {
        let text = match said {
            Ok(()) => "0\n".to_owned(),
            Err(reason) => format!("1\n{reason}\n"),
        };
        replace(&self.answer, &text)
    }
}

/// The folder of requests and answers on a machine. It is empty after a boot.
#[derive(Clone, Debug)]
pub struct Services {
    dir: PathBuf,
    masks: PathBuf,
}

impl Services {
    pub fn new(root: &Root) -> Result<Self> {
        let services = Self {
            dir: root.path("run/services"),
            masks: root.path("etc/systemd/system"),
        };
        for dir in [&services.dir, &services.masks] {
            fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        for unit in Unit::ALL {
            services.set(unit, Activity::Inactive)?;
        }
        Ok(services)
    }

    /// What others see of a service.
    pub fn set(&self, unit: Unit, activity: Activity) -> Result<()> {
        let file = self.dir.join(format!("state.{}", unit.name()));
        replace(&file, &format!("{activity}\n"))
    }

    /// It is not started any more, by whoever.
    pub fn is_masked(&self, unit: Unit) -> bool {
        let file = self.masks.join(format!("{}.service", unit.name()));
        fs::read_link(file).is_ok_and(|target| target == Path::new("/dev/null"))
    }

    /// The next request, in the order of their names.
    pub async fn next(&self) -> Result<Request> {
        loop {
            let mut waiting = Vec::new();
            for entry in fs::read_dir(&self.dir)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                waiting.extend(name.strip_prefix("request.").map(str::to_owned));
            }
            waiting.sort();
            if let Some(number) = waiting.first() {
                let file = self.dir.join(format!("request.{number}"));
                let text = fs::read_to_string(&file)?;
                fs::remove_file(&file)?;
                let answer = self.dir.join(format!("answer.{number}"));
                match parse(text.trim()) {
                    Some((verb, unit)) => return Ok(Request { verb, unit, answer }),
                    None => replace(&answer, &format!("1\nno such request: {text}"))?,
                }
            }
            sleep(LOOK).await;
        }
    }
}

fn parse(text: &str) -> Option<(Verb, Unit)> {
    let (verb, unit) = text.split_once(' ')?;
    let verb = match verb {
        "start" => Verb::Start,
        "stop" => Verb::Stop,
        "restart" => Verb::Restart,
        "kill" => Verb::Kill,
        _ => return None,
    };
    let unit = Unit::ALL.into_iter().find(|known| known.name() == unit)?;
    Some((verb, unit))
}

fn replace(file: &Path, text: &str) -> Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, file)?)
}
