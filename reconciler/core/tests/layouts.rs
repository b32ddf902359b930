//! What the fabrik before this one wrote is read, and what one to come writes is refused, although it would read.
//!
//! Both are side by side whenever a rollout brings another fabrik, and a node that goes back has its journal read by the
//! older one.

use fabrik_core::agent::{Journal, JournalError};
use fabrik_core::ledger::{Ledger, Reason};
use fabrik_core::system::{Phase, Publication, Report, ReportError, Retirement};
use serde_json::{Value, json};

const OLD: &str = "/nix/store/00000000000000000000000000000000-old";
const NEW: &str = "/nix/store/11111111111111111111111111111111-new";
const BOOT: &str = "00000000-0000-0000-0000-000000000001";
const AT: &str = "2026-11-21T22:00:00Z";

/// In the middle of an update, before a deadline, a reset and a started minor were written down.
fn ledger() -> Value {
    json!({
        "schema": 1,
        "cluster": "abcdefgh01234567",
        "admitted": {"commit": "2f3a".repeat(10), "at": AT},
        "members": {
            "abc234": {"pool": "workers", "name": "w-1", "server": 7, "uid": "u-1"},
        },
        "tickets": {
            "abc234": {
                "pool": "workers", "node": "w-1", "uid": "u-1", "server": 7, "at": AT,
                "purpose": "update", "number": 3, "system": NEW, "kubernetes": "1.36.3+k3s1",
                "from": OLD, "boot": BOOT, "needs": "reboot", "minor": false, "ordered": AT,
            },
        },
    })
}

/// Before it said what was the default, whether the system had run, and when a command was begun.
fn journal() -> Value {
    json!({
        "schema": 1,
        "sequence": 5,
        "pool": "workers",
        "ticket": 3,
        "current": {
            "ticket": 3, "system": NEW, "from": OLD, "needs": "reboot", "minor": false, "boot": BOOT,
            "phase": "applying", "since": AT, "deadline": AT, "startedMinor": false, "unheard": false,
            "keep": false, "attempts": 1,
        },
    })
}

/// Before it had a version.
fn report() -> Value {
    json!({
        "boot": BOOT, "running": OLD, "default": OLD,
        "activity": {"ticket": 3, "phase": "applying", "since": AT},
    })
}

#[test]
fn what_the_fabrik_before_wrote_is_read() {
    let ledger: Ledger = serde_json::from_value(ledger()).unwrap();
    let update = ledger.tickets.values().next().unwrap().update().unwrap();
    assert_eq!(
        (update.number, update.deadline, update.reset),
        (3, None, None)
    );
    assert!(!update.started_minor && update.ordered.is_some());

    let journal = Journal::read(&journal().to_string()).unwrap();
    let current = journal.current.unwrap();
    assert_eq!(
        (current.phase, current.default, current.ran),
        (Phase::Applying, None, false)
    );

    let report = Report::read(&report()).unwrap();
    assert_eq!(report.schema, 1);
    assert_eq!(report.activity.unwrap().ticket, 3);

    let retirement = json!({
        "schema": 1, "cluster": "abcdefgh01234567", "node": "s-1", "boot": BOOT, "stops": true,
    });
    let retirement: Retirement = serde_json::from_value(retirement).unwrap();
    assert_eq!(retirement.not_after, None);
    assert!(!retirement.is_late(AT.parse().unwrap()));
}

/// A field that is added changes no layout: who does not know it reads the rest.
#[test]
fn a_field_that_is_not_known_is_passed_over() {
    let mut journal = journal();
    journal["current"]["later"] = json!({"a": 1});
    assert!(Journal::read(&journal.to_string()).is_ok());
    let mut report = report();
    report["activity"]["later"] = json!(true);
    assert!(Report::read(&report).is_ok());
    let mut ledger = ledger();
    ledger["tickets"]["abc234"]["later"] = json!("x");
    assert!(serde_json::from_value::<Ledger>(ledger).is_ok());
}

#[test]
fn a_reason_that_is_not_known_leaves_the_ledger_readable() {
    let mut ledger = ledger();
    ledger["tickets"]["abc234"] = json!({
        "pool": "workers", "node": "w-1", "uid": "u-1", "server": 7, "at": AT, "purpose": "leave", "reason": "later",
    });
    let ledger: Ledger = serde_json::from_value(ledger).unwrap();
    let ticket = ledger.tickets.values().next().unwrap();
    assert_eq!(ticket.leave(), Some(Reason::Unknown));
}

#[test]
fn a_layout_to_come_is_refused_by_its_number() {
    for rest in [journal(), json!({})] {
        let mut newer = rest;
        newer["schema"] = json!(Journal::SCHEMA + 1);
        let refused = Journal::read(&newer.to_string());
        assert!(matches!(
            refused,
            Err(JournalError::UnknownSchema { found: 2 })
        ));
    }
    for rest in [report(), json!({})] {
        let mut newer = rest;
        newer["schema"] = json!(Report::SCHEMA + 1);
        let refused = Report::read(&newer);
        assert!(matches!(
            refused,
            Err(ReportError::NewerLayout { found: 2 })
        ));
    }
    // The ledger's and the publication's are refused where they are read: `cluster::ledger`, `publication`.
    assert_eq!((fabrik_core::ledger::SCHEMA, Publication::SCHEMA), (1, 1));
}
