//! Rollouts from end to end, decided by the core and played by machines in memory.

#[path = "rollout/machine.rs"]
mod machine;
#[path = "rollout/world.rs"]
mod world;

use std::collections::BTreeSet;

use fabrik_core::effect::Effect;
use fabrik_core::id::{NodeName, PoolName, ServerId};
use fabrik_core::ledger::Change;
use fabrik_core::observed::{PlacementGroup, Role};
use fabrik_core::rollout;
use fabrik_core::system::Needs;
use proptest::prelude::*;
use world::{Fate, World};

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
    world.settle("next");
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
fn a_bad_system_is_tried_by_one_node_and_a_revert_sets_it_right() {
    for fate in [Fate::Panics, Fate::Hangs, Fate::Sick] {
        let mut world = World::new(3, 4, 2);
        world.fates.insert("bad".to_owned(), fate);
        world.want("bad", "1.36.3+k3s1");
        let holds = world.stand_still();
        assert_eq!(world.tried.len(), 1, "{fate:?}: {:?}", world.tried);
        assert!(
            world.machines.values().all(|m| m.running == "old"),
            "{fate:?}"
        );
        world.nothing_is_left_over();
        let mut denied = world.observed.ledger.denied.values();
        assert!(
            denied.all(|d| d.why.len() <= 500),
            "a node's words fill the ledger"
        );
        assert!(
            holds
                .iter()
                .any(|h| h.starts_with("rollout: stands still: node servers-")),
            "{holds:?}"
        );

        world.want("old", "1.36.3+k3s1");
        world.settle("old");
        world.want("mended", "1.36.3+k3s1");
        world.settle("mended");
    }
}

#[test]
fn a_server_that_started_a_newer_minor_is_never_taken_back() {
    let mut world = World::new(3, 2, 1);
    world.fates.insert("next".to_owned(), Fate::Sick);
    world.want("next", "1.37.0+k3s1");
    let holds = world.stand_still();
    let told = holds.join("\n");
    assert!(told.contains("etcd snapshot fabrik-before-1.37-"), "{told}");
    assert!(told.contains("stands still until node"), "{told}");
    let there: Vec<_> = world
        .machines
        .values()
        .filter(|m| m.running == "next")
        .collect();
    assert_eq!(there.len(), 1);
    assert_eq!(
        world.observed.ledger.tickets.len(),
        1,
        "it keeps its ticket"
    );

    // A revert is no way back: the server is not told to run what it can't.
    world.want("old", "1.36.3+k3s1");
    let told = world.stand_still().join("\n");
    assert_eq!(
        world
            .machines
            .values()
            .filter(|m| m.running == "next")
            .count(),
        1,
        "{told}"
    );
}

/// Its old k3s runs on the newer one's data: nobody may take that for a node that is as it was.
#[test]
fn a_server_that_lost_its_power_after_a_newer_minor_ran_needs_a_person() {
    let mut world = World::new(3, 2, 1);
    world.want("next", "1.37.0+k3s1");
    world.until_tried("servers-1");
    while world.machines[&name("servers-1")].running != "next"
        || world.machines[&name("servers-1")].busy > 0
    {
        world.tick();
    }
    world.tick();
    let now = world.now;
    let machine = world.machines.get_mut(&name("servers-1")).unwrap();
    machine.loses_its_power(now);
    let told = world.stand_still().join("\n");
    assert!(told.contains("k3s 1.37.0+k3s1 has run on it"), "{told}");
    assert!(told.contains("etcd snapshot fabrik-before-1.37-"), "{told}");
    assert_eq!(
        world.observed.ledger.tickets.len(),
        1,
        "it keeps its ticket"
    );
    assert_eq!(world.tried.len(), 1, "{:?}", world.tried);
    assert!(world.observed.ledger.denied.is_empty());
}

/// It was about to start, and the kernel panicked before.
#[test]
fn a_server_that_did_not_get_to_its_newer_minor_goes_back() {
    let mut world = World::new(3, 2, 1);
    world.fates.insert("next".to_owned(), Fate::Panics);
    world.want("next", "1.37.0+k3s1");
    world.stand_still();
    assert_eq!(world.observed.ledger.denied.len(), 1);
    world.nothing_is_left_over();
}

#[test]
fn a_drain_that_is_blocked_is_taken_back_and_tried_later() {
    let mut world = World::new(3, 2, 1);
    let node: fabrik_core::id::NodeName = "workers-0".parse().unwrap();
    world.blocked.insert(node.clone());
    world.want("new", "1.36.3+k3s1");
    let told: Vec<String> = (0..200)
        .flat_map(|_| world.tick().holds)
        .map(|h| h.to_string())
        .collect();
    assert!(
        told.iter()
            .any(|h| h.contains("pod web/shop can't be evicted: PodDisruptionBudget web/shop"))
    );
    assert!(
        world.observed.nodes[&node].unschedulable,
        "it is being drained"
    );
    world.stand_still();
    world.blocked.clear();
    world.settle("new");
}

#[test]
fn a_pod_that_nothing_would_bring_back_keeps_its_node_and_no_other_from_the_new_system() {
    let mut world = World::new(3, 3, 1);
    world.bare.insert(name("workers-0"));
    world.want("new", "1.36.3+k3s1");
    let mut told = BTreeSet::new();
    for _ in 0..1500 {
        told.extend(world.tick().holds.iter().map(ToString::to_string));
    }
    assert!(
        told.contains(
            "node workers-0: pod web/shop is not evicted: no controller would bring it back. Delete it, or set \
             unmanaged-pods = \"discard\" in [pools.workers]; nothing on the node is evicted before"
        ),
        "{told:?}"
    );
    assert_eq!(world.tried.len(), 5, "all but that one: {:?}", world.tried);
    world.bare.clear();
    world.settle("new");
}

