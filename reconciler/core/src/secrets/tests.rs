use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::id::PoolName;
use crate::observed::Observed;
use crate::spec;
use crate::system::Report;

const SPEC: &str = r#"
[cluster]
name = "demo"
[kubernetes]
version = "1.36.3+k3s1"
[hetzner]
token = { file = "secrets/hetzner.yaml", key = "token" }
[pools.workers]
count = 1
server-types = ["cx33"]
locations = ["fsn1"]
image = "debian-12"
[pools.others]
count = 1
server-types = ["cx33"]
locations = ["fsn1"]
image = "debian-12"
[secrets.vpn]
file = "secrets/vpn.yaml"
key = "key"
pools = ["workers"]
[secrets.registry]
file = "secrets/registry.yaml"
key = "password"
pools = ["others"]
"#;

/// One worker of the pool `workers`, `w-1`, and one of the pool `others`, `o-1`. Both have joined.
struct World {
    desired: Desired,
    observed: Observed,
}

impl World {
    fn new() -> Self {
        let node = |name: &str| {
            json!({"name": name, "uid": format!("uid-{name}"), "provider_id": null, "control_plane": false,
                "ready": true, "unschedulable": false, "cordoned_under": null, "deleting": false,
                "kubelet_version": "v1.36.3+k3s1", "labels": {}, "our_labels": []})
        };
        let member = |name: &str, pool: &str, server: u64| json!({"role": "agent", "pool": pool, "name": name, "server": server, "uid": format!("uid-{name}")});
        let ledger = json!({"schema": 1, "cluster": "abcdefgh01234567", "sequence": 5,
            "members": {"aaaaaa": member("w-1", "workers", 1), "bbbbbb": member("o-1", "others", 2)}});
        let observed = json!({"at": "2026-11-21T12:00:00Z", "hetzner": crate::observed::Hetzner::default(),
            "nodes": {"w-1": node("w-1"), "o-1": node("o-1")}, "pods": {}, "pinned": [], "tokens": [],
            "units": {}, "ledger": ledger, "deliveries": {}, "paused": null});
        let mut world = Self {
            desired: Desired {
                commit: "1".repeat(40).parse().unwrap(),
                spec: spec::parse("cluster.toml", SPEC).unwrap(),
                units: BTreeMap::new(),
                targets: BTreeMap::new(),
                sources: [
                    ("vpn".parse().unwrap(), "a".repeat(40)),
                    ("registry".parse().unwrap(), "b".repeat(40)),
                ]
                .into(),
            },
            observed: serde_json::from_value(observed).unwrap(),
        };
        world.says("w-1", Some('w'));
        world.says("o-1", Some('o'));
        world
    }

    fn says(&mut self, node: &str, letter: Option<char>) {
        let system = self.observed.systems.entry(node.parse().unwrap());
        let report = json!({"boot": "00000000-0000-0000-0000-000000000001",
            "running": "/nix/store/00000000000000000000000000000000-x"});
        let mut report = Report::read(&report).unwrap();
        report.recipient = letter.map(key);
        system.or_default().report = Some(report);
    }

    fn step(&self) -> Step {
        step(&self.desired, &self.observed)
    }

    /// Records and hands out until nothing is left to do.
    fn settle(&mut self) {
        for change in self.step().changes {
            self.observed.ledger.apply(&change, Timestamp::UNIX_EPOCH);
        }
        for effect in self.step().effects {
            if let Effect::DeliverSecrets { node, digest, .. } = effect {
                let deliveries = self.observed.deliveries.as_mut().unwrap();
                deliveries.insert(node.name, digest);
            }
        }
    }

    fn place(&mut self, node: &str) {
        let there = self.observed.deliveries.as_ref().unwrap()[&node.parse().unwrap()].clone();
        let system = self.observed.systems.get_mut(&node.parse().unwrap());
        system.unwrap().report.as_mut().unwrap().secrets = Some(there);
    }

    fn lacks(&self, id: &str) -> bool {
        let id = id.parse().unwrap();
        lacks(
            &self.desired,
            &self.observed,
            &id,
            &self.observed.ledger.members[&id],
        )
    }
}

fn key(letter: char) -> AgeRecipient {
    format!("age1{}", letter.to_string().repeat(58))
        .parse()
        .unwrap()
}

fn names(effects: &[Effect]) -> Vec<(String, Vec<&str>)> {
    let delivered = effects.iter().map(|effect| match effect {
        Effect::DeliverSecrets { secrets, .. } => (
            effect.target(),
            secrets.iter().map(SecretName::as_str).collect(),
        ),
        other => panic!("{other:?}"),
    });
    delivered.collect()
}

