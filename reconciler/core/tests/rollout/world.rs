//! Servers and agents with machines that obey orders as `fabrik agent` does, and break as they are told to.

#[path = "ways.rs"]
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fabrik_core::desired::Desired;
use fabrik_core::drain;
use fabrik_core::effect::Effect;
use fabrik_core::id::{IntentId, NodeName, ServerId, StorePath};
use fabrik_core::ledger::{Ledger, Member};
use fabrik_core::observed::{Datastore, Etcd, Node, Observed, Pod, PodKind, Power, Role, Server};
use fabrik_core::quorum;
use fabrik_core::spec::{self, K3sVersion};
use fabrik_core::step::{Step, step};
use fabrik_core::system::{Action, Needs, Order, System, Target};
use jiff::{SignedDuration, Timestamp};

use super::machine::Machine;

const TICK: SignedDuration = SignedDuration::from_secs(10);
const SPEC: &str = "[cluster]\nname = \"demo\"\n[kubernetes]\nversion = \"1.36.3+k3s1\"\n[hetzner]\n\
                    token = { file = \"secrets/hetzner.yaml\", key = \"token\" }\n";
/// For how long a Node that nobody hears of any more is Ready still.
const STALE: SignedDuration = SignedDuration::from_secs(40);
/// How long a machine takes to switch, or to boot and join.
pub const APPLY_TICKS: u32 = 3;

/// What a system does to a machine that tries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Well,
    /// The kernel panics: the machine is back on the old system after a while.
    Panics,
    /// The boot hangs until somebody resets the machine.
    Hangs,
    /// It runs, and its Node never becomes Ready.
    Sick,
}

pub struct World {
    pub desired: Desired,
    pub observed: Observed,
    pub now: Timestamp,
    pub machines: BTreeMap<NodeName, Machine>,
    pub needs: Needs,
    pub fates: BTreeMap<String, Fate>,
    /// Each system's k3s.
    versions: BTreeMap<String, &'static str>,
    /// Which node tried which system, in this order.
    pub tried: Vec<(NodeName, String)>,
    pub most_unavailable: BTreeMap<String, usize>,
    /// Nodes with a pod that no eviction moves.
    pub blocked: BTreeSet<NodeName>,
    /// A pod of the user's own DaemonSet is on each node, and not ready where this system runs.
    pub ails_under: Option<&'static str>,
    /// Nodes whose pods can't be read.
    pub unread: BTreeSet<NodeName>,
    /// Nodes with a pod that no controller would bring back.
    pub bare: BTreeSet<NodeName>,
    /// The user's list has the pods that no eviction moves.
    pub forced: bool,
    /// What was written on Nodes that were cordoned, in this order.
    pub marks: Vec<String>,
    pub log: Vec<String>,
    /// No order reaches the nodes of this pool.
    pub cut_off: Option<&'static str>,
    /// Nodes whose agent neither does nor says anything.
    pub silent: BTreeSet<NodeName>,
    /// Nodes that have not fetched anything yet.
    pub slow_to_fetch: BTreeSet<NodeName>,
    /// etcd answers nobody.
    pub no_etcd: bool,
    /// There is no etcd.
    pub sqlite: bool,
    hidden: Option<Etcd>,
    /// Where each ticket was at the last look.
    pub stages: BTreeMap<u64, &'static str>,
}

pub fn path(name: &str) -> StorePath {
    format!("/nix/store/{}-{name}", "0".repeat(32))
        .parse()
        .unwrap()
}

fn name_of(path: &StorePath) -> String {
    path.as_str().rsplit_once('-').unwrap().1.to_owned()
}

