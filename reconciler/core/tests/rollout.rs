//! Rollouts from end to end, decided by the core and played by machines in memory.

#[path = "rollout/bad.rs"]
mod bad;
#[path = "rollout/drained.rs"]
mod drained;
#[path = "rollout/machine.rs"]
mod machine;
#[path = "rollout/own.rs"]
mod own;
#[path = "rollout/people.rs"]
mod people;
#[path = "rollout/secrets.rs"]
mod secrets;
#[path = "rollout/servers.rs"]
mod servers;
#[path = "rollout/steps.rs"]
mod steps;
#[path = "rollout/turns.rs"]
mod turns;
#[path = "rollout/world.rs"]
mod world;

use fabrik_core::id::{NodeName, PoolName};
use fabrik_core::system::Needs;
use proptest::prelude::*;
use world::{Fate, World};

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

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn pool(text: &str) -> PoolName {
    text.parse().unwrap()
}
