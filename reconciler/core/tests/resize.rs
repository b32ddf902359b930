//! Growing and shrinking a pool, from the first server to the last.

mod model;

use std::collections::BTreeSet;

use fabrik_core::effect::Effect;
use fabrik_core::hold::HoldReason;
use fabrik_core::ledger::Reason;
use fabrik_core::observed::{Image, Power};
use fabrik_core::plan::plan;
use fabrik_core::spec::PlacementStrategy;
use jiff::{SignedDuration, Timestamp};
use model::{Model, pod};
use proptest::prelude::*;

#[test]
fn a_pool_grows_to_its_count_and_leaves_no_intent_and_no_token() {
    let mut model = Model::wanting(12);
    model.settle();
    assert_eq!(model.servers(), 12);
    assert_eq!(
        model.observed.hetzner.placement_groups.len(),
        2,
        "ten servers a group"
    );
    model.nothing_is_left_over();
}

/// Two numbers of one batch may have the same id: the second one is passed over, not lost.
#[test]
fn of_ten_thousand_servers_each_has_an_id_of_its_own() {
    let model = Model::with_members(10_000);
    assert_eq!(model.observed.ledger.members.len(), 10_000);
    assert_eq!(plan(&model.desired, &model.observed, model.now).effects, []);
}

#[test]
fn a_pool_shrinks_one_by_one_and_each_server_goes_the_whole_way() {
    let mut model = Model::wanting(4);
    model.settle();
    model.done.clear();
    model.pool().count = 2;
    model.settle();
    assert_eq!(model.servers(), 2);
    model.nothing_is_left_over();
    let verbs: Vec<&str> = model.done.iter().map(|(verb, _)| verb.as_str()).collect();
    let way_out = ["cordon", "power-off", "delete-node", "delete-server"];
    assert_eq!(verbs, [way_out, way_out].concat());
}

#[test]
fn a_plan_tells_beforehand_which_prunes_will_wait() {
    let mut model = Model::wanting(0);
    let inventory = ["Namespace//web", "ConfigMap/web/settings"]
        .map(|key| (key.to_owned().try_into().unwrap(), "digest".to_owned()));
    let unit = "web".parse().unwrap();
    model.observed.units.insert(unit, inventory.into());
    let holds = plan(&model.desired, &model.observed, model.now).holds;
    let guarded = holds.iter().filter(|h| h.reason == HoldReason::PruneGuard);
    let about: Vec<&str> = guarded.map(|h| h.about.as_str()).collect();
    assert_eq!(about, ["Namespace//web"]);
}

#[test]
fn what_the_plan_says_of_servers_and_nodes_is_what_the_steps_do() {
    for (from, to) in [(0, 3), (4, 2), (2, 15), (5, 0)] {
        let mut model = Model::wanting(from);
        model.settle();
        model.done.clear();
        model.pool().count = to;
        let mut planned: Vec<_> = plan(&model.desired, &model.observed, model.now)
            .effects
            .into_iter()
            .map(|p| (p.verb, p.target))
            .collect();
        model.settle();
        planned.sort();
        model.done.sort();
        assert_eq!(planned, model.done, "{from} → {to}");
    }
}

#[test]
fn a_drain_that_is_refused_holds_with_the_blocker_and_nothing_else_happens() {
    let mut model = Model::wanting(2);
    model.settle();
    model.pool().count = 1;
    let first = model.step();
    let [Effect::Cordon { node, .. }] = first.effects.as_slice() else {
        panic!("{first:?}")
    };
    let node = node.name.clone();
    model.act(&first.effects[0]);
    model.tick();
    model.observed.pods.insert(
        node.clone(),
        vec![pod(&node, Some("PodDisruptionBudget web/shop allows none"))],
    );

    let step = model.step();
    assert!(
        matches!(step.effects.as_slice(), [Effect::Evict { .. }]),
        "{step:?}"
    );
    let [hold] = step.holds.as_slice() else {
        panic!("{step:?}")
    };
    assert_eq!(hold.reason, HoldReason::DrainBlocked);
    assert!(hold.message.contains("web/shop"), "{hold}");
}

#[test]
fn a_drain_past_its_deadline_is_taken_back_and_another_node_is_tried() {
    let mut model = Model::wanting(3);
    model.settle();
    model.pool().count = 2;
    let first = model.step();
    let [Effect::Cordon { node, .. }] = first.effects.as_slice() else {
        panic!("{first:?}")
    };
    let stuck = node.name.clone();
    model.act(&first.effects[0]);
    model.tick();
    model
        .observed
        .pods
        .insert(stuck.clone(), vec![pod(&stuck, Some("no"))]);
    model.now += SignedDuration::from_hours(2);

    let step = model.step();
    assert!(
        matches!(step.effects.as_slice(), [Effect::Uncordon { node, .. }] if node.name == stuck),
        "{step:?}"
    );
    model.act(&step.effects[0]);
    let step = model.step();
    assert!(
        matches!(step.effects.as_slice(), [Effect::Cordon { node, .. }] if node.name != stuck),
        "{step:?}"
    );
}

