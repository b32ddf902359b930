//! What is pushed is carried out, or refused. One cluster tells it, which reaches its repository by SSH.

mod manifests;
mod nonsense;
mod unreadable;

use anyhow::Result;
use fabrik_bed::{Options, Transport};
use fabrik_e2e::World;

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_sense_is_carried_out_and_nothing_else() -> Result<()> {
    let world = World::start(Options {
        transport: Transport::Ssh,
        ..Options::default()
    })
    .await?;
    manifests::the_cluster_has_what_they_say(&world).await?;
    let good = nonsense::changes_nothing(&world).await?;
    unreadable::is_mended_by_a_push(&world, &good).await?;
    world.bed.shutdown().await;
    Ok(())
}
