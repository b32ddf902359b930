//! The control plane's machines are members, and nothing that is done to pools is done to them.

mod model;

use fabrik_core::desired::Desired;
use fabrik_core::hold::HoldReason;
use fabrik_core::id::{NodeName, ServerId};
use fabrik_core::ledger::{Ledger, Member};
use fabrik_core::observed::{Node, Power, Role, Server};
use fabrik_core::plan::plan;
use fabrik_core::step::Step;
use model::Model;
use proptest::prelude::*;

/// A machine with the control plane's labels, and its Node.
fn add_server(model: &mut Model, number: u64) -> NodeName {
    let name: NodeName = format!("server-{number}").parse().unwrap();
    let machine = Server {
        id: ServerId(number),
        name: name.to_string(),
        role: Role::Server,
        pool: None,
        intent: None,
        power: Power::Running,
        address: None,
        server_type: "cx23".to_owned(),
        location: "fsn1".to_owned(),
        created: model.now,
    };
    let node = Node {
        name: name.clone(),
        uid: format!("uid-{number}").parse().unwrap(),
        provider_id: Some(machine.id.provider_id()),
        control_plane: true,
        ready: true,
        unschedulable: false,
        cordoned_under: None,
        deleting: false,
        heard: None,
        lease_unread: false,
        kubelet_version: "v1.36.3+k3s1".to_owned(),
        labels: [(
            "node-role.kubernetes.io/control-plane".to_owned(),
            "true".to_owned(),
        )]
        .into(),
        our_labels: [].into(),
    };
    model.observed.hetzner.servers.insert(machine.id, machine);
    model.observed.nodes.insert(name.clone(), node);
    name
}

fn adopted(model: &Model) -> Vec<&Member> {
    let members = model.observed.ledger.members.values();
    members.filter(|m| m.role == Role::Server).collect()
}

fn unexplained(step: &Step) -> Vec<String> {
    let holds = step.holds.iter();
    let unexplained = holds.filter(|h| h.reason == HoldReason::Unexplained);
    unexplained.map(ToString::to_string).collect()
}

#[test]
fn the_machines_of_the_control_plane_become_members_as_they_are() {
    let mut model = Model::wanting(0);
    model.settle();
    (1..=3).for_each(|n| drop(add_server(&mut model, n)));
    model.done.clear();
    model.settle();
    assert_eq!(model.done, [], "nothing is done to them");
    let ids: Vec<_> = model.observed.ledger.members.keys().cloned().collect();
    let members = adopted(&model);
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|m| m.pool.as_str() == "servers"));
    let mut again = Model::wanting(0);
    (1..=3).rev().for_each(|n| drop(add_server(&mut again, n)));
    again.settle();
    let same: Vec<_> = again.observed.ledger.members.keys().cloned().collect();
    assert_eq!(ids, same, "by cluster and machine alone");
    let json = serde_json::to_string(&again.observed.ledger).unwrap();
    assert_eq!(
        serde_json::from_str::<Ledger>(&json).unwrap(),
        again.observed.ledger
    );
}

#[test]
fn only_a_machine_and_a_node_that_agree_are_taken_in() {
    let left_alone = |change: fn(&mut Node, &mut Server)| {
        let mut model = Model::wanting(0);
        model.settle();
        let name = add_server(&mut model, 1);
        let node = model.observed.nodes.get_mut(&name).unwrap();
        let machine = model
            .observed
            .hetzner
            .servers
            .get_mut(&ServerId(1))
            .unwrap();
        change(node, machine);
        model.settle();
        adopted(&model).is_empty()
    };
    assert!(!left_alone(|_, _| ()));
    assert!(left_alone(|node, _| node.control_plane = false));
    assert!(left_alone(|node, _| node.provider_id = None));
    assert!(left_alone(
        |node, _| node.provider_id = Some("hcloud://9".to_owned())
    ));
    assert!(left_alone(|node, _| node.deleting = true));
    assert!(left_alone(|_, machine| machine.role = Role::Unknown));
    assert!(left_alone(|_, machine| machine.role = Role::Agent));
}

#[test]
fn two_nodes_that_claim_one_machine_are_a_person_s_to_tell_apart() {
    let mut model = Model::wanting(0);
    model.settle();
    let (one, other) = (add_server(&mut model, 1), add_server(&mut model, 2));
    let claimed = model.observed.nodes[&one].provider_id.clone();
    model.observed.nodes.get_mut(&other).unwrap().provider_id = claimed;
    let step = model.step();
    assert!(adopted(&model).is_empty());
    assert!(
        unexplained(&step)[0].contains("is not the only Node of server 1"),
        "{step:?}"
    );
}

