//! What goes wrong with machines and Nodes, and how a cluster comes out of it.

mod model;

use fabrik_core::effect::Effect;
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::NodeName;
use fabrik_core::spec::{LocalData, Pattern, Pods, Selector};
use fabrik_core::step::Step;
use jiff::SignedDuration;
use model::{Model, pod, pool};

#[test]
fn a_deleted_node_s_machine_keeps_its_local_data() {
    let mut model = settled(2);
    let (_, name) = model.some_member();
    model.observed.pinned.insert(name.clone());
    model.observed.nodes.remove(&name);
    model.settle();
    let harmful = ["power-off", "delete-server"];
    let done = model.done.iter();
    assert_eq!(
        done.filter(|(verb, _)| harmful.contains(&verb.as_str()))
            .count(),
        0
    );
    let step = model.step();
    assert_eq!(held(&step, HoldReason::LocalData).len(), 1, "{step:?}");

    model.pool().local_data = LocalData::Discard;
    model.settle();
    assert_eq!(model.servers(), 2);
    model.nothing_is_left_over();
}

#[test]
fn local_data_of_one_deleted_node_holds_up_no_other() {
    let mut model = settled(3);
    let names: Vec<NodeName> = model.observed.nodes.keys().take(2).cloned().collect();
    for name in &names {
        model.observed.nodes.remove(name);
    }
    model.observed.pinned.insert(names[0].clone());
    model.step();
    assert_eq!(ticketed(&model), [names[1].clone()]);
}

#[test]
fn a_volume_that_comes_during_a_drain_gives_its_node_back() {
    let mut model = settled(2);
    model.pool().count = 1;
    let cordon = model.step();
    model.act(&cordon.effects[0]);
    model.tick();
    let node = ticketed(&model).remove(0);
    model.observed.pinned.insert(node.clone());
    let step = model.step();
    assert!(
        matches!(step.effects.as_slice(), [Effect::Uncordon { node: n, .. }] if n.name == node),
        "{step:?}"
    );
    model.act(&step.effects[0]);
    model.step();
    assert_ne!(ticketed(&model), [node], "another one goes");
}

#[test]
fn local_data_is_looked_for_again_right_before_the_machine_goes_off() {
    let mut model = settled(2);
    let (_, name) = model.some_member();
    model.observed.pinned.insert(name.clone());
    model.pool().local_data = LocalData::Discard;
    model.observed.nodes.remove(&name);
    let step = model.step();
    assert!(step.effects.iter().any(|e| e.verb() == "power-off"));

    model.pool().local_data = LocalData::Keep;
    let step = model.step();
    assert!(step.effects.iter().all(|e| e.verb() != "power-off"));
    assert_eq!(held(&step, HoldReason::LocalData).len(), 1, "{step:?}");
}

#[test]
fn nodes_that_vanish_in_number_are_counted_over_all_pools() {
    let mut model = settled(6);
    let other = "other".parse().unwrap();
    model.pool().count = 3;
    let more = pool(3);
    model.desired.spec.pools.insert(other, more);
    for member in model.observed.ledger.members.values_mut().take(3) {
        member.pool = "other".parse().unwrap();
    }
    model.observed.nodes.clear();
    let step = model.step();
    assert_eq!(ticketed(&model), []);
    assert_eq!(held(&step, HoldReason::Unexplained).len(), 1, "{step:?}");
}

#[test]
fn a_node_that_was_made_anew_is_named_and_its_deletion_replaces_the_machine() {
    let mut model = settled(3);
    let (_, name) = model.some_member();
    model.observed.nodes.get_mut(&name).unwrap().uid = "made-anew".parse().unwrap();
    model.pool().max_unavailable = 2;
    model.pool().count = 2;
    let step = model.step();
    let holds = held(&step, HoldReason::Unexplained);
    assert_eq!(holds.len(), 1, "{step:?}");
    assert!(holds[0].message.contains("made-anew"), "{}", holds[0]);
    assert!(
        holds[0]
            .message
            .contains(&format!("kubectl delete node {name}"))
    );
    assert_eq!((ticketed(&model), step.effects), (vec![], vec![]));

    model.observed.nodes.remove(&name);
    model.settle();
    assert_eq!(model.servers(), 2);
    model.nothing_is_left_over();
}

