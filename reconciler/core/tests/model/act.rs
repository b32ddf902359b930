//! What an effect does to the model at once, and what no effect may ever do to it.

use std::collections::BTreeSet;

use fabrik_core::effect::Effect;
use fabrik_core::id::ServerId;
use fabrik_core::observed::{
    FirewallResource, FloatingIp, LoadBalancer, PlacementGroup, Pod, PodKind, Power, Resource,
    Role, Server, SshKeyResource,
};
use fabrik_core::spec::LocalData;
use jiff::SignedDuration;

use super::Model;

impl Model {
    #[allow(
        clippy::too_many_lines,
        reason = "one short arm for each effect; apart they would read worse"
    )]
    pub fn act(&mut self, effect: &Effect) {
        self.next_id += 1;
        let id = self.next_id;
        let there = &mut self.observed.hetzner;
        let on_servers_or_nodes =
            !matches!(effect, Effect::Evict { .. } | Effect::RevokeToken { .. });
        if on_servers_or_nodes {
            self.done.push((effect.verb().to_owned(), effect.target()));
        }
        if let Effect::PowerOff { server } | Effect::DeleteServer { server } = effect {
            let pinned = self.observed.pinned.contains(&server.name);
            let kept = self
                .desired
                .spec
                .pools
                .values()
                .any(|p| p.local_data == LocalData::Keep);
            assert!(!pinned || !kept, "S5: {} holds local data", server.name);
        }
        match effect {
            Effect::ForcePod { .. } => panic!("no list has a pod"),
            Effect::Aim { .. }
            | Effect::Order { .. }
            | Effect::Withdraw { .. }
            | Effect::SnapshotEtcd { .. }
            | Effect::Reset { .. } => unreachable!("no pool has a target"),
            Effect::DeliverSecrets { .. } => unreachable!("no pool has a secret"),
            Effect::MoveEtcdLeader { to, .. } => {
                self.etcd()
                    .iter_mut()
                    .for_each(|m| m.leader = m.name == *to);
            }
            Effect::StopK3s { node, retirement } => self.stop_k3s(&node.name, retirement.stops),
            Effect::RemoveEtcdMember { server, member, .. } => {
                let off = there
                    .servers
                    .values()
                    .all(|s| s.name != server.as_str() || s.power == Power::Off);
                let retired = self.is_retired(server);
                assert!(
                    retired || off,
                    "{server} loses its member and may start again"
                );
                self.etcd().retain(|m| m.id != *member);
            }
            Effect::CreateNetwork { name, .. } => {
                there.network = Some(Resource {
                    id,
                    name: name.clone(),
                });
            }
            Effect::CreateFirewall { name, rules }
            | Effect::SetFirewallRules { name, rules, .. } => {
                there.firewall = Some(FirewallResource {
                    id,
                    name: name.clone(),
                    rules: rules.clone(),
                });
            }
            Effect::CreateSshKey { name, public_key } => {
                let key = SshKeyResource {
                    id,
                    public_key: public_key.clone(),
                    ours: true,
                };
                there
                    .ssh_keys
                    .insert(name.strip_prefix("demo-").unwrap().to_owned(), key);
            }
            Effect::CreatePlacementGroup { name, .. } => {
                let group = PlacementGroup {
                    id,
                    name: name.clone(),
                    servers: BTreeSet::new(),
                };
                there.placement_groups.insert(name.clone(), group);
            }
            Effect::CreateLoadBalancer(new) => {
                there.load_balancer = Some(LoadBalancer {
                    id,
                    name: new.name.clone(),
                    kind: new.kind.clone(),
                    location: new.location.clone(),
                    public: new.public,
                    address: Some("203.0.113.9".to_owned()),
                    leads_to_servers: true,
                });
            }
            Effect::DeleteLoadBalancer { .. } => there.load_balancer = None,
            Effect::CreateFloatingIp(new) => {
                there.floating_ip = Some(FloatingIp {
                    id,
                    name: new.name.clone(),
                    family: new.family.word().to_owned(),
                    location: new.location.clone(),
                    address: "203.0.113.10".parse().ok(),
                    server: None,
                });
            }
            Effect::AssignFloatingIp { server, .. } => {
                if let Some(ip) = &mut there.floating_ip {
                    ip.server = Some(*server);
                }
            }
            Effect::DeleteFloatingIp { .. } => there.floating_ip = None,
            // Hetzner refuses a name that is in use, listed or not.
            Effect::CreateServer(new)
                if self.away.values().any(|s| s.name == new.name.as_str()) => {}
            Effect::CreateServer(new) => {
                let is_server = new.pool.as_str() == "servers";
                if !is_server {
                    self.observed.tokens.insert(new.intent.clone());
                }
                let taken = there.servers.values().any(|s| s.name == new.name.as_str());
                assert!(!taken, "{} created twice", new.name);
                let server = Server {
                    id: ServerId(id),
                    name: new.name.to_string(),
                    role: if is_server { Role::Server } else { Role::Agent },
                    pool: Some(new.pool.clone()),
                    intent: Some(new.intent.clone()),
                    power: Power::Running,
                    address: None,
                    server_type: "cx33".to_owned(),
                    location: "fsn1".to_owned(),
                    created: self.now,
                };
                for group in there
                    .placement_groups
                    .values_mut()
                    .filter(|g| Some(g.id) == new.placement_group)
                {
                    group.servers.insert(ServerId(id));
                    assert!(group.servers.len() <= 10, "{} is overfull", group.name);
                }
                there.servers.insert(ServerId(id), server);
            }
            Effect::RevokeToken { intent } => {
                self.observed.tokens.remove(intent);
            }
            Effect::LabelNode { node, labels } => {
                if let Some(node) = self.observed.nodes.get_mut(&node.name) {
                    node.our_labels = labels.keys().cloned().collect();
                    node.labels.extend(labels.clone());
                }
            }
            Effect::Cordon { node, mark, over } => {
                if let Some(node) = self.observed.nodes.get_mut(&node.name) {
                    // A cordon of ours under an earlier ticket is marked anew, and no other one.
                    let ours = over.is_some() && !self.cordoned_by_others.contains(&node.name);
                    let is_free = !node.unschedulable || ours;
                    assert!(is_free, "S6: {} is cordoned already", node.name);
                    assert_eq!(node.cordoned_under, *over, "{}", node.name);
                    node.unschedulable = true;
                    node.cordoned_under = Some(mark.clone());
                }
            }
            Effect::Uncordon { node, .. } => {
                if let Some(node) = self.observed.nodes.get_mut(&node.name) {
                    assert!(
                        node.cordoned_under.is_some()
                            && !self.cordoned_by_others.contains(&node.name),
                        "S6: {} was cordoned by somebody else",
                        node.name
                    );
                    node.unschedulable = false;
                    node.cordoned_under = None;
                }
            }
            Effect::Evict { node, pod, .. } => {
                let pods = self.observed.pods.entry(node.clone()).or_default();
                let kubelet_lives = self.observed.nodes.get(node).is_some_and(|n| n.ready);
                if kubelet_lives {
                    pods.retain(|p| p.name != *pod || p.blocked.is_some());
                } else {
                    for pod in pods.iter_mut().filter(|p| p.name == *pod) {
                        pod.terminating = true;
                        pod.ends = Some(self.now + SignedDuration::from_secs(30));
                    }
                }
            }
            Effect::PowerOff { server } => {
                let ip = there.floating_ip.as_ref();
                let has_it = ip.is_some_and(|ip| ip.server == Some(server.id));
                assert!(!has_it, "{} went down with the floating IP", server.name);
                let node_is_sick = self
                    .observed
                    .nodes
                    .get(&server.name)
                    .is_some_and(|n| !n.ready);
                let over = |p: &Pod| p.ends.is_some_and(|ends| ends < self.now);
                let harmless = |p: &Pod| p.kind != PodKind::Ordinary || node_is_sick && over(p);
                let no_pods = self
                    .observed
                    .pods
                    .get(&server.name)
                    .is_none_or(|pods| pods.iter().all(harmless));
                assert!(no_pods, "{} was powered off with pods on it", server.name);
                if let Some(server) = there.servers.get_mut(&server.id) {
                    server.power = Power::Off;
                }
                if let Some(node) = self.observed.nodes.get_mut(&server.name) {
                    node.ready = false;
                }
            }
            Effect::DeleteNode { node } => {
                let alive = there
                    .servers
                    .values()
                    .any(|s| s.name == node.name.as_str() && s.power != Power::Off);
                assert!(
                    !alive,
                    "Node {} was deleted while its machine runs",
                    node.name
                );
                let is_member = self.etcd().iter().any(|m| m.is_of(&node.name));
                assert!(
                    !is_member,
                    "Node {} was deleted and is an etcd member",
                    node.name
                );
                self.observed.nodes.remove(&node.name);
            }
            Effect::DeleteServer { server } => {
                let its_own = server.id.provider_id();
                let node = self.observed.nodes.get(&server.name);
                assert!(
                    node.is_none_or(|n| n.provider_id.as_ref() != Some(&its_own)),
                    "server {} deleted before its Node",
                    server.name
                );
                there.servers.remove(&server.id);
                for group in there.placement_groups.values_mut() {
                    group.servers.remove(&server.id);
                }
            }
        }
    }
}
