//! Chapter 7: the leader dies in the middle of its work.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::look;
use super::stage::{DEADLINE, carried_out, fabrik, push, say, set_count, title};
use crate::Bed;

pub async fn fail_over(bed: &Bed) -> Result<()> {
    title("7. The leader dies in the middle of its work");
    let leader = look::leader(bed).await?;
    set_count(bed, 4)?;
    push(bed, "Four workers")?;
    look::intended(bed, DEADLINE).await?;
    say(&format!(
        "Two servers are wanted; now fabrik on {leader} is killed (SIGKILL).",
    ));
    bed.kill_fabrik(&leader)?;
    let began = Instant::now();
    look::workers(bed, 4, DEADLINE).await?;
    let heir = look::leader(bed).await?;
    ensure!(heir != leader, "nobody took over");
    look::nothing_left_over(bed, DEADLINE).await?;
    say(&format!(
        "{} went on: 4 workers {:.1} s later, none twice, and no join token is left over.",
        heir,
        began.elapsed().as_secs_f64()
    ));
    bed.start_fabrik(&leader)?;
    carried_out(bed)?;
    fabrik(bed, &["status"]).map(drop)
}
