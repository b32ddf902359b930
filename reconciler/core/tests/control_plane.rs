//! Servers of the control plane come and go by the number in `[servers]`.

mod model;

use fabrik_core::effect::Effect;
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::{IntentId, NodeName, ServerId};
use fabrik_core::ledger::{Change, Reason};
use fabrik_core::observed::{Datastore, Power, Role, Server};
use fabrik_core::plan::plan;
use fabrik_core::step::Step;
use jiff::SignedDuration;
use model::Model;

const WAY_OUT: [&str; 6] = [
    "cordon",
    "stop-k3s",
    "remove-etcd-member",
    "power-off",
    "delete-node",
    "delete-server",
];

fn servers(model: &Model) -> Vec<String> {
    let members = model.observed.ledger.members.values();
    let servers = members.filter(|m| m.role == Role::Server);
    servers.map(|m| m.name.to_string()).collect()
}

fn verbs(model: &Model) -> Vec<&str> {
    model.done.iter().map(|(verb, _)| verb.as_str()).collect()
}

fn held(step: &Step, reason: HoldReason) -> &Hold {
    let hold = step.holds.iter().find(|h| h.reason == reason);
    hold.unwrap_or_else(|| panic!("{:?}", step.holds))
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// The first server that was ordered, as Hetzner has it.
fn ordered(model: &Model) -> Server {
    let mut servers = model.observed.hetzner.servers.values();
    servers.find(|s| s.intent.is_some()).unwrap().clone()
}

/// Does what is to be done until a server was ordered.
fn until_one_is_ordered(model: &mut Model) -> Server {
    while !verbs(model).contains(&"create-server") {
        let step = model.step();
        step.effects.iter().for_each(|e| model.act(e));
        model.tick();
    }
    ordered(model)
}

#[test]
fn one_server_joins_after_the_other() {
    let mut model = Model::with_servers(1);
    model.want_servers(3);
    let first = until_one_is_ordered(&mut model);
    let step = model.step();
    assert_eq!(step.effects, [], "nobody else is asked for");
    assert!(held(&step, HoldReason::Turn).message.contains(&first.name));
    assert_eq!(servers(&model).len(), 1, "it does not vote yet");
    model.settle();
    assert_eq!(servers(&model).len(), 3);
    assert_eq!(verbs(&model), ["create-server", "create-server"]);
    model.nothing_is_left_over();
}

#[test]
fn a_server_waits_for_a_snapshot_with_the_minor_that_the_servers_run() {
    let mut model = Model::with_servers(1);
    model.observed.hetzner.images[0].k3s = Some(35);
    model.want_servers(3);
    let step = model.step();
    let said = &held(&step, HoldReason::NoImage).message;
    assert!(
        said.contains("has k3s 1.35, and the servers run 1.36"),
        "{said}"
    );
    assert!(!step.effects.iter().any(|e| e.verb() == "create-server"));

    let mut newer = model.observed.hetzner.images[0].clone();
    (newer.id, newer.k3s) = (8, Some(36));
    model.observed.hetzner.images.push(newer);
    let ordered = until_one_is_ordered(&mut model);
    assert!(ordered.intent.is_some());
}

#[test]
fn a_server_that_learns_is_no_member_and_one_that_never_votes_is_replaced() {
    let mut model = Model::with_servers(3);
    model.want_servers(5);
    let joiner = until_one_is_ordered(&mut model);
    model.join_all();
    model.etcd().last_mut().unwrap().learner = true;
    assert_eq!(model.step().changes, []);
    assert_eq!(servers(&model).len(), 3);
    model.now += SignedDuration::from_mins(21);
    let step = model.step();
    let hold = held(&step, HoldReason::NotJoined);
    assert!(hold.message.contains("still an etcd learner"), "{hold}");
    model.observed.hetzner.servers.remove(&joiner.id);
    model.tick();
    model.done.clear();
    model.settle();
    let left = ["remove-etcd-member", "delete-node"];
    assert_eq!(verbs(&model), [&left[..], &["create-server"; 2]].concat());
    assert_eq!(servers(&model).len(), 5);
}

#[test]
fn the_labels_that_a_server_has_lost_are_those_of_a_server() {
    let mut model = Model::with_servers(3);
    model.want_servers(5);
    let joiner = until_one_is_ordered(&mut model);
    model.step();
    model.observed.hetzner.servers.remove(&joiner.id);
    let step = model.step();
    let hold = held(&step, HoldReason::Unexplained);
    assert!(hold.message.contains("fabrik.dev/role=server"), "{hold}");
}

#[test]
fn a_member_that_never_started_is_known_by_its_address() {
    let mut model = Model::with_servers(3);
    model.want_servers(5);
    let joiner = until_one_is_ordered(&mut model);
    let machine = model.observed.hetzner.servers.get_mut(&joiner.id).unwrap();
    let here = Some(std::net::IpAddr::from([10, 0, 1, 9]));
    machine.address = here;
    model.step();
    let mut unstarted = model.etcd()[0].clone();
    (unstarted.id, unstarted.name, unstarted.node) = (99, "99".to_owned(), None);
    (unstarted.learner, unstarted.leader) = (true, false);
    unstarted.address = here;
    model.etcd().push(unstarted);
    model.observed.hetzner.servers.remove(&joiner.id);
    model.tick();
    let step = model.step();
    let [
        Effect::RemoveEtcdMember {
            member, address, ..
        },
    ] = step.effects.as_slice()
    else {
        panic!("{step:?}")
    };
    assert_eq!((*member, *address), (99, here));
}

#[test]
fn nobody_joins_an_etcd_that_is_not_well() {
    let waits = |change: fn(&mut Model)| {
        let mut model = Model::with_servers(3);
        model.want_servers(5);
        change(&mut model);
        let step = model.step();
        assert_eq!(step.effects, []);
        assert!(model.observed.ledger.intents.is_empty());
        let next = step.holds.iter().find(|h| h.about == "pool servers");
        next.unwrap().message.clone()
    };
    let told = waits(|m| m.etcd()[1].healthy = false);
    assert_eq!(
        told,
        "the next server waits: etcd member server-2 is not healthy"
    );
    assert!(waits(|m| m.etcd()[1].node = None).contains("server-2 belongs to no Node"));
    assert!(waits(|m| m.etcd()[1].learner = true).contains("server-2 is still a learner"));
    assert!(waits(|m| m.observed.datastore = Datastore::Unread).contains("etcd was not read"));
    assert!(waits(|m| m.observed.datastore = Datastore::Other).contains("elsewhere"));
    let cordoned = waits(|m| {
        let node = m.observed.nodes.get_mut(&name("server-2")).unwrap();
        node.unschedulable = true;
    });
    assert!(cordoned.contains("server server-2 is not Ready, or is cordoned"));
    let climbing = waits(|m| {
        let node = m.observed.nodes.get_mut(&name("server-2")).unwrap();
        node.kubelet_version = "v1.37.0+k3s1".to_owned();
    });
    assert!(climbing.contains("from k3s 1.36 to 1.37"), "{climbing}");
    let unadopted = waits(|m| {
        let mut node = m.observed.nodes[&name("server-2")].clone();
        (node.name, node.provider_id) = (name("by-hand"), None);
        m.observed.nodes.insert(node.name.clone(), node);
    });
    assert!(
        unadopted.contains("server by-hand is no member"),
        "{unadopted}"
    );
    assert!(waits(|m| m.observed.hetzner.images.clear()).contains("waits for an image"));
}

#[test]
fn servers_go_one_by_one_the_youngest_first_and_the_leader_last() {
    let mut model = Model::with_servers(5);
    model
        .etcd()
        .iter_mut()
        .for_each(|m| m.leader = m.name == "server-5");
    model.want_servers(3);
    let mut planned: Vec<(String, String)> = plan(&model.desired, &model.observed, model.now)
        .effects
        .into_iter()
        .map(|p| (p.verb, p.target))
        .collect();
    model.settle();
    assert_eq!(verbs(&model), [WAY_OUT, WAY_OUT].concat());
    assert_eq!(servers(&model).len(), 3);
    assert!(
        servers(&model).contains(&"server-5".to_owned()),
        "it leads etcd"
    );
    model.nothing_is_left_over();
    planned.sort();
    model.done.sort();
    assert_eq!(planned, model.done);
}

#[test]
fn of_two_servers_one_is_removed_while_it_runs_and_starts_no_more() {
    let mut model = Model::with_servers(3);
    model.want_servers(1);
    model.settle();
    assert_eq!(verbs(&model), [WAY_OUT, WAY_OUT].concat());
    assert_eq!(servers(&model), ["server-1"]);
    model.want_servers(1);
    assert_eq!(model.step().effects, []);
}

#[test]
fn a_leader_hands_over_before_its_k3s_ends() {
    let mut model = Model::with_servers(3);
    for number in [1, 2] {
        // Only the leader may go.
        let node = name(&format!("server-{number}"));
        model.observed.pinned.insert(node);
    }
    model
        .etcd()
        .iter_mut()
        .for_each(|m| m.leader = m.name == "server-3");
    model.want_servers(1);
    model.settle();
    assert_eq!(
        verbs(&model)[..3],
        ["cordon", "move-etcd-leader", "stop-k3s"]
    );
    assert_eq!(servers(&model).len(), 2, "local data stays");
    held(&model.step(), HoldReason::LocalData);
}

#[test]
fn servers_stay_where_nobody_lets_them_go() {
    let mut model = Model::with_servers(3);
    model.want_servers(1);
    model.desired.spec.servers.as_mut().unwrap().may_shrink = false;
    let step = model.step();
    assert_eq!(step.effects, []);
    let hold = held(&step, HoldReason::MayNotShrink);
    assert!(
        hold.message
            .contains("there are 3 servers and [servers] count is 1")
    );
    model.desired.spec.servers = None;
    assert_eq!(model.step().holds, []);
}

#[test]
fn what_can_be_taken_back_is_and_what_can_t_goes_to_its_end() {
    let mut model = Model::with_servers(5);
    model.want_servers(3);
    let step = model.step();
    step.effects.iter().for_each(|e| model.act(e));
    assert_eq!(verbs(&model), ["cordon"]);
    model.want_servers(5);
    model.settle();
    assert_eq!(verbs(&model), ["cordon", "uncordon"]);
    model.want_servers(3);
    model.done.clear();
    while !verbs(&model).contains(&"stop-k3s") {
        let step = model.step();
        step.effects.iter().for_each(|e| model.act(e));
        model.tick();
    }
    model.want_servers(5);
    model.settle();
    assert_eq!(verbs(&model), [&WAY_OUT[..], &["create-server"]].concat());
    assert_eq!(servers(&model).len(), 5);
}

#[test]
fn a_server_whose_agent_says_nothing_is_powered_off_instead() {
    let mut model = Model::with_servers(5);
    model.want_servers(3);
    for system in model.observed.systems.values_mut() {
        system.report = None;
    }
    for _ in 0..3 {
        let step = model.step();
        step.effects.iter().for_each(|e| model.act(e));
        model.tick();
    }
    assert_eq!(verbs(&model), ["cordon"]);
    model.now += SignedDuration::from_mins(4);
    let step = model.step();
    step.effects.iter().for_each(|e| model.act(e));
    assert_eq!(verbs(&model), ["cordon", "power-off"]);
    model.tick();
    let step = model.step();
    assert!(matches!(
        step.effects.as_slice(),
        [Effect::RemoveEtcdMember { .. }]
    ));
}

#[test]
fn a_server_that_is_gone_leaves_etcd_first_and_is_replaced() {
    let mut model = Model::with_servers(3);
    model.observed.hetzner.servers.remove(&ServerId(2));
    model
        .observed
        .nodes
        .get_mut(&name("server-2"))
        .unwrap()
        .ready = false;
    model.etcd()[1].healthy = false;
    model.tick();
    model.settle();
    let way = ["remove-etcd-member", "delete-node", "create-server"];
    assert_eq!(verbs(&model), way);
    assert_eq!(servers(&model).len(), 3);
    assert!(!servers(&model).contains(&"server-2".to_owned()));
}

#[test]
fn two_of_five_that_are_gone_are_replaced_one_after_the_other() {
    let mut model = Model::with_servers(5);
    for number in [2, 4] {
        let node = name(&format!("server-{number}"));
        model.observed.hetzner.servers.remove(&ServerId(number));
        model.observed.nodes.get_mut(&node).unwrap().ready = false;
        let mut etcd = model.etcd().iter_mut();
        etcd.find(|m| m.node == Some(node.clone())).unwrap().healthy = false;
    }
    model.tick();
    model.settle();
    let left = ["remove-etcd-member", "delete-node"];
    assert_eq!(
        verbs(&model),
        [&left[..], &left, &["create-server"; 2]].concat()
    );
    let left = servers(&model);
    assert_eq!(left.len(), 5);
    assert!(!left.contains(&"server-2".to_owned()) && !left.contains(&"server-4".to_owned()));
    model.nothing_is_left_over();
}

#[test]
fn a_server_that_is_gone_stays_a_member_where_the_others_have_no_quorum() {
    let mut model = Model::with_servers(3);
    model.observed.hetzner.servers.remove(&ServerId(2));
    model.etcd()[1].healthy = false;
    model.etcd()[2].healthy = false;
    model.tick();
    let step = model.step();
    assert_eq!(step.effects, []);
    let hold = held(&step, HoldReason::Quorum);
    assert!(
        hold.message.contains("1 of 3 etcd members are healthy"),
        "{hold}"
    );
    assert!(hold.message.contains("docs/restore.md"), "{hold}");
}

#[test]
fn the_first_server_keeps_the_id_that_the_seed_gave_it() {
    let mut model = Model::with_servers(1);
    let id = IntentId::derive(&model.observed.ledger.cluster, 0);
    let machine = model
        .observed
        .hetzner
        .servers
        .get_mut(&ServerId(1))
        .unwrap();
    machine.intent = Some(id.clone());
    machine.pool = Some("servers".parse().unwrap());
    // Before the Node is known, a worker is asked for.
    model.observed.ledger.members.clear();
    let node = model.observed.nodes.remove(&name("server-1")).unwrap();
    model.pool().count = 1;
    model.step();
    let intents = &model.observed.ledger.intents;
    assert_eq!(intents.len(), 1);
    assert!(!intents.contains_key(&id), "it is the first server's");
    model.observed.nodes.insert(node.name.clone(), node);
    model.settle();
    let member = &model.observed.ledger.members[&id];
    assert_eq!(member.name.as_str(), "server-1");
}

#[test]
fn a_late_server_is_a_person_s_to_look_at() {
    let mut model = Model::with_servers(3);
    let id = IntentId::derive(&model.observed.ledger.cluster, 0);
    model.observed.ledger.next_intent = 5;
    let mut machine = model.observed.hetzner.servers[&ServerId(1)].clone();
    (machine.id, machine.name) = (ServerId(9), "demo-servers-late".to_owned());
    machine.intent = Some(id);
    machine.pool = Some("servers".parse().unwrap());
    model.observed.hetzner.servers.insert(machine.id, machine);
    let step = model.step();
    assert_eq!((step.changes, step.effects), (vec![], vec![]));
    let hold = step
        .holds
        .iter()
        .find(|h| h.about == "server demo-servers-late");
    assert_eq!(hold.unwrap().reason, HoldReason::Unexplained);
}

#[test]
fn a_server_that_is_called_off_goes_where_it_can_take_no_quorum_along() {
    let mut model = Model::with_servers(3);
    model.want_servers(5);
    let joiner = until_one_is_ordered(&mut model);
    model.want_servers(3);
    model.done.clear();
    while model.observed.hetzner.servers.contains_key(&joiner.id) {
        let step = model.step();
        step.effects.iter().for_each(|e| model.act(e));
        model.tick();
    }
    assert_eq!(verbs(&model), ["power-off", "delete-server"]);

    let mut model = Model::with_servers(1);
    model.want_servers(3);
    until_one_is_ordered(&mut model);
    model.want_servers(1);
    model.done.clear();
    let step = model.step();
    assert_eq!(step.effects, []);
    held(&step, HoldReason::Settling);
    model.settle();
    assert_eq!(servers(&model).len(), 1);
    assert_eq!(verbs(&model), WAY_OUT);
}

#[test]
fn a_server_whose_nonce_two_have_shown_does_not_stay_where_it_could_not_be_kept_out() {
    let mut model = Model::with_servers(1);
    model.want_servers(3);
    let joiner = until_one_is_ordered(&mut model);
    model.done.clear();
    let alarm = Change::Alarm {
        id: joiner.intent.clone().unwrap(),
    };
    let now = model.now;
    model.observed.ledger.apply(&alarm, now);
    let step = model.step();
    assert_eq!(step.effects, [], "it could take the quorum along");
    model.settle();
    assert!(!servers(&model).contains(&joiner.name), "{joiner:?}");
    assert_eq!(servers(&model).len(), 3);
    let made = ["create-server"; 2];
    assert_eq!(verbs(&model), [&WAY_OUT[..], &made].concat());
    assert!(model.observed.ledger.alarmed.is_empty());
}

#[test]
fn a_server_whose_node_was_deleted_is_lost_only_when_etcd_has_it_no_more() {
    let mut model = Model::with_servers(3);
    model.observed.nodes.remove(&name("server-2"));
    model.etcd()[1].node = None;
    let step = model.step();
    assert_eq!(step.effects, [], "k3s brings it back");
    model.etcd().remove(1);
    model.step();
    let tickets: Vec<_> = model.observed.ledger.tickets.values().collect();
    assert_eq!(tickets[0].leave(), Some(Reason::NodeDeleted));
    model.settle();
    assert_eq!(
        verbs(&model),
        ["power-off", "delete-server", "create-server"]
    );
    assert_eq!(servers(&model).len(), 3);
    let powered = model.observed.hetzner.servers.values();
    assert!(powered.into_iter().all(|s| s.power == Power::Running));
}
