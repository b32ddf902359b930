//! Who comes into the control plane and who leaves it: S3, S5 and S9, by what a leader saw and by what is true.

use fabrik_core::desired::Desired;
use fabrik_core::effect::Effect;
use fabrik_core::id::{NodeName, ServerId};
use fabrik_core::ledger::Change;
use fabrik_core::observed::{Datastore, Node, Observed, Pod, PodKind, Role};
use fabrik_core::quorum;

use super::{Broken, broken};
use crate::machine::Power;
use crate::world::{World, servers_pool};

fn members(view: &Observed) -> Option<&[quorum::Member]> {
    match &view.datastore {
        Datastore::Etcd(etcd) => etcd.members.as_deref(),
        _ => None,
    }
}

/// Tickets and intents of servers.
fn under_way(view: &Observed) -> usize {
    let ledger = &view.ledger;
    let tickets = ledger.tickets.values().filter(|t| t.pool == servers_pool());
    let intents = ledger.intents.values().filter(|i| i.pool == servers_pool());
    tickets.count() + intents.count()
}

/// What is written down of servers that come and go.
pub fn written(desired: &Desired, view: &Observed, change: &Change) -> Broken {
    match change {
        Change::Intend { pool, name, .. } if *pool == servers_pool() => {
            asked_for(desired, view, name)
        }
        Change::Grant { ticket, .. } if ticket.pool == servers_pool() => {
            let comes = view
                .ledger
                .intents
                .values()
                .find(|i| i.pool == servers_pool());
            let other = comes?;
            let what = format!("{} gets a ticket while {} joins", ticket.node, other.name);
            broken("S3", what)
        }
        Change::Join { id, .. } => {
            let intent = view.ledger.intents.get(id)?;
            let all = members(view);
            let votes = |m: &quorum::Member| {
                m.node.as_ref() == Some(&intent.name) && m.healthy && !m.learner
            };
            let joined =
                intent.pool != servers_pool() || all.is_some_and(|all| all.iter().any(votes));
            if joined {
                return None;
            }
            broken(
                "S3",
                format!("{} is a member and does not vote", intent.name),
            )
        }
        Change::Retire { id } => {
            let ticket = view.ledger.tickets.get(id)?;
            let node = view.nodes.get(&ticket.node);
            let pods = view.pods.get(&ticket.node);
            let moves =
                |n: &Node, p: &Pod| p.kind == PodKind::Ordinary && (!p.terminating || n.ready);
            let empty = node.is_none_or(|n| {
                n.unschedulable && pods.is_some_and(|pods| !pods.iter().any(|p| moves(n, p)))
            });
            if empty {
                return None;
            }
            broken("S5", format!("{} leaves and is not empty", ticket.node))
        }
        _ => None,
    }
}

fn asked_for(desired: &Desired, view: &Observed, name: &NodeName) -> Broken {
    let wanted = desired
        .spec
        .servers
        .as_ref()
        .map_or(0, |s| s.count as usize);
    let members = view.ledger.members.values();
    let there = members.filter(|m| m.role == Role::Server).count();
    if there >= wanted {
        return broken(
            "S3",
            format!("{name} is asked for: {there} of {wanted} are there"),
        );
    }
    if under_way(view) > 0 {
        return broken("S3", format!("{name} is asked for beside another server"));
    }
    let Some(all) = self::members(view) else {
        return broken("S3", format!("{name} is asked for, and etcd was not read"));
    };
    let usable = |node: &NodeName| {
        let node = view.nodes.get(node);
        node.is_some_and(|n| n.ready && !n.unschedulable)
    };
    let well = |m: &quorum::Member| {
        let mapped = m.node.as_ref().is_some_and(usable);
        mapped && m.healthy && !m.learner && m.alarms.is_empty()
    };
    let sick = all.iter().find(|m| !well(m))?;
    broken(
        "S3",
        format!("{name} is asked for while {} is not well", sick.name),
    )
}

