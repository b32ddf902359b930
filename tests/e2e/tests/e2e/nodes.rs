//! What a node may say, what it believes, and which secrets it gets. One worker tells it.

mod forgery;
mod secrets;

use anyhow::Result;
use fabrik_bed::Options;
use fabrik_e2e::World;
use fabrik_e2e::watch::Processes;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_speaks_for_itself_and_has_secrets_of_its_own() -> Result<()> {
    let world = World::start(Options {
        systems: true,
        ..Options::default()
    })
    .await?;
    let processes = Processes::watch();
    let first = secrets::want(&world)?;
    let workers = world.workers_ready(1).await?;
    world.carried_out(&first).await?;
    let worker = world.bed.machine(&fabrik_e2e::name(&workers[0]))?;
    forgery::nobody_speaks_in_another_s_name(&world, &worker).await?;
    secrets::each_node_has_its_own_and_nobody_else_s(&world, &worker, processes).await?;
    world.bed.shutdown().await;
    Ok(())
}
