//! Where chapters 1 and 2 can't be played: machines with networks of their own take root. Three servers are there beforehand.

use anyhow::Result;

use super::stage::{carried_out, say};
use crate::{Bed, Options};

/// A public key whose private half nobody has.
const SSH_KEYS: &str = "\
[ssh-keys]
you = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINYc7UlG1J1PLOiVc5lsUMlhSaQnnggS7yAi3ZyI7ENy you\"
";

pub fn options() -> Options {
    Options {
        servers: 3,
        fabrik: true,
        webhooks: true,
        ..Options::default()
    }
}

pub fn begin(bed: &Bed) -> Result<()> {
    say(
        "Chapters 1, 2, 8 and 9 (fabrik seed, servers that join, and what nodes run) are played for root only.",
    );
    bed.write_default_repo(1)?;
    let spec = bed.git().read("cluster.toml")?;
    bed.git()
        .write("cluster.toml", format!("{spec}\n{SSH_KEYS}"))?;
    bed.git().commit_and_push("Begin")?;
    carried_out(bed)
}
