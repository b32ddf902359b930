//! Three servers, of which one leads: it freezes, loses its API server, ends, and is lost for good. One cluster tells it all.

mod endpoint;
mod leader;
mod split;

use anyhow::Result;
use fabrik_bed::Options;
use fabrik_e2e::World;

#[tokio::test(flavor = "multi_thread")]
async fn of_three_replicas_one_leads_whatever_happens() -> Result<()> {
    let world = World::start(Options {
        servers: 3,
        webhooks: true,
        ..Options::default()
    })
    .await?;
    split::two_leaders_never_act_at_once(&world.bed).await?;
    leader::another_replica_goes_on(&world).await?;
    endpoint::people_get_through_while_a_server_is_lost(&world).await?;
    world.bed.shutdown().await;
    Ok(())
}
