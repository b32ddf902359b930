//! The leader is killed at each effect of 2 → 4 → 2 workers while Hetzner's replies are lost. At the end exactly the
//! wanted servers exist, and nothing of what was under way is left over.
//!
//! A kill counts for an effect that was under way: the API server or the emulator had carried it out, and the leader was
//! dead before their answer could reach it. Answers travel for that until the killer has looked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::{Bed, Options};
use fabrik_e2e::faults::{self, AuditTail};
use fabrik_e2e::latency::{Lookout, SlowAnswers};
use fabrik_e2e::random::Random;
use fabrik_e2e::resize;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(100);
/// How long after an answer the API server's log has it, with room for a machine under load.
const LOGGED: Duration = Duration::from_millis(100);
/// How long the emulator keeps some of its answers besides.
const REPLY_HELD: Duration = Duration::from_millis(1500);
/// Between two looks.
const SAMPLE: Duration = Duration::from_millis(5);
/// Each write of the ledger is a place to die at, up to this many.
const MAX_LEDGER_KILLS: usize = 14;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_at_each_effect_leaves_exactly_what_is_wanted() -> Result<()> {
    let random = Random::seeded(20)?;
    let options = Options {
        fabrik: true,
        webhooks: true,
        ..Options::default()
    };
    let bed = Bed::start(options).await?;
    let lookout = Lookout::default();
    let _slow = [
        slow_answers(&bed, 6443, &lookout).await?,
        slow_answers(&bed, 8080, &lookout).await?,
    ];
    reconfigure(&bed)?;
    bed.default_repo(2)?;
    raise_limits(&bed)?;
    settled(&bed, 2, None).await?;

    let mut killer = Killer::new(&bed, lookout, random)?;
    killer.order_faults().await?;
    resize(&bed, 2, 4)?;
    settled(&bed, 4, Some(&mut killer)).await?;
    bed.kubectl(&[
        "create",
        "deployment",
        "web",
        "--image=web",
        "--replicas=12",
    ])?;
    bed.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"])?;
    resize(&bed, 4, 2)?;
    settled(&bed, 2, Some(&mut killer)).await?;
    println!("under way at a kill: {:?}", killer.kills);
    for verb in [
        "ledger",
        "create-token",
        "create-server",
        "label-node",
        "cordon",
        "revoke-token",
        "evict",
        "power-off",
        "delete-node",
        "delete-server",
    ] {
        ensure!(
            killer.kills.iter().any(|(v, _)| v == verb),
            "never killed while {verb} was under way"
        );
    }
    nothing_was_done_twice(&bed).await?;
    bed.shutdown().await;
    Ok(())
}

/// A door at 100 ports above, by which the leader's answers come late.
async fn slow_answers(bed: &Bed, port: u16, lookout: &Lookout) -> Result<SlowAnswers> {
    let address = IpAddr::from(bed.control_plane(0).address());
    let door = |port: u16| SocketAddr::new(address, port);
    SlowAnswers::start(door(port + 100), door(port), lookout, LOGGED).await
}

/// Leads the leader through the slow doors. And a killed leader's lease has to end before its successor acts: less of it,
/// more kills.
fn reconfigure(bed: &Bed) -> Result<()> {
    let config = bed.founding()?.config;
    let mut text = std::fs::read_to_string(&config)?;
    for (from, to) in [
        ("lease-duration = \"4s\"", "lease-duration = \"2s\""),
        ("renew-deadline = \"3s\"", "renew-deadline = \"1500ms\""),
        ("retry-period = \"500ms\"", "retry-period = \"200ms\""),
        (":6443\"", ":6543\""),
        (":8080/", ":8180/"),
    ] {
        ensure!(text.contains(from), "no `{from}` in {text}");
        text = text.replace(from, to);
    }
    bed.fabrik(0).kill();
    std::fs::write(&config, text)?;
    bed.fabrik(0).start()
}

fn raise_limits(bed: &Bed) -> Result<()> {
    let mut spec = bed.git().read("cluster.toml")?;
    spec.push_str("\n[limits]\ncreations-per-hour = 100\ndeletions-per-hour = 100\n");
    bed.git().write("cluster.toml", spec)?;
    bed.git().commit_and_push("Raise the limits").map(drop)
}

/// Kills at each effect that it has not killed at yet, and starts the successor.
struct Killer<'a> {
    bed: &'a Bed,
    lookout: Lookout,
    audit: AuditTail,
    last_request: u64,
    random: Random,
    /// The effects that were under way at a kill.
    kills: Vec<Effect>,
}

/// An effect that was carried out: its verb and its target.
type Effect = (String, String);

impl<'a> Killer<'a> {
    fn new(bed: &'a Bed, lookout: Lookout, random: Random) -> Result<Self> {
        let audit = AuditTail::new(bed, 0)?;
        Ok(Self {
            bed,
            lookout,
            audit,
            last_request: 0,
            random,
            kills: Vec::new(),
        })
    }

    /// Replies are lost, or come so late that the leader dies before it has them.
    async fn order_faults(&mut self) -> Result<()> {
        self.last_request = faults::last_request(self.bed).await?;
        for (method, path) in [
            ("POST", "^/v1/servers$"),
            ("POST", "/actions/poweroff$"),
            ("DELETE", "^/v1/servers/"),
        ] {
            for _ in 0..3 {
                let fault = if self.random.coin() {
                    json!({"method": method, "path": path, "kind": "reply_lost"})
                } else {
                    json!({"method": method, "path": path, "kind": "delay", "delay_ms": REPLY_HELD.as_millis()})
                };
                faults::order(self.bed, fault).await?;
            }
        }
        Ok(())
    }

