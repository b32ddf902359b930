use super::*;

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + 60 * minute).unwrap()
}

fn peer(number: usize, machine: Machine) -> Peer {
    Peer {
        name: format!("s-{number}"),
        answers: false,
        machine,
    }
}

fn snapshot(minute: i64) -> Snapshot {
    Snapshot {
        file: format!("/snapshots/{minute}"),
        taken: at(minute),
    }
}

/// A server whose own data were written at minute 10, and the machines of the others.
fn survivor(machines: &[Machine]) -> Observed {
    let peers = (2..).zip(machines).map(|(n, machine)| peer(n, *machine));
    Observed {
        own: OwnData::Present {
            written: at(10),
            has_leader: false,
            learner: false,
            failed: false,
        },
        peers: peers.collect(),
        peers_are_listed: true,
        snapshots: Vec::new(),
        said: Said::default(),
    }
}

fn without_data(machines: &[Machine]) -> Observed {
    Observed {
        own: OwnData::Absent,
        ..survivor(machines)
    }
}

fn saying_lost(mut observed: Observed, names: &[&str]) -> Observed {
    observed.said.lost = names.iter().map(ToString::to_string).collect();
    observed
}

fn from(observed: &Observed) -> Source {
    decide(observed).unwrap().from
}

fn refused(observed: &Observed) -> Vec<Refusal> {
    decide(observed).unwrap_err()
}

use Machine::{Gone, Off, Running, Unknown};

#[test]
fn a_server_whose_peers_are_gone_goes_on_from_its_own_data() {
    let own = Source::OwnData { written: at(10) };
    let reset = decide(&survivor(&[Gone, Gone])).unwrap();
    assert_eq!((reset.from, reset.warnings), (own.clone(), Vec::new()));
    assert_eq!(from(&survivor(&[Gone, Gone, Gone, Gone])), own);
    // An old snapshot changes nothing.
    let mut with = survivor(&[Gone, Gone]);
    with.snapshots = vec![snapshot(3), snapshot(9)];
    assert_eq!(from(&with), own);
}

/// Each way in which a peer may live, for each number of servers: it alone forbids it.
#[test]
fn one_member_that_may_live_elsewhere_forbids_it() {
    for others in [2, 4] {
        let mut machines = vec![Gone; others];
        machines[0] = Unknown;
        let unproved = survivor(&machines);
        assert_eq!(refused(&unproved), [Refusal::Unproved("s-2".to_owned())]);
        assert!(decide(&saying_lost(unproved, &["s-2"])).is_ok());

        machines[0] = Running;
        let runs = saying_lost(survivor(&machines), &["s-2"]);
        assert_eq!(refused(&runs), [Refusal::Runs("s-2".to_owned())]);

        for machine in [Gone, Off, Unknown, Running] {
            machines[0] = machine;
            let mut answers = saying_lost(survivor(&machines), &["s-2"]);
            answers.peers[0].answers = true;
            let expected = Refusal::Answers {
                name: "s-2".to_owned(),
                alive: 2,
                members: others + 1,
            };
            assert_eq!(refused(&answers), [expected]);
        }
    }
}

#[test]
fn a_cluster_that_has_a_leader_is_left_alone_whatever_is_said() {
    let mut lives = saying_lost(survivor(&[Gone, Gone]), &["s-2"]);
    lives.own = OwnData::Present {
        written: at(10),
        has_leader: true,
        learner: false,
        failed: true,
    };
    assert_eq!(refused(&lives), [Refusal::HasQuorum]);
}

#[test]
fn servers_that_are_only_off_must_not_be_a_quorum_when_they_come_back() {
    let one = decide(&survivor(&[Off, Gone])).unwrap();
    assert_eq!(one.warnings, [Warning::MayReturn("s-2".to_owned())]);
    let two = survivor(&[Off, Off]);
    let names = vec!["s-2".to_owned(), "s-3".to_owned()];
    let members = 3;
    assert_eq!(refused(&two), [Refusal::WouldReturn { names, members }]);
    assert!(decide(&saying_lost(two, &["s-2"])).is_ok());
    assert!(decide(&survivor(&[Off, Off, Gone, Gone])).is_ok());
    assert!(decide(&survivor(&[Off, Off, Off, Gone])).is_err());
}

#[test]
fn all_that_forbids_it_is_told_at_once() {
    let observed = saying_lost(without_data(&[Running, Unknown]), &["s-9"]);
    let told: Vec<String> = refused(&observed).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 4);
    assert!(told[0].contains("Power it off there"), "{told:?}");
    assert!(told[1].contains("--lost s-3"), "{told:?}");
    assert!(
        told[2].contains("The others are s-2, s-3"),
        "a mistyped name: {told:?}"
    );
    assert!(told[3].contains("no snapshot is there"), "{told:?}");
}

#[test]
fn without_data_of_its_own_the_newest_snapshot_is_restored() {
    let mut observed = without_data(&[Gone, Gone]);
    assert_eq!(refused(&observed), [Refusal::NothingToRestore]);
    observed.snapshots = vec![snapshot(3), snapshot(9), snapshot(5)];
    assert_eq!(from(&observed), Source::Snapshot(snapshot(9)));
    observed.said.snapshot = Some(snapshot(5));
    assert_eq!(from(&observed), Source::Snapshot(snapshot(5)));
}

#[test]
fn own_data_come_first_unless_a_snapshot_is_newer_or_they_are_broken() {
    let mut observed = survivor(&[Gone, Gone]);
    observed.said.snapshot = Some(snapshot(9));
    let expected = Refusal::OwnDataFirst {
        file: "/snapshots/9".to_owned(),
        written: at(10),
    };
    assert_eq!(refused(&observed), [expected]);

    observed.said.snapshot = Some(snapshot(12));
    assert_eq!(from(&observed), Source::Snapshot(snapshot(12)));

    observed.said.snapshot = None;
    observed.snapshots = vec![snapshot(9), snapshot(12)];
    let newer = Warning::NewerSnapshot {
        file: "/snapshots/12".to_owned(),
        taken: at(12),
    };
    let reset = decide(&observed).unwrap();
    assert_eq!(reset.from, Source::OwnData { written: at(10) });
    assert_eq!(reset.warnings, [newer]);

    observed.own = OwnData::Present {
        written: at(10),
        has_leader: false,
        learner: false,
        failed: true,
    };
    // Nobody is given an old state for it without having asked.
    assert_eq!(from(&observed), Source::OwnData { written: at(10) });
    observed.said.snapshot = Some(snapshot(9));
    assert_eq!(from(&observed), Source::Snapshot(snapshot(9)));
}

#[test]
fn a_learner_is_told_from_a_full_member() {
    let mut observed = survivor(&[Gone, Gone]);
    observed.own = OwnData::Present {
        written: at(10),
        has_leader: false,
        learner: true,
        failed: false,
    };
    assert_eq!(decide(&observed).unwrap().warnings, [Warning::Learner]);
}

#[test]
fn where_nothing_lists_the_others_a_person_has_to() {
    let mut observed = without_data(&[]);
    observed.snapshots = vec![snapshot(1)];
    observed.peers_are_listed = false;
    assert_eq!(refused(&observed), [Refusal::PeersUnknown]);
    observed.said.no_others = true;
    assert!(decide(&observed).is_ok());
    observed.said.no_others = false;
    assert!(decide(&saying_lost(observed, &["s-2"])).is_ok());
}
