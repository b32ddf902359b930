//! The person's own `ssh` to a machine, which takes the pinned host key and no other.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use fabrik_core::id::MachineName;
use fabrik_core::spec::Machine;
use ring::digest::{SHA256, digest};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::MachineError;
use crate::secrets::Secret;
use crate::seed::last_line;

/// A system that is switched to takes minutes; whoever says nothing for longer has gone.
const LIMIT: Duration = Duration::from_secs(600);
/// The exit code of `ssh` itself, where no command of ours has ended (ssh(1), "EXIT STATUS").
const OF_SSH: i32 = 255;
/// Who is let in where fabrik's system is.
pub const ROOT: &str = "root";
const KNOWN_HOSTS: &str = "known_hosts";

/// The way to one machine. What it needs on this disk ends with it.
pub struct Pinned {
    name: MachineName,
    machine: Machine,
    identity: Option<PathBuf>,
    dir: TempDir,
}

impl Pinned {
    pub fn new(
        name: &MachineName,
        machine: &Machine,
        identity: Option<PathBuf>,
    ) -> Result<Self, MachineError> {
        let dir = tempfile::tempdir().map_err(MachineError::file(std::env::temp_dir()))?;
        let path = dir.path().join(KNOWN_HOSTS);
        let line = format!("{name} {}\n", machine.host_key);
        std::fs::write(&path, line).map_err(MachineError::file(path))?;
        Ok(Self {
            name: name.clone(),
            machine: machine.clone(),
            identity,
            dir,
        })
    }

    /// The same machine once it is installed: root alone is let in.
    #[must_use]
    pub fn installed(self) -> Self {
        let machine = Machine {
            user: ROOT.to_owned(),
            ..self.machine
        };
        Self { machine, ..self }
    }

    pub fn name(&self) -> &MachineName {
        &self.name
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    pub fn identity(&self) -> Option<&Path> {
        self.identity.as_deref()
    }

    /// Of the URL of its store: what its daemon takes without a signature, it takes of root (nix.conf(5), `trusted-users`).
    pub fn daemon(&self) -> &'static str {
        if self.machine.user == ROOT {
            ""
        } else {
            "?remote-program=sudo%20-n%20nix-daemon"
        }
    }

    /// For what has to be on this disk for as long as the machine is dealt with.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `user@address`.
    pub fn host(&self) -> String {
        format!("{}@{}", self.machine.user, self.machine.address)
    }

    /// The same in a URL, where an IPv6 address is in brackets.
    pub fn url_host(&self) -> String {
        let Machine { user, address, .. } = &self.machine;
        if address.contains(':') {
            format!("{user}@[{address}]")
        } else {
            format!("{user}@{address}")
        }
    }

    /// Options that count before all others, since ssh takes the first value that it is told (ssh_config(5)).
    pub fn options(&self) -> Vec<String> {
        let known_hosts = self.dir.path().join(KNOWN_HOSTS);
        // `%` begins a token there, and quotes keep what has spaces together.
        let known_hosts = known_hosts.display().to_string().replace('%', "%%");
        let options = [
            format!("UserKnownHostsFile=\"{known_hosts}\""),
            format!("HostKeyAlias={}", self.name),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "KnownHostsCommand=none".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "HostKeyAlgorithms=ssh-ed25519".to_owned(),
            "VerifyHostKeyDNS=no".to_owned(),
            "UpdateHostKeys=no".to_owned(),
            "CheckHostIP=no".to_owned(),
            // A connection that is open already may be to whoever answered first.
            "ControlPath=none".to_owned(),
        ];
        options.into()
    }

    /// Runs a command line there as root, with `input` as its standard input.
    pub async fn run(
        &self,
        what: &'static str,
        line: &str,
        input: Option<&Secret>,
    ) -> Result<Vec<u8>, MachineError> {
        let mut command = Command::new("ssh");
        for option in self.options() {
            command.args(["-o", &option]);
        }
        command.args([
            "-T",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=15",
            "-o",
            "ServerAliveInterval=15",
        ]);
        command.args(["-p", &self.machine.port.to_string()]);
        if let Some(identity) = &self.identity {
            command.arg("-i").arg(identity);
        }
        let line = self.as_root(line);
        command
            .args(["--", &self.host(), &line])
            .env("LC_ALL", "C")
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(MachineError::missing("ssh"))?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            // Who does not read it all says why.
            stdin.write_all(input.expose()).await.ok();
            stdin.shutdown().await.ok();
        }
        match timeout(LIMIT, child.wait_with_output()).await {
            Ok(output) => self.heard(what, output.map_err(MachineError::missing("ssh"))?),
            Err(_elapsed) => {
                Err(self.unreachable(format!("no answer within {} s", LIMIT.as_secs())))
            }
        }
    }

    /// `sudo` keeps little of the environment, not even where somebody comes from.
    fn as_root(&self, line: &str) -> String {
        if self.machine.user == ROOT {
            return line.to_owned();
        }
        let line = line.replace('\'', r"'\''");
        format!("sudo -n env SSH_CONNECTION=\"$SSH_CONNECTION\" sh -c '{line}'")
    }

    /// Tells what a command has said from what `ssh` says of the way there.
    fn heard(&self, what: &'static str, output: Output) -> Result<Vec<u8>, MachineError> {
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(OF_SSH) {
            return Err(MachineError::Remote {
                machine: self.name.to_string(),
                what,
                said: last_line(&output.stderr),
            });
        }
        if !said.contains("Host key verification failed") && !said.contains("no matching host key")
        {
            return Err(self.unreachable(last_line(&output.stderr)));
        }
        Err(MachineError::HostKey {
            machine: self.name.to_string(),
            address: self.address(),
            shown: shown_key(&said)
                .unwrap_or("which ssh does not name")
                .to_owned(),
            pinned: fingerprint(&self.machine.host_key),
        })
    }

    fn unreachable(&self, said: String) -> MachineError {
        MachineError::Unreachable {
            machine: self.name.to_string(),
            address: self.address(),
            said,
        }
    }

    fn address(&self) -> String {
        format!("{} port {}", self.machine.address, self.machine.port)
    }
}

