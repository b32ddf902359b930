//! Whoever seeds a cluster and ends it, and their laptop.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fabrik_bed::emulator::TOKEN;
use fabrik_bed::{Bed, Build, system};
use serde_json::Value;

use crate::{Ran, World};

const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea alice";
const SERVERS: &str = "\n[servers]\ncount = 1\nserver-types = [\"cx33\"]\nlocations = [\"fsn1\"]\n";

/// Whoever seeds: a home with an age key, and what `fabrik seed` keeps.
pub struct Person {
    home: PathBuf,
}

impl Person {
    pub fn new(bed: &Bed) -> Result<Self> {
        let home = bed.dir().join("laptop");
        fs::create_dir_all(&home)?;
        fs::write(home.join("token"), TOKEN)?;
        Ok(Self { home })
    }

    /// By `fabrik init`; only its flake is the bed's.
    pub fn make_repository(&self, bed: &Bed) -> Result<()> {
        let git = bed.git();
        let token = self.home.join("token");
        let init = [
            "init",
            ".",
            "--no-lock",
            "--workers=1",
            "--server-types=cx33",
            "--locations=fsn1",
            "--forge=gitlab",
            "--fabrik-flake=github:example/fabrik",
            "--name",
            &bed.options().cluster,
            "--ssh-key",
            SSH_KEY,
            "--token-file",
            token.to_str().context("a path in UTF-8")?,
        ];
        Ran::of(self.command(bed, &init)?)?.ok()?;
        system::write(git, &bed.options().kubernetes_version, Build::Tested)?;
        let mut spec = git.read("cluster.toml")?;
        spec.push_str(SERVERS);
        let spec = spec
            .replace(
                "# ssh-from = [\"203.0.113.7/32\"]",
                "ssh-from = [\"127.0.0.0/8\"]",
            )
            .replace(
                "# api-from = [\"203.0.113.7/32\"]",
                "api-from = [\"127.0.0.0/8\"]",
            );
        git.write("cluster.toml", spec)?;
        git.commit_and_push("Begin").map(drop)
    }

    pub fn seed(&self, bed: &Bed) -> Result<Ran> {
        let image = bed.dir().join("disk.img");
        let endpoint = bed.hetzner().endpoint();
        let url = bed.repository_url();
        let text = |path: &std::path::Path| path.to_str().map(str::to_owned).context("UTF-8");
        let known_hosts = text(bed.git_servers().known_hosts())?;
        let seed = [
            "seed",
            "--image",
            &text(&image)?,
            "--repository",
            &url,
            "--known-hosts",
            &known_hosts,
            "--hetzner-endpoint",
            &endpoint,
            "--timeout",
            "3m",
            "--yes",
            &bed.options().cluster,
        ];
        Ran::of(self.command(bed, &seed)?)
    }

    pub fn destroy(&self, bed: &Bed, more: &[&str]) -> Result<Ran> {
        let endpoint = bed.hetzner().endpoint();
        let kubeconfig = self.state().join("kubeconfig");
        let destroy = [
            "destroy",
            "--yes",
            &bed.options().cluster,
            "--hetzner-endpoint",
            &endpoint,
            "--kubeconfig",
            kubeconfig.to_str().context("a path in UTF-8")?,
        ];
        Ran::of(self.command(bed, &[&destroy, more].concat())?)
    }

    /// What `fabrik seed` keeps of the cluster.
    pub fn state(&self) -> PathBuf {
        self.home.join("state/fabrik/demo")
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
}

/// Seeds, with a person who lets the deploy key in where they are told to.
pub fn seed(mut bed: Bed, person: &Person) -> Result<World> {
    bed.write_image(&bed.dir().join("disk.img"))?;
    let waits = person.seed(&bed)?;
    ensure!(waits.code == Some(2), "{waits:?}");
    let mut lines = waits.stdout.lines().map(str::trim);
    let key = lines.find(|line| line.starts_with("ssh-ed25519 "));
    bed.git_servers().authorize(key.context("no deploy key")?)?;
    let ran = person.seed(&bed)?;
    let record = fs::read_to_string(person.state().join("seed.json"))?;
    let record: Value = serde_json::from_str(&record)?;
    let told = || format!("{}\n{}", ran.stdout, ran.stderr);
    ensure!(ran.code == Some(0), "{}", told());
    let cluster_id = record["cluster-id"].as_str().with_context(told)?.to_owned();
    let server = record["server"].as_u64().with_context(told)?;
    let first = bed.machines().into_iter().find(|m| m.id() == server);
    bed.adopt(first.context("no first server")?.name())?;
    Ok(World { bed, cluster_id })
}
