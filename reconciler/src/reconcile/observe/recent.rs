//! How long a look at Hetzner counts. Requests are few there, and a rollout changes nothing there: it is not asked again
//! for each step of each node.

use std::collections::BTreeSet;
use std::time::Instant;

use fabrik_core::id::{CommitId, ServerId};
use fabrik_core::ledger::Ledger;
use fabrik_core::observed::Hetzner;

use crate::cluster::wishes::Wishes;
use crate::reconcile::leader::InForce;
use crate::reconcile::pace::HETZNER_COUNTS;

/// What was seen at Hetzner, and for what: it counts for nothing else.
pub struct Recent {
    pub at: Instant,
    pub subject: Subject,
    pub seen: Hetzner,
}

#[derive(PartialEq, Eq)]
pub struct Subject {
    commit: CommitId,
    known: BTreeSet<ServerId>,
    confirmed_gone: BTreeSet<ServerId>,
}

impl Subject {
    pub fn new(in_force: &InForce, ledger: &Ledger, wishes: &Wishes) -> Self {
        Self {
            commit: in_force.desired.commit.clone(),
            known: ledger.known_servers().collect(),
            confirmed_gone: wishes.confirmed_gone.clone(),
        }
    }
}

impl Recent {
    pub fn counts(&self) -> bool {
        self.at.elapsed() < HETZNER_COUNTS
    }

    pub fn counts_for(&self, subject: Option<&Subject>) -> bool {
        self.counts() && subject == Some(&self.subject)
    }
}
