//! Systems that are not well, and nodes that nobody speaks to.

use std::collections::BTreeSet;

use fabrik_core::hold::HoldReason;
use fabrik_core::id::IntentId;
use fabrik_core::ledger::Change;
use fabrik_core::observed::{Power, Role};
use fabrik_core::system::{Needs, Staged};
use jiff::SignedDuration;

use super::world::{Fate, World, path};
use super::{name, pool};

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
    ledger.denied.insert(path("bad"), denied);
    world.want("old", "1.36.3+k3s1");
    world.decide();
    assert!(world.observed.ledger.denied.is_empty());
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
fn an_outage_that_two_nodes_met_is_one_and_says_nothing_of_the_system() {
    let mut world = World::new(3, 4, 2);
    world.want("new", "1.36.3+k3s1");
    while world.tried.len() < 5 {
        world.tick();
    }
    let ids: Vec<_> = world.observed.ledger.tickets.keys().cloned().collect();
    let mut lapses = |id: &IntentId, secs: i64| {
        let again = Change::TryAgain {
            id: id.clone(),
            number: 100,
            boot: "11111111-1111-1111-1111-111111111111".parse().unwrap(),
            needs: Needs::Reboot,
        };
        let ledger = &mut world.observed.ledger;
        let at = world.now + SignedDuration::from_secs(secs);
        ledger.apply(&again, at);
        let ordered = Change::Ordered {
            id: id.clone(),
            at,
            deadline: at,
        };
        ledger.apply(&ordered, at);
        ledger.lapses[&path("new")].count
    };
    assert_eq!((lapses(&ids[0], 600), lapses(&ids[1], 610)), (1, 1));
    assert_eq!(lapses(&ids[1], 1200), 2, "it was told after the first");
}

#[test]
fn an_outage_that_a_node_got_over_does_not_count_against_the_next() {
    let mut world = World::new(3, 2, 1);
    world.want("new", "1.36.3+k3s1");
    for node in ["servers-1", "workers-1"] {
        world.until_tried(node);
        world.without_a_leader(60);
    }
    world.settle("new");
    assert!(world.observed.ledger.lapses.is_empty());
}

/// A system that cuts its own network is unheard of, and goes no further than the node that tried it.
#[test]
fn who_is_drained_waits_for_the_one_that_tries_once_more() {
    let mut world = World::new(3, 2, 2);
    let workers = world.desired.spec.pools.get_mut(&pool("workers")).unwrap();
    workers.drain_deadline = std::time::Duration::from_secs(7200);
    world.want("new", "1.36.3+k3s1");
    world.blocked.insert(name("workers-1"));
    world.until_tried("workers-0");
    world.without_a_leader(60);
    world.blocked.clear();
    let tries = |world: &World, node: &str| {
        let tries = world.tried.iter().filter(|(n, _)| n.as_str() == node);
        tries.count()
    };
    while tries(&world, "workers-0") < 2 {
        world.tick();
        assert_eq!(tries(&world, "workers-1"), 0, "{:?}", world.tried);
    }
    world.settle("new");
}

