use super::*;
use crate::ledger::EventKind;

const NONCE: &[u8] = b"a nonce";

fn at(time: &str) -> Timestamp {
    format!("2026-11-30T{time}Z").parse().unwrap()
}

fn id() -> IntentId {
    "abc234".parse().unwrap()
}

fn recipient(letter: char) -> AgeRecipient {
    format!("age1{}", letter.to_string().repeat(58))
        .parse()
        .unwrap()
}

/// With a server of the control plane on its way since noon, whose machine has a nonce.
fn ledger() -> Ledger {
    let mut ledger = Ledger::new("abcdefgh01234567".parse().unwrap());
    for (sequence, id, pool) in [(0, "abc234", "servers"), (1, "wrk234", "workers")] {
        let intend = Change::Intend {
            sequence,
            id: id.parse().unwrap(),
            pool: pool.parse().unwrap(),
            name: format!("demo-{pool}-{id}").parse().unwrap(),
        };
        ledger.apply(&intend, at("12:00:00"));
    }
    let invite = invite(&ledger, &id(), hash(NONCE), at("12:00:00")).unwrap();
    ledger.apply(&invite, at("12:00:00"));
    ledger
}

fn machine() -> Machine {
    Machine {
        id: ServerId(42),
        name: "demo-servers-abc234".to_owned(),
        created: at("12:00:05"),
        addresses: vec!["10.0.1.2".parse().unwrap()],
    }
}

fn claim() -> Claim {
    Claim {
        hash: hash(NONCE),
        node: "demo-servers-abc234".parse().unwrap(),
        recipient: recipient('q'),
        source: "10.0.1.2".parse().unwrap(),
    }
}

