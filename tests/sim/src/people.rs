//! What goes wrong and what people do, each at a bad moment.

use std::collections::BTreeSet;

use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::NodeName;
use fabrik_core::observed::{Power as Rented, Role};
use fabrik_core::window::Window;
use jiff::{SignedDuration, Timestamp};

use crate::machine::{Mishap, Power};
use crate::rng::Rng;
use crate::systems::{Fate, Sys};
use crate::world::{World, servers_pool, workers_pool};

/// Nodes and leaders by number, counted round.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    Push {
        kernel: bool,
        minor: bool,
        servers: Fate,
        workers: Fate,
    },
    Revert,
    Cordon(usize),
    Uncordon(usize),
    Drain(usize),
    DeleteNode(usize),
    DeleteServer(usize),
    Scale(u32),
    Hold(usize),
    Unhold,
    Pause,
    Resume,
    NameCanary(usize),
    SetWindow,
    LeaderPauses(usize, i64),
    LeaderDies(usize, u32),
    LeaderSees(usize, i64),
    LeaderClock(usize, i64),
    NotEvaluated(usize, i64),
    ApiDown(i64),
    CutOff(usize, i64),
    Conflicts(i64),
    Losses(i64),
    EtcdUnread(i64),
    EtcdSplit(i64),
    HetznerDown(i64),
    AgentDies(usize, u32),
    PowerCut(usize, u32),
    AgentAway(usize, i64),
    KubeletDies(usize, i64),
    BootHangs(usize),
    BootsOld(usize),
    BootsLate(usize, i64),
    PdbBlocks(usize, i64),
    DiskFull(usize, i64),
    ClockJumps(usize, i64),
}

pub const FAULTS: [&str; 42] = [
    "push",
    "push-bad",
    "push-minor",
    "revert",
    "cordon",
    "uncordon",
    "drain",
    "delete-node",
    "delete-server",
    "scale",
    "hold",
    "unhold",
    "pause",
    "resume",
    "canary",
    "window",
    "leader-pauses",
    "leader-dies",
    "stale-view",
    "leader-clock",
    "not-evaluated",
    "api-down",
    "cut-off",
    "conflicts",
    "losses",
    "etcd-unread",
    "etcd-split",
    "hetzner-down",
    "agent-dies",
    "power-cut",
    "agent-away",
    "kubelet-dies",
    "boot-hangs",
    "boots-old",
    "boots-late",
    "pdb-blocks",
    "disk-full",
    "clock-jumps",
    "paused-in-a-pass",
    "died-in-a-pass",
    "request-late",
    "new-leader",
];

pub fn all_faults() -> BTreeSet<&'static str> {
    FAULTS.into_iter().collect()
}

/// Something that may happen.
pub fn any(rng: &mut Rng) -> Act {
    let node = rng.below(7);
    let leader = rng.below(3);
    let secs = rng.range(20, 600);
    let few = u32::try_from(rng.below(6)).expect("few");
    match rng.below(36) {
        0 => Act::Cordon(node),
        1 => Act::Uncordon(node),
        2 => Act::Drain(node),
        3 => Act::DeleteNode(node),
        4 => Act::DeleteServer(node),
        5 => Act::Scale(2 + few.min(4)),
        6 => Act::Hold(node),
        7 => Act::Unhold,
        8 => Act::Pause,
        9 => Act::Resume,
        10 => Act::NameCanary(node),
        11 => Act::SetWindow,
        12 | 13 => Act::LeaderPauses(leader, secs),
        14 => Act::LeaderDies(leader, few),
        15 | 16 => Act::LeaderSees(leader, secs.min(200)),
        17 => Act::LeaderClock(leader, secs / 5 - 60),
        18 => Act::NotEvaluated(leader, secs),
        19 => Act::ApiDown(secs),
        20 => Act::CutOff(node, secs),
        21 => Act::Conflicts(secs),
        22 | 23 => Act::Losses(secs),
        24 => Act::EtcdUnread(secs),
        25 => Act::EtcdSplit(secs),
        26 => Act::HetznerDown(secs),
        27 => Act::AgentDies(node, few),
        28 => Act::PowerCut(node, few),
        29 => Act::AgentAway(node, secs * 2),
        30 => Act::KubeletDies(node, secs),
        31 => Act::BootHangs(node),
        32 => Act::BootsOld(node),
        33 => Act::BootsLate(node, secs),
        34 => Act::PdbBlocks(node, secs * 3),
        _ => {
            if rng.one_in(2) {
                Act::DiskFull(node, secs)
            } else {
                Act::ClockJumps(node, secs - 300)
            }
        }
    }
}

/// A commit; every other one changes something that breaks.
pub fn push(rng: &mut Rng) -> Act {
    let mut fate = |chances| match rng.below(chances) {
        0 => Fate::Panics,
        1 => Fate::Hangs,
        2 => Fate::Sick,
        _ => Fate::Well,
    };
    let (servers, workers) = (fate(10), fate(8));
    Act::Push {
        kernel: rng.one_in(2),
        minor: rng.one_in(3),
        servers,
        workers,
    }
}