/// S8: its system is not denied, for nobody knows what it did.
#[test]
fn who_was_not_told_yet_waits_for_a_person_as_well() {
    let mut world = World::new(3, 2, 2);
    let workers = world.desired.spec.pools.get_mut(&pool("workers")).unwrap();
    workers.drain_deadline = std::time::Duration::from_secs(7200);
    world.want("old", "1.36.3+k3s1");
    let old = world.desired.targets[&pool("servers")].clone();
    world.fates.insert("bad".to_owned(), Fate::Hangs);
    world.want("bad", "1.36.3+k3s1");
    world.desired.targets.insert(pool("servers"), old);
    world.blocked.insert(name("workers-1"));
    world.until_tried("workers-0");
    let mut servers = world.observed.hetzner.servers.values_mut();
    let machine = servers.find(|s| s.name == "workers-0").unwrap();
    machine.power = Power::Off;
    let is_stuck = |world: &mut World| {
        let mut holds = world.tick().holds.into_iter();
        holds.any(|h| h.reason == HoldReason::Stuck && h.about == "node workers-0")
    };
    let waited = (0..400).find(|_| is_stuck(&mut world));
    assert!(waited.is_some(), "{}", world.log.join("\n"));
    assert!(world.observed.ledger.denied.is_empty());
    world.blocked.clear();
    world.stand_still();
    assert_eq!(world.tried.len(), 1, "{:?}", world.tried);
    assert_eq!(world.observed.ledger.tickets.len(), 1);
    assert!(!world.observed.nodes[&name("workers-1")].unschedulable);
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

/// Its agent would refuse the order: it must not be drained for that, and its system must not be denied for it.
#[test]
fn a_node_that_would_boot_another_system_is_left_alone_until_a_person_reboots_it() {
    let mut world = World::new(3, 2, 1);
    let by_hand = name("workers-1");
    world.want("by-hand", "1.36.3+k3s1");
    world.want("new", "1.36.3+k3s1");
    world.machines.get_mut(&by_hand).unwrap().running = "by-hand".to_owned();
    let told = world.stand_still().join("\n");
    assert!(told.contains("node workers-1: runs "), "{told}");
    assert!(told.contains("Reboot it"), "{told}");
    assert!(world.tried.iter().all(|(node, _)| *node != by_hand));
    world.nothing_is_left_over();

    let machine = world.machines.get_mut(&by_hand).unwrap();
    machine.running = machine.default.clone();
    world.settle("new");
}

/// Somebody changed it after its ticket was granted: it refused, and a person has rebooted it into what it would boot.
#[test]
fn a_node_that_runs_what_it_boots_again_tries_once_more_whatever_that_is() {
    let mut world = World::new(3, 1, 1);

    world.want("by-hand", "1.36.3+k3s1");
    world.want("new", "1.36.3+k3s1");
    let node = world.until_ordered("workers");
    world.cut_off = None;
    let machine = world.machines.get_mut(&node).unwrap();
    (machine.running, machine.refuses) = ("by-hand".to_owned(), true);
    let told = world.stand_still().join("\n");
    assert!(
        told.contains("node workers-0: as the test wants it"),
        "{told}"
    );
    assert!(told.contains("stands still until node workers-0"), "{told}");
    assert!(world.observed.ledger.denied.is_empty(), "{told}");

    let machine = world.machines.get_mut(&node).unwrap();
    (machine.default, machine.refuses) = (machine.running.clone(), false);
    world.settle("new");
}

#[test]
fn a_silent_node_whose_machine_is_off_is_said_to_be_off_and_can_be_released() {
    let mut world = World::new(3, 2, 1);
    world.fates.insert("hangs".to_owned(), Fate::Hangs);
    world.want("hangs", "1.36.3+k3s1");
    world.until_tried("servers-1");
    let id = world.observed.ledger.members.values();
    let id = id.into_iter().find(|m| m.name == name("servers-1"));
    let id = id.unwrap().server;
    let servers = &mut world.observed.hetzner.servers;
    servers.get_mut(&id).unwrap().power = Power::Off;
    let told = world.stand_still().join("\n");
    assert!(told.contains("its machine is off at Hetzner"), "{told}");
    assert!(told.contains("release-ticket"), "{told}");
    assert!(world.observed.ledger.denied.is_empty(), "{told}");

    // Hetzner can't be read: nothing is said of the machine but that.
    let servers = std::mem::take(&mut world.observed.hetzner.servers);
    let told = world.stand_still().join("\n");
    assert!(told.contains("Hetzner does not show its machine"), "{told}");
    world.observed.hetzner.servers = servers;
}

/// It could not go back. Whether it has to boot at all is known once the system is there.
#[test]
fn a_node_whose_boot_menu_can_not_be_read_takes_no_reboot_and_may_fetch_before() {
    let mut world = World::new(1, 1, 1);
    world.want("new", "1.36.3+k3s1");
    let mut held_with = |staged: &str| {
        let system = world.observed.systems.get_mut(&name("servers-0")).unwrap();
        let report = system.report.as_mut().unwrap();
        report.default = None;
        report.staged = Some(Staged {
            system: path(staged),
            needs: Needs::Reboot,
        });
        let mut holds = world.decide().holds.into_iter();
        holds
            .find(|h| h.about == "node servers-0")
            .map(|h| h.reason)
    };
    assert_eq!(held_with("old"), Some(HoldReason::Fetching));
    assert_eq!(held_with("new"), Some(HoldReason::Stuck));
}