impl World {
    /// Everything runs system `old` with k3s 1.36.3.
    pub fn new(servers: usize, agents: usize, max_unavailable: u32) -> Self {
        let text = format!(
            "{SPEC}[pools.workers]\ncount = {agents}\n\
             server-types = [\"cx33\"]\nlocations = [\"fsn1\"]\nimage = \"debian-12\"\n\
             max-unavailable = {max_unavailable}\nplacement = \"anywhere\"\n"
        );
        let mut spec = spec::parse("cluster.toml", &text).unwrap();
        spec.update.soak = Duration::from_secs(20);
        spec.update.try_deadline = Duration::from_secs(300);
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let desired = Desired {
            commit: "1".repeat(40).parse().unwrap(),
            spec,
            units: BTreeMap::new(),
            targets: BTreeMap::new(),
            sources: BTreeMap::new(),
        };
        let mut world = Self {
            desired,
            observed: empty(now),
            now,
            machines: BTreeMap::new(),
            needs: Needs::Reboot,
            fates: BTreeMap::new(),
            versions: BTreeMap::from([("old".to_owned(), "1.36.3+k3s1")]),
            tried: Vec::new(),
            most_unavailable: BTreeMap::new(),
            blocked: BTreeSet::new(),
            ails_under: None,
            unread: BTreeSet::new(),
            bare: BTreeSet::new(),
            forced: false,
            marks: Vec::new(),
            log: Vec::new(),
            cut_off: None,
            silent: BTreeSet::new(),
            slow_to_fetch: BTreeSet::new(),
            no_etcd: false,
            sqlite: false,
            hidden: None,
            stages: BTreeMap::new(),
        };
        for number in 0..servers {
            world.add(Role::Server, "servers", number);
        }
        for number in 0..agents {
            world.add(Role::Agent, "workers", number);
        }
        world.look();
        world
    }

    fn add(&mut self, role: Role, pool: &str, number: usize) {
        let id: IntentId = format!(
            "{}{number:05}",
            if role == Role::Server { 's' } else { 'w' }
        )
        .parse()
        .unwrap();
        let name: NodeName = format!("{pool}-{number}").parse().unwrap();
        let server = ServerId(100 * (1 + u64::from(role == Role::Agent)) + number as u64);
        let member = Member {
            role,
            pool: pool.parse().unwrap(),
            name: name.clone(),
            server,
            uid: format!("uid-{name}").parse().unwrap(),
        };
        self.observed.hetzner.servers.insert(
            server,
            Server {
                id: server,
                name: name.to_string(),
                role,
                pool: Some(member.pool.clone()),
                intent: Some(id.clone()),
                power: Power::Running,
                address: None,
                server_type: "cx33".to_owned(),
                location: "fsn1".to_owned(),
                created: self.now,
            },
        );
        self.observed.ledger.members.insert(id, member);
        self.machines.insert(
            name,
            Machine {
                running: "old".to_owned(),
                default: "old".to_owned(),
                boot: 0,
                seen: 0,
                phase: None,
                busy: 0,
                started_minor: false,
                until: Timestamp::UNIX_EPOCH,
                hangs: false,
                from: "old".to_owned(),
                unheard: false,
                refuses: false,
                since: Timestamp::UNIX_EPOCH,
            },
        );
    }

    /// All pools should run that system.
    pub fn want(&mut self, system: &str, version: &'static str) {
        let target = Target {
            system: self.system(system, version),
            first: None,
        };
        for pool in ["servers", "workers"] {
            self.desired
                .targets
                .insert(pool.parse().unwrap(), target.clone());
        }
    }

    /// The servers take two steps.
    pub fn want_in_two_steps(&mut self, first: (&str, &'static str), then: (&str, &'static str)) {
        self.want(then.0, then.1);
        let first = self.system(first.0, first.1);
        let servers = self
            .desired
            .targets
            .get_mut(&"servers".parse().unwrap())
            .unwrap();
        servers.first = Some(first);
    }

    fn system(&mut self, name: &str, version: &'static str) -> System {
        self.versions.insert(name.to_owned(), version);
        System {
            output: path(name),
            derivation: path(&format!("{name}.drv")),
            kubernetes: version.parse().unwrap(),
        }
    }

    /// The user lets these go by force, as `cluster.toml` has it.
    pub fn let_go(&mut self, listed: &str) {
        let text = format!("{SPEC}[update]\nforce = [{listed}]\n");
        let spec = spec::parse("cluster.toml", &text).unwrap();
        self.desired.spec.update.force = spec.update.force;
    }

    /// The user wants this to hold, as `cluster.toml` has it.
    pub fn want_checked(&mut self, check: &str) {
        let text = format!("{SPEC}[update.checks]\n{check}\n");
        let spec = spec::parse("cluster.toml", &text).unwrap();
        self.desired.spec.update.checks = spec.update.checks;
    }

