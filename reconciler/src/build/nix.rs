//! Running Nix: as a child that knows nothing of us, takes no more than it is given, and dies with whoever waits for it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use super::{git_cache, trace};
use crate::config::Size;

/// What is wanted of Nix' answers is small.
const MAX_STDOUT_BYTES: u64 = 64 * 1024 * 1024;
/// Errors come last.
const MAX_STDERR_BYTES: usize = 256 * 1024;
/// A child's share of CPU and disk where others want them too; 100 is usual (systemd.resource-control(5)).
const WEIGHT: u32 = 20;
/// What has no limits of its own has ended by then.
const QUERY_DEADLINE: Duration = Duration::from_secs(300);
/// Between our end of a child and the one by systemd.
const GRACE: Duration = Duration::from_secs(30);
/// Is there where systemd runs the machine (sd_booted(3)).
const SYSTEMD_MARK: &str = "/run/systemd/system";
/// What Nix, its fetchers and its builders may take from our own environment.
const PASSED_ON: [&str; 12] = [
    "NIX_CONF_DIR",
    "NIX_CONFIG",
    "NIX_REMOTE",
    "NIX_SSL_CERT_FILE",
    "SSL_CERT_FILE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "LOCALE_ARCHIVE",
];

/// Why Nix did not do what it was asked. `what` is in words that complete "… failed".
#[derive(Debug, thiserror::Error)]
pub enum NixError {
    #[error("{} can't be run: {source}. [nix] program-dir of the configuration has to name the directory with nix and nix-store", program.display())]
    Unusable {
        program: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{what} needed more than {limit}: raise [nix] memory-max in the configuration of fabrik, or evaluate elsewhere"
    )]
    Memory { what: String, limit: Size },
    #[error(
        "{what} took longer than {limit:?}: raise [nix] time-limit in the configuration of fabrik, or find out what hangs"
    )]
    Time { what: String, limit: Duration },
    #[error("{what} failed:\n{said}")]
    Failed { what: String, said: String },
    #[error("{what}: Nix answered what this fabrik can't read: {problem}")]
    Unreadable { what: String, problem: String },
}

/// A Nix to run, and the store it works in.
#[derive(Debug, Clone)]
pub struct Nix {
    program_dir: PathBuf,
    store: Option<PathBuf>,
    environment: BTreeMap<OsString, OsString>,
    /// A directory of ours for Nix' caches; `None` for a person's own.
    home: Option<PathBuf>,
}

/// One thing that is asked of Nix.
pub struct Task<'a> {
    /// For errors.
    pub what: String,
    pub program: &'static str,
    pub args: Vec<OsString>,
    pub limits: Option<Limits>,
    /// Where Nix keeps the commit's files, to tell frames of a trace apart.
    pub source: Option<&'a str>,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `None`: as much as there is.
    pub memory: Option<Size>,
    pub time: Duration,
}