/// As `ssh-keygen -l` shows it.
fn fingerprint(host_key: &str) -> String {
    let blob = host_key.split(' ').nth(1).unwrap_or_default();
    let bytes = STANDARD.decode(blob).unwrap_or_default();
    let hash = digest(&SHA256, &bytes);
    format!("SHA256:{}", STANDARD_NO_PAD.encode(hash))
}

/// What ssh says that the other side has shown.
fn shown_key(said: &str) -> Option<&str> {
    let begin = said.find("SHA256:")?;
    let rest = said.get(begin..)?;
    let ends = |c: char| !c.is_ascii_alphanumeric() && !":+/".contains(c);
    rest.split(ends).next()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk";

    fn pinned(user: &str) -> Pinned {
        let machine = Machine {
            address: "192.168.1.20".to_owned(),
            port: 2222,
            user: user.to_owned(),
            host_key: KEY.to_owned(),
            disk: "/dev/disk/by-id/nvme".to_owned(),
            node_ip: "192.168.1.20".parse().unwrap(),
        };
        Pinned::new(&"desktop".parse().unwrap(), &machine, None).unwrap()
    }

    #[test]
    fn nothing_but_the_pinned_key_is_known() {
        let pinned = pinned("root");
        let known = std::fs::read_to_string(pinned.dir().join(KNOWN_HOSTS)).unwrap();
        assert_eq!(known, format!("desktop {KEY}\n"));
        let options = pinned.options();
        for option in [
            "StrictHostKeyChecking=yes",
            "HostKeyAlias=desktop",
            "ControlPath=none",
        ] {
            assert!(options.iter().any(|o| o == option), "{option}");
        }
    }

    #[test]
    fn who_is_not_root_asks_sudo_and_is_asked_nothing() {
        assert_eq!(pinned("root").as_root("cat '/a b'"), "cat '/a b'");
        assert_eq!(
            pinned("ada").as_root("cat '/a b'"),
            r#"sudo -n env SSH_CONNECTION="$SSH_CONNECTION" sh -c 'cat '\''/a b'\'''"#
        );
    }

    #[test]
    fn an_ipv6_address_is_in_brackets_in_a_url_alone() {
        assert_eq!(pinned("root").url_host(), "root@192.168.1.20");
        let mut pinned = pinned("ada");
        pinned.machine.address = "2001:db8::20".to_owned();
        assert_eq!(
            (pinned.url_host(), pinned.host()),
            (
                "ada@[2001:db8::20]".to_owned(),
                "ada@2001:db8::20".to_owned()
            )
        );
    }

    #[test]
    fn who_is_not_root_is_seen_to_come_from_where_they_do() {
        let dir = tempfile::tempdir().unwrap();
        let sudo = dir.path().join("sudo");
        let keeps_nothing = "#!/bin/sh\nshift\nexec env -i PATH=\"$PATH\" \"$@\"\n";
        std::fs::write(&sudo, keeps_nothing).unwrap();
        std::fs::set_permissions(&sudo, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!(
            "{}:{}",
            dir.path().display(),
            std::env::var("PATH").unwrap()
        );
        let mut sh = std::process::Command::new("sh");
        sh.env("PATH", path)
            .env("SSH_CONNECTION", "192.168.1.7 50000 192.168.1.20 22")
            .args(["-c", &pinned("ada").as_root("echo \"$SSH_CONNECTION\"")]);
        let said = sh.output().unwrap().stdout;
        assert_eq!(said, b"192.168.1.7 50000 192.168.1.20 22\n");
    }

    #[test]
    fn nix_daemon_is_root_s_for_whoever_comes_in() {
        assert_eq!(pinned("root").daemon(), "");
        let daemon = "?remote-program=sudo%20-n%20nix-daemon";
        assert_eq!(pinned("ada").daemon(), daemon);
    }

    #[test]
    fn the_key_that_was_shown_is_named() {
        let said = "The fingerprint for the ED25519 key sent by the remote host is\nSHA256:ab+/9.\nPlease contact";
        assert_eq!(shown_key(said), Some("SHA256:ab+/9"));
        assert_eq!(fingerprint(KEY).len(), "SHA256:".len() + 43);
    }
}
