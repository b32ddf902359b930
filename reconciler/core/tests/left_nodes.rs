//! Servers that are gone before the ledger knows them, and the Nodes that they leave.

mod model;

use fabrik_core::arrival::left;
use fabrik_core::hold::Hold;
use fabrik_core::id::{IntentId, NodeName, ServerId};
use fabrik_core::observed::{Hetzner, Node, Power, Role, Server};
use model::Model;

fn verbs(model: &Model) -> Vec<&str> {
    model.done.iter().map(|(verb, _)| verb.as_str()).collect()
}

/// A server that was ordered, and joins and is lost while the leader sees nothing. Nobody has asked Hetzner for it yet.
fn one_comes_and_goes_unseen(model: &mut Model) -> (IntentId, NodeName) {
    while !verbs(model).contains(&"create-server") {
        let step = model.step();
        step.effects.iter().for_each(|e| model.act(e));
        model.tick();
    }
    let mut servers = model.observed.hetzner.servers.values();
    let lost = servers.find(|s| s.intent.is_some()).unwrap().clone();
    model.join(&lost);
    let node: NodeName = lost.name.parse().unwrap();
    model.observed.nodes.get_mut(&node).unwrap().ready = false;
    model.observed.hetzner.servers.remove(&lost.id);
    model.done.clear();
    (lost.intent.unwrap(), node)
}

/// What says that a Node is in the way of a server.
fn in_the_way<'a>(holds: &'a [Hold], node: &NodeName) -> Option<&'a Hold> {
    let about = format!("server {node}");
    let mut holds = holds.iter().filter(|h| h.about == about);
    holds.find(|h| h.message.contains("there is a Node of its name"))
}

