//! The real ssh, as a person at a laptop has it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use fabrik_bed::Bed;

/// A key, and what is known of hosts.
pub struct Laptop {
    key: PathBuf,
    pub known_hosts: PathBuf,
}

impl Laptop {
    pub fn new(bed: &Bed) -> Result<Self> {
        let key = bed.dir().join("laptop.key");
        let made = Command::new("ssh-keygen")
            .args(["-qt", "ed25519", "-N", "", "-C", "laptop", "-f"])
            .arg(&key)
            .status()?;
        ensure!(made.success(), "ssh-keygen: {made}");
        let known_hosts = bed.dir().join("laptop.known_hosts");
        Ok(Self { key, known_hosts })
    }

    pub fn public_key(&self) -> Result<String> {
        let text = std::fs::read_to_string(self.key.with_extension("key.pub"))?;
        Ok(text.trim().to_owned())
    }

    /// The host key of this host is accepted once and has to stay.
    pub fn ssh(&self, host: &str, command: &str, input: &[u8]) -> Result<Output> {
        let mut child = Command::new("ssh")
            .args(["-F", "none", "-i"])
            .arg(&self.key)
            .args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
            .args([
                "-o",
                "StrictHostKeyChecking=accept-new",
                "-o",
                "LogLevel=ERROR",
                "-o",
            ])
            .arg(known_hosts(&self.known_hosts))
            .arg(format!("root@{host}"))
            .arg(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("standard input")?;
        // Where nobody is let in, nobody reads it.
        let _ = stdin.write_all(input);
        drop(stdin);
        Ok(child.wait_with_output()?)
    }

    /// Standard output of what succeeded there.
    pub fn run(&self, host: &str, command: &str, input: &[u8]) -> Result<String> {
        let output = self.ssh(host, command, input)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{command}: {}: {said}",
            output.status
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

fn known_hosts(file: &Path) -> String {
    format!("UserKnownHostsFile={}", file.display())
}
