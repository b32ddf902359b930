//! etcd: who is a member and who votes, how k3s has servers join it, and what the members say.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use fabrik_core::id::{NodeName, ServerId};
use fabrik_core::observed::{Datastore, Etcd, Role};
use fabrik_core::quorum;
use jiff::{SignedDuration, Timestamp};

use super::World;
use crate::machine::Machine;

/// A learner has caught up by then.
const LEARNS_SECS: i64 = 30;

/// A member, as etcd has it written down.
#[derive(Debug, Clone)]
pub struct Voter {
    pub id: u64,
    pub address: IpAddr,
    /// Since when it is one that does not vote yet.
    pub learns_since: Option<Timestamp>,
}

pub fn address_of(server: ServerId) -> IpAddr {
    let number = u16::try_from(server.0 % 60_000).expect("it is below a u16");
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 0, high, low).into()
}

impl World {
    /// Whether its etcd member votes and does.
    pub fn votes(&self, machine: &Machine) -> bool {
        let voter = self.etcd.get(&machine.name);
        voter.is_some_and(|v| v.learns_since.is_none()) && machine.is_well(&self.systems, self.now)
    }

    /// Voters, and how many of them are well.
    pub fn voters(&self) -> (usize, usize) {
        let voters = self.etcd.values().filter(|v| v.learns_since.is_none());
        let well = self.machines.iter().filter(|m| self.votes(m));
        (voters.count(), well.count())
    }

    pub fn has_quorum(&self) -> bool {
        let (all, well) = self.voters();
        2 * well > all
    }

    pub fn member(&mut self, machine: &Machine, learns_since: Option<Timestamp>) {
        self.next_id += 1;
        let voter = Voter {
            id: self.next_id,
            address: address_of(machine.server),
            learns_since,
        };
        Arc::make_mut(&mut self.etcd).insert(machine.name.clone(), voter);
    }

    /// k3s on a server that is no member adds it as a learner, and lets learners vote that have caught up: one after the
    /// other, and only where a quorum agrees.
    pub fn servers_join(&mut self) {
        if !self.api_is_up() {
            return;
        }
        let learns = |v: &Voter| v.learns_since.is_some();
        let mut machines = self.machines.iter();
        let newcomer = machines.find(|m| {
            let well = m.is_well(&self.systems, self.now);
            m.role == Role::Server && well && !self.etcd.contains_key(&m.name)
        });
        if let Some(machine) = newcomer.filter(|_| !self.etcd.values().any(learns)) {
            let machine = machine.clone();
            self.note(|| format!("{} is a learner", machine.name));
            self.member(&machine, Some(self.now));
            return;
        }
        let caught_up = |(name, voter): (&NodeName, &Voter)| {
            let since = voter.learns_since?;
            let machine = self.machine(name)?;
            let learnt = self.now.duration_since(since) >= SignedDuration::from_secs(LEARNS_SECS);
            let well = machine.is_well(&self.systems, self.now) && !machine.stays_learner;
            (learnt && well).then(|| name.clone())
        };
        if let Some(name) = self.etcd.iter().find_map(caught_up) {
            self.note(|| format!("{name} votes"));
            let etcd = Arc::make_mut(&mut self.etcd);
            etcd.get_mut(&name).expect("it is there").learns_since = None;
        }
    }

    /// etcd's own precondition: a quorum agrees on it. k3s on who is removed ends.
    pub fn remove_member(&mut self, server: &NodeName, id: u64) {
        let known = self.etcd.get(server).is_some_and(|v| v.id == id);
        if !known || !self.has_quorum() {
            return;
        }
        Arc::make_mut(&mut self.etcd).remove(server);
        if let Some(machine) = self.machine_mut(server).filter(|m| m.is_on()) {
            machine.k3s_ends();
        }
    }

    /// What the members say.
    pub(super) fn observe_etcd(&mut self) {
        let now = self.now;
        let headless = now < self.etcd_headless_until;
        let mut machines = self.machines.iter();
        let leads = machines.find(|m| self.votes(m) && Some(&m.name) == self.etcd_leader.as_ref());
        let leader = leads.or_else(|| self.machines.iter().find(|m| self.votes(m)));
        let leader = leader.map(|m| m.name.clone());
        let members = self.etcd.iter().map(|(name, voter)| {
            let machine = self.machine(name);
            let full = machine.is_some_and(|m| now < m.disk_full_until);
            quorum::Member {
                id: voter.id,
                address: Some(voter.address),
                name: name.to_string(),
                node: self.observed.nodes.contains_key(name).then(|| name.clone()),
                learner: voter.learns_since.is_some(),
                healthy: !headless && machine.is_some_and(|m| m.is_well(&self.systems, now)),
                leader: !headless && Some(name) == leader.as_ref(),
                lag: 0,
                alarms: if full {
                    vec!["NOSPACE".to_owned()]
                } else {
                    Vec::new()
                },
            }
        });
        let members: Vec<quorum::Member> = members.collect();
        self.observed.datastore = if now < self.etcd_unread_until {
            Datastore::Unread
        } else {
            Datastore::Etcd(Etcd {
                members: (now >= self.etcd_split_until).then_some(members),
                snapshots: self.snapshots.clone(),
            })
        };
        self.etcd_leader = leader;
    }
}

pub type Voters = Arc<BTreeMap<NodeName, Voter>>;
