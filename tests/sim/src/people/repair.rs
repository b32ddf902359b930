//! People put right what is wrong.

use std::sync::Arc;

use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::{NodeName, ServerId};
use fabrik_core::observed::{Power as Rented, Role, Server};
use jiff::SignedDuration;

use crate::machine::Power;
use crate::world::{Joiner, World};

impl World {
    /// All faults end, and people put right what they did.
    pub fn faults_stop(&mut self) {
        let now = self.now;
        for until in [
            &mut self.api_down_until,
            &mut self.etcd_unread_until,
            &mut self.etcd_split_until,
            &mut self.etcd_headless_until,
            &mut self.hetzner_down_until,
            &mut self.conflicts_until,
            &mut self.losses_until,
        ] {
            *until = now;
        }
        for leader in &mut self.leaders {
            leader.stale = None;
            leader.pauses = None;
            leader.dies_in = None;
            leader.skew = SignedDuration::ZERO;
            leader.dead_until = leader.dead_until.min(now);
        }
        for machine in &mut self.machines {
            machine.mishap = None;
            machine.dies_in = None;
            machine.skew = SignedDuration::ZERO;
            for until in [
                &mut machine.agent_dead_until,
                &mut machine.kubelet_dead_until,
                &mut machine.cut_off_until,
                &mut machine.disk_full_until,
            ] {
                *until = (*until).min(now);
            }
        }
        for truth in self.truths.values_mut() {
            truth.pdb_until = now;
        }
        self.next_joiner = Joiner::Votes;
        if let Some(count) = self.servers_wanted {
            self.want_servers(Some(count));
        }
        self.observed.paused = None;
        let update = &mut Arc::make_mut(&mut self.desired).spec.update;
        update.held.clear();
        update.windows.clear();
        update.canary = None;
    }

    /// A person looks after machines that nobody else can help, and after their own cordons.
    pub fn tidy_up_by_hand(&mut self) {
        let names: Vec<NodeName> = self.truths.keys().cloned().collect();
        for name in names {
            if self.truths[&name].cordoned_by_person {
                self.uncordon_by_hand(&name);
            }
        }
        // Its Node was deleted before it was seen to have joined.
        let held = self.book.held.iter();
        let not_joined = held.filter(|h| h.reason == HoldReason::NotJoined);
        let servers = not_joined.filter_map(|h| h.about.strip_prefix("server ")?.parse().ok());
        let servers: Vec<NodeName> = servers.collect();
        for name in servers {
            self.delete_server_by_hand(&name);
        }
        self.delete_those_that_never_join();
        let tickets: Vec<NodeName> = self
            .observed
            .ledger
            .tickets
            .values()
            .map(|t| t.node.clone())
            .collect();
        for index in 0..self.machines.len() {
            let machine = &self.machines[index];
            let ours = tickets.contains(&machine.name);
            let rented = self.observed.hetzner.servers.get(&machine.server);
            let on = rented.is_some_and(|s| s.power == Rented::Running);
            let stands = matches!(machine.power, Power::Hung | Power::Off);
            // Nobody gives a ticket to a node that would boot another system than it runs.
            let half_way = machine.is_on() && machine.is_half_way(&self.systems);
            // Without an API server nobody else resets it.
            let cut_off = !self.has_quorum() && stands;
            if on && (cut_off || !ours && (stands || half_way)) {
                let (systems, now) = (&self.systems, self.now);
                self.machines[index].reset(systems, now);
            }
        }
    }

    /// Servers that were ordered long ago and are no members: what is said of them asks a person to.
    fn delete_those_that_never_join(&mut self) {
        let long_ago = SignedDuration::from_secs(1300);
        let rented = self.observed.hetzner.servers.values();
        let asks = |s: &&Server| {
            let about = format!("server {}", s.name);
            let mut held = self.book.held.iter().filter(|h| h.about == about);
            held.any(|h| matches!(h.reason, HoldReason::NotJoined | HoldReason::Settling))
        };
        let late = rented
            .filter(asks)
            .filter(|s| s.role == Role::Server && self.now.duration_since(s.created) > long_ago);
        let ledger = &self.observed.ledger;
        let is_member = |id: ServerId| ledger.members.values().any(|m| m.server == id);
        let late: Vec<ServerId> = late.map(|s| s.id).filter(|id| !is_member(*id)).collect();
        for server in late {
            self.note(|| format!("--- a person deletes server {server}, which never joined"));
            self.delete_at_hetzner(server);
        }
    }

    /// A person mends the node that stands in the way, and takes its ticket away.
    pub fn mend(&mut self) {
        self.cover.fault("mended-by-hand");
        let stuck: Vec<(NodeName, u64)> = self
            .observed
            .ledger
            .tickets
            .values()
            .filter_map(|t| Some((t.node.clone(), t.update()?.number)))
            .collect();
        let held = self.book.held.clone();
        for (name, number) in stuck {
            let about = format!("node {name}");
            let is_stuck = |h: &Hold| h.about == about && h.reason == HoldReason::Stuck;
            if !held.iter().any(is_stuck) {
                continue;
            }
            self.note(|| format!("--- a person mends {name}"));
            let (systems, now) = (self.systems.clone(), self.now);
            if let Some(machine) = self.machine_mut(&name)
                && (!machine.is_on() || machine.is_half_way(&systems))
            {
                machine.reset(&systems, now);
            }
            self.book.released.insert(number);
            self.observed.released.insert(number);
        }
    }
}
