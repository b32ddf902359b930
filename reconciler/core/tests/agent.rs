//! What an agent makes of its orders, on a machine in memory that crashes wherever it likes.

#[path = "agent/machine.rs"]
mod machine;
#[path = "agent/ways.rs"]
mod ways;

use fabrik_core::agent::{Command, Journal, JournalError, MAX_ATTEMPTS, UNPUBLISHED_SECS};
use fabrik_core::system::{Action, Needs, Phase};
use machine::{Crash, Fate, Machine, NEW, OLD, OTHER, UNREADABLE, path};
use proptest::prelude::*;

const WORKERS: &str = "workers";
const SERVERS: &str = "servers";

fn message(machine: &Machine) -> String {
    machine.report().activity.unwrap().message
}

#[test]
fn a_system_that_needs_no_reboot_is_switched_to_and_kept_when_it_is_said_to_be_well() {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Trying));
    assert_eq!(
        (&machine.running, &machine.default),
        (&path(NEW), &path(OLD))
    );
    machine.act(Action::Keep);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Kept));
    assert_eq!(machine.default, path(NEW));
    assert_eq!(machine.boot, 1);
    assert_eq!(machine.commands.len(), 2);
}

#[test]
fn a_system_that_needs_a_reboot_is_booted_once_and_kept() {
    let mut machine = Machine::ordered(Needs::Reboot, WORKERS, false);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Trying));
    assert_eq!((machine.boot, &machine.booted), (2, &path(NEW)));
    machine.act(Action::Keep);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Kept));
}

#[test]
fn without_a_word_until_its_deadline_it_goes_back() {
    for needs in [Needs::Switch, Needs::Reboot] {
        let mut machine = Machine::ordered(needs, WORKERS, true);
        machine.settle();
        machine.wish.order = None;
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::Trying));
        machine.wait_until_deadline();
        assert_eq!(machine.phase(), Some(Phase::WentBack));
        assert_eq!(
            (&machine.running, &machine.default),
            (&path(OLD), &path(OLD))
        );
        let activity = machine.report().activity.unwrap();
        assert!(activity.unheard);
        assert_eq!(activity.message, "nobody said in time that it is well");
    }
}

#[test]
fn a_server_that_has_started_a_minor_stays_where_it_is() {
    for needs in [Needs::Drain, Needs::Reboot] {
        let mut machine = Machine::ordered(needs, SERVERS, true);
        machine.settle();
        assert!(machine.report().activity.unwrap().started_minor);
        machine.wait_until_deadline();
        machine.act(Action::GoBack);
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::Trying));
        assert_eq!(machine.running, path(NEW));
        assert!(
            message(&machine).contains("is not taken back"),
            "{}",
            message(&machine)
        );
        // A fix may still come, and so may the leader's word.
        machine.act(Action::Keep);
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::Kept));
    }
}

#[test]
fn a_server_that_loses_its_power_while_a_minor_is_tried_does_not_say_that_it_went_back() {
    for needs in [Needs::Drain, Needs::Reboot] {
        let mut machine = Machine::ordered(needs, SERVERS, true);
        machine.settle();
        machine.power_cut();
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::Failed));
        assert_eq!(machine.running, path(OLD));
        let said = message(&machine);
        assert!(said.contains("after the newer one had run"), "{said}");
        // What was said there to be done.
        machine.order(2, NEW, Action::Try, true);
        machine.settle();
        machine.act(Action::Keep);
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::Kept));
    }
    let mut machine = Machine::ordered(Needs::Drain, SERVERS, true);
    // The publication, the acceptance, then into the activation.
    machine.crashes = vec![(7, Crash::PowerCut)];
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Failed));
    let said = message(&machine);
    assert!(said.contains("may have run"), "{said}");
}

