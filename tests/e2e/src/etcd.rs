//! A watcher on etcd: each server's own member is asked, again and again, and what must never be seen is written down.

mod poll;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fabrik_bed::machine::OwnEtcd;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub use self::poll::{Look, Member, Poll, faults};
use crate::World;

const PERIOD: Duration = Duration::from_millis(200);
const ANSWER: Duration = Duration::from_secs(2);

/// Watches until it is dropped.
pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    last: Option<Poll>,
    /// How many voted, each time that this became another number.
    voters: Vec<usize>,
    /// Nodes that were there once.
    nodes: BTreeSet<String>,
    faults: BTreeSet<String>,
}

/// The ways to each machine's etcd, by the machine and how often it booted.
type Ways = BTreeMap<(u64, u32), OwnEtcd>;

impl Watcher {
    pub async fn start(world: &Arc<World>) -> Result<Self> {
        let (client, world) = (world.bed.kube().await?, Arc::clone(world));
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let tells = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut ways = Ways::new();
            loop {
                // Asked before etcd: who is no Node then is no member afterwards.
                let nodes = nodes(&client).await.ok();
                let looks = looks(&world, &mut ways).await;
                lock(&tells).add(Poll { nodes, ..looks });
                tokio::time::sleep(PERIOD).await;
            }
        });
        Ok(Self { seen, task })
    }

    /// What etcd's members said last.
    pub fn last(&self) -> Result<Poll> {
        lock(&self.seen).last.clone().context("etcd was not asked")
    }

    /// How many voted, each time that this became another number; an error where something was seen that must never be.
    pub fn end(self) -> Result<Vec<usize>> {
        self.end_but(&[])
    }

    /// The same, where faults with these words are what the test itself has done.
    pub fn end_but(self, done: &[&str]) -> Result<Vec<usize>> {
        self.task.abort();
        let seen = lock(&self.seen);
        let is_done = |fault: &&String| done.iter().any(|words| fault.contains(words));
        let faults: Vec<_> = seen.faults.iter().filter(|f| !is_done(f)).collect();
        ensure!(faults.is_empty(), "{faults:#?}, with {:?}", seen.voters);
        Ok(seen.voters.clone())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    fn add(&mut self, poll: Poll) {
        let found = faults(self.last.as_ref(), &self.nodes, &poll);
        self.faults.extend(found);
        let voters = poll.voters().count();
        if self.voters.last() != Some(&voters) {
            self.voters.push(voters);
        }
        self.nodes.extend(poll.nodes.iter().flatten().cloned());
        self.last = Some(poll);
    }
}

/// Has the member of a server lead.
pub async fn lead(world: &World, server: &str) -> Result<()> {
    let mut ways = Ways::new();
    let what = format!("{server} leads etcd");
    world
        .bed
        .wait_until(&what, crate::SOON, async || {
            let poll = looks(world, &mut ways).await;
            let to = poll.looks.iter().find(|look| look.server == server);
            let to = to.context("its etcd does not answer")?;
            let leader = poll.looks.iter().find(|look| look.member == to.leader);
            let leader = leader.context("no leader answers")?;
            if leader.member == to.member {
                return Ok(Some(()));
            }
            let machine = world.bed.machine(&leader.server)?;
            let way = ways.get(&(machine.id(), machine.boots()));
            let asked = json!({"targetID": to.member});
            let way = way.context("no way to the leader")?;
            way.ask("maintenance/transfer-leadership", &asked).await?;
            Ok(None)
        })
        .await
}

async fn nodes(client: &Client) -> Result<BTreeSet<String>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let wanted = ListParams::default().labels("node-role.kubernetes.io/etcd");
    let nodes = tokio::time::timeout(ANSWER, nodes.list(&wanted)).await??;
    let names = nodes.items.into_iter().filter_map(|n| n.metadata.name);
    Ok(names.collect())
}

/// Without the Nodes.
async fn looks(world: &World, ways: &mut Ways) -> Poll {
    let machines = world.bed.machines();
    let keys: BTreeMap<_, _> = machines
        .iter()
        .map(|m| ((m.id(), m.boots()), m.name().to_owned()))
        .collect();
    ways.retain(|key, _| keys.contains_key(key));
    for machine in &machines {
        let key = (machine.id(), machine.boots());
        if !ways.contains_key(&key)
            && let Ok(Some(way)) = machine.own_etcd()
        {
            ways.insert(key, way);
        }
    }
    let looks = ways.iter().map(async |(key, way)| {
        let name = keys.get(key)?;
        // On a machine that has other things to do an answer may come too late once.
        let mut answer = look(name, way).await;
        if answer.is_err() {
            answer = look(name, way).await;
        }
        answer.ok()
    });
    let answers: Vec<_> = join_all(looks).await.into_iter().flatten().collect();
    Poll::of(answers)
}

/// What one member says of itself, and whom it has for members. A learner does not tell the latter.
async fn look(server: &str, way: &OwnEtcd) -> Result<(Look, Vec<Member>)> {
    let status = way.ask("maintenance/status", &json!({})).await?;
    let list = way
        .ask("cluster/member/list", &json!({"linearizable": false}))
        .await;
    let members = list.unwrap_or_default();
    let members = crate::list(&members, "members");
    let look = Look {
        server: server.to_owned(),
        cluster: text(&status["header"]["cluster_id"]),
        member: text(&status["header"]["member_id"]),
        leader: text(&status["leader"]),
        applied: text(&status["raftAppliedIndex"]).parse().unwrap_or(0),
        well: status["errors"].as_array().is_none_or(Vec::is_empty),
    };
    let members = members.iter().map(|m| Member {
        id: text(&m["ID"]),
        name: text(&m["name"]),
        learner: m["isLearner"] == true,
    });
    Ok((look, members.collect()))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
