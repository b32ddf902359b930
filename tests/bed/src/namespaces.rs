//! What a machine has of its own in the kernel: its mounts, its processes, its name, and where that is wanted its network.
//!
//! A process holds them, started by a script that makes them look like the machine; with it all of them end. Needs root.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

use crate::process::{Dirs, Process, Spec};

/// Until the script has made them.
const DEADLINE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(10);

/// Namespaces that last until they are dropped.
#[derive(Debug)]
pub struct Namespaces {
    entrance: Entrance,
    _holder: Process,
}

/// The way into namespaces: the first process in them, by its number outside. It may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entrance(Pid);

/// How namespaces are made.
#[derive(Debug)]
pub struct Settings<'a> {
    /// Unique in its bed.
    pub name: &'a str,
    /// A script of `sh`. Its first argument is a file that it creates when everything is in place; then it stays.
    pub script: &'a str,
    /// Its further arguments.
    pub arguments: Vec<OsString>,
    /// A network of its own, in which nothing is up yet.
    pub network: bool,
    /// For the ready file.
    pub dir: &'a Path,
    pub dirs: &'a Dirs,
}

impl Namespaces {
    pub async fn start(settings: Settings<'_>) -> Result<Self> {
        let ready = settings.dir.join("namespaces-ready");
        forget(&ready)?;
        let mut unshare: Vec<OsString> = [
            "--mount",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        .map(Into::into)
        .into();
        if settings.network {
            unshare.push("--net".into());
        }
        unshare.extend(["sh", "-c", settings.script, "init"].map(OsString::from));
        unshare.push(ready.clone().into());
        unshare.extend(settings.arguments);
        let spec = Spec::new(settings.name, Path::new("unshare"), settings.dirs).args(unshare);
        let holder = Process::start(spec.once())?;
        let made = tokio::time::timeout(DEADLINE, async {
            while !ready.exists() && holder.is_running() {
                tokio::time::sleep(LOOK).await;
            }
        });
        if made.await.is_err() || !ready.exists() {
            bail!("{}: no namespaces: {}", settings.name, holder.log());
        }
        forget(&ready)?;
        let first = holder.pid().and_then(child_of);
        let first = first.with_context(|| format!("{} is gone", settings.name))?;
        Ok(Self {
            entrance: Entrance(first),
            _holder: holder,
        })
    }

    pub fn entrance(&self) -> Entrance {
        self.entrance
    }
}

impl Entrance {
    /// What a program is started by to be in there.
    pub fn prefix(self) -> Vec<OsString> {
        let target = format!("--target={}", self.0.as_raw_nonzero());
        let all = ["--mount", "--uts", "--net", "--pid"];
        [OsString::from("nsenter"), target.into()]
            .into_iter()
            .chain(all.map(OsString::from))
            .chain(["--".into()])
            .collect()
    }

    /// A program of this host in the network, and in nothing else of it.
    pub fn in_network(self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.0.as_raw_nonzero()))
            .args(["--net", "--", program]);
        command
    }

    /// The number of the first process, outside.
    pub fn pid(self) -> Pid {
        self.0
    }

    pub fn network(self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.as_raw_nonzero()).into()
    }
}

/// The one child of a process that only waits for it, as `unshare` and `nsenter` do.
pub fn child_of(pid: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
}

fn forget(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}
