//! Machines of the user's own: awaited, joined by a person's hand, drained, and let go by a person's word.

mod model;

use std::collections::BTreeMap;

use fabrik_core::hold::HoldReason;
use fabrik_core::id::{IntentId, NodeName, PoolName, ServerId};
use fabrik_core::machines::awaited;
use fabrik_core::observed::{Node, Power, Role, Server};
use fabrik_core::plan::plan;
use fabrik_core::spec::{Machine, Pool};
use fabrik_core::step::Step;
use jiff::SignedDuration;
use model::{Model, pod, pool};

fn home() -> PoolName {
    "home".parse().unwrap()
}

fn desktop() -> NodeName {
    "demo-home-desktop".parse().unwrap()
}

fn machine() -> Machine {
    Machine {
        address: "192.168.1.20".to_owned(),
        port: 22,
        user: "root".to_owned(),
        host_key: "ssh-ed25519 AAAA".to_owned(),
        disk: "/dev/disk/by-id/nvme".to_owned(),
        node_ip: "192.168.1.20".parse().unwrap(),
    }
}

/// A cluster with `workers` at Hetzner, that wants one machine at home.
fn wanting_desktop(workers: u32) -> Model {
    let mut model = Model::with_members(workers);
    let own = Pool {
        machines: BTreeMap::from([("desktop".parse().unwrap(), machine())]),
        server_types: Vec::new(),
        locations: Vec::new(),
        ..pool(0)
    };
    model.desired.spec.pools.insert(home(), own);
    model
}

fn intent(model: &Model) -> IntentId {
    let mut intents = model.observed.ledger.intents.keys();
    intents.next().expect("an intent").clone()
}

/// It registers, as k3s does when a person has installed it.
fn registers(model: &mut Model) {
    let server = ServerId::of_machine(&model.observed.ledger.cluster, &desktop());
    model.join(&Server {
        id: server,
        name: desktop().to_string(),
        role: Role::Agent,
        pool: None,
        intent: None,
        power: Power::Running,
        address: None,
        server_type: String::new(),
        location: String::new(),
        created: model.now,
    });
}

/// A cluster whose desktop has joined, with its labels.
fn with_desktop(workers: u32) -> Model {
    let mut model = wanting_desktop(workers);
    model.step();
    let id = intent(&model);
    model.observed.tokens.insert(id);
    registers(&mut model);
    model.settle();
    model.done.clear();
    model
}

fn node(model: &mut Model) -> &mut Node {
    model.observed.nodes.get_mut(&desktop()).unwrap()
}

fn told(step: &Step) -> Vec<(HoldReason, &str)> {
    let about = "node demo-home-desktop";
    let holds = step.holds.iter().filter(|h| h.about == about);
    holds.map(|h| (h.reason, h.message.as_str())).collect()
}

#[test]
fn a_machine_that_is_named_is_awaited_and_nothing_is_made_for_it() {
    let mut model = wanting_desktop(1);
    let planned = plan(&model.desired, &model.observed, model.now);
    assert_eq!(planned.effects, []);
    let by_hand = |h: &&fabrik_core::hold::Hold| h.reason == HoldReason::ByHand;
    assert_eq!(
        planned.holds.iter().filter(by_hand).count(),
        1,
        "told before the push"
    );
    for _ in 0..2 {
        let step = model.step();
        assert_eq!(step.effects, []);
        let expected = "is a machine of yours that has not joined yet: run `fabrik install desktop` where you reach it by SSH";
        assert_eq!(told(&step), [(HoldReason::ByHand, expected)]);
    }
    assert!(
        !model.observed.ledger.changes_servers(),
        "it may take weeks"
    );
    assert_eq!(
        model.observed.ledger.known_servers().count(),
        1,
        "Hetzner is not asked for it"
    );
}

#[test]
fn an_installed_machine_is_a_member_and_its_token_goes() {
    let model = with_desktop(1);
    let ledger = &model.observed.ledger;
    let members = ledger.members.values().filter(|m| m.pool == home());
    let names: Vec<&NodeName> = members.map(|m| &m.name).collect();
    assert_eq!(names, [&desktop()]);
    assert!(ledger.intents.is_empty() && model.observed.tokens.is_empty());
    let node = &model.observed.nodes[&desktop()];
    assert_eq!(node.labels["fabrik.dev/pool"], "home");
    assert_eq!(model.servers(), 1, "none was made at Hetzner");
}