#[test]
fn a_node_that_is_wanted_again_is_uncordoned_and_stays() {
    let mut model = Model::wanting(2);
    model.settle();
    model.pool().count = 1;
    let cordon = model.step();
    model.act(&cordon.effects[0]);
    model.tick();
    let node = model
        .observed
        .ledger
        .tickets
        .values()
        .next()
        .unwrap()
        .node
        .clone();
    model
        .observed
        .pods
        .insert(node.clone(), vec![pod(&node, Some("no"))]);
    model.pool().count = 2;
    model.done.clear();
    model.settle();
    assert_eq!(model.servers(), 2);
    assert_eq!(model.done.len(), 1);
    assert_eq!(model.done[0].0, "uncordon");
    model.nothing_is_left_over();
}

#[test]
fn a_cordon_of_somebody_else_is_not_taken_back() {
    let mut model = Model::wanting(1);
    model.settle();
    let (_, name) = model.some_member();
    model.observed.nodes.get_mut(&name).unwrap().unschedulable = true;
    model.pool().count = 0;
    model.step();
    model.pool().count = 1;
    let step = model.step();
    assert_eq!(step.effects, []);
    assert!(model.observed.ledger.tickets.is_empty());
}

#[test]
fn a_node_whose_pods_were_not_read_is_not_known_to_be_empty() {
    let mut model = Model::wanting(1);
    model.settle();
    let (_, name) = model.some_member();
    model.observed.nodes.get_mut(&name).unwrap().unschedulable = true;
    model.pool().count = 0;
    let step = model.step();
    assert_eq!(
        step.effects,
        [],
        "granted just now: its pods are not read yet"
    );
}

#[test]
fn a_sick_pool_gives_nobody_up_but_the_sick_one() {
    let mut model = Model::wanting(4);
    model.settle();
    let (sick, name) = model.some_member();
    model.observed.nodes.get_mut(&name).unwrap().ready = false;
    model.pool().count = 2;
    let step = model.step();
    assert_eq!(
        model.observed.ledger.tickets.keys().collect::<Vec<_>>(),
        [&sick]
    );
    assert!(
        step.holds.iter().any(|h| h.reason == HoldReason::Budget),
        "{:?}",
        step.holds
    );
}

#[test]
fn a_server_that_is_gone_takes_its_node_along_and_is_replaced() {
    let mut model = Model::wanting(2);
    model.settle();
    let (id, name) = model.some_member();
    let server = model.observed.ledger.members[&id].server;
    model.observed.hetzner.servers.remove(&server);
    model.tick();
    model.observed.nodes.get_mut(&name).unwrap().ready = false;
    model.settle();
    assert_eq!(model.servers(), 2);
    assert!(!model.observed.nodes.contains_key(&name));
    model.nothing_is_left_over();
}

#[test]
fn a_deleted_node_s_machine_is_replaced_but_not_when_many_nodes_vanish() {
    let mut model = Model::wanting(6);
    model.settle();
    let (id, name) = model.some_member();
    model.observed.nodes.remove(&name);
    let step = model.step();
    assert_eq!(
        model.observed.ledger.tickets[&id].leave(),
        Some(Reason::NodeDeleted)
    );
    assert!(
        step.effects.iter().any(|e| e.verb() == "power-off"),
        "{step:?}"
    );

    let mut model = Model::wanting(6);
    model.settle();
    model.observed.nodes.clear();
    let step = model.step();
    assert!(
        model.observed.ledger.tickets.is_empty(),
        "a restored etcd must not cost all servers"
    );
    assert!(
        step.holds
            .iter()
            .any(|h| h.reason == HoldReason::Unexplained)
    );
}

#[test]
fn a_local_volume_keeps_its_node_unless_the_pool_gives_it_up() {
    let mut model = Model::wanting(1);
    model.settle();
    let (_, name) = model.some_member();
    model.observed.pinned.insert(name);
    model.pool().count = 0;
    let step = model.step();
    assert!(model.observed.ledger.tickets.is_empty());
    assert_eq!(step.holds[0].reason, HoldReason::LocalData);
    model.pool().local_data = fabrik_core::spec::LocalData::Discard;
    model.settle();
    assert_eq!(model.servers(), 0);
}

#[test]
fn the_hourly_caps_make_a_mistake_slow() {
    let mut model = Model::wanting(50);
    model.desired.spec.limits.creations_per_hour = 7;
    let step = model.step();
    assert_eq!(model.observed.ledger.intents.len(), 7);
    let hold = step
        .holds
        .iter()
        .find(|h| h.reason == HoldReason::Throttled);
    let again = model.now + SignedDuration::from_hours(1);
    let says = &hold.unwrap().message;
    assert!(
        says.ends_with(&format!("; it goes on at {again:.0}")),
        "{says}"
    );
    model.now += SignedDuration::from_secs(3601);
    model.step();
    assert_eq!(model.observed.ledger.intents.len(), 14);

    let mut model = Model::wanting(10);
    model.settle();
    model.desired.spec.limits.deletions_per_hour = 3;
    model.pool().count = 0;
    model.settle();
    assert_eq!(model.servers(), 7);
}

