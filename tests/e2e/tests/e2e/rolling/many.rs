//! Many workers, which are scripted stand-ins.

use std::time::Duration;

use anyhow::{Result, ensure};
use fabrik_bed::bench::rollout::Play;
use fabrik_bed::scripted::Script;

#[tokio::test(flavor = "multi_thread")]
async fn as_many_workers_go_at_a_time_as_may_be_down_and_no_more() -> Result<()> {
    let play = Play {
        workers: 12,
        max_unavailable: 4,
        script: Script {
            stop: Duration::from_millis(500),
            prepare: Duration::from_millis(200),
            down: Duration::from_secs(2),
            keep: Duration::from_millis(200),
        },
        soak: Duration::from_secs(2),
    };
    let bed = play.begin().await?;
    let rollout = play.roll(&bed).await?;
    ensure!(rollout.most_down == 4, "{rollout:?}");
    bed.shutdown().await;
    Ok(())
}