#[test]
fn a_stuck_server_gets_its_fix_and_only_keeping_that_changes_what_it_boots() {
    for needs in [Needs::Switch, Needs::Reboot] {
        let mut machine = Machine::ordered(needs, SERVERS, true);
        machine.settle();
        machine.publish(2, SERVERS, OTHER);
        machine.fetched = Some(path(OTHER));
        for ticket in [2, 3] {
            machine.order(ticket, OTHER, Action::Try, false);
            machine.settle();
            assert_eq!(machine.phase(), Some(Phase::Trying));
            assert_eq!(machine.running, path(OTHER));
            machine.act(Action::GoBack);
            machine.settle();
            assert_eq!(machine.phase(), Some(Phase::WentBack));
            assert_eq!(
                (&machine.running, &machine.default),
                (&path(NEW), &path(OLD))
            );
        }
        machine.order(4, OTHER, Action::Try, false);
        machine.settle();
        machine.act(Action::Keep);
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::Kept));
        assert_eq!(machine.default, path(OTHER));
    }
}

#[test]
fn a_stuck_server_that_is_told_to_try_the_same_again_is_bound_to_it_all_the_same() {
    let mut machine = Machine::ordered(Needs::Drain, SERVERS, true);
    machine.settle();
    // By now it is the minor that it runs.
    machine.order(2, NEW, Action::Try, false);
    machine.settle();
    machine.act(Action::GoBack);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Trying));
    assert_eq!(machine.running, path(NEW));
}

#[test]
fn what_runs_and_would_not_be_booted_is_no_system_to_go_back_to() {
    for (needs, pool) in [
        (Needs::Switch, WORKERS),
        (Needs::Reboot, WORKERS),
        (Needs::Switch, SERVERS),
    ] {
        let mut machine = Machine::ordered(needs, pool, false);
        machine.running = path(OTHER);
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::WentBack));
        assert!(machine.report().activity.unwrap().unheard);
        let said = message(&machine);
        assert!(said.contains("-other and would boot"), "{said}");
        // Nor where that comes about while it waits for its turn.
        let mut machine = Machine::ordered(needs, pool, false);
        machine.fetched = None;
        machine.settle();
        machine.running = path(OTHER);
        machine.fetched = Some(path(NEW));
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::WentBack));
        let said = message(&machine);
        assert!(said.contains("has changed since"), "{said}");
        assert_eq!(machine.commands, []);
        assert_eq!(machine.default, path(OLD));
    }
}

#[test]
fn a_server_whose_minor_fails_to_start_is_a_person_s_and_one_that_did_not_get_so_far_goes_back() {
    let mut late = Machine::ordered(Needs::Drain, SERVERS, true);
    late.fate = Fate::FailsLate;
    late.settle();
    assert_eq!(late.phase(), Some(Phase::Failed));
    let mut early = Machine::ordered(Needs::Drain, SERVERS, true);
    early.fate = Fate::FailsEarly;
    early.settle();
    assert_eq!(early.phase(), Some(Phase::WentBack));
    assert_eq!(message(&early), "it failed early");
    assert!(!early.report().activity.unwrap().started_minor);
}

#[test]
fn a_menu_that_nobody_can_read_keeps_no_node_from_going_back() {
    for needs in [Needs::Switch, Needs::Reboot] {
        for heard in [true, false] {
            let mut machine = Machine::ordered(needs, WORKERS, false);
            machine.settle();
            machine.unreadable = true;
            assert_eq!(machine.report().default, None);
            if heard {
                machine.act(Action::GoBack);
                machine.settle();
            } else {
                machine.wait_until_deadline();
            }
            assert_eq!(machine.phase(), Some(Phase::WentBack));
            assert_eq!(
                (&machine.running, machine.report().default),
                (&path(OLD), Some(path(OLD)))
            );
        }
    }
}

#[test]
fn a_system_whose_menu_can_not_be_read_is_not_kept_and_a_revert_is_obeyed() {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.fate = Fate::BadMenu;
    machine.settle();
    machine.act(Action::Keep);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Failed));
    assert!(message(&machine).contains(UNREADABLE));
    machine.publish(2, WORKERS, OTHER);
    machine.fetched = Some(path(OTHER));
    machine.needs = Needs::Reboot;
    machine.order(2, OTHER, Action::Try, false);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::WentBack));
    assert!(message(&machine).contains(UNREADABLE));
    machine.needs = Needs::Switch;
    machine.order(3, OTHER, Action::Try, false);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Trying));
    machine.act(Action::Keep);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Kept));
    assert_eq!(machine.report().default, Some(path(OTHER)));
}

