//! Servers of the control plane come and go, by pushes and by hand, with real etcd under them: while somebody writes, and a
//! watcher sees that the quorum is never touched.

mod long;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fabrik_bed::{Machine, SystemChange, system};
use fabrik_e2e::etcd::{Look, Member, Poll, Watcher, faults, lead};
use fabrik_e2e::writer::{Writer, config_maps};
use fabrik_e2e::{SOON, World, ledger, list, name};

use crate::seed::seeded;

/// Of two servers, one after the other: who leaves is waited for until nothing was heard of it for half a minute.
const CHANGED: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn servers_come_and_go_by_pushes_and_no_write_is_lost() -> Result<()> {
    let world = Arc::new(seeded().await?);
    let watcher = Watcher::start(&world).await?;
    let writer = Writer::start(world.bed.kube().await?);

    push(&world, &watcher, "count = 1", "count = 3", 3).await?;
    push(&world, &watcher, "count = 3", "count = 5", 5).await?;
    writer.goes_on(&world.bed, 10).await?;
    push(
        &world,
        &watcher,
        "count = 5",
        "count = 3\nmay-shrink = true",
        3,
    )
    .await?;
    writer.goes_on(&world.bed, 10).await?;

    assert_eq!(watcher.end()?, [1, 2, 3, 4, 5, 4, 3]);
    nothing_lost(&world, writer).await?;
    world.workers_ready(1).await?;
    end(world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_server_loses_its_disk_is_deleted_by_hand_and_replaced() -> Result<()> {
    let world = Arc::new(seeded().await?);
    let first = servers(&world)?.remove(0);
    comes_back_as_itself(&world, &first).await?;
    let watcher = Watcher::start(&world).await?;
    let writer = Writer::start(world.bed.kube().await?);
    push(&world, &watcher, "count = 1", "count = 3", 3).await?;

    // Who leads is not what this is about.
    let other = servers(&world)?.into_iter().find(|m| m.id() != first.id());
    lead(&world, other.context("another server")?.name()).await?;
    let boots = first.boots();
    first.lose_disk_at_boot();
    first.reboot().await;
    waits_for_ever(&world, &first, boots).await?;
    writer.goes_on(&world.bed, 10).await?;

    world.bed.hetzner().delete_server(first.id()).await?;
    settled(&world, &watcher, 3).await?;
    let names: Vec<_> = servers(&world)?
        .iter()
        .map(|m| m.name().to_owned())
        .collect();
    ensure!(!names.contains(&first.name().to_owned()), "{names:?}");

    fetches_from_who_is_there(&world).await?;

    // Of the last two one leads etcd, and goes.
    let youngest = servers(&world)?.pop().context("a server")?;
    lead(&world, youngest.name()).await?;
    push(
        &world,
        &watcher,
        "count = 3",
        "count = 1\nmay-shrink = true",
        1,
    )
    .await?;
    writer.goes_on(&world.bed, 10).await?;
    assert_eq!(watcher.end()?, [1, 2, 3, 2, 3, 2, 1]);
    nothing_lost(&world, writer).await?;
    end(world).await
}

/// Pushes another number of servers, and waits until there are so many.
async fn push(world: &World, watcher: &Watcher, from: &str, to: &str, count: usize) -> Result<()> {
    let section = |count: &str| format!("[servers]\n{count}");
    let commit = world.push_edited(&section(from), &section(to))?;
    settled(world, watcher, count).await?;
    world.carried_out(&commit).await
}

/// So many servers are at Hetzner, are members of the cluster, vote in etcd and have Nodes that are Ready; nothing is on its way.
async fn settled(world: &World, watcher: &Watcher, count: usize) -> Result<()> {
    let what = format!("there are {count} servers");
    world
        .bed
        .wait_until(&what, CHANGED, async || {
            let mut there = list(&world.hetzner().await?, "servers");
            there.retain(|server| server["labels"]["fabrik.dev/role"] == "server");
            let there: BTreeSet<String> = there.iter().map(name).collect();
            let ledger = ledger(&world.bed).await?;
            let members = ledger["members"].as_object().into_iter().flatten();
            let members = members.filter(|(_, m)| m["role"] == "server");
            let members: BTreeSet<String> = members.map(|(_, m)| name(m)).collect();
            let still = ["intents", "tickets"].iter().all(|key| {
                ledger[key]
                    .as_object()
                    .is_none_or(serde_json::Map::is_empty)
            });
            let poll = watcher.last()?;
            let nodes = [
                "get",
                "nodes",
                "-l",
                "node-role.kubernetes.io/etcd",
                "--no-headers",
            ];
            let nodes = world.bed.kubectl(&nodes)?;
            let ready = nodes.matches(" Ready ").count();
            let counts = [there.len(), members.len(), poll.voters().count(), ready];
            ensure!(
                still && there == members && counts == [count; 4] && poll.members.len() == count,
                "servers {there:?}, ledger {ledger}, etcd {:?}, Nodes {nodes}",
                poll.members
            );
            Ok(Some(()))
        })
        .await
}

/// The machines that are servers, the oldest first.
fn servers(world: &World) -> Result<Vec<Machine>> {
    let nodes = [
        "get",
        "nodes",
        "-l",
        "node-role.kubernetes.io/etcd",
        "-o",
        "name",
    ];
    let nodes = world.bed.kubectl(&nodes)?;
    let names: BTreeSet<_> = nodes
        .lines()
        .filter_map(|n| n.strip_prefix("node/"))
        .collect();
    let mut machines = world.bed.machines();
    machines.retain(|machine| names.contains(machine.name()));
    Ok(machines)
}

/// A boot with its disk: it founded, and founds nothing again.
async fn comes_back_as_itself(world: &World, first: &Machine) -> Result<()> {
    let boots = first.boots();
    first.reboot().await;
    let bed = &world.bed;
    bed.wait_until("the only server has booted", SOON, async || {
        ensure!(first.boots() > boots, "it has not booted");
        let root = first.root().context("a root")?;
        for unit in ["sshd", "k3s", "fabrik", "fabrik-agent"] {
            let state = root.path(&format!("run/services/state.{unit}"));
            let state = std::fs::read_to_string(state)?;
            ensure!(state == "active\n", "{unit} is {state}");
        }
        Ok(Some(()))
    })
    .await?;
    first.wait_running(SOON).await?;
    world.workers_ready(1).await?;
    let cluster = world.get(&["fabrikcluster", "demo"])?;
    assert_eq!(cluster["spec"]["clusterId"], world.cluster_id.as_str());
    Ok(())
}

/// It has booted with what it was made from, and neither founds nor joins.
async fn waits_for_ever(world: &World, first: &Machine, boots: u32) -> Result<()> {
    let file = |path: &str| {
        let root = first.root().context("a root")?;
        Ok::<_, anyhow::Error>(root.path(path))
    };
    world
        .bed
        .wait_until(
            "the first server has booted without its disk",
            SOON,
            async || {
                ensure!(first.boots() > boots, "it has not booted");
                let state = std::fs::read_to_string(file("run/services/state.sshd")?)?;
                ensure!(state == "active\n", "sshd is {state}");
                let node = world
                    .bed
                    .kubectl(&["get", "node", first.name(), "--no-headers"])?;
                Ok(node.contains(" NotReady ").then_some(()))
            },
        )
        .await?;
    ensure!(
        !file("var/lib/rancher/k3s/server/db")?.exists(),
        "it has data"
    );
    Ok(())
}

/// The worker was made when there was the first server alone.
async fn fetches_from_who_is_there(world: &World) -> Result<()> {
    let bed = &world.bed;
    let worker = world.workers_ready(1).await?.pop().context("a worker")?;
    let worker = bed.machine(&name(&worker))?;
    let before = worker.system()?.path;
    bed.change_system(
        system::WORKERS,
        &SystemChange::Package("another".to_owned()),
    )?;
    bed.git()
        .commit_and_push("Have another package on workers")?;
    bed.wait_until("the worker runs another system", CHANGED, async || {
        Ok((worker.system()?.path != before).then_some(()))
    })
    .await
}

/// All that was acknowledged is there.
async fn nothing_lost(world: &World, writer: Writer) -> Result<()> {
    let kept = writer.end();
    let there = config_maps(world.bed.kube().await?).await?;
    let missing: Vec<_> = kept.difference(&there).collect();
    ensure!(missing.is_empty(), "lost: {missing:?}");
    Ok(())
}

async fn end(world: Arc<World>) -> Result<()> {
    // Who watched and wrote may still be about to end.
    if let Some(world) = Arc::into_inner(world) {
        world.bed.shutdown().await;
    }
    Ok(())
}

/// Members 1, 2, … of one cluster, the first of which leads: who answers, and who has and has no vote.
fn poll(answer: &[u64], voters: &[u64], learners: &[u64]) -> Poll {
    let look = |n: &u64| Look {
        server: format!("s-{n}"),
        cluster: "7".to_owned(),
        member: n.to_string(),
        leader: answer.first().map(u64::to_string).unwrap_or_default(),
        applied: 1,
        well: true,
    };
    let member = |n: &u64, learner| Member {
        id: n.to_string(),
        name: format!("s-{n}-0a1b2c3d"),
        learner,
    };
    let voters = voters.iter().map(|n| member(n, false));
    Poll {
        looks: answer.iter().map(look).collect(),
        members: voters
            .chain(learners.iter().map(|n| member(n, true)))
            .collect(),
        nodes: None,
    }
}

#[test]
fn the_watcher_tells_what_must_never_be() {
    let nobody = BTreeSet::new();
    let three = poll(&[1, 2, 3], &[1, 2, 3], &[]);
    let after = |now: &Poll| faults(Some(&three), &nobody, now);
    let quiet = [
        three.clone(),
        poll(&[1, 2, 3], &[1, 2, 3], &[4]),
        poll(&[1, 2], &[1, 2, 3], &[]),
        poll(&[1, 2], &[1, 2], &[]),
    ];
    for now in quiet {
        assert_eq!(after(&now), [""; 0], "{now:?}");
    }
    let tells = |now: &Poll, what: &str| {
        let told = after(now);
        assert!(told.iter().any(|t| t.contains(what)), "{what}: {told:?}");
    };
    tells(&poll(&[1], &[1, 2, 3], &[]), "1 of 3 voters are healthy");
    tells(
        &poll(&[1, 2, 3], &[1, 2, 3], &[4, 5]),
        "on their way at once",
    );
    tells(&poll(&[1, 2], &[1, 2, 3], &[4]), "on their way at once");
    tells(&poll(&[1, 2], &[1, 2, 4], &[]), "changed at once");
    tells(&poll(&[2, 3], &[1, 2, 3], &[]), "led when it was stopped");
    // It has given up leading while they were asked.
    let mut moved = three.clone();
    moved.looks[1].leader = "2".to_owned();
    let told = faults(Some(&moved), &nobody, &poll(&[2, 3], &[1, 2, 3], &[]));
    assert_eq!(told, [""; 0]);
    let mut second = poll(&[1, 2, 3], &[1, 2, 3], &[]);
    second.looks[2].cluster = "8".to_owned();
    tells(&second, "two clusters");

    let known = ["s-1", "s-2", "s-3"].map(str::to_owned);
    let early = Poll {
        nodes: Some(known[..2].iter().cloned().collect()),
        ..three.clone()
    };
    let told = faults(Some(&three), &known.into(), &early);
    assert!(
        told.len() == 1 && told[0].contains("s-3 is no Node any more"),
        "{told:?}"
    );
}