/// What is about to be done to servers that go: etcd keeps its quorum, by what was seen.
pub fn sent(view: &Observed, effect: &Effect) -> Broken {
    let all = members(view);
    match effect {
        Effect::StopK3s { node, retirement } if retirement.stops => keeps(all?, &node.name),
        Effect::PowerOff { server } => keeps(all?, &server.name),
        Effect::RemoveEtcdMember { server, member, .. } => {
            let Some(all) = all else {
                return broken(
                    "S3",
                    format!("{server} loses its member, and etcd was not read"),
                );
            };
            let rest = all.iter().filter(|m| m.id != *member && !m.learner);
            let (voters, well) = (rest.clone().count(), rest.filter(|m| m.healthy).count());
            if voters > 0 && 2 * well > voters {
                return None;
            }
            let what = format!("{server} loses its member: {well} of {voters} are left");
            broken("S3", what)
        }
        _ => None,
    }
}

/// A voter that is about to go down leaves a majority of all that there are.
fn keeps(all: &[quorum::Member], name: &NodeName) -> Broken {
    let own = all.iter().find(|m| m.name == name.as_str());
    own.filter(|m| !m.learner)?;
    let voters = all.iter().filter(|m| !m.learner);
    let left = voters
        .clone()
        .filter(|m| m.healthy && m.name != name.as_str());
    let (voters, left) = (voters.count(), left.count());
    if 2 * left > voters {
        return None;
    }
    broken(
        "S3",
        format!("{name} goes down: {left} of {voters} are left"),
    )
}

impl World {
    /// A member is removed only when its machine or its k3s has ended; or that can start no more, and does not answer, or was
    /// one of two.
    pub(super) fn check_removal(&mut self, server: &NodeName) {
        if !self.etcd.contains_key(server) {
            return;
        }
        let (voters, _) = self.voters();
        let machine = self.machine(server);
        let ended = machine.is_none_or(|m| {
            let off = m.power == Power::Off;
            let answers = m.is_well(&self.systems, self.now);
            off || m.k3s_ended || m.retired && (voters == 2 || !answers)
        });
        if !ended {
            let what = format!("{server} loses its etcd member, and its k3s runs");
            self.book.blame(broken("S5", what));
        } else if self.etcd.len() < 2 {
            let what = format!("{server} is the last etcd member and is removed");
            self.book.blame(broken("S5", what));
        }
    }

    /// A Node, or a machine, goes only when etcd has no member of it any more.
    pub(super) fn check_not_a_member(&mut self, server: &NodeName, what: &str) {
        if self.etcd.contains_key(server) {
            let what = format!("{server} is {what}, and is an etcd member");
            self.book.blame(broken("S5", what));
        }
    }

    /// A server of the control plane is powered off only where it is to leave for good, and deleted only when it is off.
    pub(super) fn check_server_goes(&mut self, server: ServerId, deleted: bool) {
        let Some(machine) = self.machines.iter().find(|m| m.server == server) else {
            return;
        };
        let (name, off) = (machine.name.clone(), machine.power == Power::Off);
        let ledger = &self.observed.ledger;
        let ticket = ledger.tickets.get(&machine.id);
        let leaves = ticket.is_some_and(|t| t.retiring().is_some() || off && t.leave().is_some());
        let intent = ledger.intents.get(&machine.id);
        let cancelled = intent.is_some_and(|i| i.cancelled.is_some());
        let blame = |what: &str| broken("S5", format!("server {name} {what}"));
        let found = if !leaves && !cancelled {
            blame("goes and was not to leave")
        } else if deleted && !off {
            blame("is deleted and runs")
        } else {
            None
        };
        self.book.blame(found);
        if deleted {
            self.check_not_a_member(&name, "deleted");
        }
    }

    /// One server at a time, in or out; and some server is left.
    pub(super) fn check_servers(&mut self) {
        let under_way = under_way(&self.observed);
        let learners = self
            .etcd
            .values()
            .filter(|v| v.learns_since.is_some())
            .count();
        let found = if under_way > 1 {
            broken("S3", format!("{under_way} servers are under way"))
        } else if learners > 1 {
            broken("S3", format!("{learners} servers join at once"))
        } else if self.voters().0 == 0 {
            broken("S5", "no server is left")
        } else {
            None
        };
        self.book.blame(found);
    }
}
