//! What machines hear of the API server, what it hears of them, and what that makes of Nodes, pods and etcd.

use std::collections::{BTreeMap, BTreeSet};

use fabrik_core::id::NodeName;
use fabrik_core::observed::{Pod, PodKind, Role};
use jiff::SignedDuration;

use super::World;

/// After this the node controller calls a Node that it does not hear of not Ready.
const STALE_SECS: i64 = 40;

impl World {
    /// What machines hear of the API server, and what it hears of them.
    pub fn sync(&mut self) {
        let up = self.api_is_up();
        for machine in &mut self.machines {
            let name = &machine.name.clone();
            // An API server whose etcd member does not vote yet is not Ready.
            let learns = self.etcd.get(name).is_none_or(|v| v.learns_since.is_some());
            let well = machine.is_well(&self.systems, self.now)
                && (machine.role == Role::Agent || !learns);
            let Some(system) = self.observed.systems.get_mut(name) else {
                continue;
            };
            let truth = self.truths.get_mut(name).expect("each Node has its truth");
            if up && !machine.k3s_ended && machine.hears_the_api(self.now) {
                if machine.wish.order != system.order
                    || machine.wish.aim != system.aim
                    || machine.wish.publication != truth.publication
                {
                    machine.wish.order.clone_from(&system.order);
                    machine.wish.aim.clone_from(&system.aim);
                    machine.wish.publication.clone_from(&truth.publication);
                }
                machine.hears_retirement(system.retirement.as_ref(), self.now);
                if std::mem::take(&mut machine.dirty) {
                    system.report = Some(machine.report(&self.systems, self.now));
                }
            }
            let Some(node) = self.observed.nodes.get_mut(name) else {
                continue;
            };
            let heard = up && self.now >= machine.cut_off_until && well;
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
        self.observe_etcd();
        let holder = self.lease.holder;
        self.observed.leader = holder.and_then(|h| Some(self.host(h)?.name.clone()));
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
}
