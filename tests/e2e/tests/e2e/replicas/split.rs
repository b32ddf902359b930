//! A leader that is frozen in the middle of an effect for longer than its lease, and one whose API server is gone: another
//! replica goes on, and two never act at once.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::Bed;
use fabrik_bed::audit::Event;
use fabrik_bed::control_plane::Component;
use fabrik_e2e::faults::{self, APPLIER, AuditTail, LEADER, Request};
use fabrik_e2e::{resize, settled};
use jiff::Timestamp;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(180);
/// Long enough to freeze a process meanwhile.
const REPLY_HELD: Duration = Duration::from_secs(6);
const LOST: &str = "leadership was lost";

/// Leaves four workers.
pub async fn two_leaders_never_act_at_once(bed: &Bed) -> Result<()> {
    bed.default_repo(1)?;
    settled(bed, 1).await?;
    a_frozen_leader_wakes_up_as_a_follower(bed).await?;
    workers_join_while_the_leaders_api_server_is_gone(bed).await
}

async fn a_frozen_leader_wakes_up_as_a_follower(bed: &Bed) -> Result<()> {
    let frozen = leader(bed)?;
    let door = bed.hetzner_door(frozen);
    let mut audit = AuditTail::new(bed, frozen)?;
    let since = faults::last_request(bed).await?;
    let pid = bed
        .fabrik(frozen)
        .pid()
        .context("the leader does not run")?;

    let fault = json!({"method": "POST", "path": "^/v1/servers$", "kind": "delay",
        "delay_ms": REPLY_HELD.as_millis()});
    faults::order(bed, fault).await?;
    resize(bed, 1, 3)?;
    let held = bed
        .wait_until("a server is being made", DEADLINE, async || {
            let requests = faults::requests(bed, since).await?;
            let is_held = |r: &Request| r.fault.as_deref() == Some("delay");
            Ok(requests.into_iter().find(is_held))
        })
        .await?;
    freeze(bed, pid).await?;
    let replied = held.time + REPLY_HELD;
    ensure!(
        held.host.as_ref() == Some(&door) && Timestamp::now() < replied,
        "the leader at {door} was frozen too late, not in the middle of {held:?}"
    );
    let log = bed.fabrik(frozen).log();
    ensure!(!log.contains(LOST), "it did not lead any more");

    bed.wait_until("another replica leads", DEADLINE, async || {
        Ok((leader(bed)? != frozen).then_some(()))
    })
    .await?;
    let (successor, reign) = (leader(bed)?, transitions(bed)?);
    settled(bed, 3).await?;
    bed.wait_until("the reply lies there", DEADLINE, async || {
        Ok((Timestamp::now() > replied).then_some(()))
    })
    .await?;
    ensure!(
        bed.fabrik(frozen).log() == log,
        "a frozen process has written"
    );
    audit.completed()?;

    // What it was about to do, it must not do now.
    signal(pid, "CONT")?;
    let mut woken = Vec::new();
    bed.wait_until("the old leader looks at the lease", DEADLINE, async || {
        woken.extend(audit.completed()?);
        Ok(woken.iter().any(reads_the_lease).then_some(()))
    })
    .await?;
    bed.wait_until("the old leader says so", DEADLINE, async || {
        Ok(bed.fabrik(frozen).log().contains(LOST).then_some(()))
    })
    .await?;
    resize(bed, 3, 2)?;
    settled(bed, 2).await?;
    ensure!(
        leader(bed)? == successor && transitions(bed)? == reign,
        "the lease changed hands"
    );
    ensure!(bed.fabrik(frozen).is_running(), "the old leader ended");
    woken.extend(audit.completed()?);
    let done: Vec<_> = woken.iter().filter(|event| acts(event)).collect();
    ensure!(done.is_empty(), "the old leader went on: {done:#?}");
    only_the_successor_asks_hetzner(bed, since, successor, &door).await?;
    each_server_was_made_once(bed, 3).await
}

async fn workers_join_while_the_leaders_api_server_is_gone(bed: &Bed) -> Result<()> {
    let cut = leader(bed)?;
    bed.control_plane(cut).kill(Component::ApiServer);
    resize(bed, 2, 4)?;
    settled(bed, 4).await?;
    ensure!(
        !bed.control_plane(cut).is_running(Component::ApiServer),
        "the API server came back by itself"
    );
    bed.control_plane(cut).start(Component::ApiServer)?;
    bed.control_plane(cut).wait_ready(DEADLINE).await?;
    each_server_was_made_once(bed, 5).await
}

/// From the successor's first request on, nobody else asks, and it has asked often.
async fn only_the_successor_asks_hetzner(
    bed: &Bed,
    since: u64,
    successor: usize,
    old: &str,
) -> Result<()> {
    let new = bed.hetzner_door(successor);
    let hosts: Vec<String> = faults::requests(bed, since)
        .await?
        .into_iter()
        .filter_map(|request| request.host)
        .collect();
    let (before, after) = hosts.split_at(
        hosts
            .iter()
            .position(|host| *host == new)
            .context("the successor asked for nothing")?,
    );
    ensure!(
        before.iter().all(|host| host == old) && after.iter().all(|host| *host == new),
        "{old} led, then {new}, and these asked: {hosts:?}"
    );
    Ok(())
}

fn reads_the_lease(event: &Event) -> bool {
    let object = event.object_ref.as_ref();
    event.user.username == LEADER && object.is_some_and(|o| o.resource == "leases")
}

/// Whether it is something that only a leader may do.
fn acts(event: &Event) -> bool {
    let applies = event.user.username == APPLIER
        && ["create", "update", "patch", "delete"].contains(&event.verb.as_str());
    applies || faults::cluster_effect(event).is_some()
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

/// Stops the process where it is; when this returns, no thread of it runs.
async fn freeze(bed: &Bed, pid: u32) -> Result<()> {
    signal(pid, "STOP")?;
    bed.wait_until("it is frozen", DEADLINE, async || {
        let mut threads = std::fs::read_dir(format!("/proc/{pid}/task"))?;
        let all_stopped = threads.try_fold(true, |all, thread| -> Result<bool> {
            let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
            Ok(all && state == Some(b'T'))
        })?;
        Ok(all_stopped.then_some(()))
    })
    .await
}

fn signal(pid: u32, signal: &str) -> Result<()> {
    let status = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status()?;
    ensure!(status.success(), "kill -{signal} {pid}: {status}");
    Ok(())
}
