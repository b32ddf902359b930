//! The cluster: what its API server, Hetzner and etcd would tell, and the machines behind them.

mod etcd;
mod sync;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fabrik_core::desired::Desired;
use fabrik_core::id::{IntentId, NodeName, PoolName, ServerId, Uid};
use fabrik_core::ledger::{Ledger, Member};
use fabrik_core::observed::{
    Datastore, FirewallResource, Hetzner, Image, Node, NodeSystem, Observed, Pod, Power, Resource,
    Role, Server,
};
use fabrik_core::spec::{self, Spec};
use fabrik_core::system::{Publication, Target};
use jiff::{SignedDuration, Timestamp};

pub use self::etcd::{Voters, address_of};
use crate::check::Book;
use crate::coverage::Coverage;
use crate::leader::{Flight, Leader, Lease};
use crate::machine::Machine;
use crate::mutant::Mutant;
use crate::rng::Rng;
use crate::systems::{Fate, Sys, Systems};

const STEP_SECS: i64 = 10;
const JOIN_SECS: i64 = 70;

/// What is true of a Node and nobody is told.
#[derive(Debug, Clone)]
pub struct Truth {
    pub heard_at: Timestamp,
    pub pods: Vec<Pod>,
    /// No eviction moves its pods until then.
    pub pdb_until: Timestamp,
    /// The cordon that it bears is a person's.
    pub cordoned_by_person: bool,
    /// A person uncordoned it at that time.
    pub uncordoned_at: Timestamp,
    /// The resource version of its FabrikNode's spec.
    pub spec_version: u64,
    pub publication: Option<Publication>,
}

#[derive(Debug, Clone)]
pub struct World {
    pub now: Timestamp,
    /// How much time a step takes.
    pub step_secs: i64,
    pub systems: Arc<Systems>,
    pub desired: Arc<Desired>,
    /// As the API server has it at this moment.
    pub observed: Observed,
    pub ledger_version: u64,
    pub truths: BTreeMap<NodeName, Truth>,
    pub machines: Vec<Machine>,
    pub joining: Vec<(Timestamp, Machine)>,
    /// Servers that were at Hetzner once.
    pub deleted: BTreeSet<ServerId>,
    pub leaders: Vec<Leader>,
    pub lease: Lease,
    pub flights: Vec<Flight>,
    pub sequence: u64,
    pub(crate) next_id: u64,
    pub rng: Rng,
    pub api_down_until: Timestamp,
    pub etcd_unread_until: Timestamp,
    pub etcd_split_until: Timestamp,
    pub etcd_headless_until: Timestamp,
    pub hetzner_down_until: Timestamp,
    pub conflicts_until: Timestamp,
    pub losses_until: Timestamp,
    /// The members, by the Node of each.
    pub etcd: Voters,
    /// What becomes of the next server that is made.
    pub next_joiner: Joiner,
    /// The number of servers that was asked for last.
    pub servers_wanted: Option<u32>,
    pub etcd_leader: Option<NodeName>,
    pub snapshots: BTreeSet<String>,
    pub cover: Coverage,
    pub book: Book,
    pub mutant: Option<Mutant>,
    pub log: Option<Vec<String>>,
}

/// How a server joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joiner {
    Votes,
    /// Its member never catches up.
    StaysLearner,
    /// Its machine boots, and k3s never runs on it.
    NeverStarts,
}

pub struct Size {
    pub servers: usize,
    pub agents: usize,
    pub leaders: usize,
    pub max_unavailable: u32,
}

pub fn servers_pool() -> PoolName {
    "servers".parse().expect("it is a name")
}

pub fn workers_pool() -> PoolName {
    "workers".parse().expect("it is a name")
}

fn base_spec() -> &'static Spec {
    static SPEC: OnceLock<Spec> = OnceLock::new();
    SPEC.get_or_init(|| {
        let text = "[cluster]\nname = \"demo\"\n[kubernetes]\nversion = \"1.36.0+k3s1\"\n[hetzner]\n\
             token = { file = \"secrets/hetzner.yaml\", key = \"token\" }\n[pools.workers]\ncount = 4\n\
             server-types = [\"cx33\"]\nlocations = [\"fsn1\"]\nimage = \"debian-12\"\nplacement = \"anywhere\"\n";
        let mut spec = spec::parse("cluster.toml", text).expect("the specification is right");
        spec.update.soak = Duration::from_secs(20);
        spec.update.try_deadline = Duration::from_secs(300);
        spec.update.force = vec![fabrik_core::spec::Pods {
            namespace: "web".to_owned(),
            labels: fabrik_core::spec::Selector::default(),
            name: "shop-1*".parse().expect("it is a pattern"),
        }];
        spec.limits.deletions_per_hour = 1000;
        spec.limits.creations_per_hour = 1000;
        spec
    })
}

