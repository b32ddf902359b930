//! Whose turn it is.

use std::collections::BTreeSet;

use fabrik_core::id::ServerId;
use fabrik_core::observed::PlacementGroup;

use super::name;
use super::world::World;

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
