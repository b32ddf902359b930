//! A real sshd for the repository, with a host key of its own, on a high port. It runs as the user
//! who runs the bed, lets keys in that were authorized, and runs nothing but git.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{Dirs, Process, Spec};

/// Serves until it is dropped.
pub struct Server {
    user: String,
    authorized_keys: PathBuf,
    known_hosts: PathBuf,
    _process: Process,
}

impl Server {
    pub fn start(dir: &Path, listen: SocketAddr, sshd: &Path, dirs: &Dirs) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let host_key = dir.join("host_key");
        make_host_key(&host_key)?;
        let public = fs::read_to_string(dir.join("host_key.pub"))?;
        let known_hosts = dir.join("known_hosts");
        let line = format!("[{}]:{} {public}", listen.ip(), listen.port());
        fs::write(&known_hosts, line)?;
        let authorized_keys = dir.join("authorized_keys");
        fs::write(&authorized_keys, "")?;
        let configuration = dir.join("sshd_config");
        fs::write(
            &configuration,
            format!(
                "ListenAddress {listen}\n\
                 HostKey {}\n\
                 AuthorizedKeysFile {}\n\
                 ForceCommand git-shell -c \"$SSH_ORIGINAL_COMMAND\"\n\
                 KexAlgorithms curve25519-sha256\n\
                 PidFile none\n\
                 UsePAM no\n\
                 StrictModes no\n\
                 PermitRootLogin prohibit-password\n\
                 PasswordAuthentication no\n\
                 KbdInteractiveAuthentication no\n\
                 DisableForwarding yes\n\
                 PermitTTY no\n\
                 SetEnv HOME={}\n",
                host_key.display(),
                authorized_keys.display(),
                dir.display(),
            ),
        )?;
        if rustix::process::geteuid().is_root() {
            // sshd asks for this folder when it runs as root; Debian's unit makes it at boot.
            fs::create_dir_all("/run/sshd").context("creating /run/sshd")?;
        }
        let spec = Spec::new("sshd", sshd, dirs).args([
            "-D".into(),
            "-e".into(),
            "-f".into(),
            configuration.into_os_string(),
        ]);
        let process = Process::start(spec)?;
        Ok(Self {
            user: user()?,
            authorized_keys,
            known_hosts,
            _process: process,
        })
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn known_hosts(&self) -> &Path {
        &self.known_hosts
    }

    pub fn authorize(&self, public_key: &str) -> Result<()> {
        let mut file = OpenOptions::new()
            .append(true)
            .open(&self.authorized_keys)?;
        writeln!(file, "restrict {}", public_key.trim())?;
        Ok(())
    }
}

/// Makes a host key without a passphrase, and its public half beside it.
pub(crate) fn make_host_key(file: &Path) -> Result<()> {
    run(Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(file))
}

fn user() -> Result<String> {
    let output = Command::new("id")
        .arg("-un")
        .output()
        .context("running id")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
