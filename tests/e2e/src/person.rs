//! Whoever seeds a cluster and ends it, by their laptop.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fabrik_bed::Bed;
use fabrik_bed::laptop::{Laptop, deploy_key};

use crate::{Ran, World};

pub struct Person {
    pub laptop: Laptop,
}

impl Person {
    pub fn new(bed: &Bed) -> Result<Self> {
        let laptop = Laptop::new(bed)?;
        Ok(Self { laptop })
    }

    /// By `fabrik init`; only its flake is the bed's. One server and one worker.
    pub fn make_repository(&self, bed: &Bed) -> Result<()> {
        self.make_repository_for(bed, 1, 1)
    }

    pub fn make_repository_for(&self, bed: &Bed, servers: u32, workers: u32) -> Result<()> {
        Ran::of(self.laptop.init(bed, workers)?)?.ok()?;
        self.laptop.complete_repository(bed, servers)?;
        bed.git().commit_and_push("Begin").map(drop)
    }

    pub fn seed(&self, bed: &Bed) -> Result<Ran> {
        Ran::of(self.laptop.seed(bed)?)
    }

    pub fn destroy(&self, bed: &Bed, more: &[&str]) -> Result<Ran> {
        let mut destroy = self.laptop.destroy(bed)?;
        destroy.args(more);
        Ran::of(destroy)
    }

    /// What `fabrik seed` keeps of the cluster.
    pub fn state(&self) -> PathBuf {
        self.laptop.state()
    }

    pub fn command(&self, bed: &Bed, arguments: &[&str]) -> Result<Command> {
        self.laptop.command(bed, arguments)
    }
}

/// Seeds, with a person who lets the deploy key in where they are told to.
pub fn seed(bed: Bed, person: &Person) -> Result<World> {
    bed.write_image(&bed.dir().join("disk.img"))?;
    let waits = person.seed(&bed)?;
    ensure!(waits.code == Some(3), "{waits:?}");
    bed.git_servers().authorize(deploy_key(&waits.stdout)?)?;
    let ran = person.seed(&bed)?;
    let told = || format!("{}\n{}", ran.stdout, ran.stderr);
    ensure!(ran.code == Some(0), "{}", told());
    adopt(bed, person).with_context(told)
}

/// The cluster that was seeded, as the one of the bed.
pub fn adopt(mut bed: Bed, person: &Person) -> Result<World> {
    let record = person.laptop.record()?;
    let server = record.server.context("no first server")?;
    let first = bed.machines().into_iter().find(|m| m.id() == server);
    bed.adopt(first.context("no first server")?.name())?;
    Ok(World {
        bed,
        cluster_id: record.cluster_id,
    })
}
