//! A node's way where all goes well, and what a commit is made of.

use std::collections::BTreeSet;

use fabrik_core::id::NodeName;
use fabrik_core::ledger::Change;
use fabrik_core::rollout;
use fabrik_core::system::Needs;

use super::world::World;
use super::{name, pool};

#[test]
fn a_reboot_goes_node_by_node_servers_first_and_never_beyond_the_budget() {
    let mut world = World::new(3, 5, 2);
    world.want("new", "1.36.3+k3s1");
    world.settle("new");
    let order: Vec<bool> = world
        .tried
        .iter()
        .map(|(n, _)| n.as_str().starts_with("servers"))
        .collect();
    assert_eq!(order, [true, true, true, false, false, false, false, false]);
    assert_eq!(world.most_unavailable["servers"], 1);
    assert_eq!(world.most_unavailable["workers"], 2, "the budget is used");
}

#[test]
fn a_switch_needs_no_drain() {
    let mut world = World::new(3, 2, 1);
    world.needs = Needs::Switch;
    world.want("new", "1.36.3+k3s1");
    world.settle("new");
    assert!(
        !world.log.iter().any(|l| l.contains("cordon")),
        "{}",
        world.log.join("\n")
    );
}

#[test]
fn a_minor_takes_a_snapshot_first_and_moves_etcd_s_leader_away() {
    let mut world = World::new(3, 2, 1);
    world.needs = Needs::Switch;
    world.want("next", "1.37.0+k3s1");
    assert!(world.observed.ledger.begun_minor < Some(37));
    world.settle("next");
    assert_eq!(world.observed.ledger.begun_minor, Some(37));
    let at = |what: &str| {
        world
            .log
            .iter()
            .position(|l| l.contains(what))
            .unwrap_or_else(|| panic!("no {what}"))
    };
    assert!(at("snapshot-etcd") < at("order"));
    assert!(at("move-etcd-leader") < world.log.len());
    assert!(at("cordon servers") < at("order"), "a minor is drained for");
    let snapshots = world
        .log
        .iter()
        .filter(|l| l.contains("snapshot-etcd"))
        .count();
    assert_eq!(snapshots, 1);
}

#[test]
fn a_system_and_a_minor_in_one_commit_are_two_steps_for_servers() {
    let mut world = World::new(3, 2, 1);
    world.want_in_two_steps(("new", "1.36.3+k3s1"), ("next", "1.37.0+k3s1"));
    world.settle("next");
    let tried: Vec<&str> = world
        .tried
        .iter()
        .map(|(_, system)| system.as_str())
        .collect();
    assert_eq!(
        tried,
        ["new", "new", "new", "next", "next", "next", "next", "next"]
    );
}

#[test]
fn a_later_commit_replaces_the_target_of_those_who_were_not_told_to_try() {
    let mut world = World::new(3, 2, 1);
    world.blocked.insert("servers-1".parse().unwrap());
    world.want("new", "1.36.3+k3s1");
    for _ in 0..20 {
        world.tick();
    }
    world.want("newer", "1.36.3+k3s1");
    world.blocked.clear();
    world.settle("newer");
}

#[test]
fn nobody_gets_two_tickets_in_one_pass() {
    let mut world = World::new(3, 3, 1);
    world.want("old", "1.36.3+k3s1");
    let servers = world.desired.targets[&pool("servers")].clone();
    world.want("new", "1.36.3+k3s1");
    world.desired.targets.insert(pool("servers"), servers);
    world.look_twice();
    world
        .observed
        .nodes
        .get_mut(&name("workers-0"))
        .unwrap()
        .ready = false;
    world
        .desired
        .spec
        .pools
        .get_mut(&pool("workers"))
        .unwrap()
        .count = 2;
    let step = fabrik_core::step::step(&world.desired, &world.observed, world.now);
    let granted = step.changes.iter().filter_map(|change| match change {
        Change::Grant { id, .. } => Some(id.clone()),
        _ => None,
    });
    let granted: Vec<_> = granted.collect();
    assert_eq!(granted.len(), 1, "{:?}", step.changes);
}

/// One server runs the newer minor already when a commit comes that has two steps.
#[test]
fn the_canary_takes_the_second_step_before_a_server_that_needs_no_first() {
    let mut world = World::new(3, 1, 1);
    world.want_in_two_steps(("new", "1.36.3+k3s1"), ("next", "1.37.0+k3s1"));
    let done = |world: &World| -> Option<NodeName> {
        let mut machines = world.machines.iter();
        let done = machines.find(|(_, m)| m.default == "next");
        done.map(|(name, _)| name.clone())
    };
    while done(&world).is_none() {
        world.tick();
    }
    let ahead = done(&world).unwrap();
    let canary = world
        .machines
        .keys()
        .find(|n| **n != ahead)
        .unwrap()
        .clone();
    world.desired.spec.update.canary = Some(canary.clone());
    world.want_in_two_steps(("newer", "1.36.3+k3s1"), ("last", "1.37.0+k3s1"));
    world.settle("last");
    let tried = world.tried.iter().filter(|(_, system)| system == "last");
    let tried: Vec<&NodeName> = tried.map(|(node, _)| node).collect();
    assert_eq!(tried[0], &canary, "{tried:?}");
}

