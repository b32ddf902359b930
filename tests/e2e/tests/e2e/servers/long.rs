//! Two of five servers are lost at once: minutes, for `make chaos`.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use fabrik_bed::Machine;
use fabrik_e2e::etcd::Watcher;
use fabrik_e2e::writer::Writer;

use super::{CHANGED, end, nothing_lost, push, servers, settled};
use crate::seed::seeded;

/// Nobody moves the leadership of who is lost, and two are.
const DONE: [&str; 2] = [
    "led when it was stopped",
    "two members on their way at once",
];

/// The one that founded is among them.
#[tokio::test(flavor = "multi_thread")]
async fn two_of_five_are_lost_and_replaced_and_no_write_is() -> Result<()> {
    let world = Arc::new(seeded().await?);
    let watcher = Watcher::start(&world).await?;
    let writer = Writer::start(world.bed.kube().await?);
    push(&world, &watcher, "count = 1", "count = 5", 5).await?;

    let there: BTreeSet<u64> = servers(&world)?.iter().map(Machine::id).collect();
    let lost: BTreeSet<u64> = there.into_iter().take(2).collect();
    for id in &lost {
        world.bed.hetzner().delete_server(*id).await?;
    }
    world
        .bed
        .wait_until("both have left", CHANGED, async || {
            let there = servers(&world)?.iter().map(Machine::id).collect();
            Ok(lost.is_disjoint(&there).then_some(()))
        })
        .await?;
    settled(&world, &watcher, 5).await?;
    writer.goes_on(&world.bed, 10).await?;
    // Both have left before another one is made.
    assert_eq!(watcher.end_but(&DONE)?, [1, 2, 3, 4, 5, 4, 3, 4, 5]);
    nothing_lost(&world, writer).await?;
    world.workers_ready(1).await?;
    end(world).await
}
