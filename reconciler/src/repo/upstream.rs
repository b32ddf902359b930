//! A conversation with `git upload-pack` through a child process: `ssh` for a remote host, `git` for a local path.
//!
//! We start the child ourselves, and not gix, so that what it says on stderr reaches the user as part of the error, its
//! environment is ours to choose, and it can be killed when the time is over.

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gix::protocol::transport::Protocol;
use gix::protocol::transport::client::git::ConnectMode;
use gix::protocol::transport::client::git::blocking_io::Connection;

use super::{RepoError, RepositoryConfig};

const SSH_CONNECT_SECS: u8 = 10;
const SSH_ALIVE_SECS: u8 = 5;
const MAX_STDERR_BYTES: u64 = 8 * 1024;
/// How long we wait for the last words of a child that has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Ends a fetch from outside: gix sees the flag, the child gets a signal.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<Stopping>);

#[derive(Debug, Default)]
struct Stopping {
    flag: AtomicBool,
    child: Mutex<Option<Child>>,
    stderr: Arc<Mutex<Stderr>>,
}

#[derive(Debug, Default)]
struct Stderr {
    text: Vec<u8>,
    ended: bool,
}

/// Stops the fetch when it is dropped.
pub(super) struct StopGuard(Stop);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.0.flag.store(true, Ordering::Relaxed);
        self.0.kill();
    }
}

impl Stop {
    pub(super) fn guard(&self) -> StopGuard {
        StopGuard(self.clone())
    }

    pub(super) fn flag(&self) -> &AtomicBool {
        &self.0.flag
    }

    /// What the child said so far, in one line. It ends with the child, which is awaited by [`Self::last_words`].
    pub(super) fn stderr(&self) -> String {
        let stderr = self.0.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        one_line(&String::from_utf8_lossy(&stderr.text))
    }

    /// Ends the child and returns all that it said.
    pub(super) fn last_words(&self) -> String {
        let deadline = Instant::now() + LAST_WORDS;
        let ended = || {
            self.0
                .stderr
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .ended
        };
        while !ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.kill();
        self.stderr()
    }

    /// Kills and reaps the child; one that has ended by itself is only reaped.
    fn kill(&self) {
        let child = self
            .0
            .child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut child) = child {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Starts `command` and speaks git with it.
    pub(super) fn converse(
        &self,
        mut command: Command,
        path: &str,
    ) -> std::io::Result<Connection<ChildStdout, ChildStdin>> {
        let mut child = command
            .env("GIT_PROTOCOL", "version=2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        *self.0.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        if self.flag().load(Ordering::Relaxed) {
            self.kill();
        }
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(std::io::Error::other("its pipes are missing"));
        };
        let heard = Arc::clone(&self.0.stderr);
        std::thread::Builder::new()
            .name("git-stderr".to_owned())
            .spawn(move || listen(stderr, &heard))?;
        let no_host = None::<(String, Option<u16>)>;
        Ok(Connection::new(
            stdout,
            stdin,
            Protocol::V2,
            path,
            no_host,
            ConnectMode::Process,
            false,
        ))
    }
}

/// `ssh` to the host of `url`, asking for what is at its path. Only the configured key is offered, only a pinned host
/// key is accepted, no configuration file and no agent is used, nothing is ever asked.
pub(super) fn ssh(config: &RepositoryConfig, url: &gix::Url) -> Result<Command, RepoError> {
    let host = url.host().unwrap_or_default();
    let user = url.user();
    for word in [Some(host), user].into_iter().flatten() {
        if word.starts_with('-') {
            return Err(RepoError::Config {
                field: "url",
                problem: format!("`{word}` begins with a dash"),
                remedy: "Write a host name and a user".to_owned(),
            });
        }
    }
    let mut command = clean("ssh");
    command.args(["-F", "none", "-T"]);
    if let Some(key) = &config.deploy_key_file {
        readable("deploy-key-file", key)?;
        command.arg("-i").arg(key);
    }
    if let Some(known_hosts) = &config.known_hosts_file {
        readable("known-hosts-file", known_hosts)?;
        command
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", option_value(known_hosts)));
    }
    for option in [
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "BatchMode=yes",
        "SendEnv=GIT_PROTOCOL",
        "ServerAliveCountMax=2",
    ] {
        command.args(["-o", option]);
    }
    command.args(["-o", &format!("ConnectTimeout={SSH_CONNECT_SECS}")]);
    command.args(["-o", &format!("ServerAliveInterval={SSH_ALIVE_SECS}")]);
    if let Some(port) = url.port {
        command.args(["-p", &port.to_string()]);
    }
    command.arg("--");
    command.arg(user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}")));
    command.arg(format!("git-upload-pack {}", quoted(&remote_path(url))));
    Ok(command)
}

