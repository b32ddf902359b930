//! Hetzner at its worst: sold out, too many requests, errors, lists with holes, and a server of somebody else that bears
//! the name of ours.

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::{Bed, Options};
use fabrik_core::id::{ClusterId, IntentId};
use fabrik_e2e::faults::{self, AuditTail, Request};
use fabrik_e2e::{RESIZED, ledger, resize, settled};
use reqwest::Method;
use serde_json::{Value, json};

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

    refusals_delay(&bed, (1, 2), 500, "server_error").await?;
    refusals_delay(&bed, (2, 3), 429, "rate_limit_exceeded").await?;
    an_empty_budget_delays(&bed, (3, 4)).await?;
    a_lost_reply_makes_no_second_server(&bed, (4, 5)).await?;
    an_incomplete_list_changes_nothing(&bed).await?;
    a_foreign_server_keeps_its_name(&bed, (5, 6)).await?;
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
        .map(|(t, l, s)| (t.as_str(), l.as_str(), *s))
        .collect();
    // 412 is Hetzner's status for "sold out".
    let expected = [
        ("cx33", "fsn1", 412),
        ("cx33", "nbg1", 412),
        ("cx43", "fsn1", 201),
    ];
    ensure!(asked == expected, "asked for {asked:?}");
    faults::set(bed, json!({"out_of_stock": {}})).await
}

async fn refusals_delay(bed: &Bed, (from, to): (u32, u32), status: u16, code: &str) -> Result<()> {
    const TIMES: usize = 6;
    let since = faults::last_request(bed).await?;
    let refusal = json!({"path": "^/v1/", "kind": "error", "status": status, "code": code,
        "times": TIMES, "skip": 1});
    faults::order(bed, refusal).await?;
    resize(bed, from, to)?;
    settled(bed, to as usize).await?;
    faults::were_hit(bed, since, "error", TIMES, status).await
}

/// Others have used all requests of the hour.
async fn an_empty_budget_delays(bed: &Bed, (from, to): (u32, u32)) -> Result<()> {
    let since = faults::last_request(bed).await?;
    let empty = json!({"limit": 200, "refill_per_second": 1.0, "remaining": 0});
    faults::set(bed, json!({"rate_limit": empty})).await?;
    resize(bed, from, to)?;
    bed.wait_until("a request is one too many", RESIZED, async || {
        let requests = faults::requests(bed, since).await?;
        let refused = |r: &Request| r.status == 429 && r.fault.is_none();
        Ok(requests.iter().any(refused).then_some(()))
    })
    .await?;
    faults::set(bed, json!({"rate_limit": {"refill_per_second": 50.0}})).await?;
    settled(bed, to as usize).await?;
    let plenty = json!({"limit": 3600, "refill_per_second": 100.0});
    faults::set(bed, json!({"rate_limit": plenty})).await
}

async fn a_lost_reply_makes_no_second_server(bed: &Bed, (from, to): (u32, u32)) -> Result<()> {
    let since = faults::last_request(bed).await?;
    let lost = json!({"method": "POST", "path": "^/v1/servers$", "kind": "reply_lost"});
    faults::order(bed, lost).await?;
    resize(bed, from, to)?;
    settled(bed, to as usize).await?;
    faults::were_hit(bed, since, "reply_lost", 1, 201).await?;
    let made = faults::requests(bed, since).await?;
    let made = made.iter().filter_map(faults::server_effect).count();
    ensure!(made == 1, "{made} servers were made for one");
    Ok(())
}

/// Each list of the next looks misses servers that are there.
async fn an_incomplete_list_changes_nothing(bed: &Bed) -> Result<()> {
    let before = faults::workers(bed).await?;
    let mut audit = AuditTail::new(bed, 0)?;
    let since = faults::last_request(bed).await?;
    faults::order(bed, json!({"method": "GET", "path": "^/v1/servers$", "kind": "incomplete_list", "drop": 2, "times": 4}))
        .await?;
    let mut round = 0;
    bed.wait_until("four lists were incomplete", RESIZED, async || {
        round += 1;
        // A push that changes nothing makes the leader look.
        bed.git().write("README.md", format!("round {round}\n"))?;
        bed.git().commit_and_push("Say more")?;
        let requests = faults::requests(bed, since).await?;
        let hit = requests.iter().filter(|r| r.fault.is_some()).count();
        Ok((hit >= 4).then_some(()))
    })
    .await?;
    settled(bed, before.len()).await?;
    faults::were_hit(bed, since, "incomplete_list", 4, 200).await?;
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

async fn a_foreign_server_keeps_its_name(bed: &Bed, (from, to): (u32, u32)) -> Result<()> {
    let ledger = ledger(bed).await?;
    let cluster: ClusterId = bed.founding()?.cluster_id.parse()?;
    let next = ledger["nextIntent"].as_u64().context("nextIntent")?;
    let name = format!("demo-workers-{}", IntentId::derive(&cluster, next));
    let order = json!({"name": name, "server_type": "cx23", "image": "debian-12", "location": "fsn1",
        "start_after_create": false});
    let (foreign, _) = bed.hetzner().create_server(&order).await?;
    let since = faults::last_request(bed).await?;
    resize(bed, from, to)?;
    bed.wait_until("status names the taken name", RESIZED, async || {
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
    settled(bed, to as usize).await
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
