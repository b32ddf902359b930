//! Whether one more may join is asked by a person, and decided by what all servers and etcd are like.

use fabrik_core::id::MachineName;
use fabrik_core::join::{Asked, Claim, Refusal, Verdict, hash, judge};
use fabrik_core::ledger::Change;
use fabrik_core::observed::{Datastore, Node};
use fabrik_core::quorum::Member;
use fabrik_core::servers::own::may_join;
use fabrik_core::step::Step;
use jiff::SignedDuration;

use crate::model::Model;
use crate::{NAME, joins, own, world};

const CELLAR: &str = "demo-servers-cellar";
const ADDRESS: &str = "192.168.1.21";

/// One server is there and votes, and a second one is named.
fn wanting_cellar() -> Model {
    let mut model = world();
    let attic = own(&model, NAME);
    joins(&mut model, NAME, attic.provider_id());
    votes(&mut model, NAME);
    let mut machine = model
        .desired
        .spec
        .own_servers
        .values()
        .next()
        .unwrap()
        .clone();
    machine.node_ip = ADDRESS.parse().unwrap();
    let names = &mut model.desired.spec.own_servers;
    names.insert(cellar(), machine);
    model.step();
    model
}

fn votes(model: &mut Model, name: &str) {
    let member = Member {
        id: 1 + model.etcd().len() as u64,
        address: None,
        name: name.to_owned(),
        node: Some(name.parse().unwrap()),
        learner: false,
        healthy: true,
        leader: model.etcd().is_empty(),
        lag: 0,
        alarms: Vec::new(),
    };
    model.etcd().push(member);
}

/// A person asks for it, and has given it a nonce.
fn asks(model: &mut Model, node: &str, nonce: &str) {
    model.observed.asked = Some(Asked {
        node: node.parse().unwrap(),
        hash: hash(nonce.as_bytes()),
        until: model.now + SignedDuration::from_mins(20),
    });
}

fn claim(nonce: &str, source: &str) -> Claim {
    Claim {
        hash: hash(nonce.as_bytes()),
        node: CELLAR.parse().unwrap(),
        recipient: "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
            .parse()
            .unwrap(),
        source: source.parse().unwrap(),
    }
}

/// What the step says of a node.
fn said(step: &Step, node: &str) -> String {
    let about = format!("node {node}");
    let holds = step.holds.iter().filter(|hold| hold.about == about);
    let said: Vec<&str> = holds.map(|hold| hold.message.as_str()).collect();
    said.join("\n")
}

fn is_coming(model: &Model) -> bool {
    let intents = &model.observed.ledger.intents;
    intents
        .values()
        .any(|intent| intent.name.as_str() == CELLAR)
}

#[test]
fn one_that_a_person_asks_for_is_awaited_given_its_keys_at_its_address_and_counts_when_it_votes() {
    let mut model = wanting_cellar();
    let told = said(&model.step(), CELLAR);
    assert!(told.contains("run `fabrik install cellar`"), "{told}");
    assert!(!is_coming(&model), "nobody has asked for it");

    asks(&mut model, CELLAR, "a nonce");
    let told = said(&model.step(), CELLAR);
    assert_eq!(told, "is on its way in: its Node has not joined");
    let refused =
        |claim: &Claim, model: &Model| match judge(claim, &model.observed.ledger, &[], model.now) {
            Verdict::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        };
    let elsewhere = refused(&claim("a nonce", "192.168.1.66"), &model);
    assert!(
        matches!(elsewhere, Refusal::OtherAddress { .. }),
        "{elsewhere}"
    );
    let unknown = refused(&claim("another", ADDRESS), &model);
    assert_eq!(unknown, Refusal::Unknown);
    let verdict = judge(
        &claim("a nonce", ADDRESS),
        &model.observed.ledger,
        &[],
        model.now,
    );
    let Verdict::Answer {
        change: Some(change),
        ..
    } = verdict
    else {
        panic!("{verdict:?}");
    };
    model.observed.ledger.apply(&change, model.now);

    let cellar = own(&model, CELLAR);
    joins(&mut model, CELLAR, cellar.provider_id());
    let told = said(&model.step(), CELLAR);
    assert_eq!(told, "is on its way in: it is no etcd member");
    votes(&mut model, CELLAR);
    model.etcd()[1].learner = true;
    let told = said(&model.step(), CELLAR);
    assert_eq!(told, "is on its way in: it is still an etcd learner");
    model.etcd()[1].learner = false;
    let step = model.step();
    assert_eq!((step.effects, step.holds), (vec![], vec![]));
    assert_eq!(model.observed.ledger.members.len(), 2);
    assert!(
        model.observed.ledger.nonces.is_empty(),
        "its nonce ends with it"
    );
    assert!(!is_coming(&model), "who has joined is asked for no more");
}