    /// Looks, and lets the answers pass to what it did not kill at.
    async fn keep_killing(&mut self) -> Result<()> {
        self.lookout.looked(Instant::now());
        let _passed_before = self.effects().await?;
        loop {
            let began = Instant::now();
            let effects = self.effects().await?;
            if effects.iter().any(|effect| self.is_fresh(effect)) {
                self.bed.fabrik(0).kill();
                self.kills.extend(effects);
                self.bed.fabrik(0).start()?;
            } else {
                self.lookout.looked(began);
                tokio::time::sleep(SAMPLE).await;
            }
        }
    }

    /// Those since the last call, by the API server's log and the emulator's.
    async fn effects(&mut self) -> Result<Vec<Effect>> {
        let mut effects: Vec<_> = self
            .audit
            .completed()?
            .iter()
            .filter_map(faults::cluster_effect)
            .collect();
        for request in faults::requests(self.bed, self.last_request).await? {
            self.last_request = request.seq;
            effects.extend(faults::server_effect(&request));
        }
        let owned = |(verb, target): (&str, String)| (verb.to_owned(), target);
        Ok(effects.into_iter().map(owned).collect())
    }

    fn is_fresh(&self, what: &Effect) -> bool {
        let count = self
            .kills
            .iter()
            .filter(|(verb, _)| *verb == what.0)
            .count();
        match what.0.as_str() {
            "ledger" => count < MAX_LEDGER_KILLS,
            // Two evictions are as good as all of them.
            "evict" => count < 2,
            _ => !self.kills.contains(what),
        }
    }
}

/// Waits, killing meanwhile, until exactly `count` workers are there and nothing is under way.
async fn settled(bed: &Bed, count: usize, killer: Option<&mut Killer<'_>>) -> Result<()> {
    let what = format!("exactly {count} workers, and nothing under way");
    let kube = bed.kube().await?;
    let settled = bed.wait_until(&what, DEADLINE, async || {
        let left = left_over(bed, &kube, count).await?;
        ensure!(left.is_empty(), "left over: {left}");
        Ok(Some(()))
    });
    match killer {
        None => settled.await,
        Some(killer) => {
            let settled = tokio::select! {
                settled = settled => settled,
                failed = killer.keep_killing() => failed,
            };
            killer.lookout.rest();
            settled
        }
    }
}

/// What there is that should not be; empty when all is as wanted.
async fn left_over(bed: &Bed, kube: &Client, count: usize) -> Result<String> {
    let kind = GroupVersionKind::gvk("fabrik.dev", "v1alpha1", "FabrikLedger");
    let ledgers: Api<DynamicObject> = Api::all_with(kube.clone(), &ApiResource::from_gvk(&kind));
    let ledger = ledgers.get("ledger").await?;
    let ledger = &ledger.data["spec"];
    let length = |key: &str| ledger[key].as_object().map_or(0, serde_json::Map::len);
    if length("intents") + length("tickets") > 0 || fabrik_e2e::workers_of(ledger) != count {
        return Ok(format!("ledger {ledger}"));
    }
    let workers = faults::workers(bed).await?;
    let nodes = Api::<Node>::all(kube.clone())
        .list(&ListParams::default())
        .await?
        .items;
    let names: BTreeSet<_> = nodes
        .iter()
        .filter_map(|n| n.metadata.name.clone())
        .filter(|n| workers.contains(n))
        .collect();
    if workers.len() != count || names.len() != count || nodes.len() != count + 1 {
        return Ok(format!(
            "servers {workers:?}, of them in the cluster {names:?}, {} Nodes",
            nodes.len()
        ));
    }
    if let Some(node) = nodes.iter().find(|n| {
        n.spec
            .as_ref()
            .is_some_and(|s| s.unschedulable == Some(true))
    }) {
        return Ok(format!("{:?} is cordoned", node.metadata.name));
    }
    let is_labelled = |node: &Node| node.labels().contains_key("fabrik.dev/pool");
    if nodes.iter().filter(|n| is_labelled(n)).count() != count {
        return Ok("a Node has no labels yet".to_owned());
    }
    let secrets = Api::<Secret>::namespaced(kube.clone(), "kube-system")
        .list_metadata(&ListParams::default())
        .await?;
    let tokens: Vec<_> = secrets
        .items
        .iter()
        .filter_map(|s| s.metadata.name.clone())
        .filter(|name| name.starts_with("bootstrap-token-"))
        .collect();
    Ok(if tokens.is_empty() {
        String::new()
    } else {
        format!("tokens {tokens:?}")
    })
}

async fn nothing_was_done_twice(bed: &Bed) -> Result<()> {
    let mut created: BTreeMap<String, usize> = BTreeMap::new();
    let mut deleted = BTreeSet::new();
    for request in faults::requests(bed, 0).await? {
        match faults::server_effect(&request) {
            Some(("create-server", _)) => {
                let body = request.body.as_ref().context("a creation without a body")?;
                let Some(intent) = body["labels"]["fabrik.dev/intent"].as_str() else {
                    continue;
                };
                *created.entry(intent.to_owned()).or_default() += 1;
            }
            Some(("delete-server", id)) => {
                deleted.insert(id);
            }
            _ => {}
        }
    }
    ensure!(
        created.len() == 4 && created.values().all(|n| *n == 1),
        "creations by intent: {created:?}"
    );
    ensure!(deleted.len() == 2, "deleted: {deleted:?}");
    Ok(())
}