/// `git upload-pack` on a local path. It may belong to another user: whoever wrote our configuration chose it, and
/// upload-pack runs no hook that the repository brings along.
pub(super) fn local(path: &Path) -> Command {
    let mut command = clean("git");
    command
        .args(["-c", "safe.directory=*", "upload-pack"])
        .arg(path);
    command
}

/// A program with nothing in its environment but PATH, so that no token of ours and no setting of a user reaches it.
fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// `/~/x` in an `ssh://` URL is `x` in the user's home (git-fetch(1), "GIT URLS").
fn remote_path(url: &gix::Url) -> String {
    let path = url.path.to_string();
    match path.strip_prefix('/') {
        Some(home) if home.starts_with('~') => home.to_owned(),
        _ => path,
    }
}

/// One word for the remote shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A path as the value of an ssh option, where spaces separate and `%` begins a token (`ssh_config(5)`).
fn option_value(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('%', "%%"))
}

fn readable(field: &'static str, path: &Path) -> Result<(), RepoError> {
    match std::fs::File::open(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(RepoError::CredentialFile {
            field,
            path: path.to_owned(),
            reason: error.to_string(),
        }),
    }
}

fn listen(stderr: impl Read, heard: &Mutex<Stderr>) {
    let mut pipe = stderr.take(MAX_STDERR_BYTES);
    let mut buffer = [0_u8; 512];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.text.extend(buffer.iter().take(count));
    }
    heard.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
    std::io::copy(&mut pipe.into_inner(), &mut std::io::sink()).ok();
}

/// Several lines as one; the frame that ssh draws around a warning is left out.
fn one_line(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.trim_matches(['@', ' ', '\r']).trim_end_matches('.'));
    lines
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_gets_one_quoted_word_and_no_option_from_a_url() {
        assert_eq!(quoted("/a'; rm -rf /;'"), r"'/a'\''; rm -rf /;'\'''");
        let url = gix::url::parse("ssh://git@host/~me/a.git").unwrap();
        assert_eq!(remote_path(&url), "~me/a.git");
        let mut config = RepositoryConfig::at("unused");
        config.known_hosts_file = Some("/dev/null".into());
        let url = gix::url::parse("ssh://git@host:2222/a.git").unwrap();
        let command = ssh(&config, &url).unwrap();
        let args: Vec<_> = command
            .get_args()
            .map(|arg| arg.to_string_lossy())
            .collect();
        assert_eq!(args.last().unwrap(), "git-upload-pack '/a.git'");
        assert!(
            args.windows(2).any(|pair| pair == ["-p", "2222"]),
            "{args:?}"
        );
        let names: Vec<_> = command
            .get_envs()
            .map(|(name, _)| name.to_owned())
            .collect();
        assert!(
            names.iter().all(|name| name == "PATH" || name == "LC_ALL"),
            "{names:?}"
        );
    }

    #[test]
    fn a_host_that_looks_like_an_option_is_refused() {
        let config = RepositoryConfig::at("unused");
        for text in ["ssh://-oProxyCommand=evil/a.git", "ssh://-l@host/a.git"] {
            if let Ok(url) = gix::url::parse(text) {
                assert!(ssh(&config, &url).is_err(), "{text} was let in");
            }
        }
    }
}
