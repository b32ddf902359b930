//! An order that lies about until nobody knows any more whether its node may go down.

#[allow(dead_code, reason = "shared with the agent's other tests")]
#[path = "agent/machine.rs"]
mod machine;

use fabrik_core::system::{Action, Needs, Order, Phase};
use jiff::SignedDuration;
use machine::Machine;

/// A worker that hears its order so long after its last moment.
fn heard(action: Action, after: SignedDuration) -> Machine {
    let mut machine = Machine::ordered(Needs::Reboot, "workers", false);
    machine.act(action);
    machine.wish.order.as_mut().unwrap().not_after = Some(machine.now - after);
    machine.settle();
    machine
}

#[test]
fn a_late_order_to_try_is_refused_and_says_nothing_of_the_system() {
    let second = SignedDuration::from_secs(1);
    assert_eq!(heard(Action::Try, -second).phase(), Some(Phase::Trying));
    let late = heard(Action::Try, second);
    assert!(late.commands.is_empty(), "{:?}", late.commands);
    let activity = late.report().activity.unwrap();
    assert_eq!((activity.phase, activity.unheard), (Phase::WentBack, true));
    assert_eq!(activity.message, "the order to try it came too late");
}

#[test]
fn an_order_of_an_earlier_version_has_no_end() {
    let order = r#"{"ticket": 7, "system": "/nix/store/00000000000000000000000000000000-new", "needs": "switch",
        "minor": false, "action": "try", "seconds": 900}"#;
    let order: Order = serde_json::from_str(order).unwrap();
    assert_eq!(order.not_after, None);
}
