//! What people are told of a rollout: where each node stands, when it will have ended, and what will be in its way.

#[allow(dead_code, reason = "shared with the tests of rollouts")]
#[path = "rollout/machine.rs"]
mod machine;
#[allow(dead_code, reason = "shared with the tests of rollouts")]
#[path = "rollout/world.rs"]
mod world;

use std::time::Duration;

use fabrik_core::disruption::Blocker;
use fabrik_core::hold::HoldReason;
use fabrik_core::plan::plan;
use fabrik_core::rollout::{self, State};
use fabrik_core::step::step;
use fabrik_core::system::Needs;
use fabrik_core::window::Window;
use jiff::{SignedDuration, Timestamp};
use world::{World, path};

/// Saturday nights; it is noon.
fn nights() -> Vec<Window> {
    vec![Window {
        start: "0 22 * * 6".to_owned(),
        length: Duration::from_secs(6 * 3600),
        zone: "UTC".to_owned(),
    }]
}

/// State and message of each worker.
fn workers(world: &mut World) -> Vec<(State, String)> {
    let holds = world.decide().holds;
    let states = rollout::states(&world.desired, &world.observed, &holds, world.now);
    let workers = states.into_iter().filter(|s| s.pool.as_str() == "workers");
    workers.map(|s| (s.state, s.message)).collect()
}

#[test]
fn each_node_of_a_queue_says_what_it_waits_for() {
    let mut world = World::new(1, 3, 1);
    world.desired.spec.update.allow_control_plane_downtime = true;
    world.want("new", "1.36.3+k3s1");
    world.until_tried("workers-0");
    let told = workers(&mut world);
    let (_, first) = &told[0];
    assert!(!first.contains("turn"), "{told:?}");
    let turn = "waits for its turn: 1 of pool workers are unavailable and max-unavailable is 1";
    assert_eq!(told[2], (State::Waiting, turn.to_owned()));
    world.settle("new");

    world.want("newer", "1.36.3+k3s1");
    world.tried.clear();
    world.until_tried("workers-0");
    world.desired.spec.update.windows = nights();
    for _ in 0..40 {
        world.tick();
    }
    let told = workers(&mut world);
    let window = "waits for the maintenance window, which opens at 2026-11-21T22:00:00Z";
    for worker in &told[1..] {
        assert_eq!(*worker, (State::Waiting, window.to_owned()));
    }
}

#[test]
fn what_a_node_is_to_run_and_what_its_agent_says_stand_beside_its_state() {
    let mut world = World::new(1, 1, 1);
    world.want("new", "1.36.3+k3s1");
    let name = "workers-0".parse().unwrap();
    let system = world.observed.systems.get_mut(&name).unwrap();
    system.says = Some("no space left on the disk".to_owned());
    let holds = step(&world.desired, &world.observed, world.now).holds;
    let states = rollout::states(&world.desired, &world.observed, &holds, world.now);
    let worker = states.iter().find(|s| s.node == name).unwrap();
    assert_eq!(worker.wants, Some(path("new")));
    assert!(
        worker
            .message
            .ends_with("; its agent says: no space left on the disk")
    );
    world.want("old", "1.36.3+k3s1");
    let states = rollout::states(&world.desired, &world.observed, &[], world.now);
    assert!(states.iter().all(|s| s.wants.is_none()), "{states:?}");
}

#[test]
fn an_estimate_begins_when_the_window_opens() {
    let mut world = World::new(1, 1, 1);
    world.want("new", "1.36.3+k3s1");
    world.desired.spec.update.windows = nights();
    let forecast = rollout::forecast(&world.desired, &world.observed, world.now).unwrap();
    let told = forecast.to_string();
    let expected = "server servers-0, then 1 agent of pool workers, about 6 minutes once the window opens at \
                    2026-11-21T22:00:00Z";
    assert_eq!(told, expected);
    let closes: Timestamp = "2026-11-22T04:00:00Z".parse().unwrap();
    let late = closes - SignedDuration::from_secs(60);
    let forecast = rollout::forecast(&world.desired, &world.observed, late).unwrap();
    assert!(forecast.begins > Some(closes), "{forecast:?}");
}

#[test]
fn a_plan_names_pods_that_block_what_will_be_drained() {
    let mut world = World::new(1, 2, 1);
    let blocker = |node: &str| Blocker {
        node: node.parse().unwrap(),
        namespace: "web".to_owned(),
        pod: format!("shop-{node}"),
        budget: "shop".to_owned(),
        why: "it needs 2 healthy pods and has 2".to_owned(),
    };
    world.observed.blockers = vec![blocker("workers-0"), blocker("elsewhere")];
    let blocks = |world: &World| plan(&world.desired, &world.observed, world.now).blockers;
    world.want("old", "1.36.3+k3s1");
    assert_eq!(blocks(&world), [], "nothing is to be done");
    world.want("new", "1.36.3+k3s1");
    assert_eq!(blocks(&world), [blocker("workers-0")]);
    world.needs = Needs::Switch;
    world.look_twice();
    assert_eq!(blocks(&world), [], "a switch drains nobody");
    world.desired.spec.pools.values_mut().next().unwrap().count = 0;
    assert_eq!(
        blocks(&world),
        [blocker("workers-0")],
        "who leaves is drained"
    );
}

#[test]
fn a_pause_by_hand_and_one_in_the_repository_are_told_apart() {
    let mut world = World::new(1, 1, 1);
    world.observed.paused = Some("looking (by ada)".to_owned());
    world.desired.spec.update.paused = Some("the audit".to_owned());
    let holds = step(&world.desired, &world.observed, world.now).holds;
    let paused = holds.iter().filter(|h| h.reason == HoldReason::Paused);
    let about: Vec<&str> = paused.map(|h| h.about.as_str()).collect();
    assert_eq!(about, ["everything", "rollout"]);
}