/// Found by chance among random crashes: an attempt of which only the journal tells is one of the three.
#[test]
fn crashes_before_a_command_runs_use_up_attempts_too() {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.fate = Fate::BadMenu;
    machine.crashes = vec![(1, Crash::Agent), (1, Crash::Agent), (10, Crash::Agent)];
    machine.settle();
    machine.act(Action::Keep);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Failed));
    assert!(machine.begun.len() >= MAX_ATTEMPTS as usize);
    assert!(machine.commands.len() < 3, "{:?}", machine.commands);
}

#[test]
fn without_a_default_that_could_be_told_going_back_restores_none() {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.unreadable = true;
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Trying));
    machine.act(Action::GoBack);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::WentBack));
    assert_eq!(machine.running, path(OLD));
    assert!(matches!(
        machine.commands.as_slice(),
        [Command::Switch { .. }, Command::SwitchBack { .. }]
    ));
}

#[test]
fn a_boot_that_fails_ends_on_the_old_system() {
    let mut machine = Machine::ordered(Needs::Reboot, WORKERS, false);
    machine.fate = Fate::Panics;
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::WentBack));
    assert_eq!(message(&machine), "the machine came up on the old system");
    assert!(matches!(
        machine.commands.as_slice(),
        [Command::BootOnce { .. }, Command::TidyUp { .. }]
    ));
}

#[test]
fn a_reboot_before_it_is_begun_says_nothing_of_how_it_ends() {
    for (needs, said) in [
        (Needs::Switch, "it failed early"),
        (Needs::Reboot, "/boot is full"),
    ] {
        let mut machine = Machine::ordered(needs, WORKERS, false);
        machine.fate = Fate::FailsEarly;
        machine.fetched = None;
        machine.settle();
        machine.power_cut();
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::Accepted));
        machine.fetched = Some(path(NEW));
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::WentBack));
        assert_eq!(message(&machine), said);
        assert!(machine.whole, "the old system's units run again");
    }
}

#[test]
fn only_what_was_begun_says_something_of_the_system() {
    for needs in [Needs::Switch, Needs::Reboot] {
        let mut machine = Machine::ordered(needs, WORKERS, false);
        machine.refuses = 1;
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::WentBack));
        let activity = machine.report().activity.unwrap();
        assert_eq!(activity.message, "the bus is gone");
        assert!(activity.unheard);
    }
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.fate = Fate::FailsEarly;
    machine.settle();
    assert!(!machine.report().activity.unwrap().unheard);
    // One that was begun twice may have done something the first time.
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.crashes = vec![(6, Crash::Agent)];
    while machine.crashes.len() == 1 {
        assert!(machine.go_on().is_continue());
    }
    machine.refuses = 1;
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::WentBack));
    assert!(!machine.report().activity.unwrap().unheard);
}

#[test]
fn what_is_in_the_way_for_half_a_minute_uses_up_no_attempts() {
    for (action, needs, phase) in [
        (Action::GoBack, Needs::Switch, Phase::WentBack),
        (Action::GoBack, Needs::Reboot, Phase::WentBack),
        (Action::Keep, Needs::Switch, Phase::Kept),
    ] {
        let mut machine = Machine::ordered(needs, WORKERS, false);
        machine.settle();
        machine.begun.clear();
        machine.refuses = if action == Action::Keep { 2 } else { 3 };
        machine.act(action);
        machine.settle();
        assert_eq!(machine.phase(), Some(phase));
        let between = machine.begun.windows(2);
        let pauses: Vec<i64> = between.map(|w| (w[1] - w[0]).get_seconds()).collect();
        let expected = [2, 4, 8];
        let refused = expected.len().min(pauses.len());
        assert_eq!(pauses[..refused], expected[..refused]);
    }
}

#[test]
fn a_clock_that_is_put_back_makes_no_pause_long() {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.settle();
    machine.refuses = 1;
    machine.act(Action::GoBack);
    while machine.refuses > 0 {
        assert!(machine.go_on().is_continue());
    }
    machine.seconds_pass(-100_000);
    assert!(machine.go_on().is_continue());
    assert_eq!(machine.running, path(OLD));
}

