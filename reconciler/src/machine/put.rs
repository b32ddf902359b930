//! Puts a pool's system on a machine, and what makes it one node and no other.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fabrik_core::id::{CommitId, PoolName};
use fabrik_core::machines::means::{Means, SSH_PORT};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::{MachineError, Pinned};
use crate::build::checkout_url;
use crate::node::identify::STATE_DIR;
use crate::secrets::Secret;

/// How long a machine may take to boot what was installed.
const BOOT_LIMIT: Duration = Duration::from_secs(900);
const RETRY_PAUSE: Duration = Duration::from_secs(5);
const FEATURES: [&str; 2] = ["--extra-experimental-features", "nix-command flakes"];

/// Builds what it needs of that commit of the repository in `dir`, and puts it there. All that these programs say is shown.
pub async fn put(
    means: Means,
    way: &Pinned,
    dir: &Path,
    commit: &CommitId,
    pool: &PoolName,
) -> Result<(), MachineError> {
    let installer_port = match means {
        Means::Tell => return Ok(()),
        Means::Switch => None,
        Means::Wipe { installer_port } => Some(installer_port),
    };
    let root = fs::canonicalize(dir).map_err(MachineError::file(dir))?;
    let of = |what: &str| format!("{}?rev={commit}#{what}", checkout_url(&root));
    let system = format!("nixosConfigurations.{pool}.config.system.build.toplevel");
    let system = build(&of(&system)).await?;
    let Some(installer_port) = installer_port else {
        return switch(way, &system).await;
    };
    let disk = build(&of(&format!("fabrik.machines.{}.disk", way.name()))).await?;
    anywhere(way, &disk, &system, installer_port).await
}

async fn build(what: &str) -> Result<String, MachineError> {
    let mut nix = Command::new("nix");
    nix.args(FEATURES)
        .args(["build", "--no-link", "--print-out-paths", what])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = nix.output().await.map_err(MachineError::missing("nix"))?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !path.is_empty() {
        Ok(path)
    } else {
        Err(MachineError::Program { program: "nix" })
    }
}

/// By its documented command line (nix-community.github.io/nixos-anywhere, "Reference Manual"). It tells ssh to take any host
/// key, before what `--ssh-option` says, and ssh takes the first value: so the `ssh` that it finds in PATH is told ours
/// before. The machine keeps its host keys, in the installer and afterwards.
async fn anywhere(
    way: &Pinned,
    disk: &str,
    system: &str,
    installer_port: u16,
) -> Result<(), MachineError> {
    let mut program = Command::new("nixos-anywhere");
    program
        .args(["--store-paths", disk, system, "--copy-host-keys"])
        .args(["--ssh-port", &way.machine().port.to_string()]);
    if installer_port != SSH_PORT {
        program.args(["--post-kexec-ssh-port", &installer_port.to_string()]);
    }
    if let Some(identity) = way.identity() {
        program.arg("-i").arg(identity);
    }
    program.args(["--target-host", &way.host()]);
    show(way, program, "nixos-anywhere").await
}

async fn switch(way: &Pinned, system: &str) -> Result<(), MachineError> {
    let mut copy = Command::new("nix");
    copy.args(FEATURES)
        .args([
            "copy",
            "--substitute-on-destination",
            "--no-check-sigs",
            "--to",
        ])
        .args([
            &format!("ssh-ng://{}{}", way.url_host(), way.daemon()),
            system,
        ]);
    show(way, copy, "nix").await?;
    // As nixos-rebuild does it: in a unit of its own, which a connection that breaks does not end.
    let line = format!(
        "nix-env --profile /nix/var/nix/profiles/system --set {system} && systemd-run --collect --no-ask-password --pipe \
         --quiet --service-type=exec --unit=fabrik-install {system}/bin/switch-to-configuration switch"
    );
    way.run("switching to its system", &line, None)
        .await
        .map(drop)
}

/// Runs a program whose `ssh` takes the pinned host key alone, and comes in by the person's key.
async fn show(way: &Pinned, mut program: Command, name: &'static str) -> Result<(), MachineError> {
    let bin = way.dir().join("bin");
    ssh_in(&bin, way).map_err(MachineError::file(&bin))?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([bin].into_iter().chain(env::split_paths(&path)));
    program
        .env("PATH", path.unwrap_or_default())
        .env("NIX_SSHOPTS", format!("-p {}", way.machine().port))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let status = program
        .status()
        .await
        .map_err(MachineError::missing(name))?;
    if status.success() {
        Ok(())
    } else {
        Err(MachineError::Program { program: name })
    }
}

fn ssh_in(bin: &Path, way: &Pinned) -> std::io::Result<()> {
    let real = in_path("ssh").ok_or(std::io::ErrorKind::NotFound)?;
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let options: String = way
        .options()
        .iter()
        .map(|o| format!(" -o {}", quoted(o)))
        .collect();
    // `nix` is told of no key: its own options are split at blanks.
    let key = way.identity().map(|file| file.display().to_string());
    let key = key.map_or_else(String::new, |file| format!(" -i {}", quoted(&file)));
    fs::create_dir_all(bin)?;
    let path = bin.join("ssh");
    let real = quoted(&real.display().to_string());
    fs::write(
        &path,
        format!("#!/bin/sh\nexec {real}{options}{key} \"$@\"\n"),
    )?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut found = env::split_paths(&path).map(|dir| dir.join(program));
    found.find(|file| file.is_file())
}

/// Tells the machine who it is: by the standard input of `ssh`, to a file of that name for root alone. Then it runs a line of
/// commands.
pub async fn tell(way: &Pinned, name: &str, file: &Secret, then: &str) -> Result<(), MachineError> {
    let path = format!("/{STATE_DIR}/{name}");
    let line = format!(
        "umask 077 && mkdir -p /{STATE_DIR} && cat >{path}.new && mv {path}.new {path} && {then}"
    );
    when_it_answers(way, "telling it who it is", &line, Some(file)).await
}

/// Runs a line of commands there, as soon as it answers.
pub async fn when_it_answers(
    way: &Pinned,
    what: &'static str,
    line: &str,
    input: Option<&Secret>,
) -> Result<(), MachineError> {
    let deadline = Instant::now() + BOOT_LIMIT;
    loop {
        match way.run(what, line, input).await {
            Err(MachineError::Unreachable { .. }) if Instant::now() < deadline => {
                sleep(RETRY_PAUSE).await;
            }
            done => return done.map(drop),
        }
    }
}