#[test]
fn a_node_goes_down_when_its_volumes_are_detached_and_not_before() {
    let mut world = World::new(3, 1, 1);
    let node = name("workers-0");
    let volume = "pvc-1 (claim shop/data)".to_owned();
    world.observed.attached = [(node.clone(), vec![volume])].into();
    world.want("new", "1.36.3+k3s1");
    let told = |world: &mut World, ticks: usize| -> BTreeSet<String> {
        let holds = (0..ticks).flat_map(|_| world.tick().holds);
        holds.map(|h| h.to_string()).collect()
    };
    let hold = "node workers-0: volume pvc-1 (claim shop/data) is still attached to it";
    assert!(told(&mut world, 200).contains(hold));
    assert_eq!(world.tried.len(), 3, "the servers: {:?}", world.tried);
    // The deadline of a drain holds for it too.
    told(&mut world, 300);
    assert!(world.log.iter().any(|l| l.contains("uncordon workers-0")));
    world.observed.attached.clear();
    world.settle("new");
}

#[test]
fn only_pods_on_the_user_s_list_go_by_force_and_only_after_the_deadline() {
    let node = name("workers-0");
    let runs_it = |listed: &str, forced: bool| -> (bool, Vec<String>) {
        let mut world = World::new(3, 2, 1);
        world.blocked.insert(node.clone());
        world.forced = forced;
        world.let_go(listed);
        world.want("new", "1.36.3+k3s1");
        for _ in 0..600 {
            world.tick();
        }
        let runs_it = world.machines[&node].running == "new";
        (runs_it, std::mem::take(&mut world.log))
    };
    for listed in [
        "{ namespace = \"web\" }",
        "{ namespace = \"web\", name = \"sho*\" }",
    ] {
        let (runs_it, log) = runs_it(listed, true);
        assert!(runs_it, "{listed}");
        assert_eq!(
            log.iter()
                .filter(|l| l.contains("force-pod web/shop"))
                .count(),
            1
        );
    }
    for listed in [
        "",
        "{ namespace = \"other\" }",
        "{ namespace = \"web\", pods = \"app=shop\" }",
        "{ namespace = \"web\", name = \"shopper\" }",
    ] {
        assert!(!runs_it(listed, false).0, "{listed}");
    }
}

#[test]
fn a_check_of_the_user_s_that_fails_on_a_node_sends_it_back() {
    let mut world = World::new(3, 2, 1);
    world.want_checked("proxy = { namespace = \"ingress\", pods = \"app=proxy\" }");
    world.ails_under = Some("bad");
    world.want("bad", "1.36.3+k3s1");
    let told = world.stand_still().join("\n");
    assert_eq!(world.tried.len(), 1, "{:?}", world.tried);
    let why = "went back: check proxy: pod ingress/proxy-servers-1 is not ready on it";
    assert!(told.contains(why), "{told}");
    world.want("mended", "1.36.3+k3s1");
    world.settle("mended");
}

#[test]
fn a_check_of_the_user_s_counts_pods_wherever_they_run() {
    let mut world = World::new(3, 2, 1);
    world.want_checked("shop = { namespace = \"shop\", pods = \"app=shop\", ready = 2 }");
    world.want("new", "1.36.3+k3s1");
    let told = |world: &mut World, ready: Option<u32>| -> BTreeSet<String> {
        world.observed.ready_pods = ready.map(|n| ("shop".to_owned(), n)).into_iter().collect();
        let holds = (0..8).flat_map(|_| world.tick().holds);
        holds.map(|h| h.message).collect()
    };
    world.until_tried("servers-1");
    let shut = |why: &str| format!("runs the new system; check shop: {why}");
    assert!(told(&mut world, Some(1)).contains(&shut("2 of its pods must be ready; so far: 1")));
    assert!(told(&mut world, None).contains(&shut("its pods can't be read")));
    told(&mut world, Some(2));
    world.settle("new");
}

/// Nothing that could not be read is well.
#[test]
fn a_node_whose_pods_can_not_be_read_is_not_known_to_be_well() {
    let mut world = World::new(3, 1, 1);
    world.want("new", "1.36.3+k3s1");
    world.until_tried("servers-1");
    world.unread.insert(name("servers-1"));
    let holds = (0..8).flat_map(|_| world.tick().holds);
    let told: BTreeSet<String> = holds.map(|h| h.message).collect();
    assert!(
        told.contains("runs the new system; its pods can't be read"),
        "{told:?}"
    );
    world.unread.clear();
    world.settle("new");
}

