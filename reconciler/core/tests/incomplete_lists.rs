//! Servers that Hetzner's lists do not show as the ledger knows them, and what waits for it.

mod model;

use std::collections::BTreeSet;

use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::{IntentId, ServerId};
use fabrik_core::observed::Power;
use fabrik_core::step::Step;
use jiff::SignedDuration;
use model::Model;

#[test]
fn servers_that_the_lists_lack_are_left_alone_and_the_rest_goes_on() {
    let mut model = Model::wanting(6);
    model.settle();
    model.done.clear();
    let lost: Vec<(IntentId, ServerId)> = model
        .observed
        .ledger
        .members
        .iter()
        .take(4)
        .map(|(id, m)| (id.clone(), m.server))
        .collect();
    for (number, (id, server)) in lost.iter().enumerate() {
        let name = model.observed.ledger.members[id].name.clone();
        model.observed.hetzner.servers.remove(server);
        model.observed.hetzner.missing.insert(*server);
        model.observed.nodes.get_mut(&name).unwrap().ready = false;
        if number == 0 {
            model.observed.nodes.remove(&name);
        }
    }

    model.pool().count = 7;
    model.settle();
    let verbs: Vec<&str> = model.done.iter().map(|(verb, _)| verb.as_str()).collect();
    assert_eq!(verbs, ["create-server", "label-node"], "scaled up by one");
    let step = model.step();
    assert_eq!(model.observed.ledger.members.len(), 7);
    let ids: Vec<String> = lost.iter().map(|(_, server)| server.to_string()).collect();
    let ids = ids.into_iter().collect::<BTreeSet<_>>();
    let ids = ids.into_iter().collect::<Vec<_>>().join(",");
    let way_out =
        format!("kubectl annotate --overwrite fabrikcluster demo fabrik.dev/confirm-gone={ids}");
    let [hold] = held(&step, HoldReason::Unexplained)[..] else {
        panic!("{step:?}")
    };
    assert!(hold.message.contains(&way_out), "{hold}");

    model.pool().count = 6;
    let step = model.step();
    assert!(model.observed.ledger.tickets.is_empty(), "{step:?}");
    assert_eq!(step.effects, []);

    model.observed.hetzner.missing.clear();
    model.tick();
    model.settle();
    assert_eq!(model.servers(), 6);
    model.nothing_is_left_over();
}

#[test]
fn a_departure_whose_server_the_lists_lack_waits() {
    let mut model = Model::wanting(2);
    model.settle();
    model.pool().count = 1;
    let cordon = model.step();
    model.act(&cordon.effects[0]);
    model.tick();
    let ticket = model.observed.ledger.tickets.values().next().unwrap();
    let server = ticket.server;
    model.observed.nodes.remove(&ticket.node.clone());
    model.observed.hetzner.servers.remove(&server);
    model.observed.hetzner.missing.insert(server);
    model.tick();
    let step = model.step();
    assert_eq!(step.effects, []);
    assert_eq!(model.observed.ledger.members.len(), 2);
    let waits = |h: &&Hold| h.about.starts_with("node ") && h.message.contains("lists lack");
    assert_eq!(step.holds.iter().filter(waits).count(), 1, "{step:?}");
}

/// A create whose reply was lost may stand behind an intent without a server.
#[test]
fn no_intent_is_forgotten_while_the_lists_are_incomplete() {
    let mut model = Model::wanting(1);
    model.step();
    model.observed.hetzner.missing.insert(ServerId(1));
    model.pool().count = 0;
    model.step();
    model.now += SignedDuration::from_mins(5);
    model.step();
    assert_eq!(model.observed.ledger.intents.len(), 1);
    model.observed.hetzner.missing.clear();
    model.step();
    assert!(model.observed.ledger.intents.is_empty());
}

#[test]
fn a_server_is_called_late_only_when_its_join_token_has_ended() {
    let mut model = with_one_server_coming();
    model.now += SignedDuration::from_mins(19);
    assert_eq!(model.step().holds, []);
    model.now += SignedDuration::from_mins(2);
    let step = model.step();
    assert_eq!(held(&step, HoldReason::NotJoined).len(), 1, "{step:?}");
}

#[test]
fn a_server_that_lost_its_labels_is_named_with_those_it_should_bear() {
    let mut coming = with_one_server_coming();
    coming.step();
    let mut joined = Model::wanting(1);
    joined.settle();
    for mut model in [coming, joined] {
        let (id, server) = model.observed.hetzner.servers.pop_first().unwrap();
        let step = model.step();
        assert_eq!(step.effects, []);
        let [hold] = held(&step, HoldReason::Unexplained)[..] else {
            panic!("{step:?}")
        };
        let intent = server.intent.unwrap();
        for part in [
            id.to_string(),
            "fabrik.dev/cluster=abcdefgh01234567".to_owned(),
            "fabrik.dev/pool=workers".to_owned(),
            format!("fabrik.dev/intent={intent}"),
        ] {
            assert!(hold.message.contains(&part), "{part}: {hold}");
        }
    }
}

#[test]
fn a_machine_that_stays_between_on_and_off_is_reported() {
    let mut leaving = Model::wanting(1);
    leaving.settle();
    leaving.pool().count = 0;
    let cordon = leaving.step();
    leaving.act(&cordon.effects[0]);
    let mut cancelled = with_one_server_coming();
    cancelled.step();
    cancelled.pool().count = 0;
    cancelled.step();
    cancelled.observed.tokens.clear();
    for mut model in [leaving, cancelled] {
        for server in model.observed.hetzner.servers.values_mut() {
            server.power = Power::Changing;
        }
        assert_eq!(model.step(), Step::default());
        model.now += SignedDuration::from_mins(11);
        let step = model.step();
        assert_eq!(step.effects, []);
        assert_eq!(step.holds.len(), 1, "{step:?}");
        assert!(step.holds[0].message.contains("between on and off"));
    }
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
