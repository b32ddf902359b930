//! The seeds that every run of the tests plays; `make sim` plays 100,000.

use fabrik_sim::coverage::Coverage;
use fabrik_sim::exhaustive::{self, FATES, Left};
use fabrik_sim::schedule::{self, Schedule};
use fabrik_sim::ways;

/// Schedules that broke a rule once, by what was wrong.
const FOUND: [(u64, &str); 20] = [
    (2, "a server that could not go back never fetched its fix"),
    (
        7,
        "a server that had taken the second step was asked to take the first",
    ),
    (90, "a server that was cancelled joined when it was off"),
    (
        465,
        "another node tried what one had left because nobody spoke",
    ),
    (730, "a cordon landed when its ticket was gone"),
    (1328, "a node that was left half-way was not rebooted"),
    (
        1367,
        "a leader reset a machine long after it had ceased to lead",
    ),
    (
        2900,
        "a request to uncordon was late, and took the next ticket's cordon",
    ),
    (
        3126,
        "a Node was deleted before its server was seen to have joined",
    ),
    (3273, "the Node of a machine that was gone stayed Ready"),
    (5464, "a server went before the canary's second step"),
    (
        6234,
        "who was not heard was held out, and another one tried the system",
    ),
    (3241, "a clock jumped back, and a sick system was kept"),
    (
        521_696,
        "a server's k3s was ended by a word that was late, and the quorum with it",
    ),
    (522_773, "a power-off was late, and hit a member"),
    (525_852, "a power-off was late, and hit a member"),
    (
        518_753,
        "one of two servers was not told that it leaves when its agent was back",
    ),
    (
        520_639,
        "one of two servers was not told that it leaves when its agent was back",
    ),
    (
        522_723,
        "one of two servers was not told that it leaves when its agent was back",
    ),
    (
        539_780,
        "a server was lost before it was seen, and its Node stayed for ever",
    ),
];

#[test]
fn what_was_found_once_is_mended() {
    for (seed, what) in FOUND {
        let outcome = Schedule::of(seed).run(None, false);
        assert!(
            outcome.failure.is_none(),
            "{what}: {}",
            outcome.failure.unwrap()
        );
    }
}

#[test]
fn no_rule_is_broken_whatever_happens() {
    let mut cover = Coverage::default();
    for number in 0..200 {
        let seed = schedule::seed(1, number);
        let schedule = Schedule::of(seed);
        let outcome = schedule.run(None, false);
        assert!(outcome.steps >= 300, "seed {seed}: {} steps", outcome.steps);
        assert!(outcome.acts >= 4, "seed {seed}: {} acts", outcome.acts);
        cover.add(&outcome.cover);
        if let Some(failure) = outcome.failure {
            let shrunk = schedule.shrink(failure.rule, None);
            panic!("{}", shrunk.run(None, false).failure.unwrap_or(failure));
        }
    }
    assert_eq!(ways::unknown(&cover), [] as [String; 0]);
    let stages = [
        "keep",
        "done",
        "went-back",
        "drain",
        "snapshot",
        "hand-over",
    ];
    for stage in stages {
        assert!(
            cover.stages.contains_key(stage),
            "no node was ever at `{stage}`"
        );
    }
}

/// `make sim` has two crashes, a human act and a pause.
#[test]
fn one_crash_breaks_no_rule_wherever_it_comes() {
    let left = Left {
        crashes: 1,
        human: false,
        pause: false,
    };
    for fates in FATES {
        let found = exhaustive::search(left, fates, 1_000_000, 1);
        assert_eq!(found.broken, None, "{fates:?}");
        assert!(found.states > 100 && !found.cut_short, "{found:?}");
    }
}

#[test]
fn a_seed_is_a_run() {
    let play = || {
        let outcome = Schedule::of(11).run(None, false);
        (outcome.steps, format!("{:?}", outcome.cover.transitions))
    };
    assert_eq!(play(), play());
}
