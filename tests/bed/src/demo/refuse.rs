//! Chapter 6: a commit that is wrong changes nothing.

use anyhow::Result;

use super::look;
use super::stage::{DEADLINE, carried_out, dir, fabrik_fails, fetch, push, say, shown, title};
use crate::Bed;

pub async fn refuse(bed: &Bed) -> Result<()> {
    title("6. Nonsense changes nothing, and says why");
    let good = bed.git().head()?;
    let spec = bed.git().read("cluster.toml")?;
    let pool = "[pools.workers]\ncount = ";
    let nonsense = spec.replace(
        &format!("{pool}2"),
        &format!("{pool}-2\nserver-typs = [\"cx21\"]"),
    );
    bed.git().write("cluster.toml", nonsense)?;
    bed.git().write(
        "manifests/shop/broken.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: [}\n",
    )?;
    say(
        "Two files with mistakes. `fabrik validate` finds them before a push, the leader after it:",
    );
    fabrik_fails(bed, &["validate", &dir(bed)])?;
    push(bed, "Three mistakes at once")?;
    refused(bed).await?;
    look::workers(bed, 2, DEADLINE).await?;
    say(
        "Still 2 workers: the last good commit stays in force. Rewinding the branch is refused too:",
    );
    bed.git()
        .git(&["reset", "-q", "--hard", &format!("{good}~1")])?;
    bed.git().force_push()?;
    fetch(bed)?;
    refused(bed).await?;
    bed.git().git(&["reset", "-q", "--hard", &good])?;
    bed.git().git(&[
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "Go on from the last good commit",
    ])?;
    bed.git().force_push()?;
    fetch(bed)?;
    carried_out(bed)
}

async fn refused(bed: &Bed) -> Result<()> {
    let head = bed.git().head()?;
    let short = head.get(..8).unwrap_or(&head).to_owned();
    let status = bed
        .wait_until("the refusal is told", DEADLINE, async || {
            let status = String::from_utf8(bed.fabrik_cmd(&["status"])?.output()?.stdout)?;
            let told = status.contains(&short) && status.to_lowercase().contains("refused");
            Ok(told.then_some(status))
        })
        .await?;
    shown("fabrik status", &status);
    Ok(())
}
