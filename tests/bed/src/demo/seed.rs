//! Chapters 1 and 2: a first server out of an empty project, by one command; and the other servers, which it makes.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::look;
use super::stage::{DEADLINE, command, fabrik, kubectl, say, title};
use crate::laptop::{self, Laptop};
use crate::parts::{FORMER_KUBERNETES_VERSION, KUBERNETES_VERSION};
use crate::{Bed, Options, Transport};

const SERVERS: usize = 3;

/// An empty project, and a repository's empty place. It begins with the k3s that chapter 8 leaves.
pub fn options() -> Options {
    Options {
        servers: 0,
        systems: true,
        transport: Transport::Ssh,
        kubernetes_version: FORMER_KUBERNETES_VERSION.to_owned(),
        other_kubernetes_versions: vec![KUBERNETES_VERSION.to_owned()],
        action_duration: Duration::from_millis(50),
        ..Options::default()
    }
}

pub async fn first_server(bed: &mut Bed) -> Result<()> {
    title("1. From nothing: fabrik init, git push, fabrik seed");
    ensure!(
        look::servers_at_hetzner(bed).await? == 0,
        "Hetzner's project is not empty"
    );
    let laptop = Laptop::new(bed)?;
    say("Hetzner's project is empty. A person has a token for it, and a laptop:");
    let init = laptop.init(bed, 1)?;
    command("fabrik init . --name demo --workers 1 --server-types cx33 --locations fsn1 …");
    let (ended, _) = laptop::follow(bed, init, show)?;
    ensure!(ended.success(), "fabrik init: {ended}");
    laptop.complete_repository(bed, u32::try_from(SERVERS)?)?;
    say("cluster.toml now asks for 3 servers as well, and lets this laptop in.");
    command("git commit -am 'Begin' && git push");
    bed.git().commit_and_push("Begin")?;
    bed.write_image(&bed.dir().join("disk.img"))?;

    let asked = seed(bed, &laptop)?;
    let key = laptop::deploy_key(&asked)?;
    say("Nothing was made yet. The key goes where it says, and the same command goes on:");
    bed.git_servers().authorize(key)?;
    seed(bed, &laptop)?;

    let first = laptop.record()?.server.context("no first server")?;
    let machines = bed.machines();
    let first = machines.iter().find(|machine| machine.id() == first);
    bed.adopt(first.context("no first server")?.name())?;
    say("The laptop's part has ended: none of its processes is left, and none of its keys.");
    Ok(())
}

pub async fn other_servers(bed: &Bed) -> Result<()> {
    title("2. The first server has made the others by itself, one at a time");
    let what = "three servers vote and run fabrik";
    bed.wait_until(what, DEADLINE, async || {
        Ok((look::servers(bed).await? == SERVERS).then_some(()))
    })
    .await?;
    kubectl(bed, &["get", "nodes"])?;
    say("Each of the three is a member of etcd that votes, and runs fabrik.");
    fabrik(bed, &["status"]).map(drop)
}

/// What it said. It waits for a person the first time.
fn seed(bed: &Bed, laptop: &Laptop) -> Result<String> {
    const WAITS: i32 = 3;
    command("fabrik seed --yes demo …");
    let (ended, said) = laptop::follow(bed, laptop.seed(bed)?, show)?;
    ensure!(
        ended.success() || ended.code() == Some(WAITS),
        "fabrik seed: {ended}"
    );
    Ok(said)
}

fn show(line: &str) -> ControlFlow<()> {
    println!("    {line}");
    ControlFlow::Continue(())
}
