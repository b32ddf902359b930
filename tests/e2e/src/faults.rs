//! Faults to order, and two witnesses that fabrik can't influence: the emulator's journal and the API server's audit log.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::Bed;
use fabrik_bed::audit;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{SOON, client};

/// Who the leader is to the API server.
pub const LEADER: &str = "system:serviceaccount:fabrik-system:fabrik-leader";
/// Who applies manifests.
pub const APPLIER: &str = "system:serviceaccount:fabrik-system:fabrik-applier";

/// A request that the emulator has carried out.
#[derive(Clone, Debug, Deserialize)]
pub struct Request {
    pub seq: u64,
    pub method: String,
    pub path: String,
    pub time: Timestamp,
    pub host: Option<String>,
    pub status: u16,
    pub fault: Option<String>,
    pub body: Option<Value>,
}

#[derive(Deserialize)]
struct Requests {
    requests: Vec<Request>,
}

/// What the emulator was asked for after request number `since`.
pub async fn requests(bed: &Bed, since: u64) -> Result<Vec<Request>> {
    let url = format!("{}/_emulator/requests?since={since}", bed.emulator_url());
    Ok(client()?
        .get(url)
        .send()
        .await?
        .json::<Requests>()
        .await?
        .requests)
}

/// The number of the last request to the emulator.
pub async fn last_request(bed: &Bed) -> Result<u64> {
    Ok(requests(bed, 0).await?.last().map_or(0, |r| r.seq))
}

/// Orders a fault at the emulator.
pub async fn order(bed: &Bed, fault: Value) -> Result<()> {
    control(bed, reqwest::Method::POST, "faults", fault).await
}

/// Waits until the emulator has used up every fault that was ordered, and checks in its journal that exactly `times`
/// requests after number `since` were hit by this kind, each with an answer of this status.
pub async fn were_hit(bed: &Bed, since: u64, kind: &str, times: usize, status: u16) -> Result<()> {
    let url = format!("{}/_emulator/faults", bed.emulator_url());
    let what = format!("{times} requests met `{kind}`");
    bed.wait_until(&what, SOON, async || {
        let left: Value = client()?.get(&url).send().await?.json().await?;
        ensure!(left["faults"] == json!([]), "still to come: {left}");
        Ok(Some(()))
    })
    .await?;
    let mut hit = requests(bed, since).await?;
    hit.retain(|request| request.fault.is_some());
    let as_ordered = |r: &Request| r.fault.as_deref() == Some(kind) && r.status == status;
    ensure!(
        hit.len() == times && hit.iter().all(as_ordered),
        "{times} times `{kind}` with {status} were ordered, and these were hit: {hit:#?}"
    );
    Ok(())
}

/// Changes what `settings` names.
pub async fn set(bed: &Bed, settings: Value) -> Result<()> {
    control(bed, reqwest::Method::PUT, "settings", settings).await
}

/// Forgets the faults that are still to come.
pub async fn clear(bed: &Bed) -> Result<()> {
    control(bed, reqwest::Method::DELETE, "faults", json!({})).await
}

async fn control(bed: &Bed, method: reqwest::Method, what: &str, body: Value) -> Result<()> {
    let url = format!("{}/_emulator/{what}", bed.emulator_url());
    let request = client()?.request(method, url).json(&body);
    let answer = request.send().await?;
    let status = answer.status();
    ensure!(
        status.is_success(),
        "{what}: {status}: {}",
        answer.text().await?
    );
    Ok(())
}

/// Every resource at the emulator.
pub async fn state(bed: &Bed) -> Result<Value> {
    let url = format!("{}/_emulator/state", bed.emulator_url());
    Ok(client()?.get(url).send().await?.json().await?)
}

/// Names of the workers at the emulator, in order.
pub async fn workers(bed: &Bed) -> Result<Vec<String>> {
    let state = state(bed).await?;
    let servers = state["servers"].as_array().context("servers")?;
    let mut names: Vec<String> = servers
        .iter()
        .filter(|s| s["labels"]["fabrik.dev/role"] == "agent")
        .filter_map(|s| Some(s["name"].as_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// The audit log of one API server, read on from where one was.
pub struct AuditTail {
    log: PathBuf,
    offset: u64,
    rest: String,
}

impl AuditTail {
    /// From now on.
    pub fn new(bed: &Bed, server: usize) -> Result<Self> {
        let log = bed.control_plane(server).audit_log();
        let offset = std::fs::metadata(&log)?.len();
        let rest = String::new();
        Ok(Self { log, offset, rest })
    }

    /// Requests that were answered since the last call.
    pub fn completed(&mut self) -> Result<Vec<audit::Event>> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut new = Vec::new();
        file.read_to_end(&mut new)?;
        self.offset += new.len() as u64;
        self.rest.push_str(&String::from_utf8_lossy(&new));
        let mut events = Vec::new();
        while let Some((line, rest)) = self.rest.split_once('\n') {
            let event: audit::Event = serde_json::from_str(line)?;
            self.rest = rest.to_owned();
            if event.stage == "ResponseComplete" {
                events.push(event);
            }
        }
        Ok(events)
    }
}

/// What a request of the leader was as an effect on servers: its verb and the path that names the server.
pub fn server_effect(request: &Request) -> Option<(&'static str, String)> {
    if request.status >= 300 {
        return None;
    }
    let path = request.path.strip_prefix("/v1/servers")?;
    match request.method.as_str() {
        "POST" if path.is_empty() => {
            let name = request.body.as_ref()?["name"].as_str()?;
            Some(("create-server", name.to_owned()))
        }
        "POST" if path.ends_with("/actions/poweroff") => {
            let id = path
                .strip_suffix("/actions/poweroff")?
                .trim_start_matches('/');
            Some(("power-off", id.to_owned()))
        }
        "DELETE" => Some(("delete-server", path.trim_start_matches('/').to_owned())),
        _ => None,
    }
}

/// What a request was as an effect on the cluster: its verb and its object. Reads, refusals and the leader's own
/// books (lease, status, Events) are none.
pub fn cluster_effect(event: &audit::Event) -> Option<(&'static str, String)> {
    let ok = event.response_status.as_ref().is_some_and(|s| s.code < 300);
    let object = event.object_ref.as_ref()?;
    if !ok || event.user.username != LEADER {
        return None;
    }
    let name = object.name.clone();
    match (
        event.verb.as_str(),
        object.resource.as_str(),
        object.subresource.as_str(),
    ) {
        ("update", "fabrikledgers", "") => Some(("ledger", name)),
        ("create", "secrets", "") => Some(("create-token", name)),
        ("delete", "secrets", "") => Some(("revoke-token", name)),
        // Labels are applied with force, a cordon is a plain patch.
        ("patch", "nodes", "") if event.request_uri.contains("force=true") => {
            Some(("label-node", name))
        }
        ("patch", "nodes", "") => Some(("cordon", name)),
        ("delete", "nodes", "") => Some(("delete-node", name)),
        ("create", "pods", "eviction") => Some(("evict", name)),
        _ => None,
    }
}
