//! Requests that come late, or are never heard, while servers come and go.

mod model;

use fabrik_core::effect::Effect;
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::{NodeName, ServerId};
use fabrik_core::step::Step;
use jiff::SignedDuration;

use self::model::Model;

fn held(step: &Step, reason: HoldReason) -> &Hold {
    step.holds.iter().find(|h| h.reason == reason).unwrap()
}

/// One of `count` servers is to leave whatever comes; the word to end its k3s is about to be sent.
fn one_retires(count: u32) -> (Model, Effect) {
    let mut model = Model::with_servers(count);
    model.want_servers(count - 1);
    loop {
        let step = model.step();
        if let [stop @ Effect::StopK3s { .. }] = step.effects.as_slice() {
            return (model, stop.clone());
        }
        step.effects.iter().for_each(|e| model.act(e));
        model.tick();
    }
}

#[test]
fn the_word_to_end_k3s_is_good_for_half_a_minute_and_said_anew_where_it_came_late() {
    let (mut model, Effect::StopK3s { node, retirement }) = one_retires(5) else {
        unreachable!("it is told to stop")
    };
    let half_a_minute = SignedDuration::from_secs(30);
    let until = model.observed.at + half_a_minute;
    assert_eq!(retirement.not_after, Some(until));
    assert!(!retirement.is_late(until) && retirement.is_late(until + SignedDuration::from_secs(1)));
    let system = model.observed.systems.get_mut(&node.name).unwrap();
    system.retirement = Some(retirement);
    assert_eq!(model.step().effects, [], "it was told");
    model.now += half_a_minute * 2;
    let step = model.step();
    let [Effect::StopK3s { retirement, .. }] = step.effects.as_slice() else {
        panic!("{step:?}")
    };
    assert_eq!(
        retirement.not_after,
        Some(model.observed.at + half_a_minute)
    );
    // By then the others can't do without it.
    model
        .observed
        .systems
        .get_mut(&node.name)
        .unwrap()
        .retirement = None;
    for member in model
        .etcd()
        .iter_mut()
        .filter(|m| !m.is_of(&node.name))
        .take(2)
    {
        member.healthy = false;
    }
    let step = model.step();
    assert_eq!(step.effects, []);
    held(&step, HoldReason::Quorum);
}

#[test]
fn of_two_servers_one_may_hear_it_whenever_it_does() {
    let (mut model, Effect::StopK3s { retirement, .. }) = one_retires(2) else {
        unreachable!("it is told that it starts no more")
    };
    assert_eq!((retirement.stops, retirement.not_after), (false, None));
    // Its agent was away, and is back.
    model.now += SignedDuration::from_mins(10);
    let step = model.step();
    assert!(matches!(step.effects.as_slice(), [Effect::StopK3s { .. }]));
}

#[test]
fn a_server_that_is_gone_leaves_etcd_before_one_that_could_not_be_stopped_without_it() {
    let (mut model, _) = one_retires(4);
    let ticket = model.observed.ledger.tickets.values().next().unwrap();
    let gone = (1..=4).find(|id| ServerId(*id) != ticket.server).unwrap();
    let lost: NodeName = format!("server-{gone}").parse().unwrap();
    model.observed.hetzner.servers.remove(&ServerId(gone));
    model.observed.nodes.get_mut(&lost).unwrap().ready = false;
    let mut members = model.etcd().iter_mut();
    members.find(|m| m.is_of(&lost)).unwrap().healthy = false;
    model.tick();
    model.done.clear();
    model.settle();
    let first = ("remove-etcd-member".to_owned(), lost.to_string());
    assert_eq!(model.done[0], first);
    assert_eq!(
        model.observed.hetzner.servers.len(),
        3,
        "one was made in its place"
    );
}

#[test]
fn a_server_that_is_called_off_joins_only_when_no_power_off_of_it_is_on_its_way() {
    let mut model = Model::with_servers(3);
    model.want_servers(5);
    while !model.done.iter().any(|(verb, _)| verb == "create-server") {
        let step = model.step();
        step.effects.iter().for_each(|e| model.act(e));
        model.tick();
    }
    let mut servers = model.observed.hetzner.servers.values();
    let joiner = servers.find(|s| s.intent.is_some()).unwrap().clone();
    model.want_servers(3);
    let step = model.step();
    assert!(matches!(step.effects.as_slice(), [Effect::PowerOff { .. }]));
    // It votes before that lands.
    model.join(&joiner);
    model.votes(&joiner);
    model.done.clear();
    let asked = model.now;
    while model
        .observed
        .ledger
        .intents
        .values()
        .any(|i| i.cancelled.is_some())
    {
        let step = model.step();
        let waits = step.changes.is_empty() && step.effects.is_empty();
        if model.now.duration_since(asked) <= SignedDuration::from_mins(1) {
            assert!(waits, "{step:?}");
            held(&step, HoldReason::Settling);
        }
        step.effects.iter().for_each(|e| model.act(e));
        model.tick();
    }
    model.settle();
    let verbs: Vec<&str> = model.done.iter().map(|(verb, _)| verb.as_str()).collect();
    let way_out = [
        "cordon",
        "stop-k3s",
        "remove-etcd-member",
        "power-off",
        "delete-node",
        "delete-server",
    ];
    assert_eq!(verbs, way_out, "it is drained first");
    assert_eq!(model.observed.hetzner.servers.len(), 3);
}
