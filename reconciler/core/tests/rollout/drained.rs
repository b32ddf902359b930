//! Cordons, drains, and what is on a node.

use std::collections::BTreeSet;

use super::name;
use super::world::{Fate, World};

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
