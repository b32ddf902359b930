//! An image where the laptop can't build it: the temporary server builds the pool's system in its rescue system, and installs it
//! on its own disk.
//!
//! It gets the commit's files, in which secrets are encrypted, and Nix by a digest that is known here. Nix checks all that it
//! fetches by itself. What was built is trusted for the connection that it is built over, whose other end has proved itself.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fabrik_core::id::CommitId;
use fabrik_core::seed::{Architecture, Image};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::SeedError;
use super::progress::Task;
use super::ssh::{Failure, Ssh, heard};
use crate::cli::git;

const SCRIPT: &str = concat!(
    "#!/bin/sh\nset -eu\n",
    include_str!("../../../nixos/partition.sh"),
    include_str!("build-there.sh"),
);
const PROGRAM: &str = "/run/fabrik-build";
/// As its installer names its tarballs and their SHA-256 (releases.nixos.org/nix/nix-2.34.7/install). nixpkgs asks for 2.18 at
/// least (lib/minver.nix).
const NIX_VERSION: &str = "2.34.7";
const NIX_X86: &str = "eafe5042404e818505e28c5ca3d0885f3ec45c31f955489a25bb38258f87560e";
const NIX_ARM: &str = "f1cee64ae7a02330c6421924c28f597c41813f2214ff108622087d8056378b08";
/// Of what is fetched, copied, or read back.
const LIMIT: Duration = Duration::from_secs(3600);
/// A system of which no cache has anything, on two processors.
const BUILD_LIMIT: Duration = Duration::from_secs(6 * 3600);
const AGAIN: &str = "Repeat this: it goes on with what is built";

/// Returns when the system of the image's pool is on the disk, and was read back.
///
/// # Errors
/// The connection broke, or a step failed there.
pub async fn build_there(
    ssh: &Ssh,
    repository: &Path,
    commit: &CommitId,
    image: &Image,
) -> Result<(), SeedError> {
    let put = format!("cat >{PROGRAM} && chmod 700 {PROGRAM}");
    feed(ssh, "told it how to build", &put, SCRIPT.as_bytes()).await?;
    let digest = image.digest.as_str();
    step(ssh, "laid out its disk", &format!("prepare {digest}")).await?;
    let (system, sha256) = (image.architecture.nix_system(), of_nix(image.architecture));
    let url = format!(
        "https://releases.nixos.org/nix/nix-{NIX_VERSION}/nix-{NIX_VERSION}-{system}.tar.xz"
    );
    let fetched = format!("it has Nix {NIX_VERSION}");
    step(ssh, &fetched, &format!("nix {url} {sha256}")).await?;
    let source = git::archive(repository, commit.as_str())?;
    let take = format!("{PROGRAM} source");
    feed(ssh, "sent it the commit", &take, &source).await?;
    build(ssh, image).await?;
    step(ssh, "installed it on its disk", "install").await?;
    step(ssh, "read it back, whole", "finish").await
}

const fn of_nix(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86 => NIX_X86,
        Architecture::Arm => NIX_ARM,
    }
}

/// Has one step done there.
async fn step(ssh: &Ssh, words: &str, arguments: &str) -> Result<(), SeedError> {
    feed(ssh, words, &format!("{PROGRAM} {arguments}"), &[]).await
}

/// Runs a command line there, with this as its standard input.
async fn feed(ssh: &Ssh, words: &str, line: &str, input: &[u8]) -> Result<(), SeedError> {
    let task = Task::begin(words);
    let child = ssh.command(line).stdin(Stdio::piped()).spawn();
    let mut child = child.map_err(SeedError::missing("ssh"))?;
    let stdin = child.stdin.take();
    let fed = async {
        if let Some(mut stdin) = stdin {
            // Who does not read it all says why.
            stdin.write_all(input).await.ok();
            stdin.shutdown().await.ok();
        }
        child.wait_with_output().await
    };
    let output = match timeout(LIMIT, fed).await {
        Ok(output) => heard(output.map_err(SeedError::missing("ssh"))?),
        Err(_elapsed) => Err(Failure::Silent(format!("no answer within {LIMIT:?}"))),
    };
    let output = output.map_err(|failure| ssh.error(&failure, AGAIN))?;
    ssh.expect_success(line, output)?;
    Ok(task.end()?)
}

/// Shows what Nix says there.
async fn build(ssh: &Ssh, image: &Image) -> Result<(), SeedError> {
    let task = Task::begin(format!("built the system of {}", image.pool));
    let mut remote = ssh.command(&format!("{PROGRAM} build {}", image.pool));
    remote.stderr(Stdio::inherit());
    let remote = remote.spawn().map_err(SeedError::missing("ssh"))?;
    let output = match timeout(BUILD_LIMIT, remote.wait_with_output()).await {
        Ok(output) => heard(output?),
        Err(_elapsed) => Err(Failure::Silent(format!("no end within {BUILD_LIMIT:?}"))),
    };
    let output = output.map_err(|failure| ssh.error(&failure, AGAIN))?;
    if !output.status.success() {
        let pool = image.pool.to_string();
        return Err(SeedError::Build { pool });
    }
    Ok(task.end()?)
}
