//! Hetzner at its worst: sold out, too many requests, errors, lists with holes, and a server of somebody else that bears
//! the name of ours.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::{Bed, Options};
use fabrik_core::id::{ClusterId, IntentId};
use fabrik_e2e::faults::{self, AuditTail};
use reqwest::Method;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn faults_at_hetzner_delay_and_never_destroy() -> Result<()> {
    let bed = Bed::start(Options {
        fabrik: true,
        webhooks: true,
        ..Options::default()
    })
    .await?;

    faults::set(&bed, json!({"out_of_stock": {"cx33": ["fsn1", "nbg1"]}})).await?;
    bed.default_repo(1)?;
    settled(&bed, 1).await?;
    sold_out_falls_to_the_next_type(&bed).await?;

    let refusal = |status: u16, code: &str| json!({"path": "^/v1/", "kind": "error", "status": status, "code": code, "times": 6, "skip": 1});
    faults::order(&bed, refusal(500, "server_error")).await?;
    resize(&bed, 1, 2)?;
    settled(&bed, 2).await?;
    faults::clear(&bed).await?;

    faults::order(&bed, refusal(429, "rate_limit_exceeded")).await?;
    faults::set(
        &bed,
        json!({"rate_limit": {"limit": 3600, "refill_per_second": 20.0, "remaining": 1}}),
    )
    .await?;
    resize(&bed, 2, 3)?;
    settled(&bed, 3).await?;
    faults::clear(&bed).await?;
    faults::set(
        &bed,
        json!({"rate_limit": {"limit": 3600, "refill_per_second": 100.0}}),
    )
    .await?;

    an_incomplete_list_changes_nothing(&bed).await?;
    a_foreign_server_keeps_its_name(&bed).await?;
    each_intent_has_one_server(&bed).await?;
    bed.shutdown().await;
    Ok(())
}

async fn sold_out_falls_to_the_next_type(bed: &Bed) -> Result<()> {
    let mut asked = Vec::new();
    for request in faults::requests(bed, 0).await? {
        if request.method == "POST" && request.path == "/v1/servers" {
            let body = request.body.context("a creation without a body")?;
            if body["labels"]["fabrik.dev/role"] == "agent" {
                let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
                asked.push((text("server_type"), text("location"), request.status));
            }
        }
    }
    let asked: Vec<_> = asked
        .iter()
        .map(|(t, l, s)| (t.as_str(), l.as_str(), *s < 300))
        .collect();
    let expected = [
        ("cx33", "fsn1", false),
        ("cx33", "nbg1", false),
        ("cx43", "fsn1", true),
    ];
    ensure!(asked == expected, "asked for {asked:?}");
    faults::set(bed, json!({"out_of_stock": {}})).await
}

/// Each list of the next looks misses servers that are there.
async fn an_incomplete_list_changes_nothing(bed: &Bed) -> Result<()> {
    let before = faults::workers(bed).await?;
    let mut audit = AuditTail::new(bed, 0)?;
    let since = faults::last_request(bed).await?;
    faults::order(bed, json!({"method": "GET", "path": "^/v1/servers$", "kind": "incomplete_list", "drop": 2, "times": 4}))
        .await?;
    let mut round = 0;
    bed.wait_until("four lists were incomplete", DEADLINE, async || {
        round += 1;
        // A push that changes nothing makes the leader look.
        bed.git().write("README.md", format!("round {round}\n"))?;
        bed.git().commit_and_push("Say more")?;
        let requests = faults::requests(bed, since).await?;
        let hit = requests
            .iter()
            .filter(|r| r.fault.as_deref() == Some("incomplete_list"))
            .count();
        Ok((hit >= 4).then_some(()))
    })
    .await?;
    settled(bed, 3).await?;
    let done: Vec<_> = faults::requests(bed, since)
        .await?
        .iter()
        .filter_map(faults::server_effect)
        .collect();
    ensure!(done.is_empty(), "after incomplete lists: {done:?}");
    let done: Vec<_> = audit
        .completed()?
        .iter()
        .filter_map(faults::cluster_effect)
        .filter(|(verb, _)| *verb != "ledger")
        .collect();
    ensure!(done.is_empty(), "after incomplete lists: {done:?}");
    ensure!(
        faults::workers(bed).await? == before,
        "other workers than before"
    );
    Ok(())
}

async fn a_foreign_server_keeps_its_name(bed: &Bed) -> Result<()> {
    let ledger = ledger(bed)?;
    let cluster: ClusterId = bed.founding()?.cluster_id.parse()?;
    let next = ledger["nextIntent"].as_u64().context("nextIntent")?;
    let name = format!("demo-workers-{}", IntentId::derive(&cluster, next));
    let order = json!({"name": name, "server_type": "cx23", "image": "debian-12", "location": "fsn1",
        "start_after_create": false});
    let (foreign, _) = bed.hetzner().create_server(&order).await?;
    let since = faults::last_request(bed).await?;
    resize(bed, 3, 4)?;
    bed.wait_until("status names the taken name", DEADLINE, async || {
        let described = bed.kubectl(&["get", "fabrikcluster", "demo", "-o", "json"])?;
        Ok((described.contains("NameTaken") && described.contains(&name)).then_some(()))
    })
    .await?;
    for request in faults::requests(bed, since).await? {
        let touched =
            request.method != "GET" && request.path.starts_with(&format!("/v1/servers/{foreign}"));
        ensure!(!touched, "the foreign server was touched: {request:?}");
    }
    let path = format!("/servers/{foreign}");
    let seen = bed.hetzner().call(Method::GET, &path, &Value::Null).await?;
    ensure!(
        seen["server"]["labels"] == json!({}),
        "it was labelled: {seen}"
    );
    bed.hetzner().delete_server(foreign).await?;
    settled(bed, 4).await
}

async fn each_intent_has_one_server(bed: &Bed) -> Result<()> {
    let mut made: Vec<String> = Vec::new();
    for request in faults::requests(bed, 0).await? {
        let body = request.body.clone().unwrap_or_default();
        if let (Some(("create-server", name)), true) = (
            faults::server_effect(&request),
            body["labels"]["fabrik.dev/role"] == "agent",
        ) {
            made.push(name);
        }
    }
    made.sort();
    ensure!(made == faults::workers(bed).await?, "created {made:?}");
    Ok(())
}

fn ledger(bed: &Bed) -> Result<Value> {
    let text = bed.kubectl(&["get", "fabrikledger", "ledger", "-o", "json"])?;
    let mut ledger: Value = serde_json::from_str(&text)?;
    Ok(ledger["spec"].take())
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
            let ledger = ledger(bed)?;
            let length = |key: &str| ledger[key].as_object().map_or(0, serde_json::Map::len);
            let still = length("intents") + length("tickets") == 0 && length("members") == count;
            Ok((still && faults::workers(bed).await?.len() == count).then_some(()))
        },
    )
    .await
}