/// A worker's join token lets a Node of any name in.
#[test]
fn a_node_of_its_name_that_nobody_has_installed_is_given_nothing() {
    for (installed, provider_id) in [
        (false, None),
        (true, Some("hcloud://1")),
        (true, Some("fabrik://1")),
    ] {
        let mut model = wanting_desktop(1);
        model.step();
        let id = intent(&model);
        registers(&mut model);
        if let Some(other) = provider_id {
            node(&mut model).provider_id = Some(other.to_owned());
        }
        if installed {
            model.observed.tokens.insert(id);
        }
        let step = model.step();
        assert_eq!(step.effects, []);
        assert!(
            model
                .observed
                .ledger
                .members
                .values()
                .all(|m| m.pool != home())
        );
        assert_eq!(told(&step)[0].0, HoldReason::Unexplained, "{step:?}");
    }
}

#[test]
fn a_machine_that_is_not_wanted_any_more_is_drained_and_then_left_to_a_person() {
    let mut model = with_desktop(1);
    model.desired.spec.pools.remove(&home());
    model.step();
    model
        .observed
        .pods
        .insert(desktop(), vec![pod(&desktop(), None)]);
    model.settle();
    let verbs: Vec<&str> = model.done.iter().map(|(verb, _)| verb.as_str()).collect();
    assert_eq!(verbs, ["cordon"]);
    assert!(model.observed.pods[&desktop()].is_empty(), "evicted");
    let step = model.step();
    let (reason, message) = told(&step)[0];
    assert_eq!(reason, HoldReason::ByHand);
    assert!(
        message.contains("`kubectl delete node demo-home-desktop`"),
        "{message}"
    );

    // However long that takes, and off or not: it is nobody's to decide.
    node(&mut model).ready = false;
    model.now += SignedDuration::from_hours(1000);
    let step = model.step();
    assert_eq!(step.effects, []);
    assert!(told(&step)[0].1.contains("is not heard of"), "{step:?}");

    model.observed.nodes.remove(&desktop());
    model.settle();
    let ledger = &model.observed.ledger;
    assert!(ledger.tickets.is_empty() && ledger.members.values().all(|m| m.pool != home()));
    assert_eq!(model.servers(), 1);
}

#[test]
fn a_machine_that_is_wanted_again_stays_as_long_as_its_node_is_there() {
    let mut model = with_desktop(0);
    let own = model.desired.spec.pools.remove(&home()).unwrap();
    model.settle();
    assert!(model.observed.nodes[&desktop()].unschedulable);
    model.desired.spec.pools.insert(home(), own);
    model.settle();
    assert!(!model.observed.nodes[&desktop()].unschedulable);
    assert!(model.observed.ledger.tickets.is_empty());
}

#[test]
fn a_machine_whose_node_was_deleted_is_awaited_anew() {
    let mut model = with_desktop(1);
    model.observed.nodes.remove(&desktop());
    let step = model.step();
    assert_eq!(step.effects, []);
    assert_eq!(told(&step)[0].0, HoldReason::ByHand);
    let awaited = &model.observed.ledger.intents[&intent(&model)];
    assert_eq!(awaited.name, desktop());
}

#[test]
fn many_nodes_that_vanish_are_no_person_s_word() {
    let mut model = with_desktop(4);
    model.observed.nodes.clear();
    model.step();
    assert_eq!(model.observed.ledger.members.len(), 5);
    assert_eq!(awaited(&model.observed.ledger).count(), 0);
}

#[test]
fn a_machine_that_left_the_commit_before_it_was_installed_can_not_join_by_its_token() {
    let mut model = wanting_desktop(1);
    model.step();
    let id = intent(&model);
    model.observed.tokens.insert(id);
    model.desired.spec.pools.remove(&home());
    model.settle();
    assert!(model.observed.tokens.is_empty() && model.observed.ledger.intents.is_empty());
}