/// What the hold says a person may do ends well.
#[test]
fn machines_whose_nodes_vanished_in_number_are_let_go_when_a_person_deletes_them() {
    let mut model = settled(6);
    let old: Vec<_> = model.observed.hetzner.servers.keys().copied().collect();
    model.observed.nodes.clear();
    model.settle();
    let step = model.step();
    let hold = held(&step, HoldReason::Unexplained)[0].clone();
    assert!(
        hold.message
            .contains("delete their servers at Hetzner, at most 3 at a time"),
        "{hold}"
    );

    for few in old.chunks(3) {
        for id in few {
            model.observed.hetzner.servers.remove(id);
        }
        model.tick();
        model.settle();
    }
    assert_eq!(model.servers(), 6);
    assert_eq!(model.step().holds, []);
    model.nothing_is_left_over();
}

#[test]
fn a_machine_that_hangs_is_scaled_away_although_its_pods_never_end() {
    let mut model = settled(3);
    let (hanging, name) = model.some_member();
    model.observed.nodes.get_mut(&name).unwrap().ready = false;
    model.pool().count = 2;
    let cordon = model.step();
    model.act(&cordon.effects[0]);
    model.tick();
    model
        .observed
        .pods
        .insert(name.clone(), vec![pod(&name, None)]);
    model.settle();
    assert_eq!(model.servers(), 3, "its grace period is not over");
    model.now += SignedDuration::from_mins(2);
    model.settle();
    assert_eq!(model.servers(), 2);
    assert!(!model.observed.ledger.members.contains_key(&hanging));
    model.nothing_is_left_over();
}

#[test]
fn pods_that_end_slowly_on_a_healthy_node_are_waited_for() {
    let mut model = settled(2);
    model.pool().count = 1;
    let cordon = model.step();
    model.act(&cordon.effects[0]);
    model.tick();
    let name = ticketed(&model).remove(0);
    let mut slow = pod(&name, None);
    slow.terminating = true;
    slow.ends = Some(model.now);
    model.observed.pods.insert(name, vec![slow]);
    model.now += SignedDuration::from_mins(5);
    assert_eq!(model.step().effects, []);
}

#[test]
fn no_healthy_node_goes_in_the_place_of_a_sick_one_that_rests() {
    let mut model = settled(3);
    let (sick, name) = model.some_member();
    model.observed.nodes.get_mut(&name).unwrap().ready = false;
    let until = model.now + SignedDuration::from_mins(10);
    model.observed.ledger.resting.insert(sick, until);
    model.pool().max_unavailable = 2;
    model.pool().count = 2;
    let step = model.step();
    assert_eq!(ticketed(&model), []);
    assert_eq!(held(&step, HoldReason::Resting).len(), 1, "{step:?}");
    model.now = until + SignedDuration::from_secs(1);
    model.step();
    assert_eq!(ticketed(&model), [name]);
}

#[test]
fn a_server_whose_node_has_no_provider_id_goes_when_nobody_wants_it() {
    let mut model = with_one_server_coming();
    model.join_all();
    for node in model.observed.nodes.values_mut() {
        node.provider_id = None;
    }
    model.settle();
    assert_eq!(model.servers(), 1, "it is held while it is wanted");
    model.pool().count = 0;
    model.settle();
    assert_eq!(model.servers(), 0);
    assert!(model.observed.ledger.intents.is_empty());
    assert!(model.observed.tokens.is_empty());
}

#[test]
fn a_server_that_never_joined_keeps_its_local_data_too() {
    let mut model = with_one_server_coming();
    model.join_all();
    for node in model.observed.nodes.values_mut() {
        node.provider_id = None;
        model.observed.pinned.insert(node.name.clone());
    }
    model.pool().count = 0;
    model.settle();
    assert_eq!(model.servers(), 1);
    let step = model.step();
    assert_eq!(held(&step, HoldReason::LocalData).len(), 1, "{step:?}");
    model.observed.pinned.clear();
    model.settle();
    assert_eq!(model.servers(), 0);
}