#[test]
fn those_that_go_at_once_are_in_different_locations_and_placement_groups() {
    let first_two = |arrange: fn(&mut World)| -> BTreeSet<String> {
        let mut world = World::new(3, 4, 2);
        arrange(&mut world);
        world.want("new", "1.36.3+k3s1");
        let tickets = |world: &World| -> BTreeSet<String> {
            let tickets = world.observed.ledger.tickets.values();
            let agents = tickets.filter(|t| t.pool.as_str() == "workers");
            agents.map(|t| t.node.to_string()).collect()
        };
        while tickets(&world).is_empty() {
            world.tick();
        }
        tickets(&world)
    };
    let expected = BTreeSet::from(["workers-0".to_owned(), "workers-2".to_owned()]);
    let locations = first_two(|world| {
        for (number, location) in [(0, "fsn1"), (1, "fsn1"), (2, "nbg1"), (3, "nbg1")] {
            let server = world
                .observed
                .hetzner
                .servers
                .get_mut(&ServerId(200 + number));
            server.unwrap().location = location.to_owned();
        }
    });
    assert_eq!(locations, expected);
    let groups = first_two(|world| {
        for (id, servers) in [(1, [200, 201]), (2, [202, 203])] {
            let name = format!("demo-workers-{id}");
            let group = PlacementGroup {
                id,
                name: name.clone(),
                servers: servers.map(ServerId).into(),
            };
            world.observed.hetzner.placement_groups.insert(name, group);
        }
    });
    assert_eq!(groups, expected);
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
fn who_is_held_out_is_left_alone_and_named() {
    let mut world = World::new(3, 3, 1);
    let node: fabrik_core::id::NodeName = "workers-1".parse().unwrap();
    world
        .desired
        .spec
        .update
        .held
        .insert(node.clone(), "its disk is being replaced".to_owned());
    world.want("new", "1.36.3+k3s1");
    let holds = world.stand_still();
    assert_eq!(
        world
            .machines
            .values()
            .filter(|m| m.running == "new")
            .count(),
        5
    );
    assert_eq!(
        holds,
        ["node workers-1: is held out of updates: its disk is being replaced"]
    );
}

#[test]
fn agents_wait_for_a_server_that_is_held_out_only_with_a_newer_minor() {
    let mut world = World::new(3, 2, 1);
    let server: fabrik_core::id::NodeName = "servers-1".parse().unwrap();
    let held = &mut world.desired.spec.update.held;
    held.insert(server, "its disk is being replaced".to_owned());
    world.want("new", "1.36.3+k3s1");
    world.stand_still();
    assert_eq!(
        world.tried.len(),
        4,
        "all but the server: {:?}",
        world.tried
    );
    world.want("next", "1.37.0+k3s1");
    let told = world.stand_still().join("\n");
    assert_eq!(
        world.tried.len(),
        6,
        "the two other servers: {:?}",
        world.tried
    );
    let why = "agents: wait for server servers-1, which is held out of updates (its disk is being replaced)";
    assert!(told.contains(why), "{told}");
    world.desired.spec.update.held.clear();
    world.settle("next");
}

#[test]
fn one_server_goes_down_only_by_the_users_word() {
    let mut world = World::new(1, 1, 1);
    world.want("new", "1.36.3+k3s1");
    let holds = world.stand_still();
    assert!(
        holds
            .iter()
            .any(|h| h.contains("allow-control-plane-downtime")),
        "{holds:?}"
    );
    assert!(world.tried.is_empty());
    world.desired.spec.update.allow_control_plane_downtime = true;
    world.settle("new");
}

/// What may happen at any moment.
#[derive(Debug, Clone, Copy)]
enum Happening {
    /// A push of the system of that number.
    Push(usize),
    /// No eviction moves the pod of that node, until it does.
    Block(usize),
    Unblock(usize),
    /// A person, by `kubectl cordon` and `uncordon`.
    Cordon(usize),
    Uncordon(usize),
    /// Ticks.
    Pass(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..SYSTEMS.len()).prop_map(Happening::Push),
        (0..NODES).prop_map(Happening::Block),
        (0..NODES).prop_map(Happening::Unblock),
        (0..NODES).prop_map(Happening::Cordon),
        (0..NODES).prop_map(Happening::Uncordon),
        (1..60_u8).prop_map(Happening::Pass),
        (1..60_u8).prop_map(Happening::Pass),
    ]
}

const NODES: usize = 7;
const SYSTEMS: [(&str, Fate); 5] = [
    ("one", Fate::Well),
    ("two", Fate::Well),
    ("panics", Fate::Panics),
    ("hangs", Fate::Hangs),
    ("sick", Fate::Sick),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// The world asserts the invariants after each tick; here, that it comes to rest when it is left alone.
    #[test]
    fn whatever_happens_the_last_good_push_reaches_every_node(
        happenings in prop::collection::vec(happening(), 1..25),
        budget in 1..4_u32,
        reboots: bool,
    ) {
        let mut world = World::new(3, NODES - 3, budget);
        world.needs = if reboots { Needs::Reboot } else { Needs::Switch };
        for (system, fate) in SYSTEMS {
            world.fates.insert(system.to_owned(), fate);
        }
        let names: Vec<_> = world.machines.keys().cloned().collect();
        for happening in happenings {
            match happening {
                Happening::Push(system) => world.want(SYSTEMS[system].0, "1.36.3+k3s1"),
                Happening::Block(node) => { world.blocked.insert(names[node].clone()); }
                Happening::Unblock(node) => { world.blocked.remove(&names[node]); }
                Happening::Cordon(node) => world.cordon_by_hand(&names[node]),
                Happening::Uncordon(node) => world.uncordon_by_hand(&names[node]),
                Happening::Pass(ticks) => (0..ticks).for_each(|_| { world.tick(); }),
            }
        }
        world.blocked.clear();
        for node in &names {
            world.uncordon_by_hand(node);
        }
        world.want("last", "1.36.3+k3s1");
        world.settle("last");
    }
}

#[test]
fn a_node_made_anew_is_nobody_to_update_and_hangs_nothing() {
    let mut world = World::new(3, 2, 1);
    world.want("new", "1.36.3+k3s1");
    world.tick();
    let node = world.observed.nodes.get_mut(&name("servers-1")).unwrap();
    node.uid = "another".parse().unwrap();
    world.decide();
}

