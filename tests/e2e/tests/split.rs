//! A leader that is frozen for longer than its lease: another replica goes on, and two never act at once.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::{Bed, Options};
use fabrik_e2e::faults::{self, AuditTail};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn two_leaders_never_act_at_once() -> Result<()> {
    let bed = Bed::start(Options {
        servers: 3,
        fabrik: true,
        webhooks: true,
        ..Options::default()
    })
    .await?;
    bed.default_repo(1)?;
    settled(&bed, 1).await?;

    a_frozen_leader_wakes_up_as_a_follower(&bed).await?;
    bed.shutdown().await;
    Ok(())
}

async fn a_frozen_leader_wakes_up_as_a_follower(bed: &Bed) -> Result<()> {
    let frozen = leader(bed)?;
    let mut audit = AuditTail::new(bed, frozen)?;
    let since = faults::last_request(bed).await?;
    let pid = bed
        .fabrik(frozen)
        .pid()
        .context("the leader does not run")?;
    resize(bed, 1, 3)?;
    // In the midst of it: a server is being made.
    bed.wait_until("the first effect", DEADLINE, async || {
        let requests = faults::requests(bed, since).await?;
        Ok(requests
            .iter()
            .any(|r| r.method == "POST" && r.path == "/v1/servers")
            .then_some(()))
    })
    .await?;
    signal(pid, "STOP")?;
    bed.wait_until("another replica leads", DEADLINE, async || {
        Ok((leader(bed)? != frozen).then_some(()))
    })
    .await?;
    let (successor, reign) = (leader(bed)?, transitions(bed)?);
    settled(bed, 3).await?;
    audit.completed()?;

    // What it was about to do, it must not do now.
    signal(pid, "CONT")?;
    bed.wait_until("the old leader looks at the lease", DEADLINE, async || {
        Ok(audit_of_leases(&mut audit)?.then_some(()))
    })
    .await?;
    resize(bed, 3, 2)?;
    settled(bed, 2).await?;
    ensure!(
        leader(bed)? == successor && transitions(bed)? == reign,
        "the lease changed hands"
    );
    ensure!(bed.fabrik(frozen).is_running(), "the old leader ended");
    each_server_was_made_once(bed, 3).await
}

/// Whether the replica of this API server was back at the lease; it must not have done anything else.
fn audit_of_leases(audit: &mut AuditTail) -> Result<bool> {
    let events = audit.completed()?;
    let done: Vec<_> = events.iter().filter_map(faults::cluster_effect).collect();
    ensure!(done.is_empty(), "the old leader went on: {done:?}");
    let lease = |e: &fabrik_bed::audit::Event| {
        e.user.username == faults::LEADER
            && e.object_ref
                .as_ref()
                .is_some_and(|o| o.resource == "leases")
    };
    Ok(events.iter().any(lease))
}

async fn each_server_was_made_once(bed: &Bed, count: usize) -> Result<()> {
    let mut made: BTreeMap<String, usize> = BTreeMap::new();
    for request in faults::requests(bed, 0).await? {
        let body = request.body.clone().unwrap_or_default();
        if let (Some(("create-server", _)), Some(intent)) = (
            faults::server_effect(&request),
            body["labels"]["fabrik.dev/intent"].as_str(),
        ) {
            *made.entry(intent.to_owned()).or_default() += 1;
        }
    }
    ensure!(
        made.len() == count && made.values().all(|n| *n == 1),
        "creations by intent: {made:?}"
    );
    Ok(())
}

fn lease(bed: &Bed) -> Result<Value> {
    let text = bed.kubectl(&[
        "get",
        "lease",
        "fabrik-leader",
        "--namespace",
        "fabrik-system",
        "-o",
        "json",
    ])?;
    Ok(serde_json::from_str(&text)?)
}

fn transitions(bed: &Bed) -> Result<Value> {
    Ok(lease(bed)?["spec"]["leaseTransitions"].take())
}

/// The server whose replica holds the lease.
fn leader(bed: &Bed) -> Result<usize> {
    let lease = lease(bed)?;
    let holder = lease["spec"]["holderIdentity"]
        .as_str()
        .context("nobody holds the lease")?;
    let is_holder =
        |s: &std::sync::Arc<fabrik_bed::server::Server>| holder.starts_with(s.control_plane.name());
    bed.servers()
        .iter()
        .position(is_holder)
        .with_context(|| format!("who is {holder}?"))
}

fn signal(pid: u32, signal: &str) -> Result<()> {
    let status = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status()?;
    ensure!(status.success(), "kill -{signal} {pid}: {status}");
    Ok(())
}

fn resize(bed: &Bed, from: u32, to: u32) -> Result<()> {
    let spec = bed.git().read("cluster.toml")?;
    let resized = spec.replace(&format!("count = {from}"), &format!("count = {to}"));
    ensure!(spec != resized, "the pool's count is not {from}");
    bed.git().write("cluster.toml", resized)?;
    bed.git()
        .commit_and_push(&format!("Have {to} workers"))
        .map(drop)
}

/// Waits until `count` workers are members and nothing is under way.
async fn settled(bed: &Bed, count: usize) -> Result<()> {
    bed.wait_until(
        &format!("{count} workers are members"),
        DEADLINE,
        async || {
            let text = bed.kubectl(&["get", "fabrikledger", "ledger", "-o", "json"])?;
            let ledger: Value = serde_json::from_str(&text)?;
            let length = |key: &str| {
                ledger["spec"][key]
                    .as_object()
                    .map_or(0, serde_json::Map::len)
            };
            let still = length("intents") + length("tickets") == 0 && length("members") == count;
            Ok((still && faults::workers(bed).await?.len() == count).then_some(()))
        },
    )
    .await
}