#[test]
fn a_node_that_is_being_deleted_before_it_joined_is_called_that() {
    let mut model = with_one_server_coming();
    model.join_all();
    for node in model.observed.nodes.values_mut() {
        node.deleting = true;
    }
    let step = model.step();
    let holds = held(&step, HoldReason::Unexplained);
    assert_eq!(holds.len(), 1, "{step:?}");
    assert!(holds[0].message.contains("being deleted"), "{}", holds[0]);
}

/// S6: a cordon of ours that somebody took back must not make theirs ours later.
#[test]
fn a_cordon_that_somebody_took_back_leaves_no_mark_for_theirs() {
    let mut model = settled(2);
    model.pool().count = 1;
    let cordon = model.step();
    model.act(&cordon.effects[0]);
    let name = ticketed(&model).remove(0);
    model.observed.nodes.get_mut(&name).unwrap().unschedulable = false;
    model.pool().count = 2;
    model.settle();
    assert_eq!(ticketed(&model), []);
    assert_eq!(model.observed.nodes[&name].cordoned_under, None);

    model.observed.nodes.get_mut(&name).unwrap().unschedulable = true;
    model.pool().count = 1;
    model.step();
    assert_eq!(ticketed(&model), std::slice::from_ref(&name));
    model.pool().count = 2;
    model.settle();
    assert!(model.observed.nodes[&name].unschedulable);
}

fn settled(count: u32) -> Model {
    let mut model = Model::wanting(count);
    model.settle();
    model.done.clear();
    model
}

fn ticketed(model: &Model) -> Vec<NodeName> {
    let tickets = model.observed.ledger.tickets.values();
    tickets.map(|t| t.node.clone()).collect()
}

fn held(step: &Step, reason: HoldReason) -> Vec<&Hold> {
    step.holds.iter().filter(|h| h.reason == reason).collect()
}

fn with_one_server_coming() -> Model {
    let mut model = Model::wanting(1);
    while model.servers() == 0 {
        for effect in &model.step().effects {
            model.act(effect);
        }
    }
    model
}

#[test]
fn what_the_user_lets_go_by_force_keeps_no_node_that_is_to_leave() {
    let mut model = Model::with_members(2);
    model.pool().count = 1;
    let cordon = model.step();
    let [Effect::Cordon { node, .. }] = cordon.effects.as_slice() else {
        panic!("{cordon:?}")
    };
    let node = node.name.clone();
    model.act(&cordon.effects[0]);
    model.tick();
    let blocked = pod(&node, Some("PodDisruptionBudget web/shop"));
    model.observed.pods.insert(node.clone(), vec![blocked]);
    let web = Pods {
        namespace: "web".to_owned(),
        labels: Selector::default(),
        name: Pattern::default(),
    };
    model.desired.spec.update.force = vec![web];

    let verbs = |step: &Step| -> Vec<&str> { step.effects.iter().map(Effect::verb).collect() };
    assert_eq!(verbs(&model.step()), ["evict"], "there is time left");
    model.now += SignedDuration::from_mins(62);
    assert_eq!(verbs(&model.step()), ["force-pod"]);
    model.desired.spec.update.force[0].namespace = "other".to_owned();
    assert_eq!(verbs(&model.step()), ["uncordon"]);
}

#[test]
fn a_machine_that_leaves_runs_until_its_volumes_are_detached() {
    let mut model = Model::with_members(2);
    model.pool().count = 1;
    let cordon = model.step();
    let [Effect::Cordon { node, .. }] = cordon.effects.as_slice() else {
        panic!("{cordon:?}")
    };
    let node = node.name.clone();
    model.act(&cordon.effects[0]);
    model.tick();
    let volume = "pvc-1 (claim shop/data)".to_owned();
    model.observed.attached.insert(node.clone(), vec![volume]);

    let step = model.step();
    assert_eq!(step.effects, []);
    let held = held(&step, HoldReason::DrainBlocked);
    assert_eq!(held.len(), 1, "{step:?}");
    assert!(
        held[0].message.contains("pvc-1 (claim shop/data)"),
        "{held:?}"
    );
    // Nobody unmounts there, and off is off.
    model.observed.nodes.get_mut(&node).unwrap().ready = false;
    assert_eq!(model.step().effects[0].verb(), "power-off");
    model.observed.nodes.get_mut(&node).unwrap().ready = true;
    model.observed.attached.clear();
    assert_eq!(model.step().effects[0].verb(), "power-off");
}
