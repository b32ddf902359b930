//! What machines hear of the API server, what it hears of them, and what that makes of Nodes, pods and etcd.

use std::collections::{BTreeMap, BTreeSet};

use fabrik_core::id::NodeName;
use fabrik_core::observed::{Datastore, Etcd, Pod, PodKind, Role};
use fabrik_core::quorum;
use jiff::SignedDuration;

use super::World;
use crate::machine::Machine;

/// After this the node controller calls a Node that it does not hear of not Ready.
const STALE_SECS: i64 = 40;

impl World {
    /// What machines hear of the API server, and what it hears of them.
    pub fn sync(&mut self) {
        let up = self.api_is_up();
        for machine in &mut self.machines {
            let name = &machine.name;
            let Some(system) = self.observed.systems.get_mut(name) else {
                continue;
            };
            let truth = self.truths.get_mut(name).expect("each Node has its truth");
            if up && machine.hears_the_api(self.now) {
                if machine.wish.order != system.order
                    || machine.wish.aim != system.aim
                    || machine.wish.publication != truth.publication
                {
                    machine.wish.order.clone_from(&system.order);
                    machine.wish.aim.clone_from(&system.aim);
                    machine.wish.publication.clone_from(&truth.publication);
                }
                if std::mem::take(&mut machine.dirty) {
                    system.report = Some(machine.report(&self.systems, self.now));
                }
            }
            let Some(node) = self.observed.nodes.get_mut(name) else {
                continue;
            };
            let heard =
                up && self.now >= machine.cut_off_until && machine.is_well(&self.systems, self.now);
            if heard {
                truth.heard_at = self.now;
                node.heard = Some(machine.clock(self.now));
                node.ready = true;
                let minor = self.systems.minor(machine.running);
                let version = format!("v1.{minor}.0");
                if node.kubelet_version != version {
                    node.kubelet_version = version;
                }
            } else if up
                && self.now.duration_since(truth.heard_at) > SignedDuration::from_secs(STALE_SECS)
            {
                node.ready = false;
            }
            system.well = if node.ready {
                system.well_now(node.heard, self.now)
            } else {
                None
            };
        }
        if up {
            self.nobody_hears_of_machines_that_are_gone();
        }
        self.pods(up);
        self.etcd();
        let holder = self.lease.holder;
        let servers = self.machines.iter().filter(|m| m.role == Role::Server);
        self.observed.leader = holder.and_then(|h| Some(servers.into_iter().nth(h)?.name.clone()));
    }

    fn nobody_hears_of_machines_that_are_gone(&mut self) {
        let there: BTreeSet<&NodeName> = self.machines.iter().map(|m| &m.name).collect();
        for (name, node) in &mut self.observed.nodes {
            let heard_at = self.truths.get(name).map(|t| t.heard_at);
            let silent = heard_at.is_none_or(|at| {
                self.now.duration_since(at) > SignedDuration::from_secs(STALE_SECS)
            });
            node.ready &= there.contains(name) || !silent;
        }
    }

    fn pods(&mut self, up: bool) {
        for (name, node) in &self.observed.nodes {
            let truth = self.truths.get_mut(name).expect("each Node has its truth");
            // A kubelet that lives ends what is to end.
            if up && truth.heard_at == self.now {
                let now = self.now;
                truth.pods.retain(|p| p.ends.is_none_or(|ends| ends > now));
            }
            if up && node.ready && !node.unschedulable && truth.pods.is_empty() {
                self.next_id += 1;
                truth.pods.push(Pod {
                    namespace: "web".to_owned(),
                    name: format!("shop-{}", self.next_id),
                    uid: format!("pod-{}", self.next_id)
                        .parse()
                        .expect("it is a uid"),
                    node: name.clone(),
                    kind: PodKind::Ordinary,
                    labels: BTreeMap::new(),
                    ready: true,
                    managed: true,
                    empty_dir: false,
                    terminating: false,
                    ends: None,
                    blocked: None,
                });
            }
            let tickets = &self.observed.ledger.tickets;
            if tickets.values().any(|t| t.node == *name) {
                self.observed.pods.insert(name.clone(), truth.pods.clone());
            } else {
                self.observed.pods.remove(name);
            }
        }
    }

    fn etcd(&mut self) {
        let now = self.now;
        let servers = self.machines.iter().filter(|m| m.role == Role::Server);
        let servers: Vec<&Machine> = servers.collect();
        let well = |m: &&&Machine| m.is_well(&self.systems, now);
        let leads = servers
            .iter()
            .filter(well)
            .find(|m| Some(&m.name) == self.etcd_leader.as_ref());
        let leader = leads.or_else(|| servers.iter().find(|m| well(m)));
        let leader = leader.map(|m| m.name.clone());
        let members = servers.iter().map(|machine| quorum::Member {
            name: machine.name.to_string(),
            node: Some(machine.name.clone()),
            learner: false,
            healthy: well(&machine),
            leader: Some(&machine.name) == leader.as_ref(),
            lag: 0,
            alarms: if now < machine.disk_full_until {
                vec!["NOSPACE".to_owned()]
            } else {
                Vec::new()
            },
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