/// The second push came when one server had taken both steps of the first one.
#[test]
fn a_server_beyond_the_first_step_is_not_asked_to_take_it() {
    let mut world = World::new(3, 2, 1);
    world.want_in_two_steps(("new", "1.36.3+k3s1"), ("next", "1.37.0+k3s1"));
    while world.machines.values().all(|m| m.default != "next") {
        world.tick();
    }
    world.want_in_two_steps(("newer", "1.36.3+k3s1"), ("last", "1.37.0+k3s1"));
    world.settle("last");
    let server = &world.tried.iter().find(|(_, s)| s == "next").unwrap().0;
    let back = world
        .tried
        .iter()
        .find(|(n, s)| n == server && s == "newer");
    assert_eq!(back, None);
}

/// A person who takes the ticket of one node away names it by its number.
#[test]
fn no_two_tickets_have_one_number() {
    let mut world = World::new(1, 4, 3);
    world.want("old", "1.36.3+k3s1");
    let servers = world.desired.targets[&pool("servers")].clone();
    world.want("new", "1.36.3+k3s1");
    world.desired.targets.insert(pool("servers"), servers);
    world.until_tried("workers-2");
    world.without_a_leader(60);
    let numbers = |world: &World| {
        let tickets = world.observed.ledger.tickets.values();
        let numbers = tickets.filter_map(|t| Some(t.update()?.number));
        numbers.collect::<Vec<u64>>()
    };
    let before = numbers(&world);
    let changes = fabrik_core::step::step(&world.desired, &world.observed, world.now).changes;
    let after = changes.iter().filter_map(|change| match change {
        Change::TryAgain { number, .. } => Some(*number),
        _ => None,
    });
    let after: Vec<u64> = after.collect();
    assert!(
        after.len() >= 2 && before.iter().all(|n| !after.contains(n)),
        "{before:?}, {after:?}"
    );
    let different: BTreeSet<&u64> = after.iter().collect();
    assert_eq!(different.len(), after.len(), "{after:?}");
}

#[test]
fn a_restored_ledger_gives_no_number_that_was_seen_before() {
    let mut world = World::new(3, 1, 1);
    let before = world.observed.ledger.clone();
    world.want("new", "1.36.3+k3s1");
    world.settle("new");
    world.observed.ledger = before;
    world.want("newer", "1.36.3+k3s1");
    world.settle("newer");
}

#[test]
fn a_forecast_says_who_goes_and_how_long_it_takes() {
    let mut world = World::new(3, 5, 2);
    let forecast = |world: &World| {
        rollout::forecast(&world.desired, &world.observed, world.now).map(|f| f.to_string())
    };
    world.want("old", "1.36.3+k3s1");
    assert_eq!(forecast(&world), None);
    world.want("new", "1.36.3+k3s1");
    assert_eq!(
        forecast(&world).unwrap(),
        "servers servers-1, servers-2, servers-0, then 5 agents of pool workers two at a time, about 17 minutes",
        "nothing is fetched yet, so nobody knows what it takes"
    );
    world.look_twice();
    assert!(forecast(&world).unwrap().starts_with("8 reboots, servers"));
    world.until_tried("workers-0");
    let told = forecast(&world).unwrap();
    assert!(told.starts_with("5 reboots, 5 agents"), "{told}");
    let ends = rollout::forecast(&world.desired, &world.observed, world.now).unwrap();
    world.settle("new");
    let pace = world.observed.ledger.pace[&pool("servers")];
    assert_eq!(pace.steps, 3);
    assert!((60..120).contains(&pace.mean_secs), "{pace:?}");
    assert!(ends.left_secs > 0);
}

#[test]
fn systems_that_the_ladder_forbids_are_named() {
    let mut world = World::new(3, 2, 1);
    world.want("new", "1.36.3+k3s1");
    let mut newer = world.desired.targets[&"workers".parse().unwrap()].clone();
    newer.system.kubernetes = "1.37.0+k3s1".parse().unwrap();
    world
        .desired
        .targets
        .insert("workers".parse().unwrap(), newer);
    let step = world.decide();
    let told = step.holds.iter().find(|h| h.about == "kubernetes").unwrap();
    assert!(
        told.message
            .contains("an agent is never newer than its servers"),
        "{told}"
    );
}
