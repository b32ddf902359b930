//! Chapter 4: a worker goes by a push, and its pods are asked first.

use anyhow::{Context as _, Result};

use super::look;
use super::stage::{DEADLINE, carried_out, push, say, set_count, shown, title};
use crate::Bed;

pub const BUDGET: &str = "\
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: shop, namespace: default}
spec: {minAvailable: 6, selector: {matchLabels: {app: shop}}}
";

pub async fn shrink(bed: &Bed) -> Result<()> {
    title("4. A smaller count: cordon, drain, power off, delete");
    say("The shop's PodDisruptionBudget allows no pod to go. Watch what a push of 2 workers does:");
    set_count(bed, 2)?;
    push(bed, "Two workers do")?;
    let status = bed
        .wait_until(
            "the drain is blocked and the budget named",
            DEADLINE,
            async || {
                let status = bed.fabrik_cmd(&["status"])?.output()?;
                let status = String::from_utf8(status.stdout)?;
                Ok(status
                    .contains("PodDisruptionBudget default/shop")
                    .then_some(status))
            },
        )
        .await?;
    shown("fabrik status", &status);
    look::workers(bed, 3, DEADLINE)
        .await
        .context("nothing may be deleted while the budget blocks")?;
    say(
        "Nothing was deleted, and the one in the way is named. Now the budget is lowered, by a push as well:",
    );
    bed.git().write(
        "manifests/shop/budget.yaml",
        BUDGET.replace("minAvailable: 6", "minAvailable: 4"),
    )?;
    let since = look::last_event(bed).await?;
    push(bed, "Let two pods of the shop move at a time")?;
    look::workers(bed, 2, DEADLINE).await?;
    carried_out(bed)?;
    look::pods_running(bed, 6, DEADLINE).await?;
    let order = look::order_of_departure(bed, since).await?;
    say(&format!(
        "The order, from Hetzner's and the API server's own records: {order}."
    ));
    Ok(())
}