fn name_of(act: Act) -> &'static str {
    match act {
        Act::Push {
            servers,
            workers,
            minor,
            ..
        } => {
            if servers != Fate::Well || workers != Fate::Well {
                "push-bad"
            } else if minor {
                "push-minor"
            } else {
                "push"
            }
        }
        Act::Revert => "revert",
        Act::Cordon(_) => "cordon",
        Act::Uncordon(_) => "uncordon",
        Act::Drain(_) => "drain",
        Act::DeleteNode(_) => "delete-node",
        Act::DeleteServer(_) => "delete-server",
        Act::Scale(_) => "scale",
        Act::Hold(_) => "hold",
        Act::Unhold => "unhold",
        Act::Pause => "pause",
        Act::Resume => "resume",
        Act::NameCanary(_) => "canary",
        Act::SetWindow => "window",
        Act::LeaderPauses(..) => "leader-pauses",
        Act::LeaderDies(..) => "leader-dies",
        Act::LeaderSees(..) => "stale-view",
        Act::LeaderClock(..) => "leader-clock",
        Act::NotEvaluated(..) => "not-evaluated",
        Act::ApiDown(_) => "api-down",
        Act::CutOff(..) => "cut-off",
        Act::Conflicts(_) => "conflicts",
        Act::Losses(_) => "losses",
        Act::EtcdUnread(_) => "etcd-unread",
        Act::EtcdSplit(_) => "etcd-split",
        Act::HetznerDown(_) => "hetzner-down",
        Act::AgentDies(..) => "agent-dies",
        Act::PowerCut(..) => "power-cut",
        Act::AgentAway(..) => "agent-away",
        Act::KubeletDies(..) => "kubelet-dies",
        Act::BootHangs(_) => "boot-hangs",
        Act::BootsOld(_) => "boots-old",
        Act::BootsLate(..) => "boots-late",
        Act::PdbBlocks(..) => "pdb-blocks",
        Act::DiskFull(..) => "disk-full",
        Act::ClockJumps(..) => "clock-jumps",
    }
}

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
                let pool = self.desired.spec.pools.get_mut(&workers_pool());
                pool.expect("it is there").count = count;
            }
            Act::Hold(node) => {
                let name = self.node(node);
                let why = "its disk is being replaced".to_owned();
                self.desired.spec.update.held.insert(name, why);
            }
            Act::Unhold => self.desired.spec.update.held.clear(),
            Act::Pause => self.observed.paused = Some("a person said so".to_owned()),
            Act::Resume => self.observed.paused = None,
            Act::NameCanary(node) => self.desired.spec.update.canary = Some(self.node(node)),
            Act::SetWindow => {
                self.desired.spec.update.windows = vec![Window {
                    start: "*/20 * * * *".to_owned(),
                    length: std::time::Duration::from_secs(600),
                    zone: "Europe/Berlin".to_owned(),
                }];
            }
            Act::LeaderPauses(leader, secs) => {
                let time = SignedDuration::from_secs(secs);
                self.leaders[leader % leaders].pauses_for = Some(time);
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
        }
    }

    fn node(&self, number: usize) -> NodeName {
        self.machines[number % self.machines.len()].name.clone()
    }

    fn on(&mut self, number: usize, change: impl Fn(&mut crate::machine::Machine, Timestamp)) {
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

    fn delete_server_by_hand(&mut self, name: &NodeName) {
        let machine = self.machine(name).filter(|m| m.role == Role::Agent);
        if let Some(server) = machine.map(|m| m.server) {
            self.observed.hetzner.servers.remove(&server);
            self.observed.hetzner.gone.insert(server);
            self.machines.retain(|m| m.server != server);
        }
    }

    fn uncordon_by_hand(&mut self, name: &NodeName) {
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
        let pushed = [0, 1].map(|pool: usize| self.systems.add(kernels[pool], next, fates[pool]));
        let behind = self.machines.iter().any(|m| {
            let old = self.systems.minor(m.running) < next;
            m.role == Role::Server && old && self.systems.get(m.booted).kernel != kernels[0]
        });
        let first: Option<Sys> = behind.then(|| self.systems.add(kernels[0], next - 1, Fate::Well));
        self.want(pushed, first);
    }

    /// All faults end, and people put right what they did.
    pub fn faults_stop(&mut self) {
        let now = self.now;
        for until in [
            &mut self.api_down_until,
            &mut self.etcd_unread_until,
            &mut self.etcd_split_until,
            &mut self.hetzner_down_until,
            &mut self.conflicts_until,
            &mut self.losses_until,
        ] {
            *until = now;
        }
        for leader in &mut self.leaders {
            leader.stale = None;
            leader.pauses_for = None;
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
        self.observed.paused = None;
        self.desired.spec.update.held.clear();
        self.desired.spec.update.windows.clear();
        self.desired.spec.update.canary = None;
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
            if !ours && on && matches!(machine.power, Power::Hung | Power::Off) {
                let (systems, now) = (&self.systems, self.now);
                self.machines[index].reset(systems, now);
            }
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
                && !machine.is_on()
            {
                machine.reset(&systems, now);
            }
            self.book.released.insert(number);
            self.observed.released.insert(number);
        }
    }
}