#[test]
fn etcd_that_can_not_be_read_lets_no_server_go() {
    let mut world = World::new(3, 1, 1);
    world.blocked.insert(name("servers-1"));
    world.want("next", "1.37.0+k3s1");
    (0..20).for_each(|_| drop(world.tick()));
    world.blocked.clear();
    world.no_etcd = true;
    (0..20).for_each(|_| drop(world.tick()));
    assert!(world.tried.is_empty(), "{:?}", world.tried);
    let tickets = &world.observed.ledger.tickets;
    assert_eq!(tickets.len(), 1, "its drain is not for nothing");
    world.no_etcd = false;
    world.settle("next");
}

#[test]
fn a_system_that_is_going_back_is_tried_by_nobody_else() {
    let mut world = World::new(1, 4, 2);
    world.fates.insert("bad".to_owned(), Fate::Sick);
    world.want("old", "1.36.3+k3s1");
    let servers = world.desired.targets[&pool("servers")].clone();
    world.want("bad", "1.36.3+k3s1");
    world.desired.targets.insert(pool("servers"), servers);
    world.blocked.insert(name("workers-1"));
    while !world.log.iter().any(|l| l.contains("order")) {
        world.tick();
    }
    while world.observed.ledger.denied.is_empty() {
        world.tick();
    }
    world.blocked.clear();
    world.stand_still();
    assert_eq!(world.tried.len(), 1, "{:?}", world.tried);
}

#[test]
fn a_denial_outlives_a_leader_that_has_evaluated_nothing_yet() {
    let mut world = World::new(3, 2, 1);
    world.fates.insert("bad".to_owned(), Fate::Panics);
    world.want("bad", "1.36.3+k3s1");
    world.stand_still();
    let targets = std::mem::take(&mut world.desired.targets);
    (0..3).for_each(|_| drop(world.tick()));
    world.desired.targets = targets;
    world.stand_still();
    assert_eq!(world.tried.len(), 1, "{:?}", world.tried);
}

/// What differs between nodes never goes through a system, so two pools may have one path.
#[test]
fn a_denial_lasts_as_long_as_any_pool_wants_the_system() {
    let mut world = World::new(3, 2, 1);
    world.fates.insert("bad".to_owned(), Fate::Panics);
    world.want("bad", "1.36.3+k3s1");
    world.stand_still();
    let bad = world.desired.targets[&pool("workers")].clone();
    world.want("new", "1.36.3+k3s1");
    let new = world.desired.targets.insert(pool("workers"), bad).unwrap();
    world.stand_still();
    assert_eq!(world.tried.len(), 1, "{:?}", world.tried);
    // It is not known yet what the workers want.
    world.desired.targets.remove(&pool("workers"));
    world.decide();
    assert_eq!(world.observed.ledger.denied.len(), 1);
    world.desired.targets.insert(pool("workers"), new);
    world.settle("new");
    assert!(world.observed.ledger.denied.is_empty());
}

#[test]
fn the_denials_of_a_pool_that_is_gone_are_forgotten() {
    let mut world = World::new(3, 0, 1);
    let denied = fabrik_core::system::Denied {
        pool: pool("gone"),
        node: name("gone-0"),
        at: world.now,
        why: "it panics".to_owned(),
    };
    let ledger = &mut world.observed.ledger;
    ledger.denied.insert(world::path("bad"), denied);
    world.want("old", "1.36.3+k3s1");
    world.decide();
    assert!(world.observed.ledger.denied.is_empty());
}

#[test]
fn one_stubborn_node_does_not_keep_its_pool_back() {
    let mut world = World::new(1, 4, 1);
    world.desired.spec.update.allow_control_plane_downtime = true;
    world.blocked.insert(name("workers-0"));
    world.want("new", "1.36.3+k3s1");
    (0..2000).for_each(|_| drop(world.tick()));
    let there = world
        .machines
        .values()
        .filter(|m| m.running == "new")
        .count();
    assert_eq!(there, 4, "all but the stubborn one and with the server");
}

