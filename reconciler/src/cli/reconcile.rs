//! `fabrik reconcile`: asks the leader to fetch now.

use std::process::ExitCode;

use clap::Args;
use fabrik_core::names::RECONCILE_ANNOTATION;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::access::{ClusterOptions, asked_to};
use super::leader::{self, Leader};
use super::{Failure, say};

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    cluster: ClusterOptions,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let access = options.cluster.open().await?;
    let now = Timestamp::now();
    let asked_at = now.to_string();
    let patch = json!({"metadata": {"annotations": {RECONCILE_ANNOTATION: asked_at}}});
    access
        .clusters()
        .patch(
            &access.cluster,
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await
        .map_err(asked_to(format!("change FabrikCluster {}", access.cluster)))?;
    match leader::read(&access, now).await? {
        Leader::Leads(node) => say(format_args!("Asked the leader, {node}, to fetch now."))?,
        Leader::None(_) => {
            say("Asked for a fetch; no replica leads, so it happens when one does.")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
