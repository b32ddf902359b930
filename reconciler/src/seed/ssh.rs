//! `ssh` as a child: one key, one known host, nothing of the person's own settings, and nothing secret among its arguments.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::SeedError;
use super::error::last_line;
use crate::secrets::Secret;

const CONNECT_SECS: u8 = 10;
const ALIVE_SECS: u8 = 10;
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// What is answered at once is answered by then.
const SHORT: Duration = Duration::from_secs(60);
/// The exit code of `ssh` itself, where no command of ours has ended (ssh(1), "EXIT STATUS").
const OF_SSH: i32 = 255;

/// A machine, and how to get in.
#[derive(Debug, Clone)]
pub struct Ssh {
    /// For people.
    pub about: &'static str,
    /// An address or a DNS name.
    pub address: String,
    pub port: u16,
    pub user: String,
    pub key: PathBuf,
    /// What the file of known hosts calls it: addresses are used again by Hetzner.
    pub alias: &'static str,
    pub known_hosts: PathBuf,
    /// Whether the first host key that is seen is taken for its own, and kept.
    pub learns: bool,
}

/// Why no command has run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It shows another host key than the known one.
    HostKey,
    /// It does not let this key in.
    Denied(String),
    /// Nobody answers, or the connection broke.
    Silent(String),
}

impl Ssh {
    /// A command line there, for its shell.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("ssh");
        command.env_clear().env("LC_ALL", "C");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let mut known_hosts = OsString::from("UserKnownHostsFile=\"");
        // Spaces separate there, and `%` begins a token (ssh_config(5)).
        known_hosts.push(self.known_hosts.display().to_string().replace('%', "%%"));
        known_hosts.push("\"");
        let checking = if self.learns { "accept-new" } else { "yes" };
        command
            .args(["-F", "none", "-T", "-p", &self.port.to_string(), "-o"])
            .arg(known_hosts)
            .args(["-o", &format!("StrictHostKeyChecking={checking}")])
            .args(["-o", &format!("HostKeyAlias={}", self.alias)])
            .args(["-o", &format!("ConnectTimeout={CONNECT_SECS}")])
            .args(["-o", &format!("ServerAliveInterval={ALIVE_SECS}")]);
        for option in [
            "GlobalKnownHostsFile=/dev/null",
            "HostKeyAlgorithms=ssh-ed25519",
            "UpdateHostKeys=no",
            "CheckHostIP=no",
            "BatchMode=yes",
            "ServerAliveCountMax=3",
        ] {
            command.args(["-o", option]);
        }
        command
            .args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i"])
            .arg(&self.key)
            .args(["--", &format!("{}@{}", self.user, self.address), line])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs something that ends at once.
    ///
    /// # Errors
    /// The outer one: `ssh` can't be run. The inner one: no command has run there.
    pub async fn run(&self, line: &str) -> Result<Result<Output, Failure>, SeedError> {
        self.run_within(SHORT, line).await
    }

    /// As [`Self::run`], for what takes its time.
    pub async fn run_within(
        &self,
        limit: Duration,
        line: &str,
    ) -> Result<Result<Output, Failure>, SeedError> {
        let child = self.command(line).spawn();
        let child = child.map_err(SeedError::missing("ssh"))?;
        match timeout(limit, child.wait_with_output()).await {
            Ok(output) => Ok(heard(output.map_err(SeedError::missing("ssh"))?)),
            Err(_elapsed) => {
                let said = format!("no answer within {} s", limit.as_secs());
                Ok(Err(Failure::Silent(said)))
            }
        }
    }

    /// As [`Self::run`], for what has to go well: what it printed.
    pub async fn say(&self, line: &str) -> Result<Vec<u8>, SeedError> {
        let output = self.run(line).await?;
        let output = output.map_err(|failure| self.error(&failure, ""))?;
        self.expect_success(line, output)
    }

    /// What it printed, where it went well.
    pub fn expect_success(&self, line: &str, output: Output) -> Result<Vec<u8>, SeedError> {
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(SeedError::Remote {
            about: self.about,
            command: line.to_owned(),
            said: last_line(&output.stderr),
        })
    }

