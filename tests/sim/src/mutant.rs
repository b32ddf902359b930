//! Rules taken away, one at a time: what the checker must notice.
//!
//! The product stays as it is. A mutant lies to it about what a rule looks at, or changes what comes out of it.

mod lies;
mod servers;

use std::collections::BTreeSet;

use fabrik_core::desired::Desired;
use fabrik_core::effect::Effect;
use fabrik_core::hold::HoldReason;
use fabrik_core::ledger::{Change, Ending};
use fabrik_core::observed::{Datastore, Observed, Role};
use fabrik_core::step::{self, Step};
use fabrik_core::system::Action;
use jiff::Timestamp;

use self::lies::{
    agents_at_once, beside_stuck, etcd, heal_etcd, lie, send_all, two_servers, with_orders,
};

/// A place in `MUTANTS`.
pub type Mutant = usize;

type Mutated = fn(&Desired, &Observed, Timestamp) -> Step;

/// What is missing, and a step without it.
pub const MUTANTS: [(&str, Mutated); 48] = [
    ("max-unavailable is one more than written", |d, v, now| {
        lie(d, v, now, |d, _| {
            d.spec
                .pools
                .values_mut()
                .for_each(|p| p.max_unavailable += 1);
        })
    }),
    ("cordons of people do not count", |d, v, now| {
        lie(d, v, now, |_, v| {
            v.nodes
                .values_mut()
                .filter(|n| n.cordoned_under.is_none())
                .for_each(|n| n.unschedulable = false);
        })
    }),
    ("nodes that are not Ready do not count", |d, v, now| {
        lie(d, v, now, |_, v| {
            v.nodes.values_mut().for_each(|n| n.ready = true);
        })
    }),
    ("tickets of the other servers are not seen", two_servers),
    (
        "a sick node may go while another one is down",
        |d, v, now| {
            lie(d, v, now, |d, v| {
                let sick = v.nodes.values().any(|n| !n.ready);
                let more = u32::from(sick);
                d.spec
                    .pools
                    .values_mut()
                    .for_each(|p| p.max_unavailable += more);
            })
        },
    ),
    ("every etcd member is healthy", |d, v, now| {
        lie(d, v, now, |_, v| {
            heal_etcd(v);
            v.nodes
                .values_mut()
                .filter(|n| n.control_plane)
                .for_each(|n| n.ready = true);
        })
    }),
    ("the quorum is one less", |d, v, now| {
        lie(d, v, now, |_, v| {
            let sick = etcd(v).and_then(|e| e.members.as_mut()?.iter_mut().find(|m| !m.healthy));
            let healed = sick.and_then(|m| {
                m.healthy = true;
                m.node.clone()
            });
            if let Some(node) = healed.and_then(|name| v.nodes.get_mut(&name)) {
                node.ready = true;
            }
        })
    }),
    ("etcd that was not read is well", |d, v, now| {
        lie(d, v, now, |_, v| {
            if v.datastore == Datastore::Unread {
                v.datastore = Datastore::Other;
            }
        })
    }),
    ("etcd members that do not agree are well", |d, v, now| {
        lie(d, v, now, |_, v| {
            if etcd(v).is_some_and(|e| e.members.is_none()) {
                v.datastore = Datastore::Other;
            }
        })
    }),
    ("etcd's alarms are not heard", |d, v, now| {
        lie(d, v, now, |_, v| {
            let members = etcd(v)
                .into_iter()
                .flat_map(|e| e.members.iter_mut().flatten());
            members.into_iter().for_each(|m| m.alarms.clear());
        })
    }),
    (
        "the server that leads etcd goes down as it is",
        |d, v, now| {
            lie(d, v, now, |_, v| {
                let members = etcd(v)
                    .into_iter()
                    .flat_map(|e| e.members.iter_mut().flatten());
                members.into_iter().for_each(|m| m.leader = false);
            })
        },
    ),
    ("no snapshot before a minor", |d, v, now| {
        lie(d, v, now, |_, v| {
            let numbers = v.ledger.tickets.values().filter_map(|t| t.update());
            let names: BTreeSet<String> = numbers
                .map(|u| format!("fabrik-before-1.{}-{}", u.kubernetes.minor, u.number))
                .collect();
            if let Some(etcd) = etcd(v) {
                etcd.snapshots.extend(names);
            }
        })
    }),
    ("windows are always open", |d, v, now| {
        lie(d, v, now, |d, _| d.spec.update.windows.clear())
    }),
    ("a step needs no time inside its window", |d, v, now| {
        lie(d, v, now, |d, _| {
            d.spec.update.try_deadline = std::time::Duration::ZERO;
        })
    }),
    ("denials are forgotten at once", |d, v, now| {
        let mut step = lie(d, v, now, |_, v| v.ledger.denied.clear());
        step.changes.retain(|c| !matches!(c, Change::Deny { .. }));
        step
    }),
    ("agents do not wait for servers", agents_at_once),
    ("the ladder is not asked", |d, v, now| {
        lie(d, v, now, |d, v| {
            let target = d.targets.values().next();
            let Some(version) = target.map(|t| format!("v1.{}.0", t.system.kubernetes.minor))
            else {
                return;
            };
            v.nodes
                .values_mut()
                .for_each(|n| n.kubelet_version.clone_from(&version));
        })
    }),
    (
        "an operating system and a minor are one step",
        |d, v, now| {
            lie(d, v, now, |d, _| {
                d.targets.values_mut().for_each(|t| t.first = None);
            })
        },
    ),
    ("nothing has to soak, nor to be Ready", |d, v, now| {
        lie(d, v, now, |d, v| {
            d.spec.update.soak = std::time::Duration::ZERO;
            v.nodes.values_mut().for_each(|n| n.ready = true);
            heal_etcd(v);
        })
    }),
    (
        "a node that was Ready once is heard for ever",
        |d, v, now| {
            lie(d, v, now, |d, v| {
                d.spec.update.soak = std::time::Duration::ZERO;
                heal_etcd(v);
                v.nodes
                    .values_mut()
                    .for_each(|n| n.heard = Some(Timestamp::MAX));
            })
        },
    ),
    ("what should go back is kept", |d, v, now| {
        with_orders(d, v, now, |action| match action {
            Action::GoBack => Action::Keep,
            other => other,
        })
    }),
    ("what is told to try is told to keep", |d, v, now| {
        with_orders(d, v, now, |action| match action {
            Action::Try => Action::Keep,
            other => other,
        })
    }),
    ("nothing is ever kept", |d, v, now| {
        with_orders(d, v, now, |action| match action {
            Action::Keep => Action::GoBack,
            other => other,
        })
    }),
    ("pods are not waited for", |d, v, now| {
        lie(d, v, now, |_, v| v.pods.values_mut().for_each(Vec::clear))
    }),
    ("no node is cordoned", |d, v, now| {
        lie(d, v, now, |_, v| {
            let ticketed: BTreeSet<_> = v.ledger.tickets.values().map(|t| t.node.clone()).collect();
            v.nodes
                .values_mut()
                .filter(|n| ticketed.contains(&n.name))
                .for_each(|n| n.unschedulable = true);
        })
    }),
    ("our own cordons are left behind", |d, v, now| {
        lie(d, v, now, |_, v| {
            v.nodes.values_mut().for_each(|n| n.cordoned_under = None);
        })
    }),
    (
        "a ticket is given back while its node tries",
        |d, v, now| {
            let mut step = step::step(d, v, now);
            for (id, ticket) in &v.ledger.tickets {
                let wanted = d.targets.get(&ticket.pool).map(|t| &t.system.output);
                let other = ticket
                    .update()
                    .is_some_and(|u| u.ordered.is_some() && Some(&u.system) != wanted);
                if other {
                    let id = id.clone();
                    step.changes.push(Change::EndUpdate {
                        id,
                        ending: Ending::Withdrawn,
                    });
                }
            }
            step
        },
    ),
    ("a stuck node gives its ticket back", |d, v, now| {
        let mut step = step::step(d, v, now);
        let stuck: BTreeSet<String> = step
            .holds
            .iter()
            .filter(|h| h.reason == HoldReason::Stuck)
            .map(|h| h.about.clone())
            .collect();
        for (id, ticket) in &v.ledger.tickets {
            if stuck.contains(&format!("node {}", ticket.node)) {
                let id = id.clone();
                step.changes.push(Change::EndUpdate {
                    id,
                    ending: Ending::Released,
                });
            }
        }
        step
    }),
    ("what hangs is never reset", |d, v, now| {
        let mut step = step::step(d, v, now);
        step.effects.retain(|e| !matches!(e, Effect::Reset { .. }));
        step
    }),
    (
        "a silent server is reset whatever it started",
        |d, v, now| {
            lie(d, v, now, |_, v| {
                // As if no minor were in it.
                v.ledger.tickets.values_mut().for_each(|t| {
                    if let fabrik_core::ledger::Purpose::Update(update) = &mut t.purpose {
                        update.minor = false;
                    }
                });
            })
        },
    ),
    ("a machine that is well but late is reset", |d, v, now| {
        lie(d, v, now, |_, v| {
            let late = |at: Timestamp| now.duration_since(at).as_secs() > 120;
            let tickets = v.ledger.tickets.values();
            let late = tickets.filter(|t| t.update().is_some_and(|u| u.deadline.is_some_and(late)));
            for name in late.map(|t| &t.node) {
                if let Some(node) = v.nodes.get_mut(name) {
                    (node.ready, node.heard) = (false, None);
                }
            }
        })
    }),
    ("what was written down is sent whatever comes", send_all),
    ("nodes that are held out go too", |d, v, now| {
        lie(d, v, now, |d, _| d.spec.update.held.clear())
    }),
    ("a pause is not heard", |d, v, now| {
        lie(d, v, now, |_, v| v.paused = None)
    }),
    ("the canary goes when it goes", |d, v, now| {
        lie(d, v, now, |d, _| d.spec.update.canary = None)
    }),
    ("nobody rests", |d, v, now| {
        lie(d, v, now, |_, v| v.ledger.resting.clear())
    }),
    ("numbers are given twice", |d, v, now| {
        let mut step = step::step(d, v, now);
        for change in &mut step.changes {
            if let Change::Grant { ticket, .. } = change
                && let fabrik_core::ledger::Purpose::Update(update) = &mut ticket.purpose
            {
                update.number = 1;
            }
        }
        step
    }),
    ("others go on beside a node that is stuck", beside_stuck),
    ("a server may be scaled away", |d, v, now| {
        lie(d, v, now, |d, v| {
            let surplus = v
                .ledger
                .members
                .values_mut()
                .find(|m| m.role == Role::Server);
            let pool = d.spec.pools.keys().next().cloned();
            if let (Some(member), Some(pool)) = (surplus, pool) {
                member.role = Role::Agent;
                member.pool = pool;
            }
        })
    }),
    ("two servers join at once", servers::two_join),
    (
        "servers get tickets while one joins",
        servers::tickets_beside_a_joiner,
    ),
    (
        "a server joins an etcd that is sick",
        servers::joins_while_etcd_is_sick,
    ),
    ("a learner is a member", servers::a_learner_is_a_member),
    (
        "an etcd member is removed while its k3s runs",
        servers::removed_while_it_runs,
    ),
    (
        "etcd keeps the members of who leaves",
        servers::members_stay,
    ),
    ("voters that are not there count", servers::the_last_goes),
    (
        "a server is deleted while it runs",
        servers::deleted_while_it_runs,
    ),
    ("no server is ever asked for", servers::none_is_asked_for),
];

/// The product's step, with a rule less where one is named.
pub fn step(mutant: Option<Mutant>, desired: &Desired, view: &Observed, now: Timestamp) -> Step {
    match mutant {
        None => step::step(desired, view, now),
        Some(mutant) => MUTANTS[mutant].1(desired, view, now),
    }
}

/// How many seeds are tried before a mutant counts as not caught.
pub const MAX_SEEDS: u64 = 4000;

/// The first seed that catches it, and the rule that it broke.
pub fn caught_by(mutant: Mutant) -> Option<(u64, &'static str)> {
    (0..MAX_SEEDS).find_map(|number| {
        let seed = crate::schedule::seed(1, number);
        let failure = crate::schedule::Schedule::of(seed)
            .run(Some(mutant), false)
            .failure?;
        Some((seed, failure.rule))
    })
}
