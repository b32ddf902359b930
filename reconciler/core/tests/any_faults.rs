//! Whatever happens to a cluster from outside, in any order: the rules hold, and what the holds say leads out.

mod model;

use std::collections::BTreeSet;

use fabrik_core::id::NodeName;
use jiff::SignedDuration;
use model::Model;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever strikes, the model's own rules hold (S5, S6, no Node deleted under a running machine); and when a
    /// person has done what the holds say, there is what was asked for and nothing else.
    #[test]
    fn any_sequence_of_faults_ends_well(
        faults in prop::collection::vec((any_fault(), any::<usize>(), any::<bool>()), 1..60),
    ) {
        let mut model = Model::wanting(4);
        model.settle();
        for (fault, which, carried_out) in faults {
            fault.strike(which, &mut model);
            let step = model.step();
            for effect in step.effects.iter().filter(|_| carried_out) {
                model.act(effect);
            }
            model.join_all();
        }
        as_the_holds_say(&mut model);
        prop_assert_eq!(model.servers(), model.pool().count as usize);
        model.nothing_is_left_over();
    }
}

/// What may happen to a cluster from outside, each to some machine.
#[derive(Debug, Clone, Copy)]
enum Fault {
    NodeDeleted,
    NodeMadeAnew,
    Hangs,
    ServerDeleted,
    ListsLackIt,
    ListsWhole,
    VolumeComes,
    VolumesGo,
    Cordoned,
    Uncordoned,
    Hour,
    Count(u32),
}

impl Fault {
    fn strike(self, which: usize, model: &mut Model) {
        let servers = &mut model.observed.hetzner.servers;
        let Some(id) = servers.keys().nth(which % servers.len().max(1)).copied() else {
            return;
        };
        let name: NodeName = servers[&id].name.parse().unwrap();
        let node = model.observed.nodes.get_mut(&name);
        match (self, node) {
            (Self::NodeDeleted, _) => drop(model.observed.nodes.remove(&name)),
            (Self::NodeMadeAnew, Some(node)) => {
                node.uid = format!("anew-{}", model.now).parse().unwrap();
                node.unschedulable = false;
                node.cordoned_under = None;
            }
            (Self::Hangs, Some(node)) => node.ready = false,
            (Self::ServerDeleted, node) => {
                servers.remove(&id);
                if let Some(node) = node {
                    node.ready = false;
                }
            }
            (Self::ListsLackIt, _) => {
                model.away.extend(servers.remove_entry(&id));
                model.observed.hetzner.missing.insert(id);
            }
            (Self::ListsWhole, _) => model.lists_are_whole(),
            (Self::VolumeComes, _) => drop(model.observed.pinned.insert(name)),
            (Self::VolumesGo, _) => model.observed.pinned.clear(),
            (Self::Cordoned, Some(node)) if node.cordoned_under.is_none() => {
                node.unschedulable = true;
                model.cordoned_by_others.insert(name);
            }
            (Self::Uncordoned, Some(node)) => {
                node.unschedulable = false;
                model.cordoned_by_others.remove(&name);
            }
            (Self::Hour, _) => model.now += SignedDuration::from_hours(1),
            (Self::Count(count), _) => model.pool().count = count,
            _ => {}
        }
    }
}

fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::NodeDeleted),
        Just(Fault::NodeMadeAnew),
        Just(Fault::Hangs),
        Just(Fault::ServerDeleted),
        Just(Fault::ListsLackIt),
        Just(Fault::ListsWhole),
        Just(Fault::VolumeComes),
        Just(Fault::VolumesGo),
        Just(Fault::Cordoned),
        Just(Fault::Uncordoned),
        Just(Fault::Hour),
        (0u32..6).prop_map(Fault::Count),
    ]
}

fn as_the_holds_say(model: &mut Model) {
    model.lists_are_whole();
    model.observed.pinned.clear();
    for name in std::mem::take(&mut model.cordoned_by_others) {
        if let Some(node) = model.observed.nodes.get_mut(&name) {
            node.unschedulable = false;
        }
    }
    let members = model.observed.ledger.members.clone();
    for member in members.values() {
        let nodes = &mut model.observed.nodes;
        let anew = nodes.get(&member.name).is_some_and(|n| n.uid != member.uid);
        if anew || !nodes.contains_key(&member.name) {
            nodes.remove(&member.name);
            model.observed.hetzner.servers.remove(&member.server);
        }
        model.tick();
        model.settle();
    }
    for _ in 0..3 {
        model.now += SignedDuration::from_hours(2);
        model.settle();
        let late = model.observed.ledger.intents.values();
        for server in late.filter_map(|i| i.server).collect::<Vec<_>>() {
            model.observed.hetzner.servers.remove(&server);
        }
        model.tick();
    }
    model.settle();
    let ours: BTreeSet<String> = model
        .observed
        .hetzner
        .servers
        .values()
        .map(|s| s.name.clone())
        .collect();
    model
        .observed
        .nodes
        .retain(|name, _| ours.contains(name.as_str()));
}