    /// Until it lets us in, and runs a command.
    ///
    /// # Errors
    /// It did not within `limit`; `advice` is what a person could look at.
    pub async fn answers(&self, limit: Duration, advice: &str) -> Result<(), SeedError> {
        let deadline = Instant::now() + limit;
        loop {
            let failure = match self.run("true").await? {
                Ok(output) if output.status.success() => return Ok(()),
                Ok(output) => Failure::Silent(last_line(&output.stderr)),
                Err(failure) => failure,
            };
            if Instant::now() >= deadline {
                return Err(self.error(&failure, advice));
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    pub fn error(&self, failure: &Failure, advice: &str) -> SeedError {
        let address = format!("{}:{}", self.address, self.port);
        match failure {
            Failure::HostKey => SeedError::HostKey { address },
            Failure::Denied(said) | Failure::Silent(said) => SeedError::Unreachable {
                about: self.about,
                address,
                said: said.clone(),
                advice: advice.to_owned(),
            },
        }
    }
}

/// Writes a secret to a child's standard input, and ends that. Who does not read it all says why elsewhere.
pub async fn tell(child: &mut Child, secret: &Secret) {
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(secret.expose()).await.ok();
        stdin.shutdown().await.ok();
    }
}

/// Tells what a command has said from what `ssh` says of the way there.
pub fn heard(output: Output) -> Result<Output, Failure> {
    if output.status.code() != Some(OF_SSH) {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(if said.contains("Host key verification failed") {
        Failure::HostKey
    } else if said.contains("Permission denied") {
        Failure::Denied(last_line(&output.stderr))
    } else {
        Failure::Silent(last_line(&output.stderr))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn ssh_takes_nothing_of_the_person_s_and_trusts_only_what_is_pinned() {
        let mut ssh = Ssh {
            about: "the first server",
            address: "127.0.0.1".to_owned(),
            port: 2222,
            user: "root".to_owned(),
            key: "/keys/a".into(),
            alias: "first",
            known_hosts: "/a b/100%".into(),
            learns: false,
        };
        let words = |ssh: &Ssh| -> Vec<String> {
            let command = ssh.command("fabrik receive done");
            let args = command.as_std().get_args();
            args.map(|a| a.to_string_lossy().into_owned()).collect()
        };
        let args = words(&ssh);
        for option in [
            "StrictHostKeyChecking=yes",
            "UserKnownHostsFile=\"/a b/100%%\"",
            "IdentityAgent=none",
            "HostKeyAlgorithms=ssh-ed25519",
        ] {
            assert!(args.iter().any(|a| a == option), "{option}: {args:?}");
        }
        assert_eq!(args[..2], ["-F", "none"]);
        let end = ["--", "root@127.0.0.1", "fabrik receive done"];
        assert_eq!(args[args.len() - 3..], end);
        ssh.learns = true;
        assert!(
            words(&ssh)
                .iter()
                .any(|a| a == "StrictHostKeyChecking=accept-new")
        );
        let command = ssh.command("true");
        let names = command.as_std().get_envs().map(|(name, _)| name.to_owned());
        assert!(names.into_iter().all(|n| n == "PATH" || n == "LC_ALL"));
    }

    #[test]
    fn what_ssh_says_is_told_from_what_the_machine_says() {
        let output = |code: i32, stderr: &str| Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: Vec::new(),
            stderr: stderr.as_bytes().to_vec(),
        };
        assert!(heard(output(1, "Host key verification failed.")).is_ok());
        let changed =
            "@@@ REMOTE HOST IDENTIFICATION HAS CHANGED @@@\nHost key verification failed.\n";
        assert_eq!(heard(output(255, changed)).unwrap_err(), Failure::HostKey);
        let denied = "root@127.0.0.1: Permission denied (publickey).";
        let expected = Failure::Denied(denied.to_owned());
        assert_eq!(heard(output(255, denied)).unwrap_err(), expected);
        let silent = heard(output(
            255,
            "ssh: connect to host 127.0.0.1 port 1: Connection refused\r\n",
        ));
        assert!(matches!(silent, Err(Failure::Silent(said)) if said.ends_with("refused")));
    }
}