fn refusal(claim: &Claim, ledger: &Ledger, machines: &[Machine], now: &str) -> Refusal {
    match judge(claim, ledger, machines, at(now)) {
        Verdict::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

/// The first claim, as it was written.
fn used(mut ledger: Ledger) -> Ledger {
    let Verdict::Answer {
        change: Some(change),
        ..
    } = judge(&claim(), &ledger, &[machine()], at("12:01:00"))
    else {
        panic!("the machine itself is refused")
    };
    ledger.apply(&change, at("12:01:00"));
    ledger
}

#[test]
fn the_machine_that_was_made_is_let_in_once_it_is_written() {
    let verdict = judge(&claim(), &ledger(), &[machine()], at("12:01:00"));
    let by = Use {
        at: at("12:01:00"),
        recipient: recipient('q'),
        source: "10.0.1.2".parse().unwrap(),
    };
    let change = Some(Change::UseNonce { id: id(), by });
    assert_eq!(
        verdict,
        Verdict::Answer {
            intent: id(),
            change
        }
    );
}

#[test]
fn only_a_server_of_the_control_plane_that_is_on_its_way_is_invited() {
    let mut ledger = ledger();
    let now = at("12:00:00");
    for other in ["wrk234", "nobody"] {
        let id = other.parse().unwrap();
        assert_eq!(invite(&ledger, &id, hash(NONCE), now), None, "{other}");
    }
    ledger.apply(&Change::Cancel { id: id() }, now);
    assert_eq!(invite(&ledger, &id(), hash(NONCE), now), None);
    assert!(ledger.nonces.is_empty(), "it has ended with its intent");
}

#[test]
fn a_nonce_that_nobody_was_given_lets_nobody_in() {
    let other = Claim {
        hash: hash(b"K10ca::abc234.0123456789abcdef"),
        ..claim()
    };
    let refused = refusal(&other, &ledger(), &[machine()], "12:01:00");
    assert_eq!(refused, Refusal::Unknown);
}

#[test]
fn a_new_invitation_ends_the_one_before() {
    let mut ledger = ledger();
    let again = invite(&ledger, &id(), hash(b"another"), at("12:00:30")).unwrap();
    ledger.apply(&again, at("12:00:30"));
    let refused = refusal(&claim(), &ledger, &[machine()], "12:01:00");
    assert_eq!(refused, Refusal::Unknown);
}

/// The server is asked for again because the answer was lost, and is there.
#[test]
fn the_same_invitation_keeps_who_has_used_it() {
    let mut ledger = used(ledger());
    let again = invite(&ledger, &id(), hash(NONCE), at("12:01:30")).unwrap();
    ledger.apply(&again, at("12:01:30"));
    let verdict = judge(&claim(), &ledger, &[machine()], at("12:20:30"));
    let answer = Verdict::Answer {
        intent: id(),
        change: None,
    };
    assert_eq!(verdict, answer, "it lives on from then");
    let second = Claim {
        recipient: recipient('z'),
        ..claim()
    };
    let verdict = judge(&second, &ledger, &[machine()], at("12:02:00"));
    assert!(matches!(verdict, Verdict::Alarm { .. }), "{verdict:?}");
}

#[test]
fn an_old_nonce_lets_nobody_in() {
    let mut ledger = ledger();
    let refused = refusal(&claim(), &ledger, &[machine()], "12:20:00");
    assert!(matches!(refused, Refusal::Ended { .. }), "{refused}");
    let refused = refusal(&claim(), &used(ledger.clone()), &[machine()], "12:20:00");
    assert!(matches!(refused, Refusal::Ended { .. }), "{refused}");
    ledger.apply(
        &Change::Forget {
            id: "none00".parse().unwrap(),
        },
        at("12:20:00"),
    );
    assert!(ledger.nonces.is_empty());
}

#[test]
fn a_replayed_nonce_is_worth_nothing_once_its_server_has_joined() {
    let mut ledger = used(ledger());
    ledger.apply(
        &Change::Bind {
            id: id(),
            server: ServerId(42),
            address: None,
        },
        at("12:01:00"),
    );
    let uid = "uid".parse().unwrap();
    ledger.apply(&Change::Join { id: id(), uid }, at("12:02:00"));
    assert!(ledger.nonces.is_empty());
    let refused = refusal(&claim(), &ledger, &[machine()], "12:03:00");
    assert_eq!(refused, Refusal::Unknown);
}

#[test]
fn who_asks_again_because_the_answer_was_lost_gets_the_same_one_and_nothing_is_written() {
    let verdict = judge(&claim(), &used(ledger()), &[machine()], at("12:02:00"));
    let answer = Verdict::Answer {
        intent: id(),
        change: None,
    };
    assert_eq!(verdict, answer);
}

#[test]
fn a_second_claimant_is_an_alarm_and_the_end_of_that_server() {
    let elsewhere = Claim {
        source: "10.0.1.9".parse().unwrap(),
        ..claim()
    };
    let other_key = Claim {
        recipient: recipient('z'),
        ..claim()
    };
    for second in [elsewhere, other_key] {
        let mut ledger = used(ledger());
        ledger.apply(
            &Change::Bind {
                id: id(),
                server: ServerId(42),
                address: None,
            },
            at("12:01:30"),
        );
        let verdict = judge(&second, &ledger, &[machine()], at("12:02:00"));
        let change = Change::Alarm { id: id() };
        let alarm = Verdict::Alarm {
            node: claim().node,
            change: change.clone(),
            first: claim().source,
        };
        assert_eq!(verdict, alarm);
        assert_eq!(change.kind(&ledger), Some(EventKind::Deletion));
        ledger.apply(&change, at("12:02:00"));
        assert_eq!(ledger.intents[&id()].cancelled, Some(at("12:02:00")));
        let told = ledger.history.last().unwrap();
        assert_eq!(told.reason, "two machines have shown its nonce");
        // The first one gets nothing more either.
        let refused = refusal(&claim(), &ledger, &[machine()], "12:02:01");
        assert_eq!(refused, Refusal::Unknown);
    }
}

#[test]
fn a_machine_that_is_not_the_one_at_hetzner_is_refused() {
    let ledger = ledger();
    let elsewhere = Claim {
        source: "10.0.1.9".parse().unwrap(),
        ..claim()
    };
    let refused = refusal(&elsewhere, &ledger, &[machine()], "12:01:00");
    assert!(matches!(refused, Refusal::OtherAddress { .. }), "{refused}");
    let renamed = Claim {
        node: "demo-servers-other0".parse().unwrap(),
        ..claim()
    };
    let refused = refusal(&renamed, &ledger, &[machine()], "12:01:00");
    assert!(matches!(refused, Refusal::OtherNode { .. }), "{refused}");

    let refused = |machines: &[Machine]| refusal(&claim(), &ledger, machines, "12:01:00");
    assert!(matches!(refused(&[]), Refusal::NoMachine { .. }));
    let many = refused(&[machine(), machine()]).to_string();
    assert!(many.contains("42, 42"), "{many}");
    let older = Machine {
        created: at("11:58:00"),
        ..machine()
    };
    assert!(matches!(refused(&[older]), Refusal::OtherTime { .. }));
    let called_otherwise = Machine {
        name: "demo-servers-zzz234".to_owned(),
        ..machine()
    };
    assert!(matches!(
        refused(&[called_otherwise]),
        Refusal::NoMachine { .. }
    ));

    let mut bound = ledger.clone();
    let bind = Change::Bind {
        id: id(),
        server: ServerId(41),
        address: None,
    };
    bound.apply(&bind, at("12:00:10"));
    let refused = refusal(&claim(), &bound, &[machine()], "12:01:00");
    assert!(matches!(refused, Refusal::NoMachine { .. }), "{refused}");
}

#[test]
fn a_ledger_without_nonces_reads_as_before_and_holds_no_nonce_but_its_hash() {
    let text = serde_json::to_string(&used(ledger())).unwrap();
    assert!(!text.contains("a nonce"), "{text}");
    assert_eq!(
        serde_json::from_str::<Ledger>(&text).unwrap(),
        used(ledger())
    );
    let older = Ledger::new("abcdefgh01234567".parse().unwrap());
    assert!(!serde_json::to_string(&older).unwrap().contains("nonces"));
}
