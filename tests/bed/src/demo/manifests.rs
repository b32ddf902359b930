//! Chapter 5: what is in git is in the cluster.

use std::time::Instant;

use anyhow::Result;

use super::look;
use super::stage::{DEADLINE, kubectl, push, say, title};
use crate::Bed;

pub async fn keep(bed: &Bed) -> Result<()> {
    title("5. What is in git is in the cluster");
    say("Somebody changes the settings by hand …");
    kubectl(
        bed,
        &[
            "patch",
            "configmap",
            "settings",
            "--type=merge",
            "-p",
            r#"{"data":{"colour":"red"}}"#,
        ],
    )?;
    let began = Instant::now();
    look::colour(bed, Some("blue"), DEADLINE).await?;
    say(&format!(
        "… and it is blue again {} ms later.",
        began.elapsed().as_millis()
    ));
    bed.git().remove("manifests/shop/settings.yaml")?;
    push(bed, "The shop needs no settings")?;
    look::colour(bed, None, DEADLINE).await?;
    say("The manifest was removed from git, so its object was pruned; nothing else was touched.");
    look::pods_running(bed, 6, DEADLINE).await
}