#[test]
fn a_person_s_cordon_is_not_taken_for_ours() {
    let mut world = World::new(1, 2, 1);
    world.desired.spec.update.allow_control_plane_downtime = true;
    world.want("new", "1.36.3+k3s1");
    while world.machines[&name("workers-0")].running != "new" {
        world.tick();
    }
    world.uncordon_by_hand(&name("workers-0"));
    world.settle("new");
    world.cordon_by_hand(&name("workers-0"));
    world.want("newer", "1.36.3+k3s1");
    while world.machines[&name("workers-0")].default != "newer" {
        world.tick();
    }
    (0..10).for_each(|_| drop(world.tick()));
    assert!(world.observed.nodes[&name("workers-0")].unschedulable);
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

#[test]
fn pausing_in_the_middle_of_a_trial_ends_it_as_it_began() {
    let mut world = World::new(3, 2, 1);
    world.want("new", "1.36.3+k3s1");
    world.until_tried("servers-1");
    world.observed.paused = Some("by the test".to_owned());
    world.stand_still();
    assert_eq!(world.machines[&name("servers-1")].default, "new");
    assert_eq!(world.tried.len(), 1, "nobody else is granted anything");
    assert!(world.observed.nodes.values().all(|n| !n.unschedulable));
    world.observed.paused = None;
    world.settle("new");
}

/// etcd was whole when the order was written down: that is no leave to send it later.
#[test]
fn an_order_that_was_not_sent_waits_while_another_server_is_down() {
    let mut world = World::new(3, 1, 1);
    world.want("new", "1.36.3+k3s1");
    let first = world.until_ordered("servers");
    let other = name("servers-2");
    assert_ne!(first, other);
    world.machines.get_mut(&other).unwrap().hangs = true;
    (0..6).for_each(|_| drop(world.tick()));
    world.cut_off = None;
    let told = world.tick().holds;
    let told = told.iter().find(|h| h.about == format!("node {first}"));
    assert!(
        told.is_some_and(|h| h
            .message
            .contains("is not told to try now: waits: without it 1 of 3")),
        "{told:?}"
    );
    assert!(world.tried.is_empty(), "{:?}", world.tried);
    world.machines.get_mut(&other).unwrap().hangs = false;
    world.settle("new");
    assert_eq!(world.tried.len(), 4, "{:?}", world.tried);
}

#[test]
fn an_order_whose_time_is_over_is_never_sent() {
    for pool in ["servers", "workers"] {
        let mut world = World::new(3, 1, 1);
        world.want("new", "1.36.3+k3s1");
        let first = world.until_ordered(pool);
        let before = world.tried.len();
        world.without_a_leader(45);
        world.cut_off = None;
        world.decide();
        let mut tickets = world.observed.ledger.tickets.values();
        let ticket = tickets.find(|t| t.node == first).unwrap();
        assert!(
            ticket
                .update()
                .unwrap()
                .ordered
                .is_none_or(|at| at == world.now),
            "{pool}"
        );
        assert_eq!(world.tried.len(), before);
        world.settle("new");
        assert!(world.observed.ledger.denied.is_empty());
    }
}

#[test]
fn a_node_that_was_uncordoned_is_cordoned_and_drained_again_before_it_is_told() {
    let mut world = World::new(3, 2, 1);
    world.want("new", "1.36.3+k3s1");
    let node = world.until_ordered("workers");
    let cordons = world.marks.len();
    world.uncordon_by_hand(&node);
    world.tick();
    assert_eq!(world.marks.len(), cordons + 1);
    world.cut_off = None;
    world.settle("new");
}

/// Found by the exhaustive search: it was uncordoned and then cordoned again under the same ticket, for an hour, and a
/// request to uncordon that was late reached it when it went down.
#[test]
fn a_server_that_may_not_go_after_all_gives_its_ticket_back_before_its_cordon() {
    let mut world = World::new(3, 1, 1);
    world.want("new", "1.36.3+k3s1");
    while world.marks.is_empty() {
        world.tick();
    }
    let other = world.observed.nodes.values().find(|n| !n.unschedulable);
    let other = other.unwrap().name.clone();
    world.cordon_by_hand(&other);
    for _ in 0..20 {
        let step = world.tick();
        let tickets = &world.observed.ledger.tickets;
        for effect in &step.effects {
            if let Effect::Uncordon { node, .. } = effect {
                assert!(tickets.values().all(|t| t.node != node.name), "{step:?}");
            }
        }
    }
    assert_eq!(world.marks.len(), 1, "{:?}", world.marks);
    let ours = |n: &fabrik_core::observed::Node| n.cordoned_under.is_some();
    assert!(!world.observed.nodes.values().any(ours));
}

/// Its API server would be older than the others' agents, and in the end two minors apart from the other servers.
#[test]
fn a_server_that_is_no_member_holds_agents_and_minors() {
    let mut world = World::new(3, 2, 1);
    let mut stranger = world.observed.nodes[&name("servers-1")].clone();
    stranger.name = name("servers-9");
    (stranger.uid, stranger.provider_id) = ("uid-servers-9".parse().unwrap(), None);
    let stranger = (stranger.name.clone(), stranger);
    world.observed.nodes.extend([stranger]);

    world.want("next", "1.37.0+k3s1");
    let told = world.stand_still().join("\n");
    assert!(world.tried.is_empty(), "{:?}", world.tried);
    assert!(
        told.contains("waits: server servers-9 is no member"),
        "{told}"
    );
    world.want("new", "1.36.3+k3s1");
    let told = world.stand_still().join("\n");
    assert_eq!(world.tried.len(), 3, "servers alone: {:?}", world.tried);
    assert!(told.contains("agents: wait for server servers-9"), "{told}");
    world.observed.nodes.remove(&name("servers-9"));
    world.settle("new");
}

#[test]
fn agents_wait_where_no_server_is_known() {
    let mut world = World::new(0, 2, 1);
    world.want("new", "1.36.3+k3s1");
    world.look_twice();
    let holds = world.decide().holds;
    assert!(world.observed.ledger.tickets.is_empty());
    let told = holds.iter().map(ToString::to_string);
    let told: Vec<String> = told.collect();
    assert_eq!(
        told,
        ["agents: wait: servers come first, and none is known; 1 more wait behind it"]
    );
}

/// A crash of the agent alone is what a new system may bring; its pods and its etcd member are well.
#[test]
fn a_machine_whose_agent_alone_is_silent_is_not_reset() {
    for node in ["servers-1", "workers-0"] {
        let mut world = World::new(3, 2, 1);
        world.needs = Needs::Switch;
        world.want("new", "1.36.3+k3s1");
        world.until_tried(node);
        world.silent.insert(name(node));
        let told = world.stand_still().join("\n");
        assert!(!world.log.iter().any(|l| l.contains(" reset ")), "{node}");
        assert!(
            told.contains("its Node is Ready. Look at its `fabrik agent`"),
            "{told}"
        );
        world.silent.clear();
        world.stand_still();
        world.nothing_is_left_over();
    }
}

/// The machine is in the middle of its try: it is down under this ticket, and what it tries is not known to be bad.
#[test]
fn a_node_that_tries_keeps_its_ticket_until_its_machine_is_gone() {
    let mut world = World::new(3, 2, 1);
    world.want("new", "1.36.3+k3s1");
    world.until_tried("workers-0");
    let node = name("workers-0");
    world.observed.nodes.remove(&node);
    let holds = world.decide().holds;
    let ledger = &world.observed.ledger;
    let (_, ticket) = ledger.tickets.iter().find(|(_, t)| t.node == node).unwrap();
    assert!(
        holds
            .iter()
            .any(|h| h.message.contains("its machine runs on")),
        "{holds:?}"
    );
    assert!(ledger.denied.is_empty());

    let server = ticket.server;
    world.observed.hetzner.servers.remove(&server);
    world.observed.hetzner.gone.insert(server);
    world.decide();
    let ledger = &world.observed.ledger;
    let updating = |t: &fabrik_core::ledger::Ticket| t.node == node && t.update().is_some();
    assert!(!ledger.tickets.values().any(updating));
    assert_eq!(ledger.denied.len(), 1, "what it tried may have killed it");
}

/// A report of another version that does not read, or a FabrikNode that somebody deleted.
#[test]
fn a_node_that_says_nothing_any_more_needs_a_person_in_the_end() {
    let mut world = World::new(3, 2, 1);
    world.want("new", "1.36.3+k3s1");
    world.until_tried("workers-0");
    let node = name("workers-0");
    world.silent.insert(node.clone());
    world.observed.systems.get_mut(&node).unwrap().report = None;
    let told = world.stand_still().join("\n");
    assert!(
        told.contains("it says nothing that can be read, and it is not reset"),
        "{told}"
    );
    world.silent.clear();
    world.stand_still();
    world.nothing_is_left_over();
}

/// The reset would take the second of three etcd members.
#[test]
fn a_server_that_hangs_is_reset_only_when_etcd_can_spare_it() {
    let mut world = World::new(3, 1, 1);
    world.fates.insert("bad".to_owned(), Fate::Hangs);
    world.want("bad", "1.36.3+k3s1");
    world.until_tried("servers-1");
    world.no_etcd = true;
    let told = world.stand_still().join("\n");
    assert!(!world.log.iter().any(|l| l.contains(" reset ")));
    assert!(
        told.contains("it is not reset: waits: etcd was not read"),
        "{told}"
    );
    world.no_etcd = false;
    world.stand_still();
    assert!(world.log.iter().any(|l| l.contains(" reset servers-1")));
    world.nothing_is_left_over();
}

#[test]
fn a_pause_keeps_back_an_order_that_was_not_sent() {
    let mut world = World::new(3, 2, 1);
    world.want("new", "1.36.3+k3s1");
    world.until_ordered("servers");
    world.cut_off = None;
    world.observed.paused = Some("by the test".to_owned());
    world.stand_still();
    assert!(world.tried.is_empty(), "{:?}", world.tried);
    world.observed.paused = None;
    world.settle("new");
}

#[test]
fn a_system_is_not_bad_because_no_leader_spoke_in_time() {
    let mut world = World::new(3, 2, 1);
    world.want("new", "1.36.3+k3s1");
    world.until_tried("servers-1");
    world.without_a_leader(60);
    assert_eq!(world.machines[&name("servers-1")].running, "old");
    world.settle("new");
    assert_eq!(world.tried[1].0, name("servers-1"), "it tries once more");
}

#[test]
fn a_system_that_nobody_speaks_for_twice_is_denied() {
    let mut world = World::new(3, 2, 1);
    world.want("new", "1.36.3+k3s1");
    for tries in 1..=2 {
        while world.tried.len() < tries {
            world.tick();
        }
        world.without_a_leader(60);
    }
    world.stand_still();
    assert_eq!(world.tried.len(), 2, "{:?}", world.tried);
    assert_eq!(world.observed.ledger.denied.len(), 1);
    world.nothing_is_left_over();
    world.want("old", "1.36.3+k3s1");
    world.stand_still();
    assert!(world.observed.ledger.lapses.is_empty());
}

#[test]
fn a_person_takes_the_ticket_of_a_stuck_node_away() {
    let mut world = World::new(3, 2, 1);
    world.fates.insert("next".to_owned(), Fate::Sick);
    world.want("next", "1.37.0+k3s1");
    let told = world.stand_still().join("\n");
    let ticket = world.observed.ledger.tickets.values().next().unwrap();
    let number = ticket.update().unwrap().number;
    let command = format!(
        "fabriknode {} fabrik.dev/release-ticket={number}",
        ticket.node
    );
    assert!(told.contains(&command), "{told}");

    world.observed.released.insert(number - 1);
    world.stand_still();
    assert_eq!(world.observed.ledger.tickets.len(), 1, "another ticket");
    world.observed.released.insert(number);
    world.stand_still();
    assert!(world.observed.ledger.tickets.is_empty());
    assert_eq!(
        world.tried.len(),
        1,
        "what it tried is tried by nobody else"
    );
    assert!(world.observed.nodes.values().all(|n| !n.unschedulable));
}

/// The node controller says NotReady only after a while: until then the Node says what was true before the trial.
#[test]
fn a_node_that_only_seems_ready_keeps_nothing() {
    for needs in [Needs::Switch, Needs::Reboot] {
        let mut world = World::new(3, 2, 1);
        world.desired.spec.update.soak = std::time::Duration::from_secs(5);
        world.needs = needs;
        world.fates.insert("bad".to_owned(), Fate::Sick);
        world.want("bad", "1.36.3+k3s1");
        world.stand_still();
        assert_eq!(world.tried.len(), 1, "{needs:?}: {:?}", world.tried);
        assert!(world.machines.values().all(|m| m.default == "old"));
    }
}

#[test]
fn a_dead_kubelet_s_pods_do_not_keep_its_node_from_its_fix() {
    let mut world = World::new(1, 3, 1);
    world.desired.spec.update.allow_control_plane_downtime = true;
    world.fates.insert("sick".to_owned(), Fate::Sick);
    world.want("sick", "1.36.3+k3s1");
    let node = name("workers-0");
    let machine = world.machines.get_mut(&node).unwrap();
    (machine.running, machine.default) = ("sick".to_owned(), "sick".to_owned());
    world.want("new", "1.36.3+k3s1");
    let mut drained = 0;
    while world.tried.iter().all(|(n, _)| *n != node) {
        world.tick();
        drained += 1;
        assert!(drained < 100, "{}", world.log.join("\n"));
    }
}

#[test]
fn servers_without_etcd_are_updated_too_one_by_one() {
    let mut world = World::new(2, 1, 1);
    world.sqlite = true;
    world.want("new", "1.37.0+k3s1");
    world.settle("new");
    assert_eq!(world.most_unavailable["servers"], 1);

    let mut world = World::new(1, 1, 1);
    world.sqlite = true;
    world.want("new", "1.36.3+k3s1");
    let told = world.stand_still().join("\n");
    assert!(told.contains("allow-control-plane-downtime"), "{told}");
    world.desired.spec.update.allow_control_plane_downtime = true;
    world.settle("new");
}

#[test]
fn one_of_two_servers_without_etcd_stays_up_whatever_downtime_is_allowed() {
    let mut world = World::new(2, 1, 1);
    world.sqlite = true;
    let update = &mut world.desired.spec.update;
    update.allow_control_plane_downtime = true;
    update
        .held
        .insert(name("servers-1"), "a new disk".to_owned());
    world.cordon_by_hand(&name("servers-1"));
    world.want("new", "1.36.3+k3s1");
    let told = world.stand_still().join("\n");
    assert!(told.contains("another server is down"), "{told}");
    assert!(world.tried.is_empty(), "{:?}", world.tried);
}

#[test]
fn a_cordon_that_lands_when_its_ticket_is_gone_is_taken_back() {
    let mut world = World::new(3, 2, 1);
    world.want("new", "1.36.3+k3s1");
    world.settle("new");
    let (id, member) = world.observed.ledger.members.iter().next().unwrap();
    let node = world.observed.nodes.get_mut(&member.name).unwrap();
    node.unschedulable = true;
    node.cordoned_under = Some(id.to_string());
    world.tick();
    world.nothing_is_left_over();
}

/// A request that is late must not take the next ticket's cordon for its own.
#[test]
fn each_ticket_has_a_mark_of_its_own() {
    let mut world = World::new(3, 1, 1);
    for system in ["new", "newer"] {
        world.want(system, "1.36.3+k3s1");
        world.settle(system);
    }
    let marks: BTreeSet<&String> = world.marks.iter().collect();
    assert!(marks.len() >= 2, "{marks:?}");
    assert_eq!(marks.len(), world.marks.len(), "{:?}", world.marks);
}

#[test]
fn a_cordon_under_an_earlier_ticket_is_marked_anew() {
    let mut world = World::new(3, 1, 1);
    world.want("new", "1.36.3+k3s1");
    for _ in 0..100 {
        if world.marks.is_empty() {
            world.tick();
        }
    }
    let mark = world.marks[0].clone();
    let bears = |n: &fabrik_core::observed::Node| n.cordoned_under.as_ref() == Some(&mark);
    let node = world.observed.nodes.values().find(|n| bears(n)).unwrap();
    let node = node.name.clone();
    let id = mark.split('.').next().unwrap();
    for earlier in [id.to_owned(), format!("{id}.1")] {
        let node = world.observed.nodes.get_mut(&node).unwrap();
        node.cordoned_under = Some(earlier);
        world.tick();
    }
    assert_eq!(world.marks, [&*mark; 3]);
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
    world.decide();
    let after = numbers(&world);
    assert!(
        after.len() >= 2 && before.iter().all(|n| !after.contains(n)),
        "{before:?}, {after:?}"
    );
    let different: BTreeSet<&u64> = after.iter().collect();
    assert_eq!(different.len(), after.len(), "{after:?}");
}

/// It rests after its try, because the window closed: the next node does not try in its place.
#[test]
fn who_was_not_heard_tries_once_more_before_others_do() {
    let mut world = World::new(1, 3, 1);
    world.want("old", "1.36.3+k3s1");
    let servers = world.desired.targets[&pool("servers")].clone();
    world.want("new", "1.36.3+k3s1");
    world.desired.targets.insert(pool("servers"), servers);
    world.until_tried("workers-0");
    nobody_speaks_and_the_window_closes(&mut world);
    while world.machines[&name("workers-2")].default != "new" {
        world.tick();
    }
    let tried: Vec<&str> = world.tried.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(tried[..2], ["workers-0", "workers-0"], "{tried:?}");
}

fn nobody_speaks_and_the_window_closes(world: &mut World) {
    world.without_a_leader(60);
    let windows = &mut world.desired.spec.update.windows;
    windows.push(fabrik_core::window::Window {
        start: "0 14 * * *".to_owned(),
        length: std::time::Duration::from_secs(7200),
        zone: "UTC".to_owned(),
    });
    (0..20).for_each(|_| drop(world.tick()));
    assert!(
        world.observed.ledger.tickets.is_empty(),
        "the window is closed"
    );
}

/// Found by the exhaustive search: it waited for its turn, and all others for it.
#[test]
fn who_tries_once_more_goes_first_though_it_leads_or_another_is_the_canary_by_now() {
    let mut world = World::new(3, 1, 1);
    world.want("new", "1.36.3+k3s1");
    while world.tried.is_empty() {
        world.tick();
    }
    let first = world.tried[0].0.clone();
    nobody_speaks_and_the_window_closes(&mut world);
    let mut members = world.observed.ledger.members.values();
    let canary = members.find(|m| m.role == Role::Server && m.name != first);
    world.desired.spec.update.canary = Some(canary.unwrap().name.clone());
    world.observed.leader = Some(first.clone());
    world.settle("new");
    assert_eq!(world.tried[1].0, first);
}

#[test]
fn the_server_whose_fabrik_leads_goes_last() {
    let mut world = World::new(3, 1, 1);
    world.observed.leader = Some(name("servers-1"));
    world.want("new", "1.36.3+k3s1");
    world.settle("new");
    let tried: Vec<&str> = world.tried.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(tried, ["servers-2", "servers-0", "servers-1", "workers-0"]);
}

#[test]
fn the_server_whose_fabrik_leads_waits_for_those_that_are_fetching() {
    let mut world = World::new(3, 1, 1);
    world.observed.leader = Some(name("servers-1"));
    world.slow_to_fetch = BTreeSet::from([name("servers-0"), name("servers-2")]);
    world.want("new", "1.36.3+k3s1");
    world.look_twice();
    let holds = world.tick().holds;
    let held: Vec<_> = holds.iter().map(ToString::to_string).collect();
    assert!(
        held.contains(
            &"node servers-1: waits for server servers-0, which is fetching the new system: the server whose fabrik \
              leads goes last"
                .to_owned()
        ),
        "{held:?}"
    );
    assert!(world.observed.ledger.tickets.is_empty());
    world.slow_to_fetch.clear();
    world.settle("new");
    let tried: Vec<&str> = world.tried.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(tried, ["servers-2", "servers-0", "servers-1", "workers-0"]);
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

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn pool(text: &str) -> PoolName {
    text.parse().unwrap()
}

#[test]
fn a_pause_in_the_repository_lets_an_update_end_and_none_begin() {
    let mut world = World::new(3, 2, 1);
    world.want("new", "1.36.3+k3s1");
    world.until_tried("servers-1");
    world.desired.spec.update.paused = Some("the holidays".to_owned());
    let holds = world.stand_still();
    let on_new = world.machines.values().filter(|m| m.running == "new");
    assert_eq!(on_new.count(), 1);
    world.nothing_is_left_over();
    assert_eq!(
        holds,
        ["rollout: is paused in cluster.toml ([update] paused): the holidays"]
    );
    world.desired.spec.update.paused = None;
    world.settle("new");
}

/// Of a pool whose nodes may be off, one that is takes nobody's place, and is left alone until it is back.
#[test]
fn a_node_that_may_be_off_holds_nobody_up() {
    let mut world = World::new(3, 3, 1);
    let pool = world.desired.spec.pools.values_mut().next().unwrap();
    pool.may_be_off = true;
    let off: fabrik_core::id::NodeName = "workers-2".parse().unwrap();
    world.machines.get_mut(&off).unwrap().hangs = true;
    for _ in 0..10 {
        world.tick();
    }
    world.want("new", "1.36.3+k3s1");
    let holds = world.stand_still();
    let on_new = world.machines.values().filter(|m| m.running == "new");
    assert_eq!(on_new.count(), 5);
    assert_eq!(
        holds,
        ["node workers-2: is off, as nodes of its pool may be; it is updated when it is back"]
    );
    world.machines.get_mut(&off).unwrap().hangs = false;
    world.settle("new");
}

#[test]
fn nobody_waits_for_a_canary_that_may_be_off_and_is() {
    let mut world = World::new(3, 3, 1);
    let pool = world.desired.spec.pools.values_mut().next().unwrap();
    pool.may_be_off = true;
    let off = name("workers-2");
    world.desired.spec.update.canary = Some(off.clone());
    world.machines.get_mut(&off).unwrap().hangs = true;
    for _ in 0..10 {
        world.tick();
    }
    world.want("new", "1.36.3+k3s1");
    world.stand_still();
    let on_new = world.machines.values().filter(|m| m.running == "new");
    assert_eq!(on_new.count(), 5);
}

#[test]
fn the_server_whose_fabrik_leads_waits_for_none_that_can_not_fetch() {
    let mut world = World::new(3, 0, 1);
    world.observed.leader = Some(name("servers-1"));
    world.slow_to_fetch = BTreeSet::from([name("servers-0"), name("servers-2")]);
    world.want("new", "1.36.3+k3s1");
    world.look_twice();
    for node in ["servers-0", "servers-2"] {
        let system = world.observed.systems.get_mut(&name(node)).unwrap();
        system.says = Some("the cache answers 500".to_owned());
    }
    while world.tried.is_empty() {
        world.tick();
    }
    assert_eq!(world.tried[0].0, name("servers-1"));
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