#[test]
fn a_server_whose_activation_goes_on_while_it_goes_back_is_left_alone() {
    let mut machine = Machine::ordered(Needs::Drain, SERVERS, true);
    machine.fate = Fate::FailsEarly;
    while machine.phase() != Some(Phase::GoingBack) {
        assert!(machine.go_on().is_continue());
    }
    machine.running = path(NEW);
    let commands = machine.commands.len();
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Failed));
    assert_eq!(machine.commands.len(), commands);
}

#[test]
fn an_activation_that_fails_is_taken_back_with_what_it_said() {
    for fate in [Fate::FailsEarly, Fate::FailsLate] {
        let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
        machine.fate = fate;
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::WentBack));
        assert!(message(&machine).contains("failed"));
        assert_eq!(machine.running, path(OLD));
    }
}

#[test]
fn only_what_is_published_is_fetched_and_tried() {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.order(1, OTHER, Action::Try, false);
    machine.fetched = Some(path(OTHER));
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Accepted));
    assert_eq!(machine.to_fetch(), None);
    machine.seconds_pass(UNPUBLISHED_SECS);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::WentBack));
    assert_eq!(machine.commands, []);
    assert_eq!(machine.to_fetch(), Some(path(NEW)));
}

#[test]
fn a_publication_that_is_old_or_another_pool_s_counts_for_nothing() {
    let mut machine = Machine::new(Needs::Switch);
    machine.publish(7, WORKERS, NEW);
    machine.settle();
    for (sequence, pool, told) in [
        (6, WORKERS, "has number 6, and this node has seen number 7"),
        (8, SERVERS, "is for the pool servers"),
    ] {
        machine.publish(sequence, pool, OTHER);
        machine.settle();
        assert_eq!(machine.journal.sequence, 7);
        assert_eq!(machine.to_fetch(), None);
        let said = machine.objection().unwrap().to_string();
        assert!(said.starts_with(told), "{said}");
    }
    machine.publish(8, WORKERS, OTHER);
    machine.settle();
    assert_eq!(machine.objection(), None);
    assert_eq!(machine.to_fetch(), Some(path(OTHER)));
}

#[test]
fn an_order_is_obeyed_once_and_a_lower_ticket_never() {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.act(Action::GoBack);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::WentBack));
    for ticket in [0, 1] {
        machine.order(ticket, NEW, Action::Try, false);
        machine.settle();
        assert_eq!(machine.commands, []);
    }
    machine.order(2, NEW, Action::Try, false);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Trying));
}

#[test]
fn an_order_about_what_nobody_has_published_uses_up_no_ticket_and_ends_no_try() {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.order(u64::MAX, OTHER, Action::Try, false);
    machine.settle();
    machine.seconds_pass(UNPUBLISHED_SECS);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::WentBack));
    machine.order(1, NEW, Action::Try, false);
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Trying));
    assert_eq!(machine.journal.ticket, 1);
    for (pool, minor) in [(WORKERS, false), (SERVERS, true)] {
        let mut machine = Machine::ordered(Needs::Switch, pool, minor);
        machine.settle();
        machine.order(2, OTHER, Action::Try, false);
        machine.settle();
        let current = machine.journal.current.as_ref().unwrap();
        assert_eq!((current.ticket, current.phase), (1, Phase::Trying));
    }
}

#[test]
fn another_order_in_the_middle_of_a_try_ends_it_first() {
    let mut machine = Machine::ordered(Needs::Reboot, WORKERS, false);
    machine.settle();
    machine.publish(2, WORKERS, OTHER);
    machine.order(2, OTHER, Action::Try, false);
    machine.fetched = Some(path(OTHER));
    machine.settle();
    let current = machine.journal.current.as_ref().unwrap();
    assert_eq!((current.ticket, current.phase), (2, Phase::Trying));
    assert_eq!(current.from, path(OLD));
}

#[test]
fn what_takes_more_by_now_than_it_was_prepared_for_is_not_begun() {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.needs = Needs::Reboot;
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::WentBack));
    assert!(machine.report().activity.unwrap().unheard);
    assert_eq!(machine.commands, []);
}

#[test]
fn a_system_that_is_never_fetched_costs_no_more_than_its_time() {
    let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
    machine.fetched = None;
    machine.settle();
    assert_eq!(machine.phase(), Some(Phase::Accepted));
    machine.wait_until_deadline();
    assert_eq!(machine.phase(), Some(Phase::WentBack));
}