    /// The servers are to have a secret.
    pub fn want_secret(&mut self) {
        let secret =
            "[secrets.vpn]\nfile = \"secrets/vpn.yaml\"\nkey = \"key\"\npools = [\"servers\"]\n";
        let spec = spec::parse("cluster.toml", &format!("{SPEC}{secret}")).unwrap();
        self.desired.spec.secrets = spec.secrets;
        self.observed.deliveries = Some(BTreeMap::new());
    }

    /// One pass of the leader, and one tick of every machine.
    pub fn tick(&mut self) -> Step {
        self.follow_the_ways();
        let step = self.decide();
        for effect in &step.effects {
            self.act(effect);
        }
        self.now += TICK;
        self.machines_go_on();
        self.look();
        self.check();
        step
    }

    /// Ticks of the machines, while no server leads.
    pub fn without_a_leader(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.now += TICK;
            self.machines_go_on();
            self.look();
        }
    }

    /// Ticks until it is written down that a node of that pool is told to try. The order is lost.
    pub fn until_ordered(&mut self, pool: &'static str) -> NodeName {
        self.cut_off = Some(pool);
        for _ in 0..500 {
            let mut tickets = self.observed.ledger.tickets.values();
            let ordered = tickets.find(|t| {
                t.pool.as_str() == pool && t.update().is_some_and(|u| u.ordered.is_some())
            });
            if let Some(ticket) = ordered {
                return ticket.node.clone();
            }
            self.tick();
        }
        panic!("nobody is told to try:\n{}", self.log.join("\n"));
    }

    /// Ticks until that node is told to try.
    pub fn until_tried(&mut self, node: &str) {
        while !self.tried.iter().any(|(n, _)| n.as_str() == node) {
            self.tick();
        }
    }

    pub fn until_cordoned(&mut self, node: &NodeName) {
        while !self.observed.nodes[node].unschedulable {
            self.tick();
        }
    }

    /// Writes what is to be written down, until effects may be carried out.
    pub fn decide(&mut self) -> Step {
        for _ in 0..20 {
            let step = step(&self.desired, &self.observed, self.now);
            if step.changes.is_empty() {
                return step;
            }
            for change in &step.changes {
                self.observed.ledger.apply(change, self.now);
            }
        }
        panic!("there is always another change");
    }

    /// Aims and fetches, and grants nothing.
    pub fn look_twice(&mut self) {
        for effect in step(&self.desired, &self.observed, self.now).effects {
            self.act(&effect);
        }
        self.look();
    }

    /// Ticks until everybody runs `system`.
    pub fn settle(&mut self, system: &str) -> u32 {
        for tick in 0..2000 {
            let ledger = &self.observed.ledger;
            if self
                .machines
                .values()
                .all(|m| m.running == system && m.default == system)
                && ledger.tickets.is_empty()
            {
                self.nothing_is_left_over();
                return tick;
            }
            self.tick();
        }
        panic!("it did not settle:\n{}", self.log.join("\n"));
    }

    /// Ticks until nothing changes any more; what is held then.
    pub fn stand_still(&mut self) -> Vec<String> {
        let mut holds = Vec::new();
        for _ in 0..600 {
            holds = self.tick().holds.iter().map(ToString::to_string).collect();
        }
        holds
    }

    fn max_unavailable(&self) -> usize {
        let pools = self.desired.spec.pools.values();
        pools.map(|p| p.max_unavailable as usize).max().unwrap_or(1)
    }

    pub fn cordon_by_hand(&mut self, node: &NodeName) {
        let node = self.observed.nodes.get_mut(node).unwrap();
        if !node.unschedulable {
            node.unschedulable = true;
            node.cordoned_under = None;
        }
    }

    pub fn uncordon_by_hand(&mut self, node: &NodeName) {
        self.observed.nodes.get_mut(node).unwrap().unschedulable = false;
    }

    pub fn nothing_is_left_over(&self) {
        assert!(
            self.observed
                .nodes
                .values()
                .all(|n| n.ready && !n.unschedulable)
        );
        assert!(self.observed.systems.values().all(|s| s.order.is_none()));
    }

    fn act(&mut self, effect: &Effect) {
        self.log.push(format!(
            "{} {} {}",
            self.now,
            effect.verb(),
            effect.target()
        ));
        match effect {
            Effect::Cordon { node, mark, over } => {
                self.marks.push(mark.clone());
                let node = self.observed.nodes.get_mut(&node.name).unwrap();
                assert_eq!(node.cordoned_under, *over, "{}", node.name);
                node.unschedulable = true;
                node.cordoned_under = Some(mark.clone());
            }
            Effect::Uncordon { node, mark } => {
                let node = self.observed.nodes.get_mut(&node.name).unwrap();
                assert_eq!(
                    node.cordoned_under.as_ref(),
                    Some(mark),
                    "S6: {} was cordoned by another, or under another ticket",
                    node.name
                );
                node.unschedulable = false;
                node.cordoned_under = None;
            }
            Effect::Evict { node, .. } => {
                assert!(
                    !self.bare.contains(node),
                    "{node}: a pod that is kept was evicted"
                );
                if !self.lives(node) {
                    for pod in self.observed.pods.get_mut(node).unwrap() {
                        pod.terminating = true;
                        pod.ends.get_or_insert(self.now + TICK);
                    }
                } else if !self.blocked.contains(node) {
                    self.observed.pods.insert(node.clone(), Vec::new());
                }
            }
            Effect::ForcePod { node, .. } => {
                assert!(self.forced, "{node}: a pod was forced that is on no list");
                let ticket = self.observed.ledger.tickets.values();
                let mut ticket = ticket.filter(|t| t.node == *node);
                let since = ticket.next().map(|t| self.now.duration_since(t.at));
                let deadline = SignedDuration::from_hours(1);
                assert!(
                    since > Some(deadline),
                    "{node}: before the drain's deadline"
                );
                self.blocked.remove(node);
                self.observed.pods.insert(node.clone(), Vec::new());
            }
            Effect::Aim { node, system, .. } => {
                self.observed.systems.get_mut(&node.name).unwrap().aim = Some(system.clone());
            }
            Effect::Order { node, .. }
                if self
                    .cut_off
                    .is_some_and(|p| node.name.as_str().starts_with(p)) => {}
            Effect::Order { node, order } => self.order(&node.name, order),
            Effect::Withdraw { node } => {
                self.observed.systems.get_mut(&node.name).unwrap().order = None;
            }
            Effect::MoveEtcdLeader { to, .. } => {
                let members = self.etcd_mut().members.as_mut().unwrap();
                for member in members {
                    member.leader = member.name == *to;
                }
            }
            Effect::SnapshotEtcd { name, .. } => {
                self.etcd_mut().snapshots.insert(name.clone());
            }
            Effect::Reset { server } => {
                let machine = self.machines.get_mut(&server.name).unwrap();
                machine.hangs = false;
                machine.boot += 1;
                machine.running = machine.default.clone();
                machine.busy = APPLY_TICKS;
            }
            Effect::LabelNode { .. }
            | Effect::CreateNetwork { .. }
            | Effect::CreateFirewall { .. } => {}
            other => panic!(
                "nothing should be done to {} now: {other:?}",
                other.target()
            ),
        }
    }

    /// S7 and S8, at the moment when it counts.
    fn order(&mut self, name: &NodeName, order: &Order) {
        let node = &self.observed.nodes[name];
        let system = name_of(&order.system);
        if order.action == Action::Try && self.machines[name].seen < order.ticket {
            let time = SignedDuration::from_secs(order.seconds.into());
            assert!(
                order.not_after.is_some_and(|at| self.now + time <= at),
                "{name} tries for longer than the leader waits"
            );
            if order.needs >= Needs::Drain {
                assert!(
                    node.unschedulable,
                    "S7: {name} was told to try and takes pods"
                );
                let mut pods = self.observed.pods[name].iter();
                assert!(
                    pods.all(|p| drain::stays(p) || p.terminating && !node.ready),
                    "S7: {name} has pods on it"
                );
            }
            assert!(
                !self.observed.ledger.denied.contains_key(&order.system),
                "S8: {system} is denied"
            );
            let ticket = self
                .observed
                .ledger
                .tickets
                .values()
                .find(|t| t.node == *name);
            assert!(
                ticket
                    .and_then(|t| t.update())
                    .is_some_and(|u| u.number == order.ticket),
                "S1"
            );
            self.tried.push((name.clone(), system));
        }
        self.observed.systems.get_mut(name).unwrap().order = Some(order.clone());
    }

    fn machines_go_on(&mut self) {
        let now = self.now;
        for (name, machine) in &mut self.machines {
            let Some(order) = self.observed.systems[name].order.clone() else {
                continue;
            };
            if self.silent.contains(name) {
                machine.busy = machine.busy.saturating_sub(1);
                continue;
            }
            let system = name_of(&order.system);
            let fate = self.fates.get(&system).copied().unwrap_or(Fate::Well);
            machine.go_on(&order, &system, fate, self.needs, now);
            let minor = |s: &String| self.versions[s].parse::<K3sVersion>().unwrap().minor;
            if machine.running == system && minor(&system) > minor(&machine.from) {
                machine.started_minor = true;
            }
        }
    }

    /// What the leader sees of it all.
    fn look(&mut self) {
        let members: Vec<Member> = self.observed.ledger.members.values().cloned().collect();
        for member in &members {
            let machine = &self.machines[&member.name];
            let down = machine.busy > 0 || machine.hangs;
            let lives = self.lives(&member.name);
            let before = self.observed.nodes.get(&member.name);
            let heard = before.and_then(|n| n.heard).filter(|_| !lives);
            let heard = heard.unwrap_or(self.now);
            let ready = self.now.duration_since(heard) <= STALE;
            let version = self.versions[&machine.running].split('+').next().unwrap();
            let node = Node {
                name: member.name.clone(),
                uid: member.uid.clone(),
                provider_id: Some(member.server.provider_id()),
                control_plane: member.role == Role::Server,
                ready,
                unschedulable: before.is_some_and(|n| n.unschedulable),
                cordoned_under: before.and_then(|n| n.cordoned_under.clone()),
                deleting: false,
                heard: Some(heard),
                lease_unread: false,
                kubelet_version: format!("v{version}"),
                labels: BTreeMap::from([("fabrik.dev/pool".to_owned(), member.pool.to_string())]),
                our_labels: BTreeSet::from(["fabrik.dev/pool".to_owned()]),
            };
            self.observed.nodes.insert(member.name.clone(), node);
            let seen = self
                .observed
                .systems
                .entry(member.name.clone())
                .or_default();
            // A machine that is down says nothing: its last word stays.
            if !down && !self.silent.contains(&member.name) {
                let mut report = machine.report(seen, self.needs);
                report.staged = report
                    .staged
                    .filter(|_| !self.slow_to_fetch.contains(&member.name));
                seen.report = Some(report);
            }
            seen.well = ready
                .then(|| seen.well_now(Some(heard), self.now))
                .flatten();
            self.pods_of(&member.name);
        }
        self.observed.at = self.now;
        self.etcd();
    }

    fn pods_of(&mut self, name: &NodeName) {
        let ticketed = self
            .observed
            .ledger
            .tickets
            .values()
            .any(|t| t.node == *name);
        let cordoned = self.observed.nodes[name].unschedulable;
        if !ticketed || self.unread.contains(name) {
            self.observed.pods.remove(name);
        } else if !cordoned
            || self.blocked.contains(name)
            || self.bare.contains(name)
            || !self.observed.pods.contains_key(name)
        {
            let pod = Pod {
                namespace: "web".to_owned(),
                name: "shop".to_owned(),
                uid: "pod-uid".parse().unwrap(),
                node: name.clone(),
                kind: PodKind::Ordinary,
                labels: BTreeMap::new(),
                ready: true,
                managed: !self.bare.contains(name),
                empty_dir: false,
                terminating: false,
                ends: None,
                blocked: self
                    .blocked
                    .contains(name)
                    .then(|| "PodDisruptionBudget web/shop".to_owned()),
            };
            self.observed.pods.insert(name.clone(), vec![pod]);
        }
        if let (Some(system), Some(pods)) = (self.ails_under, self.observed.pods.get_mut(name)) {
            let daemon = Pod {
                namespace: "ingress".to_owned(),
                name: format!("proxy-{name}"),
                uid: "daemon-uid".parse().unwrap(),
                node: name.clone(),
                kind: PodKind::DaemonSet,
                labels: BTreeMap::from([("app".to_owned(), "proxy".to_owned())]),
                ready: self.machines[name].running != system,
                managed: true,
                empty_dir: true,
                terminating: false,
                ends: None,
                blocked: None,
            };
            pods.retain(|p| p.kind != PodKind::DaemonSet);
            pods.push(daemon);
        }
    }

    fn etcd(&mut self) {
        if self.sqlite {
            self.observed.datastore = Datastore::Other;
            return;
        }
        let old = match std::mem::take(&mut self.observed.datastore) {
            Datastore::Etcd(seen) => seen,
            _ => self.hidden.take().unwrap_or_default(),
        };
        let leader = old
            .members
            .iter()
            .flatten()
            .find(|m| m.leader)
            .map(|m| m.name.clone());
        let servers = self
            .observed
            .ledger
            .members
            .values()
            .filter(|m| m.role == Role::Server);
        let mut members: Vec<quorum::Member> = servers
            .map(|server| quorum::Member {
                id: 0,
                address: None,
                name: server.name.to_string(),
                node: Some(server.name.clone()),
                learner: false,
                healthy: self.lives(&server.name),
                leader: leader.as_deref() == Some(server.name.as_str()),
                lag: 0,
                alarms: Vec::new(),
            })
            .collect();
        if !members.iter().any(|m| m.leader && m.healthy) {
            for member in &mut members {
                member.leader = false;
            }
            if let Some(next) = members.iter_mut().find(|m| m.healthy) {
                next.leader = true;
            }
        }
        let quorate = members.iter().filter(|m| m.healthy).count() > members.len() / 2;
        assert!(
            quorate || members.len() < 3,
            "S3: etcd has lost its quorum:\n{}",
            self.log.join("\n")
        );
        let etcd = Etcd {
            members: Some(members),
            snapshots: old.snapshots,
        };
        if self.no_etcd {
            self.hidden = Some(etcd);
        } else {
            self.observed.datastore = Datastore::Etcd(etcd);
        }
    }

    fn lives(&self, name: &NodeName) -> bool {
        let machine = &self.machines[name];
        let sick = self.fates.get(&machine.running) == Some(&Fate::Sick);
        machine.busy == 0 && !machine.hangs && !sick
    }

    fn etcd_mut(&mut self) -> &mut Etcd {
        match &mut self.observed.datastore {
            Datastore::Etcd(etcd) => etcd,
            other => panic!("{other:?}"),
        }
    }

    /// S2, S3 and S4, from what is there.
    fn check(&mut self) {
        let mut unavailable = BTreeMap::<String, usize>::new();
        for member in self.observed.ledger.members.values() {
            let node = &self.observed.nodes[&member.name];
            let down = !node.ready || node.unschedulable;
            *unavailable.entry(member.pool.to_string()).or_default() += usize::from(down);
        }
        for (pool, count) in unavailable {
            let most = self.most_unavailable.entry(pool).or_default();
            *most = (*most).max(count);
        }
        for (pool, most) in [("servers", 1), ("workers", self.max_unavailable())] {
            let tickets = self.observed.ledger.tickets.values();
            let count = tickets.filter(|t| t.pool.as_str() == pool).count();
            assert!(count <= most, "S2: {count} nodes of {pool} may be down");
        }
        let minor = |n: &Node| K3sVersion::of_kubelet(&n.kubelet_version).unwrap().minor;
        let (servers, agents): (Vec<_>, Vec<_>) =
            self.observed.nodes.values().partition(|n| n.control_plane);
        let oldest = servers.iter().map(|n| minor(n)).min().unwrap();
        let newest = servers.iter().map(|n| minor(n)).max().unwrap();
        assert!(
            newest - oldest <= 1,
            "S4: API servers are {oldest} and {newest}"
        );
        assert!(
            agents.iter().all(|a| minor(a) <= oldest),
            "S4: an agent is newer than a server"
        );
    }
}

fn empty(now: Timestamp) -> Observed {
    Observed {
        at: now,
        hetzner: fabrik_core::observed::Hetzner::default(),
        nodes: BTreeMap::new(),
        pods: BTreeMap::new(),
        attached: BTreeMap::new(),
        ready_pods: BTreeMap::new(),
        pinned: BTreeSet::new(),
        tokens: BTreeSet::new(),
        units: BTreeMap::new(),
        ledger: Ledger::new("abcdefgh01234567".parse().unwrap()),
        systems: BTreeMap::new(),
        deliveries: None,
        datastore: Datastore::Unread,
        leader: None,
        released: BTreeSet::new(),
        blockers: Vec::new(),
        paused: None,
        asked: None,
    }
}