#[test]
fn while_anything_is_not_well_nobody_is_let_in_and_it_says_what() {
    type Trouble = fn(&mut Model);
    let troubles: [(Trouble, &str); 9] = [
        (
            |m| m.etcd()[0].learner = true,
            "etcd member demo-servers-attic is still a learner",
        ),
        (
            |m| m.etcd()[0].healthy = false,
            "etcd member demo-servers-attic is not healthy",
        ),
        (|m| m.etcd()[0].node = None, "belongs to no Node"),
        (
            |m| m.observed.datastore = Datastore::Unread,
            "etcd was not read",
        ),
        (
            |m| attic(m).ready = false,
            "server demo-servers-attic is not Ready",
        ),
        (|m| attic(m).unschedulable = true, "or is cordoned"),
        (
            |m| joins(m, "stranger", "hcloud://1".to_owned()),
            "server stranger is no member",
        ),
        (
            |m| m.desired.spec.kubernetes.version = "1.37.0+k3s1".to_owned(),
            "the servers run k3s 1.36 and the commit in force has 1.37.0+k3s1",
        ),
        (
            |m| drop(m.desired.spec.own_servers.remove(&cellar())),
            "[servers.machines] of the commit in force does not name it",
        ),
    ];
    for (trouble, why) in troubles {
        let mut model = wanting_cellar();
        trouble(&mut model);
        asks(&mut model, CELLAR, "a nonce");
        let step = model.step();
        let told = step.holds.iter().map(ToString::to_string);
        let told: String = told.collect::<Vec<_>>().join("\n");
        assert!(
            told.contains("may not become a server now") && told.contains(why),
            "{why}: {told}"
        );
        assert!(!is_coming(&model), "{why}");
        let node = CELLAR.parse().unwrap();
        let hold = may_join(&model.desired.spec, &node, &model.observed).unwrap_err();
        assert!(hold.message.contains(why), "{}", hold.message);
    }
}

fn cellar() -> MachineName {
    "cellar".parse().unwrap()
}

fn attic(model: &mut Model) -> &mut Node {
    model
        .observed
        .nodes
        .get_mut(&NAME.parse().unwrap())
        .unwrap()
}

#[test]
fn one_at_a_time_whoever_is_asked_for() {
    let mut model = wanting_cellar();
    let machine = model
        .desired
        .spec
        .own_servers
        .values()
        .next()
        .unwrap()
        .clone();
    let names = &mut model.desired.spec.own_servers;
    names.insert("roof".parse().unwrap(), machine);
    asks(&mut model, CELLAR, "a nonce");
    model.step();
    asks(&mut model, "demo-servers-roof", "another");
    let told = said(&model.step(), "demo-servers-roof");
    assert!(
        told.contains("one at a time, and demo-servers-cellar is on its way"),
        "{told}"
    );
    assert_eq!(model.observed.ledger.nonces.len(), 1);
}

