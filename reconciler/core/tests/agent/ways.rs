//! The table of a node's phases: all that happens is in it (`Machine::write`), and all that is in it happens.

use std::collections::BTreeSet;

use fabrik_core::agent::UNPUBLISHED_SECS;
use fabrik_core::system::{Action, Needs, Phase};

use crate::machine::{Crash, Fate, Machine, NEW, OTHER, path};
use crate::{SERVERS, WORKERS};

#[test]
fn each_way_from_phase_to_phase_is_met() {
    let mut met = BTreeSet::new();
    for needs in [Needs::Switch, Needs::Reboot] {
        for fate in [Fate::Well, Fate::FailsEarly, Fate::Panics, Fate::BadMenu] {
            for (pool, minor) in [(WORKERS, false), (SERVERS, true)] {
                for action in [None, Some(Action::Keep), Some(Action::GoBack)] {
                    for steps in 0..12 {
                        let mut machine = Machine::ordered(needs, pool, minor);
                        machine.fate = fate;
                        machine.crashes = vec![(steps, Crash::PowerCut)];
                        met.extend(played(machine, action));
                    }
                }
            }
        }
    }
    met.extend(called_off_before_it_was_fetched());
    met.extend(running_it_already());
    met.extend(running_what_is_published_no_more());
    met.extend(unable_to_go_back());
    let table: BTreeSet<(Phase, Phase)> = Phase::ALL
        .into_iter()
        .flat_map(|from| from.next().iter().map(move |to| (from, *to)))
        .collect();
    let never: Vec<_> = table.difference(&met).collect();
    assert!(never.is_empty(), "never met: {never:?}");
}

fn played(mut machine: Machine, action: Option<Action>) -> BTreeSet<(Phase, Phase)> {
    machine.settle();
    match action {
        Some(action) => machine.act(action),
        None => machine.wish.order = None,
    }
    machine.settle();
    if machine.journal.current.is_some() {
        machine.wait_until_deadline();
    }
    machine.phases
}

fn called_off_before_it_was_fetched() -> BTreeSet<(Phase, Phase)> {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.fetched = None;
    played(machine, Some(Action::GoBack))
}

fn running_it_already() -> BTreeSet<(Phase, Phase)> {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.running = path(NEW);
    played(machine, Some(Action::Keep))
}

fn running_what_is_published_no_more() -> BTreeSet<(Phase, Phase)> {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.running = path(NEW);
    while machine.phase() != Some(Phase::Accepted) {
        assert!(machine.go_on().is_continue());
    }
    machine.publish(2, WORKERS, OTHER);
    machine.settle();
    machine.seconds_pass(UNPUBLISHED_SECS);
    played(machine, None)
}

fn unable_to_go_back() -> BTreeSet<(Phase, Phase)> {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.settle();
    machine.refuses = u32::MAX;
    played(machine, Some(Action::GoBack))
}