impl World {
    pub fn new(size: &Size, seed: u64) -> Self {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().expect("it is a time");
        let past = Timestamp::UNIX_EPOCH;
        let mut spec = base_spec().clone();
        let pool = spec.pools.get_mut(&workers_pool()).expect("it is there");
        pool.count = u32::try_from(size.agents).expect("few");
        pool.max_unavailable = size.max_unavailable;
        pool.drain_deadline = Duration::from_secs(600);
        let desired = Desired {
            commit: "1".repeat(40).parse().expect("it is a commit"),
            spec,
            units: BTreeMap::new(),
            targets: BTreeMap::new(),
            sources: BTreeMap::new(),
        };
        let mut world = Self {
            now,
            step_secs: STEP_SECS,
            systems: Arc::default(),
            observed: empty(now),
            desired: Arc::new(desired),
            ledger_version: 0,
            truths: BTreeMap::new(),
            machines: Vec::new(),
            joining: Vec::new(),
            deleted: BTreeSet::new(),
            leaders: (0..size.leaders).map(Leader::new).collect(),
            lease: Lease::default(),
            flights: Vec::new(),
            sequence: 1,
            next_id: 1000,
            rng: Rng::new(seed),
            api_down_until: past,
            etcd_unread_until: past,
            etcd_split_until: past,
            etcd_headless_until: past,
            hetzner_down_until: past,
            conflicts_until: past,
            losses_until: past,
            etcd: Arc::default(),
            next_joiner: Joiner::Votes,
            servers_wanted: None,
            etcd_leader: None,
            snapshots: BTreeSet::new(),
            cover: Coverage::default(),
            book: Book::default(),
            mutant: None,
            log: None,
        };
        let base = [
            Arc::make_mut(&mut world.systems).add(0, 36, Fate::Well),
            Arc::make_mut(&mut world.systems).add(0, 36, Fate::Well),
        ];
        world.observed.hetzner.network = Some(Resource {
            id: 1,
            name: "demo".to_owned(),
        });
        for number in 0..size.servers {
            world.found(Role::Server, number, base[0]);
        }
        for number in 0..size.agents {
            world.found(Role::Agent, number, base[1]);
        }
        world.want([base[0], base[1]], None);
        world.sync();
        world
    }

    /// A member that is there from the beginning.
    fn found(&mut self, role: Role, number: usize, runs: Sys) {
        let (letter, pool) = match role {
            Role::Server => ('s', servers_pool()),
            _ => ('w', workers_pool()),
        };
        let id: IntentId = format!("{letter}{number:05}").parse().expect("it is an id");
        let name: NodeName = format!("{pool}-{number}").parse().expect("it is a name");
        self.next_id += 1;
        let server = ServerId(self.next_id);
        let machine = Machine::new(id.clone(), name.clone(), server, role, runs, &self.systems);
        let location = ["fsn1", "nbg1", "hel1"][number % 3];
        self.rent(&machine, &pool, location);
        let uid = self.join(&machine);
        if role == Role::Server {
            self.member(&machine, None);
        }
        self.machines.push(machine);
        let member = Member {
            role,
            pool,
            name,
            server,
            uid,
        };
        self.observed.ledger.members.insert(id, member);
    }

    fn rent(&mut self, machine: &Machine, pool: &PoolName, location: &str) {
        let server = Server {
            id: machine.server,
            name: machine.name.to_string(),
            role: machine.role,
            pool: Some(pool.clone()),
            intent: Some(machine.id.clone()),
            power: Power::Running,
            address: Some(address_of(machine.server)),
            server_type: "cx33".to_owned(),
            location: location.to_owned(),
            created: self.now,
        };
        self.observed.hetzner.servers.insert(server.id, server);
    }

    /// A server that the leader ordered; its Node comes when it has booted.
    pub fn create(&mut self, id: &IntentId, name: &NodeName, pool: &PoolName) {
        let taken = self.observed.hetzner.servers.values();
        if taken.into_iter().any(|s| s.name == name.as_str()) {
            return;
        }
        self.next_id += 1;
        let server = ServerId(self.next_id);
        let (id, name) = (id.clone(), name.clone());
        let is_server = *pool == servers_pool();
        let (role, runs) = if is_server {
            // Its image is as new as the others' k3s.
            let servers = self.machines.iter().filter(|m| m.role == Role::Server);
            (Role::Server, servers.map(|m| m.default).next().unwrap_or(0))
        } else {
            (Role::Agent, 1)
        };
        let mut machine = Machine::new(id.clone(), name, server, role, runs, &self.systems);
        self.rent(&machine, pool, "fsn1");
        if is_server {
            let joiner = std::mem::replace(&mut self.next_joiner, Joiner::Votes);
            machine.stays_learner = joiner == Joiner::StaysLearner;
            if joiner == Joiner::NeverStarts {
                return;
            }
        } else {
            self.observed.tokens.insert(id);
        }
        let joins = self.now + SignedDuration::from_secs(JOIN_SECS);
        // Its kubelet is there before its agent.
        machine.agent_dead_until = joins + SignedDuration::from_secs(20);
        self.joining.push((joins, machine));
    }