#[test]
fn what_nobody_asks_for_any_more_is_forgotten_only_where_nothing_of_it_is_there() {
    let mut model = wanting_cellar();
    asks(&mut model, CELLAR, "a nonce");
    model.step();
    model.now += SignedDuration::from_mins(21);
    votes(&mut model, CELLAR);
    model.etcd()[1].node = None;
    let told = said(&model.step(), CELLAR);
    assert!(
        told.contains("longer than it should") && told.contains("etcdctl member remove"),
        "{told}"
    );
    assert!(is_coming(&model));
    // Its place is known while etcd can't be read.
    model.observed.datastore = Datastore::Unread;
    model.step();
    assert!(is_coming(&model));
    model.observed.datastore = world().observed.datastore;
    votes(&mut model, NAME);
    model.step();
    assert!(!is_coming(&model));
    // What was asked for then does not count any more, nor does what a clock of tomorrow has written.
    model.now -= SignedDuration::from_hours(2);
    model.step();
    assert!(!is_coming(&model));
}

#[test]
fn the_same_machine_is_told_anew_and_the_nonce_of_before_is_worth_nothing() {
    let mut model = wanting_cellar();
    asks(&mut model, CELLAR, "a nonce");
    model.step();
    asks(&mut model, CELLAR, "another");
    model.step();
    let verdict = |nonce| {
        judge(
            &claim(nonce, ADDRESS),
            &model.observed.ledger,
            &[],
            model.now,
        )
    };
    assert_eq!(verdict("a nonce"), Verdict::Refused(Refusal::Unknown));
    assert!(matches!(verdict("another"), Verdict::Answer { .. }));
}

#[test]
fn a_nonce_that_two_have_shown_lets_nobody_in_again() {
    let mut model = wanting_cellar();
    asks(&mut model, CELLAR, "a nonce");
    model.step();
    let (id, _) = model.observed.ledger.intents.first_key_value().unwrap();
    let alarm = Change::Alarm { id: id.clone() };
    model.observed.ledger.apply(&alarm, model.now);
    let cellar = own(&model, CELLAR);
    joins(&mut model, CELLAR, cellar.provider_id());
    votes(&mut model, CELLAR);
    let told = said(&model.step(), CELLAR);
    assert!(
        told.contains("is not let in: two machines have shown its nonce"),
        "{told}"
    );
    assert_eq!(model.observed.ledger.members.len(), 1);
    assert!(model.observed.ledger.nonces.is_empty());
}

#[test]
fn one_that_was_lost_is_installed_anew_in_its_place() {
    let mut model = wanting_cellar();
    asks(&mut model, CELLAR, "a nonce");
    model.step();
    let cellar = own(&model, CELLAR);
    joins(&mut model, CELLAR, cellar.provider_id());
    votes(&mut model, CELLAR);
    model.step();
    // It has died, and a person has deleted its Node: k3s takes its member away with it.
    asks(&mut model, CELLAR, "another");
    let node = model.observed.nodes.remove(&CELLAR.parse().unwrap());
    model.etcd()[1].node = None;
    let told = said(&model.step(), CELLAR);
    assert!(told.contains("belongs to no Node"), "{told}");
    model.etcd().truncate(1);
    let told = said(&model.step(), CELLAR);
    assert_eq!(told, "is on its way in: its Node has not joined");
    assert_eq!(model.observed.ledger.members.len(), 1);
    let mut node = node.unwrap();
    node.uid = "uid-anew".parse().unwrap();
    model.observed.nodes.insert(node.name.clone(), node);
    votes(&mut model, CELLAR);
    model.step();
    let members = model.observed.ledger.members.values();
    assert_eq!(members.filter(|m| m.uid.as_str() == "uid-anew").count(), 1);
    assert_eq!(model.observed.ledger.members.len(), 2);
}

#[test]
fn one_that_is_taken_out_of_the_file_on_its_way_is_given_nothing() {
    let mut model = wanting_cellar();
    asks(&mut model, CELLAR, "a nonce");
    model.step();
    model.desired.spec.own_servers.remove(&cellar());
    model.step();
    let verdict = judge(
        &claim("a nonce", ADDRESS),
        &model.observed.ledger,
        &[],
        model.now,
    );
    assert_eq!(verdict, Verdict::Refused(Refusal::Unknown));
}