#[test]
fn a_key_is_recorded_first_and_each_node_gets_what_its_pool_may_have_and_nothing_else() {
    let mut world = World::new();
    let first = world.step();
    assert_eq!(
        first.effects,
        [],
        "nothing before it is written down for whom"
    );
    assert_eq!(first.changes.len(), 2);
    for change in &first.changes {
        world.observed.ledger.apply(change, Timestamp::UNIX_EPOCH);
    }
    let then = world.step();
    assert!(then.changes.is_empty() && then.holds.is_empty());
    assert_eq!(
        names(&then.effects),
        [
            ("w-1".to_owned(), vec!["vpn"]),
            ("o-1".to_owned(), vec!["registry"])
        ]
    );
    world.settle();
    assert!(world.step().effects.is_empty(), "it is there");
    assert!(world.lacks("aaaaaa") && are_under_way(&world.desired, &world.observed));
    assert_eq!(world.step().holds.len(), 2, "it is not placed yet");
    world.place("w-1");
    world.place("o-1");
    assert_eq!(world.step(), Step::default());
    assert!(!world.lacks("aaaaaa") && !are_under_way(&world.desired, &world.observed));
}

#[test]
fn another_blob_another_mode_or_another_key_is_another_delivery_and_another_commit_is_none() {
    let mut world = World::new();
    world.settle();
    world.desired.commit = "2".repeat(40).parse().unwrap();
    world.observed.ledger.sequence += 1;
    assert_eq!(world.step().effects, []);
    let vpn: SecretName = "vpn".parse().unwrap();
    world.desired.sources.insert(vpn.clone(), "c".repeat(40));
    assert_eq!(
        names(&world.step().effects),
        [("w-1".to_owned(), vec!["vpn"])]
    );
    world.settle();
    world.desired.spec.secrets.get_mut(&vpn).unwrap().mode = "0440".parse().unwrap();
    assert_eq!(world.step().effects.len(), 1);
    world.settle();
    world.desired.spec.secrets.get_mut(&vpn).unwrap().restart = vec!["a.service".to_owned()];
    assert_eq!(
        world.step().effects,
        [],
        "what is restarted is the system's concern"
    );
}

#[test]
fn a_node_that_says_another_key_later_gets_nothing_new_until_a_person_says_so() {
    let mut world = World::new();
    world.settle();
    world.place("w-1");
    world.says("w-1", Some('x'));
    world
        .desired
        .sources
        .insert("vpn".parse().unwrap(), "c".repeat(40));
    let step = world.step();
    assert_eq!((step.effects, step.changes), (Vec::new(), Vec::new()));
    let hold = step.holds.iter().find(|h| h.about == "node w-1").unwrap();
    assert_eq!(hold.reason, HoldReason::OtherKey);
    assert!(hold.message.contains("accept-recipient=age1xxx"), "{hold}");
    assert!(world.lacks("aaaaaa"), "nor is it updated");

    let id: IntentId = "aaaaaa".parse().unwrap();
    let record = Change::RecordRecipient {
        id: id.clone(),
        recipient: key('x'),
    };
    world.observed.ledger.apply(&record, Timestamp::UNIX_EPOCH);
    assert_eq!(
        world.observed.ledger.recipients[&id],
        key('w'),
        "recorded once"
    );

    let system = world
        .observed
        .systems
        .get_mut(&"w-1".parse().unwrap())
        .unwrap();
    system.accepts = Some(key('y'));
    assert_eq!(world.step().changes, [], "a person has said another one");
    let system = world
        .observed
        .systems
        .get_mut(&"w-1".parse().unwrap())
        .unwrap();
    system.accepts = Some(key('x'));
    world.settle();
    assert_eq!(world.observed.ledger.recipients[&id], key('x'));
    world.place("w-1");
    assert!(!world.lacks("aaaaaa"));
    world
        .observed
        .ledger
        .apply(&Change::Depart { id: id.clone() }, Timestamp::UNIX_EPOCH);
    assert!(!world.observed.ledger.recipients.contains_key(&id));
}