    fn join(&mut self, machine: &Machine) -> Uid {
        self.next_id += 1;
        let uid: Uid = format!("uid-{}", self.next_id)
            .parse()
            .expect("it is a uid");
        let pool = if machine.role == Role::Server {
            servers_pool()
        } else {
            workers_pool()
        };
        let name = machine.name.clone();
        let key = "fabrik.dev/pool".to_owned();
        let node = Node {
            name: name.clone(),
            uid: uid.clone(),
            provider_id: Some(machine.server.provider_id()),
            control_plane: machine.role == Role::Server,
            ready: true,
            unschedulable: false,
            cordoned_under: None,
            deleting: false,
            heard: Some(machine.clock(self.now)),
            lease_unread: false,
            kubelet_version: self.kubelet_version(machine),
            labels: BTreeMap::from([(key.clone(), pool.to_string())]),
            our_labels: BTreeSet::from([key]),
        };
        self.observed.nodes.insert(name.clone(), node);
        let system = NodeSystem::default();
        self.observed.systems.insert(name.clone(), system);
        let past = Timestamp::UNIX_EPOCH;
        let truth = Truth {
            heard_at: self.now,
            pods: Vec::new(),
            pdb_until: past,
            cordoned_by_person: false,
            uncordoned_at: past,
            spec_version: 0,
            publication: None,
        };
        self.truths.insert(name, truth);
        uid
    }

    fn kubelet_version(&self, machine: &Machine) -> String {
        format!("v1.{}.0", self.systems.minor(machine.running))
    }

    /// What the commit in force wants of servers and of workers.
    pub fn want(&mut self, [servers, workers]: [Sys; 2], first: Option<Sys>) {
        let system = |sys: Sys| self.systems.get(sys).system.clone();
        let of_servers = Target {
            system: system(servers),
            first: first.map(system),
        };
        let of_workers = Target {
            system: system(workers),
            first: None,
        };
        let targets = [(servers_pool(), of_servers), (workers_pool(), of_workers)];
        Arc::make_mut(&mut self.desired).targets = BTreeMap::from(targets);
        self.sequence += 1;
        self.book.pushed();
    }

    pub fn machine(&self, name: &NodeName) -> Option<&Machine> {
        self.machines.iter().find(|m| m.name == *name)
    }

    pub fn machine_mut(&mut self, name: &NodeName) -> Option<&mut Machine> {
        self.machines.iter_mut().find(|m| m.name == *name)
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            log.push(format!("{now} {}", line()));
        }
    }

    /// No quorum of etcd, no API.
    pub fn api_is_up(&self) -> bool {
        self.now >= self.api_down_until && self.has_quorum()
    }

    /// One step of everything.
    pub fn tick(&mut self) {
        self.now += SignedDuration::from_secs(self.step_secs);
        self.observed.at = self.now;
        self.machines_go_on();
        self.servers_join();
        self.sync();
        self.land_flights();
        for leader in 0..self.leaders.len() {
            self.lead(leader);
        }
        self.check_step();
    }

    pub fn machines_go_on(&mut self) {
        let (arrived, coming) = std::mem::take(&mut self.joining)
            .into_iter()
            .partition(|(at, _)| *at <= self.now);
        self.joining = coming;
        let arrived: Vec<(Timestamp, Machine)> = arrived;
        for (_, machine) in arrived {
            let rented = self.observed.hetzner.servers.get(&machine.server);
            if rented.is_none_or(|s| s.power != Power::Running) {
                continue;
            }
            // k3s lets nobody in by the name of another machine's Node, and tries on: that one's password is another.
            if self.observed.nodes.contains_key(&machine.name) {
                let again = self.now + SignedDuration::from_secs(self.step_secs);
                self.joining.push((again, machine));
                continue;
            }
            self.join(&machine);
            self.machines.push(machine);
        }
        for index in 0..self.machines.len() {
            let did = self.machines[index].go_on(&self.systems, self.now);
            for did in did {
                let name = self.machines[index].name.clone();
                self.note(|| format!("{name} begins {:?} under {}", did.command, did.ticket));
                self.check_command(index, &did);
            }
        }
    }
}

fn empty(now: Timestamp) -> Observed {
    let hetzner = Hetzner {
        firewall: Some(FirewallResource {
            id: 2,
            name: "demo".to_owned(),
            rules: Vec::new(),
        }),
        images: vec![Image {
            id: 3,
            pool: servers_pool(),
            architecture: "x86".to_owned(),
            created: now,
            k3s: None,
        }],
        ..Hetzner::default()
    };
    Observed {
        at: now,
        hetzner,
        nodes: BTreeMap::new(),
        pods: BTreeMap::new(),
        attached: BTreeMap::new(),
        ready_pods: BTreeMap::new(),
        pinned: BTreeSet::new(),
        tokens: BTreeSet::new(),
        units: BTreeMap::new(),
        ledger: Ledger::new("abcdefgh01234567".parse().expect("it is an id")),
        systems: BTreeMap::new(),
        deliveries: None,
        datastore: Datastore::Unread,
        leader: None,
        released: BTreeSet::new(),
        asked: None,
        blockers: Vec::new(),
        paused: None,
    }
}