/// Seed 539780 of the simulation: another one of its name could not join beside its Node.
#[test]
fn a_server_that_was_lost_before_it_was_seen_takes_its_node_along_and_is_replaced() {
    let mut model = Model::with_servers(3);
    model.want_servers(5);
    let (id, node) = one_comes_and_goes_unseen(&mut model);
    model.tick();
    let bound = model.step();
    let intent = &model.observed.ledger.intents[&id];
    let provider_id = intent.server.map(ServerId::provider_id);
    assert_eq!(provider_id, model.observed.nodes[&node].provider_id);
    let verbs_of = |step: &fabrik_core::step::Step| {
        let effects = step.effects.iter();
        effects.map(|e| e.verb().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(verbs_of(&bound), ["delete-node"], "none is made beside it");
    model.settle();
    assert_eq!(
        verbs(&model),
        ["delete-node", "create-server", "create-server"]
    );
    assert!(!model.observed.nodes.contains_key(&node));
    assert_eq!(model.observed.ledger.members.len(), 5);
    model.nothing_is_left_over();
}

#[test]
fn its_etcd_member_goes_before_its_node() {
    let mut model = Model::with_servers(3);
    model.want_servers(5);
    let (_, node) = one_comes_and_goes_unseen(&mut model);
    model.votes_as(ServerId(900), node.as_str());
    model.etcd().last_mut().unwrap().healthy = false;
    model.tick();
    model.settle();
    let left = ["remove-etcd-member", "delete-node"];
    assert_eq!(verbs(&model), [&left[..], &["create-server"; 2]].concat());
    assert_eq!(model.observed.ledger.members.len(), 5);
}

#[test]
fn a_worker_that_was_lost_before_it_was_seen_takes_its_node_along_and_is_replaced() {
    let mut model = Model::wanting(1);
    let (_, node) = one_comes_and_goes_unseen(&mut model);
    model.tick();
    model.settle();
    assert_eq!(
        verbs(&model),
        ["delete-node", "create-server", "label-node"]
    );
    assert!(!model.observed.nodes.contains_key(&node));
    assert_eq!(model.observed.ledger.members.len(), 1);
    model.nothing_is_left_over();
}

#[test]
fn one_that_is_not_wanted_any_more_takes_its_node_along() {
    let mut model = Model::wanting(1);
    let (_, node) = one_comes_and_goes_unseen(&mut model);
    model.pool().count = 0;
    model.tick();
    model.settle();
    assert_eq!(verbs(&model), ["delete-node"]);
    assert!(!model.observed.nodes.contains_key(&node));
    model.nothing_is_left_over();
}

/// A Node may name anything, and a request is what each costs.
#[test]
fn hetzner_is_asked_for_a_few_and_only_where_its_no_is_believed() {
    let mut model = Model::wanting(1);
    one_comes_and_goes_unseen(&mut model);
    let asked = |model: &Model, there: &Hetzner| {
        let seen = &model.observed;
        left::to_ask(&model.desired.spec, &seen.ledger, &seen.nodes, there).len()
    };
    let there = Hetzner {
        gone: [].into(),
        ..model.observed.hetzner.clone()
    };
    assert_eq!(asked(&model, &there), 1);
    let with = |change: &dyn Fn(&mut Hetzner)| {
        let mut there = there.clone();
        change(&mut there);
        there
    };
    let others = || (1_000..).map(ServerId);
    for nobody_is_believed in [
        with(&|there| there.network = None),
        with(&|there| there.missing = [ServerId(7)].into()),
        with(&|there| there.gone = others().take(3).collect()),
    ] {
        assert_eq!(asked(&model, &nobody_is_believed), 0);
    }
    assert_eq!(
        asked(
            &model,
            &with(&|there| there.gone = others().take(2).collect())
        ),
        1
    );

    let intents = &mut model.observed.ledger.intents;
    let (_, intent) = intents.first_key_value().unwrap();
    let (intent, node) = (intent.clone(), model.observed.nodes[&intent.name].clone());
    for (number, id) in ["bbbbbb", "cccccc", "dddddd"].into_iter().enumerate() {
        let name: NodeName = format!("demo-workers-{id}").parse().unwrap();
        let server = ServerId(2_000 + number as u64);
        let (mut intent, mut node) = (intent.clone(), node.clone());
        (intent.name, node.name) = (name.clone(), name.clone());
        node.provider_id = Some(server.provider_id());
        intents.insert(id.parse().unwrap(), intent);
        model.observed.nodes.insert(name, node);
    }
    assert_eq!(asked(&model, &there), 3);
}

/// A Node's word is no entry of the ledger before Hetzner was asked, nor where the server exists: it could be anybody's.
#[test]
fn nothing_is_written_down_of_a_server_that_hetzner_does_not_say_is_gone() {
    for mut model in [Model::wanting(1), Model::with_servers(3)] {
        if model.desired.spec.servers.is_some() {
            model.want_servers(5);
        }
        let (id, node) = one_comes_and_goes_unseen(&mut model);
        let provider_id = model.observed.nodes[&node].provider_id.clone().unwrap();
        let server = ServerId::from_provider_id(&provider_id).unwrap();
        let ledger = model.observed.ledger.clone();
        let unasked = model.step();
        model.unlabelled.insert(server);
        model.tick();
        for step in [unasked, model.step()] {
            assert_eq!(step.effects, []);
            let hold = in_the_way(&step.holds, &node).unwrap();
            assert!(hold.message.contains(&server.to_string()), "{hold}");
        }
        assert_eq!(model.observed.ledger, ledger);
        // A person deletes the Node: all goes on.
        model.observed.nodes.remove(&node);
        model.settle();
        assert_eq!(verbs(&model)[0], "create-server");
        assert!(model.observed.ledger.members.contains_key(&id));
    }
}

#[test]
fn a_node_that_is_ready_is_nobody_s_to_delete() {
    let mut model = Model::wanting(1);
    let (id, node) = one_comes_and_goes_unseen(&mut model);
    model.tick();
    model.observed.nodes.get_mut(&node).unwrap().ready = true;
    let step = model.step();
    assert_eq!(step.effects, []);
    assert!(in_the_way(&step.holds, &node).is_some(), "{step:?}");
    assert_eq!(model.observed.ledger.intents[&id].server, None);
}

#[test]
fn a_node_that_names_a_server_of_somebody_else_says_nothing_of_its_own() {
    let says = |provider_id: &str| {
        let mut model = Model::with_servers(3);
        model.want_servers(5);
        let (id, node) = one_comes_and_goes_unseen(&mut model);
        // A member that is gone, for one.
        model.observed.hetzner.servers.remove(&ServerId(2));
        let node = model.observed.nodes.get_mut(&node).unwrap();
        node.provider_id = Some(provider_id.to_owned());
        model.ask_by_id();
        model.step();
        model.observed.ledger.intents[&id].server
    };
    assert_eq!(says("hcloud://77"), Some(ServerId(77)));
    assert_eq!(says("hcloud://077"), None, "nobody writes it so");
    assert_eq!(says("hcloud://1"), None, "it is listed");
    assert_eq!(says("hcloud://2"), None, "it is a member's");
    let own = ServerId::of_machine(
        &"abcdefgh01234567".parse().unwrap(),
        &"demo-servers-mine".parse().unwrap(),
    );
    assert_eq!(says(&own.provider_id()), None, "it is nobody's to take");
    assert_eq!(says("k3s://demo"), None);
}

/// A leader that did not see the Node has forgotten the intent.
fn with_a_node_of_a_forgotten_one() -> (Model, IntentId, NodeName) {
    let mut model = Model::with_servers(3);
    let id = IntentId::derive(&model.observed.ledger.cluster, 2);
    model.observed.ledger.next_intent = 5;
    let name = format!("demo-servers-{id}");
    let lost = Server {
        id: ServerId(900),
        name: name.clone(),
        role: Role::Server,
        pool: Some("servers".parse().unwrap()),
        intent: Some(id.clone()),
        power: Power::Off,
        address: None,
        server_type: "cx33".to_owned(),
        location: "fsn1".to_owned(),
        created: model.now,
    };
    model.join(&lost);
    let name: NodeName = name.parse().unwrap();
    model.observed.nodes.get_mut(&name).unwrap().ready = false;
    (model, id, name)
}

#[test]
fn the_node_of_a_server_that_was_forgotten_is_cleared_up() {
    let (mut model, id, node) = with_a_node_of_a_forgotten_one();
    model.votes_as(ServerId(900), node.as_str());
    model.etcd().last_mut().unwrap().healthy = false;
    model.want_servers(5);
    model.step();
    assert!(model.observed.ledger.intents.is_empty(), "nobody has asked");
    model.tick();
    model.step();
    assert_eq!(model.observed.ledger.intents.len(), 1, "one at a time");
    assert!(model.observed.ledger.intents.contains_key(&id));
    model.settle();
    let left = ["remove-etcd-member", "delete-node"];
    assert_eq!(verbs(&model), [&left[..], &["create-server"; 2]].concat());
    assert_eq!(model.observed.ledger.members.len(), 5);
    model.nothing_is_left_over();
}

#[test]
fn a_node_that_no_intent_of_ours_has_left_is_a_person_s_to_look_at() {
    let taken = |change: fn(&mut Model, &NodeName)| {
        let (mut model, _, node) = with_a_node_of_a_forgotten_one();
        change(&mut model, &node);
        model.ask_by_id();
        model.step();
        !model.observed.ledger.intents.is_empty()
    };
    let untouched = |change: fn(&mut Node)| {
        let (mut model, _, node) = with_a_node_of_a_forgotten_one();
        let mut there = model.observed.nodes.remove(&node).unwrap();
        change(&mut there);
        model.observed.nodes.insert(there.name.clone(), there);
        model.ask_by_id();
        assert_eq!(model.step().effects, []);
        model.observed.ledger.intents.is_empty()
    };
    assert!(taken(|_, _| ()));
    assert!(untouched(|node| node.ready = true));
    assert!(untouched(|node| node.control_plane = false));
    assert!(untouched(|node| node.provider_id = None));
    let of_another: fn(&mut Node) = |node| node.provider_id = Some("hcloud://1".to_owned());
    assert!(untouched(of_another));
    let by_hand: fn(&mut Node) = |node| node.name = "demo-servers-mine".parse().unwrap();
    assert!(untouched(by_hand));
    assert!(!taken(|model, _| {
        model.unlabelled.insert(ServerId(900));
    }));
    assert!(!taken(|model, _| model.observed.ledger.next_intent = 0));
    assert!(!taken(|model, _| model.desired.spec.servers = None));
    assert!(!taken(|model, _| model.desired.spec.hetzner = None));
}
