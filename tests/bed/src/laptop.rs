//! A person's laptop: a home with Hetzner's token, and `fabrik`, which seeds a cluster into a bed that began empty, and ends it.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::bed::{Bed, PATIENCE};
use crate::emulator::TOKEN;
use crate::system::{self, Build};

/// A public key whose private half nobody has.
const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea alice";

pub struct Laptop {
    home: PathBuf,
}

/// What `fabrik seed` has written down of a cluster.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    pub cluster_id: String,
    /// The first server.
    pub server: Option<u64>,
}

impl Laptop {
    pub fn new(bed: &Bed) -> Result<Self> {
        let home = bed.dir().join("laptop");
        fs::create_dir_all(&home)?;
        fs::write(home.join("token"), TOKEN)?;
        Ok(Self { home })
    }

    /// What `fabrik seed` keeps of the cluster.
    pub fn state(&self) -> PathBuf {
        self.home.join("state/fabrik/demo")
    }

    /// The age key of whoever it belongs to, which `fabrik init` makes.
    pub fn age_key(&self) -> PathBuf {
        self.home.join(".config/sops/age/keys.txt")
    }

    pub fn record(&self) -> Result<Record> {
        let text = fs::read_to_string(self.state().join("seed.json")).context("no seed.json")?;
        Ok(serde_json::from_str(&text)?)
    }

    pub fn command(&self, bed: &Bed, arguments: &[&str]) -> Result<Command> {
        let mut command = bed.fabrik_cmd(arguments)?;
        command
            .env("HOME", &self.home)
            .env("XDG_STATE_HOME", self.home.join("state"))
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("SOPS_AGE_KEY_FILE")
            .env_remove("KUBECONFIG");
        Ok(command)
    }

    pub fn init(&self, bed: &Bed, workers: u32) -> Result<Command> {
        let token = self.home.join("token");
        let init = [
            "init",
            ".",
            "--no-lock",
            "--server-types=cx33",
            "--locations=fsn1",
            "--forge=gitlab",
            "--fabrik-flake=github:example/fabrik",
            "--workers",
            &workers.to_string(),
            "--name",
            &bed.options().cluster,
            "--ssh-key",
            SSH_KEY,
            "--token-file",
            utf8(&token)?,
        ];
        self.command(bed, &init)
    }

    /// What a person writes into the repository that `fabrik init` made: so many servers, and who may come from outside. Only
    /// its flake is the bed's. Commits nothing.
    pub fn complete_repository(&self, bed: &Bed, servers: u32) -> Result<()> {
        let (git, version) = (bed.git(), &bed.options().kubernetes_version);
        system::write(git, version, Build::Tested)?;
        let spec = git
            .read("cluster.toml")?
            .replace(
                "version = \"1.36\"",
                &format!("version = \"{version}+k3s1\""),
            )
            .replace(
                "# ssh-from = [\"203.0.113.7/32\"]",
                "ssh-from = [\"127.0.0.0/8\"]",
            )
            .replace(
                "# api-from = [\"203.0.113.7/32\"]",
                "api-from = [\"127.0.0.0/8\"]",
            );
        let table = format!(
            "\n[servers]\ncount = {servers}\nserver-types = [\"cx33\"]\nlocations = [\"fsn1\"]\n"
        );
        git.write("cluster.toml", spec + &table + PATIENCE)
    }

    /// `fabrik seed`, with the image that [`Bed::write_image`] wrote to `disk.img`; more arguments may follow.
    pub fn seed(&self, bed: &Bed) -> Result<Command> {
        let url = bed.repository_url();
        let image = bed.dir().join("disk.img");
        let endpoint = bed.hetzner().endpoint();
        let seed = [
            "seed",
            "--image",
            utf8(&image)?,
            "--repository",
            &url,
            "--known-hosts",
            utf8(bed.git_servers().known_hosts())?,
            "--hetzner-endpoint",
            &endpoint,
            "--timeout",
            "3m",
            "--yes",
            &bed.options().cluster,
        ];
        self.command(bed, &seed)
    }

    /// More arguments may follow.
    pub fn destroy(&self, bed: &Bed) -> Result<Command> {
        let endpoint = bed.hetzner().endpoint();
        let kubeconfig = self.state().join("kubeconfig");
        let destroy = [
            "destroy",
            "--yes",
            &bed.options().cluster,
            "--hetzner-endpoint",
            &endpoint,
            "--kubeconfig",
            utf8(&kubeconfig)?,
        ];
        self.command(bed, &destroy)
    }
}

/// The key that `fabrik seed` asks a person to let into the repository, in what it said.
pub fn deploy_key(said: &str) -> Result<&str> {
    let mut lines = said.lines().map(str::trim);
    let key = lines.find(|line| line.starts_with("ssh-ed25519 "));
    key.with_context(|| format!("no deploy key in {said}"))
}

/// Runs a command of the laptop, whose lines `hear` is told as they come: SIGKILL when it breaks. Returns all of them. What it
/// complains about is appended to the log `laptop`.
pub fn follow(
    bed: &Bed,
    mut command: Command,
    mut hear: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<(ExitStatus, String)> {
    let log = bed.logs().join("laptop.log");
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let stdout = child.stdout.take().context("a standard output")?;
    let mut said = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        said.push_str(&line);
        said.push('\n');
        if hear(&line).is_break() {
            child.kill()?;
        }
    }
    Ok((child.wait()?, said))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}
