//! What each act does to the world.

use std::sync::Arc;

use fabrik_core::effect::Effect;
use fabrik_core::id::{NodeName, ServerId};
use fabrik_core::observed::Role;
use fabrik_core::spec::{PlacementStrategy, Servers, Update};
use fabrik_core::window::Window;
use jiff::{SignedDuration, Timestamp};

use super::{Act, name_of};
use crate::leader::Flight;
use crate::machine::{Machine, Mishap};
use crate::systems::{Fate, Sys};
use crate::world::{Joiner, World, servers_pool, workers_pool};

impl World {
    #[allow(
        clippy::too_many_lines,
        reason = "one short arm for each act; apart they would read worse"
    )]
    pub fn act(&mut self, act: Act) {
        self.cover.fault(name_of(act));
        self.note(|| format!("--- {act:?}"));
        let now = self.now;
        let after = |secs: i64| now + SignedDuration::from_secs(secs);
        let leaders = self.leaders.len();
        match act {
            Act::Push {
                kernel,
                minor,
                servers,
                workers,
            } => self.push(kernel, minor, [servers, workers]),
            Act::Revert => self.push(false, false, [Fate::Well; 2]),
            Act::BackToTheFirst => self.want([0, 1], None),
            Act::Cordon(node) => self.cordon_by_hand(node),
            Act::Uncordon(node) => {
                let name = self.node(node);
                self.uncordon_by_hand(&name);
            }
            Act::Drain(node) => {
                self.cordon_by_hand(node);
                let name = self.node(node);
                if let Some(truth) = self.truths.get_mut(&name)
                    && now >= truth.pdb_until
                {
                    truth.pods.clear();
                }
            }
            Act::DeleteNode(node) => {
                let name = self.node(node);
                let agent = self.machine(&name).is_some_and(|m| m.role == Role::Agent);
                if agent && self.api_is_up() {
                    self.forget_node(&name);
                }
            }
            Act::DeleteServer(node) => {
                let name = self.node(node);
                self.delete_server_by_hand(&name);
            }
            Act::Scale(count) => {
                let pools = &mut Arc::make_mut(&mut self.desired).spec.pools;
                let pool = pools.get_mut(&workers_pool());
                pool.expect("it is there").count = count;
            }
            Act::Hold(node) => {
                let name = self.node(node);
                let why = "its disk is being replaced".to_owned();
                self.settings().held.insert(name, why);
            }
            Act::Unhold => self.settings().held.clear(),
            Act::Pause => self.observed.paused = Some("a person said so".to_owned()),
            Act::Resume => self.observed.paused = None,
            Act::NameCanary(node) => {
                let name = self.node(node);
                self.settings().canary = Some(name);
            }
            Act::SetWindow => {
                self.settings().windows = vec![Window {
                    start: "*/20 * * * *".to_owned(),
                    length: std::time::Duration::from_secs(600),
                    zone: "Europe/Berlin".to_owned(),
                }];
            }
            Act::LeaderPauses(leader, effects, secs) => {
                let time = SignedDuration::from_secs(secs);
                self.leaders[leader % leaders].pauses = Some((effects, time));
            }
            Act::LeaderDies(leader, effects) => {
                self.leaders[leader % leaders].dies_in = Some(effects);
            }
            Act::LeaderSees(leader, secs) => {
                let view = Box::new(self.observed.clone());
                self.leaders[leader % leaders].stale = Some((after(secs), view));
            }
            Act::LeaderClock(leader, secs) => {
                self.leaders[leader % leaders].skew = SignedDuration::from_secs(secs);
            }
            Act::NotEvaluated(leader, secs) => {
                self.leaders[leader % leaders].evaluates_until = after(secs);
            }
            Act::ApiDown(secs) => self.api_down_until = after(secs),
            Act::CutOff(node, secs) => self.on(node, |m, _| m.cut_off_until = after(secs)),
            Act::Conflicts(secs) => self.conflicts_until = after(secs),
            Act::Losses(secs) => self.losses_until = after(secs),
            Act::EtcdUnread(secs) => self.etcd_unread_until = after(secs),
            Act::EtcdSplit(secs) => self.etcd_split_until = after(secs),
            Act::HetznerDown(secs) => self.hetzner_down_until = after(secs),
            Act::AgentDies(node, steps) => self.on(node, |m, _| m.dies_in = Some(steps)),
            Act::PowerCut(node, steps) => self.on(node, |m, _| {
                m.dies_in = Some(steps);
                m.power_cut = true;
            }),
            Act::PowerFails(node) => {
                let (systems, now, count) = (&self.systems, self.now, self.machines.len());
                self.machines[node % count].reset(systems, now);
            }
            Act::AgentAway(node, secs) => self.on(node, |m, _| m.agent_dies(after(secs))),
            Act::KubeletDies(node, secs) => {
                self.on(node, |m, _| m.kubelet_dead_until = after(secs));
            }
            Act::BootHangs(node) => self.on(node, |m, _| m.mishap = Some(Mishap::Hangs)),
            Act::BootsOld(node) => self.on(node, |m, _| m.mishap = Some(Mishap::OldSystem)),
            Act::BootsLate(node, secs) => {
                self.on(node, |m, _| m.mishap = Some(Mishap::Late { secs }));
            }
            Act::PdbBlocks(node, secs) => {
                let name = self.node(node);
                if let Some(truth) = self.truths.get_mut(&name) {
                    truth.pdb_until = after(secs);
                }
            }
            Act::DiskFull(node, secs) => self.on(node, |m, _| m.disk_full_until = after(secs)),
            Act::ClockJumps(node, secs) => {
                self.on(node, |m, _| m.skew = SignedDuration::from_secs(secs));
            }
            Act::ScaleServers(count) => self.want_servers(count),
            Act::LoseServer(number) => self.lose_server(number),
            Act::JoinerHangs => self.next_joiner = Joiner::StaysLearner,
            Act::JoinerNeverStarts => self.next_joiner = Joiner::NeverStarts,
            Act::EtcdHeadless(secs) => self.etcd_headless_until = after(secs),
        }
    }

    fn settings(&mut self) -> &mut Update {
        &mut Arc::make_mut(&mut self.desired).spec.update
    }

    fn node(&self, number: usize) -> NodeName {
        self.machines[number % self.machines.len()].name.clone()
    }

    fn on(&mut self, number: usize, change: impl Fn(&mut Machine, Timestamp)) {
        let (now, count) = (self.now, self.machines.len());
        change(&mut self.machines[number % count], now);
    }

    fn cordon_by_hand(&mut self, number: usize) {
        let name = self.node(number);
        if !self.api_is_up() {
            return;
        }
        if let (Some(node), Some(truth)) = (
            self.observed.nodes.get_mut(&name),
            self.truths.get_mut(&name),
        ) && !node.unschedulable
        {
            node.unschedulable = true;
            // Under our mark nobody could tell it from ours.
            truth.cordoned_by_person = node.cordoned_under.is_none();
        }
    }

    pub(super) fn delete_server_by_hand(&mut self, name: &NodeName) {
        let machine = self.machine(name).filter(|m| m.role == Role::Agent);
        if let Some(server) = machine.map(|m| m.server) {
            self.delete_at_hetzner(server);
        }
    }

    pub(super) fn delete_at_hetzner(&mut self, server: ServerId) {
        self.observed.hetzner.servers.remove(&server);
        self.deleted.insert(server);
        self.machines.retain(|m| m.server != server);
        self.joining.retain(|(_, m)| m.server != server);
    }

    /// A commit with another number of servers.
    pub fn want_servers(&mut self, count: Option<u32>) {
        self.servers_wanted = count.or(self.servers_wanted);
        let spec = &mut Arc::make_mut(&mut self.desired).spec;
        // There may be one or two.
        spec.update.allow_control_plane_downtime = true;
        spec.servers = count.map(|count| Servers {
            count,
            server_types: vec!["cx33".to_owned()],
            locations: vec!["fsn1".to_owned()],
            placement: PlacementStrategy::Anywhere,
            may_shrink: true,
        });
    }

    /// With it the others would be lost as well, where they have no majority without it.
    fn lose_server(&mut self, number: usize) {
        let servers = self.machines.iter().filter(|m| m.role == Role::Server);
        let servers: Vec<&Machine> = servers.collect();
        let lost = servers[number % servers.len()];
        let (voters, _) = self.voters();
        // One that was told to stop its k3s, or is about to hear it in time, may do so any moment.
        let told = |m: &Machine| {
            let system = self.observed.systems.get(&m.name);
            let comes = |f: &Flight| match &f.effect {
                Effect::StopK3s { node, retirement } => {
                    node.name == m.name && !retirement.is_late(self.now)
                }
                _ => false,
            };
            system.is_some_and(|s| s.retirement.is_some()) || self.flights.iter().any(comes)
        };
        let stays = |m: &&&Machine| m.name != lost.name && self.votes(m) && !told(m);
        let left = servers.iter().filter(stays).count();
        if 2 * left > voters {
            let server = lost.server;
            self.delete_at_hetzner(server);
        }
    }

    pub(super) fn uncordon_by_hand(&mut self, name: &NodeName) {
        if !self.api_is_up() {
            return;
        }
        if let (Some(node), Some(truth)) =
            (self.observed.nodes.get_mut(name), self.truths.get_mut(name))
        {
            node.unschedulable = false;
            truth.cordoned_by_person = false;
            truth.uncordoned_at = self.now;
        }
    }

    /// A commit. Its minor is one that the gate would let in.
    fn push(&mut self, kernel: bool, minor: bool, fates: [Fate; 2]) {
        let of = |pool| {
            self.desired
                .targets
                .get(&pool)
                .map(|t| self.systems.find(&t.system.output))
        };
        let (Some(servers), Some(workers)) = (of(servers_pool()), of(workers_pool())) else {
            return;
        };
        let before = self.systems.minor(servers);
        let reached = self
            .machines
            .iter()
            .all(|m| self.systems.minor(m.running) == before);
        let next = if minor && reached && before < 38 {
            before + 1
        } else {
            before
        };
        let kernels = [servers, workers].map(|sys| self.systems.get(sys).kernel);
        let kernels = if kernel {
            kernels.map(|k| k + 1)
        } else {
            kernels
        };
        let systems = Arc::make_mut(&mut self.systems);
        let pushed = [0, 1].map(|pool: usize| systems.add(kernels[pool], next, fates[pool]));
        let behind = self.machines.iter().any(|m| {
            let old = self.systems.minor(m.running) < next;
            m.role == Role::Server && old && self.systems.get(m.booted).kernel != kernels[0]
        });
        let systems = Arc::make_mut(&mut self.systems);
        let first: Option<Sys> = behind.then(|| systems.add(kernels[0], next - 1, Fate::Well));
        self.want(pushed, first);
    }
}