#[test]
fn an_agent_that_lost_its_memory_ends_what_it_was_doing() {
    for (action, phase) in [
        (Action::Keep, Phase::Kept),
        (Action::GoBack, Phase::WentBack),
    ] {
        let mut machine = Machine::ordered(Needs::Reboot, WORKERS, false);
        machine.settle();
        machine.journal = Journal::default();
        machine.act(action);
        machine.settle();
        assert_eq!(machine.phase(), Some(phase));
        assert_eq!(machine.running, machine.default);
    }
}

#[test]
fn an_activation_that_kills_the_agent_each_time_is_given_up() {
    for crash in [Crash::Agent, Crash::PowerCut] {
        let mut machine = Machine::ordered(Needs::Switch, WORKERS, false);
        // The publication, the acceptance, then two steps into each attempt.
        machine.crashes = vec![(3, crash), (3, crash), (3, crash), (7, crash)];
        machine.settle();
        assert_eq!(machine.phase(), Some(Phase::WentBack));
        assert_eq!(machine.running, path(OLD));
    }
}

#[test]
fn a_journal_of_another_version_is_named_and_not_guessed_at() {
    let text = serde_json::to_string(&Journal::default()).unwrap();
    assert_eq!(Journal::read(&text).unwrap(), Journal::default());
    let newer = text.replace("\"schema\":1", "\"schema\":2");
    assert!(matches!(
        Journal::read(&newer),
        Err(JournalError::UnknownSchema { found: 2 })
    ));
    assert!(matches!(
        Journal::read("{"),
        Err(JournalError::Malformed(_))
    ));
}

fn crashes() -> impl Strategy<Value = Vec<(u32, Crash)>> {
    let crash = prop_oneof![Just(Crash::Agent), Just(Crash::PowerCut)];
    prop::collection::vec((0_u32..12, crash), 0..4)
}

fn fates() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Well),
        Just(Fate::FailsEarly),
        Just(Fate::FailsLate),
        Just(Fate::Panics),
        Just(Fate::BadMenu)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The machine's own checks hold at each step; here is what must be true at the end.
    #[test]
    fn wherever_it_crashes_it_ends_on_one_system(
        needs in prop_oneof![Just(Needs::Switch), Just(Needs::Drain), Just(Needs::Reboot)],
        fate in fates(),
        crashes in crashes(),
        server in any::<bool>(),
        minor in any::<bool>(),
        tested in any::<bool>(),
        verdict in prop_oneof![Just(None), Just(Some(Action::Keep)), Just(Some(Action::GoBack))],
    ) {
        let mut machine = Machine::ordered(needs, if server { SERVERS } else { WORKERS }, minor);
        machine.fate = fate;
        machine.crashes = crashes;
        if tested {
            machine.running = path(OTHER);
        }
        machine.settle();
        match verdict {
            Some(action) if machine.phase() == Some(Phase::Trying) => machine.act(action),
            _ => machine.wish.order = None,
        }
        machine.settle();
        machine.wait_until_deadline();
        let on = |system: &str| machine.running == path(system) && machine.default == path(system);
        let bound = server && minor && machine.new_minor_ran;
        // Cut off in the middle of the activation.
        let may_be = server && minor && needs != Needs::Reboot && machine.boot > 1;
        match machine.phase().unwrap() {
            Phase::Kept => prop_assert!(on(NEW) && verdict == Some(Action::Keep)),
            Phase::WentBack if machine.running == path(OTHER) => {
                prop_assert!(tested && machine.commands.is_empty() && machine.default == path(OLD));
            }
            Phase::WentBack => {
                let left_data_behind = server && minor && machine.seen_to_run;
                prop_assert!(on(OLD) && machine.whole && !left_data_behind);
            }
            Phase::Trying => prop_assert!(bound && machine.running == path(NEW)),
            // Crashes can use up all attempts, of which there is a bounded number; one that was begun and did not get to its
            // command is one too.
            Phase::Failed => {
                let used_up = machine.begun.len() >= MAX_ATTEMPTS as usize;
                prop_assert!(bound || may_be || used_up, "{:?}", machine.journal);
            }
            phase => prop_assert!(false, "it ends in {phase:?}"),
        }
    }
}
