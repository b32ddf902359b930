//! Servers that are machines of the user's own: taken in by their names, and never made, taken away or believed gone.

mod model;
mod own_servers {
    mod joining;
}

use fabrik_core::hold::HoldReason;
use fabrik_core::id::{NodeName, ServerId};
use fabrik_core::observed::{Hetzner, Node};
use fabrik_core::spec::Machine;
use model::Model;

const NAME: &str = "demo-servers-attic";

fn machine() -> Machine {
    Machine {
        address: "192.168.1.20".to_owned(),
        port: 22,
        user: "root".to_owned(),
        host_key: "ssh-ed25519 AAAA".to_owned(),
        disk: "/dev/disk/by-id/nvme-1".to_owned(),
        node_ip: "192.168.1.20".parse().unwrap(),
    }
}

/// A cluster without a project, whose only server is a machine of the user's own.
fn world() -> Model {
    let mut model = Model::wanting(0);
    let spec = &mut model.desired.spec;
    (spec.hetzner, spec.pools) = (None, std::collections::BTreeMap::new());
    spec.own_servers.insert("attic".parse().unwrap(), machine());
    model.observed.hetzner = Hetzner::unseen(&model.observed.ledger);
    model
}

fn own(model: &Model, name: &str) -> ServerId {
    ServerId::of_machine(&model.observed.ledger.cluster, &name.parse().unwrap())
}

fn joins(model: &mut Model, name: &str, provider_id: String) {
    let name: NodeName = name.parse().unwrap();
    let node = Node {
        name: name.clone(),
        uid: format!("uid-{name}").parse().unwrap(),
        provider_id: Some(provider_id),
        control_plane: true,
        ready: true,
        unschedulable: false,
        cordoned_under: None,
        deleting: false,
        heard: None,
        lease_unread: false,
        kubelet_version: "v1.36.3+k3s1".to_owned(),
        labels: std::collections::BTreeMap::new(),
        our_labels: std::collections::BTreeSet::new(),
    };
    model.observed.nodes.insert(name, node);
}

#[test]
fn a_named_machine_is_waited_for_and_taken_in_by_its_name() {
    let mut model = world();
    let step = model.step();
    assert_eq!(step.effects, []);
    let holds: Vec<_> = step
        .holds
        .iter()
        .map(|h| (h.about.as_str(), h.reason))
        .collect();
    assert_eq!(holds, [("node demo-servers-attic", HoldReason::NotJoined)]);

    let its_own = own(&model, NAME);
    joins(&mut model, NAME, its_own.provider_id());
    let step = model.step();
    assert_eq!((step.effects, step.holds), (vec![], vec![]));
    let members = &model.observed.ledger.members;
    let members: Vec<_> = members
        .values()
        .map(|m| (m.name.as_str(), m.server))
        .collect();
    assert_eq!(members, [(NAME, its_own)]);
    assert_eq!(
        model.observed.ledger.known_servers().count(),
        0,
        "none is at Hetzner"
    );
}

#[test]
fn another_name_or_another_machine_s_id_is_none_of_them() {
    for (name, of) in [
        (NAME, "demo-servers-cellar"),
        ("demo-servers-cellar", NAME),
        ("demo-servers-cellar", "demo-servers-cellar"),
    ] {
        let mut model = world();
        let id = own(&model, of).provider_id();
        joins(&mut model, name, id);
        model.step();
        assert!(model.observed.ledger.members.is_empty(), "{name} as {of}");
    }
}

#[test]
fn only_a_person_ends_one_by_both_words() {
    let mut model = world();
    let id = own(&model, NAME).provider_id();
    joins(&mut model, NAME, id);
    model.step();
    let node = model.observed.nodes.clone();
    // Its Node is gone, and it is wanted still.
    model.observed.nodes.clear();
    model.step();
    assert_eq!(model.observed.ledger.members.len(), 1);
    // It is not wanted any more, and its Node is there.
    model.observed.nodes = node;
    model.desired.spec.own_servers.clear();
    let step = model.step();
    assert_eq!(step.effects, []);
    let told: Vec<_> = step.holds.iter().map(|hold| hold.reason).collect();
    assert_eq!(told, [HoldReason::ByHand], "{:?}", step.holds);
    assert_eq!(model.observed.ledger.members.len(), 1);
    model.observed.nodes.clear();
    model.step();
    assert_eq!(model.observed.ledger.members.len(), 0);
}

/// Three of them with etcd, and the first one is named no more.
fn three() -> Model {
    let mut model = world();
    for name in ["attic", "barn", "cellar"] {
        let spec = &mut model.desired.spec;
        spec.own_servers.insert(name.parse().unwrap(), machine());
        let node = format!("demo-servers-{name}");
        let id = own(&model, &node);
        joins(&mut model, &node, id.provider_id());
        model.votes_as(id, &node);
    }
    model.step();
    assert_eq!(model.observed.ledger.members.len(), 3);
    model
        .desired
        .spec
        .own_servers
        .remove(&"attic".parse().unwrap());
    model
}

fn is_off(model: &mut Model, name: &str) {
    let node: NodeName = format!("demo-servers-{name}").parse().unwrap();
    model.observed.nodes.get_mut(&node).unwrap().ready = false;
    let mut members = model.etcd().iter_mut();
    members.find(|m| m.is_of(&node)).unwrap().healthy = false;
}

fn told_of_attic(model: &mut Model) -> (HoldReason, String) {
    let step = model.step();
    assert_eq!(step.effects, []);
    let about = format!("node {NAME}");
    let mut holds = step.holds.into_iter().filter(|hold| hold.about == about);
    let hold = holds.next().unwrap();
    assert_eq!(holds.next(), None);
    (hold.reason, hold.message)
}

#[test]
fn a_person_is_told_to_end_one_only_while_etcd_can_do_without_it() {
    let delete = format!("`kubectl delete node {NAME}`");
    let mut model = three();
    let (reason, message) = told_of_attic(&mut model);
    assert_eq!(reason, HoldReason::ByHand);
    assert!(
        message.contains("can do without it now: power it off"),
        "{message}"
    );
    assert!(message.contains(&delete), "{message}");

    is_off(&mut model, "attic");
    let (reason, message) = told_of_attic(&mut model);
    assert_eq!(reason, HoldReason::ByHand);
    assert!(
        message.contains("not heard of") && message.contains(&delete),
        "{message}"
    );

    let mut model = three();
    is_off(&mut model, "barn");
    let (reason, message) = told_of_attic(&mut model);
    assert_eq!(reason, HoldReason::Quorum);
    assert!(
        message.contains("Leave it on, and its Node alone"),
        "{message}"
    );
    assert!(
        message.contains("1 of 3 etcd members would be healthy"),
        "{message}"
    );
    assert!(!message.contains(&delete), "{message}");
}

#[test]
fn a_node_that_is_being_deleted_is_told_as_leaving_etcd() {
    let node: NodeName = NAME.parse().unwrap();
    for (barn_is_off, said) in [(false, "it leaves etcd"), (true, "That is no good time")] {
        let mut model = three();
        let spec = &mut model.desired.spec;
        spec.own_servers.insert("attic".parse().unwrap(), machine());
        model.observed.nodes.get_mut(&node).unwrap().deleting = true;
        if barn_is_off {
            is_off(&mut model, "barn");
        }
        let (reason, message) = told_of_attic(&mut model);
        assert_eq!(reason, HoldReason::Quorum);
        assert!(
            message.contains("is being deleted") && message.contains(said),
            "{message}"
        );
    }
}
