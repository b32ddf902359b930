//! The cluster repository that a bed starts with.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::git::Worktree;
use crate::parts::Parts;

/// What is in it.
#[derive(Clone, Copy, Debug)]
pub struct DefaultRepository<'a> {
    pub cluster: &'a str,
    pub kubernetes_version: &'a str,
    /// Workers.
    pub count: u32,
    pub age_recipient: &'a str,
    pub hetzner_token: &'a str,
}

/// Where the Hetzner token is in the repository.
pub const TOKEN_FILE: &str = "secrets/hetzner.yaml";

/// Writes `cluster.toml`, `.sops.yaml` and the encrypted token. Commits nothing. The token is
/// encrypted once: a repository that has it keeps it.
pub fn write(worktree: &Worktree, parts: &Parts, wanted: &DefaultRepository<'_>) -> Result<()> {
    worktree.write("cluster.toml", cluster_toml(wanted))?;
    let recipient = wanted.age_recipient;
    worktree.write(
        ".sops.yaml",
        format!(
            "creation_rules:\n\
             \x20 - path_regex: ^secrets/\n\
             \x20   age: {recipient}\n\
             \x20 - path_regex: ^manifests/\n\
             \x20   encrypted_regex: ^(data|stringData)$\n\
             \x20   age: {recipient}\n"
        ),
    )?;
    if worktree.dir().join(TOKEN_FILE).exists() {
        return Ok(());
    }
    let plain = format!("token: {}\n", wanted.hetzner_token);
    let encrypted = sops_encrypt(worktree, parts, TOKEN_FILE, plain.as_bytes())?;
    worktree.write(TOKEN_FILE, encrypted)
}

/// Encrypts by the real sops and the rules of the work tree's `.sops.yaml`; nothing plain is
/// written to disk.
pub fn sops_encrypt(
    worktree: &Worktree,
    parts: &Parts,
    path: &str,
    plain: &[u8],
) -> Result<Vec<u8>> {
    let mut child = Command::new(&parts.sops)
        .args(["encrypt", "--input-type", "yaml", "--output-type", "yaml"])
        .args(["--filename-override", path])
        .current_dir(worktree.dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting sops")?;
    child
        .stdin
        .take()
        .context("standard input of sops")?
        .write_all(plain)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "sops encrypt {path}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}

fn cluster_toml(wanted: &DefaultRepository<'_>) -> String {
    let DefaultRepository {
        cluster,
        kubernetes_version,
        count,
        ..
    } = wanted;
    format!(
        r#"[cluster]
name = "{cluster}"

[kubernetes]
version = "{kubernetes_version}+k3s1"

[hetzner]
token = {{ file = "{TOKEN_FILE}", key = "token" }}

[network]
range = "10.0.0.0/16"
nodes = "10.0.1.0/24"
zone = "eu-central"
pods = "10.42.0.0/16"
services = "10.43.0.0/16"

[pools.workers]
count = {count}
server-types = ["cx33", "cx43"]
locations = ["fsn1", "nbg1"]
image = "debian-12"
"#
    )
}
