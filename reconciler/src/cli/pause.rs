//! `fabrik pause` and `fabrik resume`: whether the leader may carry anything out.

use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::access::{Access, AccessError, ClusterOptions, ClusterSpec, Paused, asked_to, part};
use super::{Failure, say};

#[derive(Debug, Args)]
pub struct PauseOptions {
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Why, for whoever finds the cluster paused.
    #[arg(long, value_name = "TEXT", default_value = "no reason given", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
}

#[derive(Debug, Args)]
pub struct ResumeOptions {
    #[command(flatten)]
    cluster: ClusterOptions,
}

pub async fn pause(options: PauseOptions) -> Result<ExitCode, Failure> {
    let access = options.cluster.open().await?;
    if let Some(paused) = paused(&access).await? {
        say(format_args!(
            "{} is PAUSED already, by {} at {}: {}. That stays; `fabrik resume` ends it.",
            access.cluster, paused.by, paused.at, paused.reason
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    stop(&access, options.reason).await?;
    say(format_args!(
        "PAUSED {}: nothing is created, drained, deleted, applied or pruned until `fabrik resume`.\n\
         What has begun at Hetzner ends by itself. A node that was told to try a new system ends that: it may reboot, and is\n\
         reset where it hangs. A node that is cordoned stays so.",
        access.cluster
    ))?;
    Ok(ExitCode::SUCCESS)
}

pub async fn resume(options: ResumeOptions) -> Result<ExitCode, Failure> {
    let access = options.cluster.open().await?;
    match paused(&access).await? {
        Some(paused) => {
            set(&access, Value::Null).await?;
            say(format_args!(
                "{} goes on. {} had paused it at {}: {}",
                access.cluster, paused.by, paused.at, paused.reason
            ))?;
        }
        None => say(format_args!("{} was not paused.", access.cluster))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Pauses it unless it is paused already, by whomever. Says whether it did.
pub async fn ensure(access: &Access, reason: String) -> Result<bool, AccessError> {
    if paused(access).await?.is_some() {
        return Ok(false);
    }
    stop(access, reason).await?;
    Ok(true)
}

async fn stop(access: &Access, reason: String) -> Result<(), AccessError> {
    let paused = Paused {
        reason,
        by: who(),
        at: Timestamp::now(),
    };
    set(access, json!(paused)).await
}

async fn paused(access: &Access) -> Result<Option<Paused>, AccessError> {
    let object = access
        .clusters()
        .get(&access.cluster)
        .await
        .map_err(asked_to(format!("read FabrikCluster {}", access.cluster)))?;
    let spec: ClusterSpec = part(&object, "spec")?;
    Ok(spec.paused)
}

async fn set(access: &Access, paused: Value) -> Result<(), AccessError> {
    let patch = Patch::Merge(json!({"spec": {"paused": paused}}));
    access
        .clusters()
        .patch(&access.cluster, &PatchParams::default(), &patch)
        .await
        .map_err(asked_to(format!("change FabrikCluster {}", access.cluster)))?;
    Ok(())
}

/// The person, as `user@host`.
fn who() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    match host.as_deref().map(str::trim) {
        Ok(host) if !host.is_empty() => format!("{user}@{host}"),
        _ => user,
    }
}
