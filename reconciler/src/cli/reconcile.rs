//! `fabrik reconcile`: asks the leader to fetch now.

use std::process::ExitCode;

use clap::Args;
use fabrik_core::names::RECONCILE_ANNOTATION;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::Failure;
use super::access::{ClusterOptions, asked_to, part};
use super::status::view::ClusterStatus;

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    cluster: ClusterOptions,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let access = options.cluster.open().await?;
    let asked_at = Timestamp::now().to_string();
    let patch = json!({"metadata": {"annotations": {RECONCILE_ANNOTATION: asked_at}}});
    let object = access
        .clusters()
        .patch(
            &access.cluster,
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await
        .map_err(asked_to(format!("change FabrikCluster {}", access.cluster)))?;
    let status: ClusterStatus = part(&object, "status")?;
    match status.leader {
        Some(leader) => println!("Asked the leader, {leader}, to fetch now."),
        None => println!("Asked for a fetch; no replica leads, so it happens when one does."),
    }
    Ok(ExitCode::SUCCESS)
}