impl Nix {
    /// `home` is a directory of ours for Nix' caches.
    pub fn new(program_dir: &Path, store: Option<&Path>, home: &Path) -> Self {
        let mut environment: BTreeMap<OsString, OsString> = PASSED_ON
            .iter()
            .filter_map(|name| Some(((*name).into(), std::env::var_os(name)?)))
            .collect();
        let path = std::env::var_os("PATH").unwrap_or_default();
        // git, and ssh for builders, are found on our own PATH.
        let dirs = [program_dir.to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&path));
        environment.insert(
            "PATH".into(),
            std::env::join_paths(dirs).unwrap_or(path.clone()),
        );
        environment.insert("HOME".into(), home.into());
        environment.insert("LC_ALL".into(), "C".into());
        // Settings of a user are not the machine's.
        environment.insert("NIX_USER_CONF_FILES".into(), OsString::new());
        Self {
            program_dir: program_dir.to_owned(),
            store: store.map(Path::to_owned),
            environment,
            home: Some(home.to_owned()),
        }
    }

    /// Where its store lies on this machine.
    pub fn store_dir(&self) -> PathBuf {
        let root = self.store.as_deref().unwrap_or(Path::new("/"));
        root.join("nix/store")
    }

    /// As a person uses it, with all that is theirs.
    pub fn on_path() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program_dir = std::env::split_paths(&path).find(|dir| dir.join("nix").is_file())?;
        Some(Self {
            program_dir,
            store: None,
            environment: std::env::vars_os().collect(),
            home: None,
        })
    }

    /// The same with a variable more.
    #[cfg(test)]
    #[must_use]
    pub fn with_environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Before it fetches: a Nix of ours that was killed leaves what would stop this one. One that was killed a moment ago
    /// may not have ended yet.
    pub async fn clear_the_way(&self) {
        const LOOKS: u32 = 30;
        const PAUSE: Duration = Duration::from_millis(100);
        let Some(home) = &self.home else { return };
        for _ in 0..LOOKS {
            if git_cache::forget_dead_locks(home) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What `nix` or `nix-store` printed. Safe to drop: the child is killed.
    ///
    /// # Errors
    /// It can't be run, took too much or too long, or failed.
    pub async fn run(&self, task: Task<'_>) -> Result<String, NixError> {
        let mut child = self.spawn(task.program, &task.args, task.limits)?;
        let deadline = task.limits.map_or(QUERY_DEADLINE, |limits| limits.time);
        let outcome = tokio::time::timeout(deadline, converse(&mut child)).await;
        let Ok(outcome) = outcome else {
            return Err(NixError::Time {
                what: task.what,
                limit: deadline,
            });
        };
        let outcome = outcome.map_err(|source| NixError::Unusable {
            program: self.program_dir.join(task.program),
            source,
        })?;
        if outcome.status.success() {
            return String::from_utf8(outcome.stdout).map_err(|e| NixError::Unreadable {
                what: task.what,
                problem: e.to_string(),
            });
        }
        match task.limits.and_then(|limits| limits.memory) {
            Some(limit) if outcome.ran_out_of_memory() => Err(NixError::Memory {
                what: task.what,
                limit,
            }),
            _ => Err(NixError::Failed {
                said: outcome.said(task.source),
                what: task.what,
            }),
        }
    }

    /// Starts a program of Nix whose output is read as it comes. It is killed when it is dropped.
    pub fn stream(&self, program: &'static str, args: &[OsString]) -> Result<Child, NixError> {
        self.spawn(program, args, None)
    }

    fn spawn(
        &self,
        program: &'static str,
        args: &[OsString],
        limits: Option<Limits>,
    ) -> Result<Child, NixError> {
        let program_path = self.program_dir.join(program);
        let mut command = match limits {
            Some(limits) => within(limits, &program_path),
            None => Command::new(&program_path),
        };
        if program == "nix" {
            command.args(["--extra-experimental-features", "nix-command flakes"]);
        }
        if let Some(store) = &self.store {
            command.arg("--store").arg(store);
        }
        command.args(args);
        command
            .env_clear()
            .envs(&self.environment)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command.spawn().map_err(|source| NixError::Unusable {
            program: program_path,
            source,
        })
    }
}

/// A command that runs `program` within limits: a scope of systemd's where that runs the machine, else limits of the
/// process, which count address space.
fn within(limits: Limits, program: &Path) -> Command {
    if Path::new(SYSTEMD_MARK).exists() {
        let mut command = Command::new("systemd-run");
        command.args([
            "--scope",
            "--quiet",
            "--collect",
            "--slice=fabrik-build.slice",
        ]);
        let mut property = |text: String| {
            command.arg("-p").arg(text);
        };
        property(format!("CPUWeight={WEIGHT}"));
        property(format!("IOWeight={WEIGHT}"));
        // Should we be killed, it ends soon after its time; else we end it, and know why.
        let runtime = limits.time.saturating_add(GRACE);
        property(format!("RuntimeMaxSec={}", runtime.as_secs()));
        if let Some(memory) = limits.memory {
            property(format!("MemoryMax={}", memory.bytes()));
            property("MemorySwapMax=0".to_owned());
        }
        command.arg("--").arg(program);
        return command;
    }
    let mut command = Command::new("nice");
    command.args(["-n", "15"]);
    if let Some(memory) = limits.memory {
        command
            .arg("prlimit")
            .arg(format!("--as={}", memory.bytes()));
    }
    command.arg(program);
    command
}

/// What a child left.
struct Outcome {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: String,
}

impl Outcome {
    fn ran_out_of_memory(&self) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        const SIGKILL: i32 = 9;
        // The kernel kills with SIGKILL; 137 is how a program between us says so. Else Nix has words of its own: the
        // collector's, its error's, the C++ library's.
        self.status.signal() == Some(SIGKILL)
            || self.status.code() == Some(128 + SIGKILL)
            || ["error: out of memory", "std::bad_alloc", "Out of Memory!"]
                .iter()
                .any(|words| self.stderr.contains(words))
    }

    fn said(&self, source: Option<&str>) -> String {
        let said = trace::cut(&self.stderr, source);
        if said.is_empty() {
            format!("it ended with {} and said nothing", self.status)
        } else {
            said
        }
    }
}

async fn converse(child: &mut Child) -> std::io::Result<Outcome> {
    let missing = || std::io::Error::other("its pipes are missing");
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let mut printed = Vec::new();
    let print = async {
        stdout
            .take(MAX_STDOUT_BYTES)
            .read_to_end(&mut printed)
            .await
    };
    let (read, stderr) = tokio::join!(print, tail(stderr));
    read?;
    let status = child.wait().await?;
    Ok(Outcome {
        status,
        stdout: printed,
        stderr,
    })
}

/// The end of what somebody says.
pub(super) async fn tail(mut from: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        kept.extend_from_slice(bytes);
        if kept.len() > 2 * MAX_STDERR_BYTES {
            kept.drain(..kept.len() - MAX_STDERR_BYTES);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}
