//! What an executor does, with the preconditions that it has.

use fabrik_core::effect::Effect;
use fabrik_core::id::{NodeName, PoolName, Uid};
use fabrik_core::observed::Power;
use fabrik_core::system::Publication;
use jiff::{SignedDuration, Timestamp};

use crate::world::World;

impl World {
    /// Does what an executor does, with the preconditions that it has.
    #[allow(
        clippy::too_many_lines,
        reason = "one short arm for each effect; apart they would read worse"
    )]
    pub(super) fn land(&mut self, effect: &Effect, spec_version: u64) {
        self.note(|| format!("{} {}", effect.verb(), effect.target()));
        self.check_effect(effect);
        let now = self.now;
        let hetzner = now >= self.hetzner_down_until;
        match effect {
            Effect::Cordon { node, mark, over } => {
                if let Some(there) = self.observed.nodes.get_mut(&node.name)
                    && there.uid == node.uid
                    && there.cordoned_under == *over
                    && (!there.unschedulable || over.is_some())
                {
                    there.unschedulable = true;
                    there.cordoned_under = Some(mark.clone());
                }
            }
            Effect::Uncordon { node, mark } => {
                if let Some(there) = self.observed.nodes.get_mut(&node.name)
                    && there.uid == node.uid
                    && there.cordoned_under.as_ref() == Some(mark)
                {
                    there.unschedulable = false;
                    there.cordoned_under = None;
                }
            }
            Effect::Evict { node, uid, .. } => self.evict(node, uid),
            Effect::ForcePod { node, uid, .. } => self.force(node, uid),
            Effect::Aim { node, pool, system } => {
                let publication = self.publication(pool);
                if let Some(truth) = self.truths.get_mut(&node.name)
                    && let Some(there) = self.observed.systems.get_mut(&node.name)
                    && truth.spec_version == spec_version
                {
                    there.aim = Some(system.clone());
                    truth.publication = publication;
                    truth.spec_version += 1;
                }
            }
            Effect::Order { node, order } => {
                if let Some(truth) = self.truths.get_mut(&node.name)
                    && let Some(there) = self.observed.systems.get_mut(&node.name)
                    && truth.spec_version == spec_version
                {
                    there.order = Some(order.clone());
                    truth.spec_version += 1;
                }
            }
            Effect::Withdraw { node } => {
                if let Some(truth) = self.truths.get_mut(&node.name)
                    && let Some(there) = self.observed.systems.get_mut(&node.name)
                    && truth.spec_version == spec_version
                {
                    there.order = None;
                    truth.spec_version += 1;
                }
            }
            Effect::StopK3s { node, retirement } => {
                if let Some(truth) = self.truths.get_mut(&node.name)
                    && let Some(there) = self.observed.systems.get_mut(&node.name)
                    && truth.spec_version == spec_version
                {
                    there.retirement = Some(retirement.clone());
                    truth.spec_version += 1;
                }
            }
            Effect::RemoveEtcdMember { server, member, .. } => {
                self.remove_member(server, *member);
                self.sync();
            }
            Effect::MoveEtcdLeader { to, .. } => {
                self.etcd_leader = to.parse().ok();
                self.sync();
            }
            Effect::SnapshotEtcd { node, name } => {
                let full = self
                    .machine(&node.name)
                    .is_some_and(|m| now < m.disk_full_until);
                if !full {
                    self.snapshots.insert(format!("{name}-{}-1", node.name));
                    self.book.snapshot(&self.machines, &self.systems);
                    self.sync();
                }
            }
            Effect::Reset { server } => {
                if hetzner {
                    let systems = &self.systems;
                    let machine = self.machines.iter_mut().find(|m| m.server == server.id);
                    if let Some(machine) = machine {
                        machine.reset(systems, now);
                    }
                }
            }
            Effect::PowerOff { server } => {
                if hetzner && let Some(there) = self.observed.hetzner.servers.get_mut(&server.id) {
                    there.power = Power::Off;
                    if let Some(machine) = self.machines.iter_mut().find(|m| m.server == server.id)
                    {
                        machine.power_off();
                    }
                }
            }
            Effect::DeleteNode { node } => {
                if self
                    .observed
                    .nodes
                    .get(&node.name)
                    .is_some_and(|n| n.uid == node.uid)
                {
                    self.forget_node(&node.name);
                }
            }
            Effect::DeleteServer { server } => {
                if hetzner && self.observed.hetzner.servers.remove(&server.id).is_some() {
                    self.deleted.insert(server.id);
                    self.machines.retain(|m| m.server != server.id);
                    self.joining.retain(|(_, m)| m.server != server.id);
                }
            }
            Effect::CreateServer(new) => {
                if hetzner {
                    self.create(&new.intent, &new.name, &new.pool);
                }
            }
            Effect::RevokeToken { intent } => {
                self.observed.tokens.remove(intent);
            }
            Effect::LabelNode { node, labels } => {
                if let Some(there) = self.observed.nodes.get_mut(&node.name) {
                    there.our_labels = labels.keys().cloned().collect();
                    there.labels.extend(labels.clone());
                }
            }
            Effect::SetFirewallRules { rules, .. } => {
                if let Some(firewall) = &mut self.observed.hetzner.firewall {
                    firewall.rules.clone_from(rules);
                }
            }
            Effect::DeliverSecrets { .. }
            | Effect::CreateNetwork { .. }
            | Effect::CreateFirewall { .. }
            | Effect::CreateSshKey { .. }
            | Effect::CreatePlacementGroup { .. }
            | Effect::CreateLoadBalancer(_)
            | Effect::DeleteLoadBalancer { .. }
            | Effect::CreateFloatingIp(_)
            | Effect::AssignFloatingIp { .. }
            | Effect::DeleteFloatingIp { .. } => {}
        }
    }

    pub fn forget_node(&mut self, name: &NodeName) {
        self.observed.nodes.remove(name);
        self.observed.systems.remove(name);
        self.observed.pods.remove(name);
        self.truths.remove(name);
    }

    /// No budget is asked.
    fn force(&mut self, node: &NodeName, uid: &Uid) {
        let Some(truth) = self.truths.get_mut(node) else {
            return;
        };
        let until = std::mem::replace(&mut truth.pdb_until, Timestamp::UNIX_EPOCH);
        self.evict(node, uid);
        if let Some(truth) = self.truths.get_mut(node) {
            truth.pdb_until = until;
        }
    }

    /// The API server's own: a PodDisruptionBudget refuses, and on a dead node nothing ends.
    fn evict(&mut self, node: &NodeName, uid: &Uid) {
        let now = self.now;
        let lives = self
            .machine(node)
            .is_some_and(|m| m.is_well(&self.systems, now));
        let Some(truth) = self.truths.get_mut(node) else {
            return;
        };
        let Some(pod) = truth.pods.iter_mut().find(|p| p.uid == *uid) else {
            return;
        };
        if now < truth.pdb_until {
            pod.blocked = Some("PodDisruptionBudget web/shop".to_owned());
        } else if lives {
            truth.pods.retain(|p| p.uid != *uid);
        } else if !pod.terminating {
            pod.terminating = true;
            pod.ends = Some(now + SignedDuration::from_secs(30));
        }
    }

    fn publication(&self, pool: &PoolName) -> Option<Publication> {
        let target = self.desired.targets.get(pool)?;
        let systems = target.first.iter().chain([&target.system]);
        Some(Publication {
            schema: Publication::SCHEMA,
            cluster: self.observed.ledger.cluster.clone(),
            pool: pool.clone(),
            commit: self.desired.commit.clone(),
            sequence: self.sequence,
            systems: systems.cloned().collect(),
        })
    }
}
