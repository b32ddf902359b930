//! The repository that `fabrik init` makes, pushed as it is: its flake is locked to the bed's stand-in for fabrik's
//! library (`tests/bed/system`), and to nothing else.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::emulator::TOKEN;
use fabrik_bed::parts::Parts;
use fabrik_bed::{Options, system};
use fabrik_e2e::rolling::ROLLED_OUT;
use fabrik_e2e::{Ran, World};

const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea alice";

#[tokio::test(flavor = "multi_thread")]
async fn the_template_converges_with_the_bed_s_stand_in_for_its_inputs() -> Result<()> {
    let world = World::start(Options {
        systems: true,
        ..Options::default()
    })
    .await?;
    let (bed, git) = (&world.bed, world.bed.git());
    let stand_in = bed.dir().join("stand-in-for-fabrik");
    system::write_stand_in(&stand_in, &bed.options().kubernetes_version)?;
    let url = format!("path:{}", stand_in.display());
    let told = init(&world, &url)?;
    ensure!(told.stderr.contains("flake.lock was not made"), "{told:?}");

    // What can't be had here is the stand-in as well.
    let mut flake = git.read("flake.nix")?;
    for nixpkgs in ["nixos-26.05", "nixos-unstable"] {
        let nixpkgs = format!("github:NixOS/nixpkgs/{nixpkgs}");
        ensure!(flake.contains(&nixpkgs), "{flake}");
        flake = flake.replace(&nixpkgs, &url);
    }
    git.write("flake.nix", flake)?;
    // Nobody has seeded this cluster, so there is no snapshot.
    let pool = "[pools.workers]\n";
    let spec = git.read("cluster.toml")?;
    ensure!(spec.contains(pool), "{spec}");
    let spec = spec.replace(pool, &format!("{pool}image = \"debian-12\"\n"));
    git.write("cluster.toml", spec)?;
    let commit = git.commit_and_push("Begin with what fabrik init wrote")?;
    let unlocked =
        "flake.lock does not lock what flake.nix asks for as fabrik, k3s-nixpkgs, nixpkgs";
    world
        .status_says("inputs that are not locked are named", |status| {
            let holds = fabrik_e2e::list(status, "holds");
            let mut messages = holds.iter().filter_map(|hold| hold["message"].as_str());
            messages.any(|message| message.starts_with(unlocked))
        })
        .await?;
    ensure!(world.status().await?["appliedCommit"] != commit.as_str());

    // Done again where there is a Nix, it makes the lock file and nothing else.
    let told = init(&world, &url)?;
    let made = told.stdout.lines().filter(|line| line.starts_with("made"));
    ensure!(made.eq(["made      flake.lock"]), "{told:?}");
    let commit = git.commit_and_push("Lock the inputs")?;
    world.workers_ready(2).await?;
    let waited = ROLLED_OUT.as_secs().to_string() + "s";
    world
        .fabrik(&["wait", &commit, "--timeout", &waited])?
        .ok()?;
    ensure!(world.exists(&["deployment", "hello", "-n", "hello"])?);
    let nodes = fabrik_e2e::list(&world.get(&["fabriknodes"])?, "items");
    ensure!(nodes.len() == 3, "{nodes:#?}");
    world.bed.shutdown().await;
    Ok(())
}

/// With a Nix on PATH that knows no network, in a store of its own.
fn init(world: &World, fabrik_flake: &str) -> Result<Ran> {
    let bed = &world.bed;
    let own = bed.dir().join("laptop");
    fs::create_dir_all(&own)?;
    let nix = own.join("nix");
    if !nix.exists() {
        symlink(Parts::nix()?, &nix)?;
    }
    let token = own.join("token");
    fs::write(&token, TOKEN)?;
    let recipient = bed.founding()?.age_recipient;
    let text = |path: &std::path::Path| path.to_str().map(str::to_owned).context("UTF-8");
    let mut command: Command = bed.fabrik_cmd(&[
        "init",
        &text(git_dir(world))?,
        "--name",
        &bed.options().cluster,
        "--workers=2",
        "--server-types=cx33,cx43",
        "--locations=fsn1,nbg1",
        "--forge=gitlab",
        "--ssh-key",
        SSH_KEY,
        "--fabrik-flake",
        fabrik_flake,
        "--age-recipient",
        &recipient,
        "--cluster-age-recipient",
        &recipient,
        "--token-file",
        &text(&token)?,
    ])?;
    let path = command
        .get_envs()
        .find_map(|(name, value)| (name == "PATH").then_some(value?.to_owned()));
    let path = path.context("fabrik_cmd sets PATH")?;
    let dirs = [own.clone()]
        .into_iter()
        .chain(std::env::split_paths(&path));
    let settings = format!(
        "store = {}\nbuild-users-group =\nsubstituters =\nconnect-timeout = 1\ndownload-attempts = 1\n",
        own.join("store").display()
    );
    command
        .env("PATH", std::env::join_paths(dirs)?)
        .env("HOME", &own)
        .env("NIX_CONFIG", settings);
    let ran = Ran::of(command)?;
    ensure!(ran.code == Some(0), "{ran:?}");
    Ok(ran)
}

fn git_dir(world: &World) -> &std::path::Path {
    world.bed.git().dir()
}
