//! What of a world decides on what can come, as one number. Two worlds with the same number have the same future.
//!
//! Left out is what only tells worlds apart. Times are taken relative to the moment, and no further than anybody asks;
//! tickets, boots and publications by their order on one node, for nobody compares those of two. Structures are taken
//! apart by name, so that a new field can't be forgotten here.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use fabrik_core::id::StorePath;
use fabrik_core::ledger::Ledger;
use fabrik_core::observed::Role;
use jiff::Timestamp;

use super::place::Place;
use crate::check::Book;
use crate::leader::{Leader, Lease};
use crate::world::World;

/// After this nobody asks how old a Lease is.
const LEASE_SECS: i64 = 60;

pub fn fingerprint(world: &World) -> u64 {
    let World {
        now,
        desired,
        observed,
        machines,
        leaders,
        lease,
        flights,
        etcd_leader,
        book,
        // Are told by place.
        truths: _,
        snapshots: _,
        sequence: _,
        // Begin by no event of a search, or make no difference to anybody.
        systems: _,
        step_secs: _,
        joining,
        ledger_version: _,
        next_id: _,
        rng: _,
        api_down_until: _,
        etcd_unread_until: _,
        etcd_split_until: _,
        etcd_headless_until: _,
        etcd: _,
        next_joiner: _,
        servers_wanted: _,
        hetzner_down_until: _,
        deleted: _,
        conflicts_until: _,
        losses_until: _,
        cover: _,
        mutant: _,
        log: _,
    } = world;
    let mut hasher = DefaultHasher::new();
    let into = &mut hasher;
    debug_assert!(joining.is_empty(), "no event of a search makes a server");
    for target in desired.targets.values() {
        short(&target.system.output).hash(into);
        target.first.as_ref().map(|s| short(&s.output)).hash(into);
    }
    observed.paused.is_some().hash(into);
    let mut workers = Vec::new();
    for (id, member) in &observed.ledger.members {
        let machine = machines.iter().find(|m| m.name == member.name);
        let digest = Place::new(world, id, member, machine).digest();
        if member.role == Role::Server {
            (digest, Some(&member.name) == etcd_leader.as_ref()).hash(into);
        } else {
            workers.push(digest);
        }
    }
    // They are alike: which of them is where makes no difference, but for who goes first of two in one state.
    workers.sort_unstable();
    workers.hash(into);
    ledger(&observed.ledger, into);
    for leader in leaders {
        self::leader(leader, *now, into);
    }
    let Lease { holder, renewed } = lease;
    (holder, ago(*renewed, *now, LEASE_SECS)).hash(into);
    flights.len().hash(into);
    let Book {
        broken: _,
        commits: _,
        tries: _,
        tried_bad,
        highest_number: _,
        released,
        snapshots,
        // Of the last pass; the next one says it anew.
        stuck: _,
        held: _,
    } = book;
    for ((_, path), nodes) in tried_bad {
        (short(path), nodes.len()).hash(into);
    }
    (released.len(), snapshots).hash(into);
    hasher.finish()
}

/// The machines of which one is enough: of workers in one state the first.
pub fn different_machines(world: &World) -> Vec<usize> {
    let mut seen = HashSet::new();
    let machines = world.machines.iter().enumerate();
    let different = machines.filter(|(_, machine)| {
        let member = world.observed.ledger.members.get_key_value(&machine.id);
        let digest = member.map(|(id, m)| Place::new(world, id, m, Some(machine)).digest());
        machine.role == Role::Server || seen.insert(digest)
    });
    different.map(|(number, _)| number).collect()
}

fn leader(leader: &Leader, now: Timestamp, into: &mut impl Hasher) {
    let Leader {
        number: _,
        // No event of a search touches them.
        skew: _,
        stale: _,
        dead_until,
        pauses,
        dies_in,
        evaluates_until,
        had: _,
    } = leader;
    let pauses = pauses.map(|(effects, time)| (effects, time.as_secs()));
    (pauses, dies_in).hash(into);
    (ahead(*dead_until, now), ahead(*evaluates_until, now)).hash(into);
}

fn ledger(ledger: &Ledger, into: &mut impl Hasher) {
    let Ledger {
        denied,
        lapses,
        // Are told by place.
        members: _,
        tickets: _,
        resting: _,
        // No pool has secrets.
        recipients: _,
        // No server comes or goes.
        intents: _,
        nonces: _,
        alarmed: _,
        next_intent: _,
        history: _,
        // Never changes, or nothing is decided by it.
        schema: _,
        cluster: _,
        foundation: _,
        admitted: _,
        begun_minor: _,
        sequence: _,
        pace: _,
        // The next number is higher than all that there are.
        next_ticket: _,
    } = ledger;
    for (path, denied) in denied {
        (short(path), &denied.pool).hash(into);
    }
    for (path, lapses) in lapses {
        (short(path), lapses.count).hash(into);
    }
}

/// What tells the paths of a run apart.
pub fn short(path: &StorePath) -> &str {
    let path = path.as_str();
    path.get(path.len().saturating_sub(10)..).unwrap_or(path)
}

/// Seconds until then; what is past is past.
pub fn ahead(then: Timestamp, now: Timestamp) -> i64 {
    then.duration_since(now).as_secs().max(0)
}

/// Seconds until then or since, of which those beyond `most` are all the same.
pub fn ago(then: Timestamp, now: Timestamp, most: i64) -> i64 {
    then.duration_since(now).as_secs().max(-most)
}