/// Where systems roll, a server that they can't reach would be left behind unsaid.
#[test]
fn a_server_without_a_machine_of_ours_is_named() {
    let mut model = Model::wanting(0);
    model.settle();
    let name = add_server(&mut model, 1);
    model.observed.nodes.get_mut(&name).unwrap().provider_id = None;
    assert_eq!(unexplained(&model.step()), Vec::<String>::new());
    model.desired.targets = serde_json::from_value(serde_json::json!({"workers": {"system": {
        "output": "/nix/store/00000000000000000000000000000000-a",
        "derivation": "/nix/store/00000000000000000000000000000000-a.drv",
        "kubernetes": "1.36.3+k3s1"}}}))
    .unwrap();
    let told = unexplained(&model.step());
    assert!(
        told[0].contains("no machine of this cluster at Hetzner stands for it"),
        "{told:?}"
    );
}

#[test]
fn a_node_that_was_made_anew_is_the_same_member() {
    let mut model = Model::wanting(0);
    let name = add_server(&mut model, 1);
    model.settle();
    let before = model.some_member().0;
    model.observed.nodes.get_mut(&name).unwrap().uid = "another".parse().unwrap();
    model.settle();
    assert_eq!(model.some_member().0, before);
    assert_eq!(adopted(&model)[0].uid.as_str(), "another");
}

#[test]
fn a_server_is_forgotten_when_its_machine_and_its_node_are_gone() {
    let mut model = Model::wanting(0);
    (1..=3).for_each(|n| drop(add_server(&mut model, n)));
    model.settle();
    let name: NodeName = "server-2".parse().unwrap();
    let node = model.observed.nodes.remove(&name).unwrap();
    model.settle();
    assert_eq!(adopted(&model).len(), 3, "its machine runs");
    model.observed.nodes.insert(name.clone(), node);
    model.observed.hetzner.servers.remove(&ServerId(2));
    model.tick();
    let step = model.step();
    assert_eq!(adopted(&model).len(), 3, "its Node is there");
    assert!(
        unexplained(&step)[0].contains("kubectl delete node"),
        "{step:?}"
    );
    model.observed.nodes.remove(&name);
    model.done.clear();
    model.settle();
    assert_eq!((adopted(&model).len(), model.done.len()), (2, 0));
}

/// The plan, and all that is done on the way there.
fn way(model: &mut Model) -> (serde_json::Value, Vec<(String, String)>) {
    let planned = plan(&model.desired, &model.observed, model.now);
    model.done.clear();
    model.settle();
    (serde_json::to_value(planned).unwrap(), model.done.clone())
}

fn wanting(desired: &Desired, from: u32, servers: u64) -> Model {
    let mut model = Model::wanting(from);
    model.desired.spec.limits = desired.spec.limits.clone();
    (1..=servers).for_each(|n| drop(add_server(&mut model, n)));
    model.settle();
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Workers come, go, die and lose their Nodes as if no server were a member; the sick among the servers too.
    #[test]
    fn servers_change_nothing_about_workers(
        from in 0..5_u32, to in 0..7_u32, lost in 0..4_usize, deleted in 0..6_usize,
        sick in 0..4_u64, max_unavailable in 1..3_u32,
    ) {
        let base = Model::wanting(from);
        let ways = [0, 3].map(|servers| {
            let mut model = wanting(&base.desired, from, servers);
            let workers: Vec<_> = model.observed.ledger.members.values()
                .filter(|m| m.role == Role::Agent)
                .map(|m| (m.name.clone(), m.server)).collect();
            for (_, server) in workers.iter().take(lost) {
                model.observed.hetzner.servers.remove(server);
            }
            for (name, _) in workers.iter().rev().take(deleted) {
                model.observed.nodes.remove(name);
            }
            for number in 1..=sick.min(servers) {
                let name: NodeName = format!("server-{number}").parse().unwrap();
                if number == 3 {
                    model.observed.nodes.remove(&name);
                } else {
                    model.observed.nodes.get_mut(&name).unwrap().ready = false;
                }
            }
            model.tick();
            let pool = model.pool();
            (pool.count, pool.max_unavailable) = (to, max_unavailable);
            way(&mut model)
        });
        let [without, with] = ways;
        prop_assert_eq!(without, with);
    }
}
