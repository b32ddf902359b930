//! A real sshd of a machine, for root: on a rescue system, and on a server.
//!
//! Whose shell it starts has a home of its own: bash reads `~/.bashrc` where sshd starts it, and what this host's root has there may
//! take seconds. Keys are agreed upon in the quickest way, as there are many sessions.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::git::make_host_key;
use crate::process::{Dirs, Process, Spec};

pub const PORT: u16 = 22;
const DEADLINE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// How one is started.
pub struct Settings<'a> {
    /// Unique in its bed.
    pub name: &'a str,
    pub sshd: &'a Path,
    pub address: IpAddr,
    /// Files as they are seen where it runs.
    pub host_key: PathBuf,
    pub authorized_keys: PathBuf,
    /// PATH of who is let in.
    pub path: OsString,
    /// For its configuration.
    pub dir: &'a Path,
    pub dirs: &'a Dirs,
}

/// Starts it, and waits until it accepts connections. Who is let in stays connected when it is stopped, until the machine loses power, as with a real one.
pub async fn start(settings: &Settings<'_>) -> Result<Process> {
    let listen = SocketAddr::from((settings.address, PORT));
    let configuration = settings.dir.join("sshd_config");
    fs::write(
        &configuration,
        format!(
            "ListenAddress {}\n\
             HostKey {}\n\
             AuthorizedKeysFile {}\n\
             SetEnv \"PATH={}\" \"HOME={}\"\n\
             KexAlgorithms curve25519-sha256\n\
             PidFile none\n\
             UsePAM no\n\
             StrictModes no\n\
             PermitRootLogin prohibit-password\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n",
            listen,
            settings.host_key.display(),
            settings.authorized_keys.display(),
            settings.path.to_string_lossy(),
            settings.dir.display(),
        ),
    )?;
    let spec = Spec::new(settings.name, settings.sshd, settings.dirs);
    let process = Process::start(spec.args([
        "-D".into(),
        "-e".into(),
        "-f".into(),
        configuration.into_os_string(),
    ]))?;
    let accepts = async {
        while TcpStream::connect(listen).await.is_err() {
            sleep(LOOK).await;
        }
    };
    let accepts = timeout(DEADLINE, accepts).await;
    accepts.with_context(|| format!("sshd does not listen on {listen}: {}", process.log()))?;
    Ok(process)
}

/// What a rescue system has to let somebody in: a host key that nobody knows, and the keys of those who are.
pub fn write_rescue_keys(dir: &Path, authorized: &[String]) -> Result<(PathBuf, PathBuf)> {
    let host_key = dir.join("host_key");
    for old in [&host_key, &dir.join("host_key.pub")] {
        match fs::remove_file(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    make_host_key(&host_key)?;
    let authorized_keys = dir.join("authorized_keys");
    fs::write(&authorized_keys, authorized.join("\n") + "\n").context("writing keys")?;
    Ok((host_key, authorized_keys))
}
