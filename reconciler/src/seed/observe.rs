//! What there is of the cluster, at Hetzner and on the laptop, as the core asks for it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use fabrik_core::id::ServerId;
use fabrik_core::ledger::Ledger;
use fabrik_core::seed::{Extent, Ground, Observed, Rescue, ground};
use futures::try_join;
use jiff::Timestamp;

use super::SeedError;
use super::carry_out::Seed;
use crate::hetzner;
use crate::hetzner::seeding::{self, Machines};

/// What was seen, and where the servers are.
pub struct Seen {
    pub observed: Observed,
    pub image_address: Option<Ipv4Addr>,
    pub first_address: Option<Ipv4Addr>,
}

/// Looks at all of it. A rescue system that is among `silent` has not answered.
pub async fn observe(seed: &Seed<'_>, silent: &BTreeSet<ServerId>) -> Result<Seen, SeedError> {
    let (client, cluster) = (seed.client()?, &seed.state.record.cluster_id);
    let name = seeding::key_name(&seed.spec.name);
    let (key, snapshots, machines) = try_join!(
        seeding::find_key(client, cluster, &name),
        seeding::snapshots(client, cluster),
        seeding::machines(client, cluster),
    )?;
    let Machines { image, first, .. } = machines;
    let (mut image_server, image_address) = image.unzip();
    if let Some(server) = &mut image_server
        && silent.contains(&server.id)
    {
        server.rescue = Rescue::Silent;
    }
    let (first, first_address) = first.unzip();
    Ok(Seen {
        observed: Observed {
            key,
            snapshots,
            image_server,
            ground: lie_of_the_land(seed).await?,
            first,
            laptop: seed.state.laptop(),
        },
        image_address: image_address.flatten(),
        first_address: first_address.flatten(),
    })
}

async fn lie_of_the_land(seed: &Seed<'_>) -> Result<Option<Ground>, SeedError> {
    if seed.wanted.extent == Extent::Images {
        return Ok(None);
    }
    let cluster = &seed.state.record.cluster_id;
    let ledger = Ledger::new(cluster.clone());
    let none_gone = BTreeSet::new();
    let there = hetzner::observe(seed.client()?, cluster, seed.spec, &ledger, &none_gone).await?;
    let now = Timestamp::now();
    Ok(ground(seed.spec, seed.commit, cluster, &there, now))
}
