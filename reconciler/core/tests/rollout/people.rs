//! What people do, and what only they can.

use fabrik_core::system::Needs;

use super::name;
use super::world::{Fate, World};

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

/// S7: who was not told yet is not told any more.
#[test]
fn a_pause_in_the_repository_takes_back_who_is_drained() {
    let mut world = World::new(3, 2, 1);
    let node = name("workers-0");
    world.blocked.insert(node.clone());
    world.want("new", "1.36.3+k3s1");
    world.until_cordoned(&node);
    let tried = world.tried.len();
    world.desired.spec.update.paused = Some("a bad kernel".to_owned());
    world.blocked.clear();
    world.stand_still();
    assert_eq!(world.tried.len(), tried, "{:?}", world.tried);
    assert!(world.observed.ledger.tickets.is_empty());
    world.nothing_is_left_over();
    world.desired.spec.update.paused = None;
    world.settle("new");
}

#[test]
fn who_is_drained_waits_until_the_newest_commit_is_evaluated() {
    let mut world = World::new(3, 1, 1);
    let node = name("workers-0");
    world.blocked.insert(node.clone());
    world.want("new", "1.36.3+k3s1");
    world.until_cordoned(&node);
    let tried = world.tried.len();
    let known = std::mem::take(&mut world.desired.targets);
    world.blocked.clear();
    let held = (0..20).flat_map(|_| world.tick().holds).last().unwrap();
    assert!(
        held.to_string().ends_with("is not known yet"),
        "{held}: {:?}",
        world.tried
    );
    assert_eq!(world.tried.len(), tried);
    world.desired.targets = known;
    world.settle("new");
}