#[test]
fn a_server_without_an_intent_is_named_and_left_alone() {
    let mut model = Model::wanting(1);
    model.settle();
    let mut copy = model
        .observed
        .hetzner
        .servers
        .values()
        .next()
        .unwrap()
        .clone();
    copy.id.0 += 1000;
    copy.name = "demo-workers-zzzzzz".to_owned();
    copy.intent = Some("zzzzzz".parse().unwrap());
    model.observed.hetzner.servers.insert(copy.id, copy);
    let step = model.step();
    assert_eq!(step.effects, []);
    assert_eq!(step.holds[0].reason, HoldReason::Unexplained);
}

#[test]
fn a_create_that_turns_up_late_is_not_leaked() {
    let mut model = Model::wanting(1);
    for _ in 0..2 {
        let step = model.step();
        step.effects
            .iter()
            .filter(|e| e.verb() != "create-server")
            .for_each(|e| model.act(e));
        model.tick();
    }
    let step = model.step();
    let create = step
        .effects
        .iter()
        .find(|e| e.verb() == "create-server")
        .unwrap()
        .clone();
    model.pool().count = 0;
    let step = model.step();
    assert_eq!(step.effects, []);
    assert_eq!(step.holds.len(), 1, "{step:?}");
    assert_eq!(step.holds[0].reason, HoldReason::Settling);
    model.now += SignedDuration::from_secs(60);
    model.settle();
    assert!(
        model.observed.ledger.intents.is_empty(),
        "the intent was forgotten"
    );
    model.act(&create);
    model.observed.tokens.clear();
    model.settle();
    assert_eq!(model.servers(), 0);
    model.nothing_is_left_over();
}

#[test]
fn a_paused_cluster_does_nothing_and_says_so() {
    let mut model = Model::wanting(3);
    model.observed.paused = Some("night shift".to_owned());
    let step = model.step();
    assert_eq!(
        (step.effects.len(), model.observed.ledger.intents.len()),
        (0, 0)
    );
    assert!(step.holds[0].message.contains("night shift"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is pushed, and whichever effects are lost on the way, no more nodes than the budget are down by our
    /// hand, and at the end there is exactly what the last push asked for.
    #[test]
    fn any_sequence_of_pushes_with_lost_effects_ends_well(
        pushes in prop::collection::vec((0u32..6, prop::collection::vec(any::<bool>(), 1..40)), 1..5),
    ) {
        let mut model = Model::wanting(0);
        for (count, luck) in &pushes {
            model.pool().count = *count;
            for carried_out in luck {
                let step = model.step();
                for effect in step.effects.iter().filter(|_| *carried_out) {
                    model.act(effect);
                }
                model.join_all();
                prop_assert!(model.unavailable() <= 1, "S2: {} are unavailable", model.unavailable());
            }
        }
        model.now += SignedDuration::from_secs(100);
        model.settle();
        model.now += SignedDuration::from_secs(100);
        model.settle();
        let wanted = pushes.last().unwrap().0 as usize;
        prop_assert_eq!(model.servers(), wanted);
        model.nothing_is_left_over();
        let off = model.observed.hetzner.servers.values().filter(|s| s.power == Power::Off).count();
        prop_assert_eq!(off, 0);
        let groups: BTreeSet<_> = model.observed.hetzner.placement_groups.values().flat_map(|g| g.servers.iter()).collect();
        prop_assert_eq!(groups.len(), wanted);
    }
}

#[test]
fn a_pool_without_an_image_takes_the_newest_snapshot_that_fits() {
    let image = |id, pool: &str, architecture: &str, hour: i64| Image {
        id,
        pool: pool.parse().unwrap(),
        architecture: architecture.to_owned(),
        created: Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hour),
        k3s: None,
    };
    let taken = |types: &[&str], images: Vec<Image>| {
        let mut model = Model::wanting(1);
        model.pool().image = None;
        model.pool().placement = PlacementStrategy::Anywhere;
        model.pool().server_types = types.iter().map(ToString::to_string).collect();
        model.observed.hetzner.images = images;
        let founding = model.step();
        founding.effects.iter().for_each(|e| model.act(e));
        let step = model.step();
        let ordered = step.effects.iter().find_map(|e| match e {
            Effect::CreateServer(new) => Some(new.image.clone()),
            _ => None,
        });
        let held = step.holds.iter().any(|h| h.reason == HoldReason::NoImage);
        (ordered, held)
    };
    let own = || image(1, "workers", "x86", 1);
    let newer = || image(2, "workers", "x86", 2);
    let servers = || image(3, "servers", "x86", 3);
    let x86 = ["cx33"];
    let taken_is = |id: &str| (Some(id.to_owned()), false);
    assert_eq!(taken(&x86, vec![own(), newer(), servers()]), taken_is("2"));
    assert_eq!(taken(&x86, vec![servers()]), taken_is("3"));
    assert_eq!(taken(&["cax21"], vec![newer(), servers()]), (None, true));
    assert_eq!(taken(&x86, vec![image(4, "other", "x86", 4)]), (None, true));
}
