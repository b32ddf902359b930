//! Servers that are machines of the user's own, in a cluster that has no project at Hetzner.

use fabrik_core::id::ServerId;
use fabrik_core::observed::Hetzner;

use super::name;
use super::world::{Fate, World};

fn world() -> World {
    let mut world = World::new(3, 0, 1);
    let spec = &mut world.desired.spec;
    spec.hetzner = None;
    spec.pools.clear();
    let cluster = world.observed.ledger.cluster.clone();
    for member in world.observed.ledger.members.values_mut() {
        member.server = ServerId::of_machine(&cluster, &member.name);
    }
    for machine in ["0", "1", "2"] {
        let node = world
            .observed
            .nodes
            .get_mut(&name(&format!("servers-{machine}")))
            .unwrap();
        node.provider_id = Some(ServerId::of_machine(&cluster, &node.name).provider_id());
    }
    world.observed.hetzner = Hetzner::unseen(&world.observed.ledger);
    world
}

#[test]
fn a_system_rolls_through_them_and_back_without_anybody_at_hetzner() {
    let mut world = world();
    world.want("new", "1.36.3+k3s1");
    world.settle("new");
    assert_eq!(world.observed.ledger.tickets.len(), 0);
}

#[test]
fn one_that_hangs_is_a_person_s_to_reset_and_the_others_stay() {
    let mut world = world();
    world.fates.insert("hangs".to_owned(), Fate::Hangs);
    world.want("hangs", "1.36.3+k3s1");
    let told = world.stand_still().join("\n");
    assert!(told.contains("nobody but you can reset it"), "{told}");
    assert_eq!(world.tried.len(), 1, "{:?}", world.tried);
}