#[test]
fn a_key_that_another_node_has_is_none() {
    let mut world = World::new();
    world.settle();
    for (recorded, node) in [(true, "w-1"), (false, "w-1")] {
        if !recorded {
            world
                .observed
                .ledger
                .recipients
                .remove(&"aaaaaa".parse().unwrap());
        }
        world.says(node, Some('o'));
        let system = world
            .observed
            .systems
            .get_mut(&node.parse().unwrap())
            .unwrap();
        system.accepts = Some(key('o'));
        let step = world.step();
        assert_eq!(step.changes, []);
        let told = step.holds.iter().find(|h| h.about == "node w-1").unwrap();
        assert!(told.message.contains("that of node o-1"), "{told}");
    }
}

#[test]
fn of_two_that_say_one_key_at_once_one_is_recorded() {
    let mut world = World::new();
    world.says("w-1", Some('o'));
    for change in world.step().changes {
        world.observed.ledger.apply(&change, Timestamp::UNIX_EPOCH);
    }
    assert_eq!(world.observed.ledger.recipients.len(), 1);
    let told = &world.step().holds;
    assert!(
        told.iter().any(|h| h.reason == HoldReason::OtherKey),
        "{told:?}"
    );
}

#[test]
fn a_node_that_says_no_key_any_more_is_told_of_and_may_be_updated() {
    let mut world = World::new();
    world.settle();
    world.place("w-1");
    world.place("o-1");
    world.says("w-1", None);
    let step = world.step();
    assert_eq!((step.effects, step.changes), (Vec::new(), Vec::new()));
    assert!(
        step.holds[0]
            .message
            .contains("does not say its key any more"),
        "{step:?}",
        step = step.holds
    );
    assert!(are_under_way(&world.desired, &world.observed));
    assert!(!world.lacks("aaaaaa"));
}

#[test]
fn another_key_keeps_a_node_from_updates_also_where_its_pool_has_no_secrets() {
    let mut world = World::new();
    world.settle();
    world.place("w-1");
    world.desired.spec.secrets.clear();
    world.says("w-1", Some('x'));
    assert!(world.lacks("aaaaaa"));
}

#[test]
fn what_is_to_go_is_awaited_and_a_pool_that_goes_keeps_its_secrets_until_then() {
    let mut world = World::new();
    world.settle();
    world.place("w-1");
    world.place("o-1");
    let mut whole = world.desired.clone();
    world.desired.spec.secrets.clear();
    world.settle();
    assert!(are_under_way(&world.desired, &world.observed));
    world.place("w-1");
    world.place("o-1");
    assert!(!are_under_way(&world.desired, &world.observed));

    whole
        .spec
        .pools
        .remove(&"workers".parse::<PoolName>().unwrap());
    whole
        .spec
        .secrets
        .remove(&"vpn".parse::<SecretName>().unwrap());
    world.desired = whole;
    assert!(
        !names(&world.step().effects)
            .iter()
            .any(|(node, _)| node == "w-1")
    );
}

#[test]
fn an_agent_that_knows_of_no_secrets_is_told_of_and_holds_up_no_update() {
    let mut world = World::new();
    world.says("w-1", None);
    assert!(!world.lacks("aaaaaa"));
    let step = world.step();
    let hold = step.holds.iter().find(|h| h.about == "node w-1").unwrap();
    assert_eq!(hold.reason, HoldReason::Secrets);
    world.desired.spec.secrets.clear();
    assert_eq!(world.step().holds, []);
}

#[test]
fn who_is_to_have_none_any_more_is_told_so_and_who_never_had_any_is_not() {
    let mut world = World::new();
    world.settle();
    let workers: PoolName = "workers".parse().unwrap();
    world
        .desired
        .spec
        .secrets
        .retain(|_, s| s.pools.contains(&workers));
    assert_eq!(names(&world.step().effects), [("o-1".to_owned(), vec![])]);
    world.settle();
    assert!(
        !names(&world.step().effects)
            .iter()
            .any(|(node, _)| node == "o-1")
    );
    world.observed.deliveries = Some(BTreeMap::new());
    assert_eq!(
        names(&world.step().effects),
        [("w-1".to_owned(), vec!["vpn"])]
    );
    world.observed.deliveries = None;
    assert_eq!(
        world.step().effects,
        [],
        "what lies ready could not be read"
    );
}

#[test]
fn another_node_of_the_same_name_gets_nothing() {
    let mut world = World::new();
    world.settle();
    let node = world
        .observed
        .nodes
        .get_mut(&"w-1".parse().unwrap())
        .unwrap();
    node.uid = "another".parse().unwrap();
    world
        .desired
        .sources
        .insert("vpn".parse().unwrap(), "c".repeat(40));
    assert!(
        !names(&world.step().effects)
            .iter()
            .any(|(node, _)| node == "w-1")
    );
}
