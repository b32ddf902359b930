//! A cluster that has no project at Hetzner, or whose commit does not name it any more.

mod model;

use fabrik_core::hold::HoldReason;
use fabrik_core::observed::Hetzner;
use model::Model;

/// What the leader sees from the commit on that takes `[hetzner]` out, pools and all.
fn without_project(model: &mut Model) {
    model.desired.spec.hetzner = None;
    model.desired.spec.pools.clear();
    model.observed.hetzner = Hetzner::unseen(&model.observed.ledger);
}

#[test]
fn nothing_is_made_and_nothing_is_missed_where_there_is_no_project() {
    let mut model = Model::wanting(0);
    without_project(&mut model);
    let step = model.step();
    assert_eq!(step.effects, []);
    assert_eq!(step.holds, []);
}

#[test]
fn what_is_at_hetzner_is_not_believed_gone_where_nobody_can_ask() {
    let mut model = Model::with_members(2);
    model.pool().count = 3;
    let asked_for = model.step();
    assert_eq!(asked_for.effects.len(), 1, "a third one: {asked_for:?}");
    let (project, pools) = (
        model.desired.spec.hetzner.clone(),
        model.desired.spec.pools.clone(),
    );
    let seen = model.observed.hetzner.clone();
    without_project(&mut model);

    for _ in 0..3 {
        let step = model.step();
        assert_eq!(step.effects, []);
        assert!(model.observed.ledger.tickets.is_empty(), "{step:?}");
        let ledger = &model.observed.ledger;
        assert_eq!((ledger.members.len(), ledger.intents.len()), (2, 1));
        let told = step
            .holds
            .iter()
            .filter(|h| h.message.contains("no [hetzner]"));
        let told: Vec<_> = told
            .map(|h| (h.about.split(' ').next().unwrap(), h.reason))
            .collect();
        let unexplained = HoldReason::Unexplained;
        assert_eq!(
            told,
            [("servers", unexplained), ("server", unexplained)],
            "{step:?}"
        );
        model.now += jiff::SignedDuration::from_hours(1);
    }

    model.observed.hetzner = seen;
    (model.desired.spec.hetzner, model.desired.spec.pools) = (project, pools);
    model.settle();
    assert_eq!(model.observed.ledger.members.len(), 3, "it goes on");
}
