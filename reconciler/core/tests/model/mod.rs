//! A world in memory that effects act on at once, so that `step` can be run to its end.

#![allow(dead_code, reason = "each test program uses its part of the model")]

mod act;
mod control_plane;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fabrik_core::arrival::left;
use fabrik_core::desired::Desired;
use fabrik_core::id::{IntentId, NodeName, PoolName, ServerId};
use fabrik_core::ledger::{Change, Ledger};
use fabrik_core::observed::{
    Datastore, Hetzner, Node, Observed, Pod, PodKind, Power, Role, Server,
};
use fabrik_core::spec::{
    DrainPolicy, Firewall, Kubernetes, Limits, LocalData, Network, PlacementStrategy, Pool,
    SecretRef, Spec, Update,
};
use fabrik_core::step::{Step, step};
use jiff::{SignedDuration, Timestamp};

pub struct Model {
    pub desired: Desired,
    pub observed: Observed,
    pub now: Timestamp,
    next_id: u64,
    /// Effects on servers and Nodes that were carried out, as (verb, target).
    pub done: Vec<(String, String)>,
    /// Nodes that a person cordoned: never uncordoned by us.
    pub cordoned_by_others: BTreeSet<NodeName>,
    /// Servers that exist and that the lists lack.
    pub away: BTreeMap<ServerId, Server>,
    /// Servers that exist and bear no labels of this cluster.
    pub unlabelled: BTreeSet<ServerId>,
}

pub fn pool(count: u32) -> Pool {
    Pool {
        count,
        machines: BTreeMap::new(),
        system: None,
        server_types: vec!["cx33".to_owned()],
        locations: vec!["fsn1".to_owned()],
        image: Some("debian-12".to_owned()),
        placement: PlacementStrategy::Spread,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        max_unavailable: 1,
        local_data: LocalData::Keep,
        drain_deadline: Duration::from_secs(3600),
        drain_policy: DrainPolicy::default(),
        may_be_off: false,
    }
}

impl Model {
    /// A founded cluster without workers, that wants `count`.
    pub fn wanting(count: u32) -> Self {
        let spec = Spec {
            name: "demo".parse().unwrap(),
            kubernetes: Kubernetes {
                version: "1.36.3+k3s1".to_owned(),
            },
            hetzner: Some(fabrik_core::spec::Hetzner {
                token: SecretRef {
                    file: "secrets/hetzner.yaml".to_owned(),
                    key: "token".to_owned(),
                },
            }),
            network: Network {
                range: "10.0.0.0/16".to_owned(),
                nodes: "10.0.1.0/24".to_owned(),
                zone: "eu-central".to_owned(),
                pods: "10.42.0.0/16".to_owned(),
                services: "10.43.0.0/16".to_owned(),
            },
            firewall: Firewall::default(),
            ssh_keys: BTreeMap::from([("alice".to_owned(), "ssh-ed25519 AAAA".to_owned())]),
            api: fabrik_core::spec::Api::default(),
            servers: None,
            own_servers: BTreeMap::new(),
            own_servers_system: None,
            pools: BTreeMap::from([(pool_name(), pool(count))]),
            limits: Limits {
                creations_per_hour: 20_000,
                deletions_per_hour: 1000,
                ..Limits::default()
            },
            update: Update::default(),
            nix: fabrik_core::spec::Nix::default(),
            secrets: BTreeMap::new(),
        };
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let observed = Observed {
            at: now,
            hetzner: Hetzner::default(),
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
            datastore: Datastore::Other,
            leader: None,
            asked: None,
            released: BTreeSet::new(),
            blockers: Vec::new(),
            paused: None,
        };
        let desired = Desired {
            commit: "1".repeat(40).parse().unwrap(),
            spec,
            units: BTreeMap::new(),
            targets: BTreeMap::new(),
            sources: BTreeMap::new(),
        };
        Self {
            desired,
            observed,
            now,
            next_id: 100,
            done: Vec::new(),
            cordoned_by_others: BTreeSet::new(),
            away: BTreeMap::new(),
            unlabelled: BTreeSet::new(),
        }
    }

    /// A cluster whose `count` workers have joined long ago.
    pub fn with_members(count: u32) -> Self {
        let mut model = Self::wanting(count);
        model.pool().placement = PlacementStrategy::Anywhere;
        for _ in 0..3 {
            let step = model.step();
            step.effects
                .iter()
                .filter(|e| e.verb() != "create-server")
                .for_each(|e| model.act(e));
        }
        let intents: Vec<_> = model.observed.ledger.intents.clone().into_iter().collect();
        for (sequence, (id, intent)) in (1000..).zip(intents) {
            let server = Server {
                id: ServerId(sequence),
                name: intent.name.to_string(),
                role: Role::Agent,
                pool: Some(intent.pool.clone()),
                intent: Some(id.clone()),
                power: Power::Running,
                address: None,
                server_type: "cx33".to_owned(),
                location: "fsn1".to_owned(),
                created: model.now,
            };
            model.join(&server);
            let node = model.observed.nodes.get_mut(&intent.name).unwrap();
            node.labels
                .insert("fabrik.dev/pool".to_owned(), "workers".to_owned());
            node.our_labels.insert("fabrik.dev/pool".to_owned());
            let uid = node.uid.clone();
            model.observed.ledger.apply(
                &Change::Bind {
                    id: id.clone(),
                    server: server.id,
                    address: None,
                },
                model.now,
            );
            model
                .observed
                .ledger
                .apply(&Change::Join { id, uid }, model.now);
            model.observed.hetzner.servers.insert(server.id, server);
        }
        model.now += SignedDuration::from_hours(2);
        model
    }

    pub fn pool(&mut self) -> &mut Pool {
        self.desired.spec.pools.get_mut(&pool_name()).unwrap()
    }

    /// Writes what the step wants written until it wants nothing more written, as the leader does.
    pub fn step(&mut self) -> Step {
        self.observed.at = self.now;
        loop {
            let step = step(&self.desired, &self.observed, self.now);
            if step.changes.is_empty() {
                return step;
            }
            for change in &step.changes {
                self.observed.ledger.apply(change, self.now);
            }
        }
    }

    /// Steps and acts until there is nothing more to do; joins what was created in between.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let step = self.step();
            if step.effects.is_empty() {
                if self.join_all() == 0 {
                    return;
                }
                continue;
            }
            for effect in &step.effects {
                self.act(effect);
            }
            self.tick();
        }
        panic!("the world did not settle");
    }

    pub fn tick(&mut self) {
        self.now += SignedDuration::from_secs(5);
        let ticketed: BTreeSet<NodeName> = self
            .observed
            .ledger
            .tickets
            .values()
            .map(|t| t.node.clone())
            .collect();
        self.observed.pods.retain(|node, _| ticketed.contains(node));
        for node in ticketed {
            self.observed.pods.entry(node).or_default();
        }
        self.ask_by_id();
    }

    /// What the look at Hetzner asks for by its id: servers of the ledger, and such as Nodes alone name.
    pub fn ask_by_id(&mut self) {
        let (ledger, there) = (&self.observed.ledger, &mut self.observed.hetzner);
        let is_gone = |id: &ServerId| {
            !there.servers.contains_key(id)
                && !there.missing.contains(id)
                && !self.unlabelled.contains(id)
        };
        let gone = ledger.known_servers().filter(is_gone).collect();
        there.gone = gone;
        let named = left::to_ask(&self.desired.spec, ledger, &self.observed.nodes, there);
        let gone: Vec<_> = named.into_iter().filter(is_gone).collect();
        there.gone.extend(gone);
    }

    pub fn lists_are_whole(&mut self) {
        self.observed.hetzner.servers.append(&mut self.away);
        self.observed.hetzner.missing.clear();
    }

    /// Machines that run and have no Node yet join. Returns how many did.
    pub fn join_all(&mut self) -> usize {
        let fresh: Vec<Server> = self
            .observed
            .hetzner
            .servers
            .values()
            .filter(|s| {
                s.power == Power::Running
                    && s.intent
                        .as_ref()
                        .is_some_and(|i| s.role == Role::Server || self.observed.tokens.contains(i))
            })
            .filter(|s| !self.observed.nodes.contains_key(&s.name.parse().unwrap()))
            .cloned()
            .collect();
        for server in &fresh {
            self.join(server);
            if server.role == Role::Server {
                self.votes(server);
            }
        }
        self.tick();
        fresh.len()
    }

    pub fn join(&mut self, server: &Server) {
        let name: NodeName = server.name.parse().unwrap();
        let node = Node {
            uid: format!("uid-{}", server.id).parse().unwrap(),
            provider_id: Some(server.id.provider_id()),
            control_plane: server.role == Role::Server,
            ready: true,
            unschedulable: false,
            cordoned_under: None,
            deleting: false,
            heard: None,
            lease_unread: false,
            kubelet_version: "v1.36.3+k3s1".to_owned(),
            labels: BTreeMap::new(),
            our_labels: BTreeSet::new(),
            name: name.clone(),
        };
        self.observed.nodes.insert(name, node);
    }

    pub fn servers(&self) -> usize {
        self.observed.hetzner.servers.len()
    }

    pub fn some_member(&self) -> (IntentId, NodeName) {
        let (id, member) = self.observed.ledger.members.first_key_value().unwrap();
        (id.clone(), member.name.clone())
    }

    /// S2, from what is there: nodes of members that are missing, not ready or cordoned.
    pub fn unavailable(&self) -> usize {
        let members = self.observed.ledger.members.values();
        members
            .filter(|m| {
                self.observed
                    .nodes
                    .get(&m.name)
                    .is_none_or(|n| !n.ready || n.unschedulable)
            })
            .count()
    }

    pub fn nothing_is_left_over(&self) {
        assert!(
            self.observed.ledger.intents.is_empty(),
            "intents: {:?}",
            self.observed.ledger.intents
        );
        assert!(
            self.observed.ledger.tickets.is_empty(),
            "tickets: {:?}",
            self.observed.ledger.tickets
        );
        assert!(
            self.observed.tokens.is_empty(),
            "tokens: {:?}",
            self.observed.tokens
        );
        assert_eq!(self.observed.nodes.len(), self.servers());
        assert!(self.observed.nodes.values().all(|n| !n.unschedulable));
    }
}

pub fn pool_name() -> PoolName {
    "workers".parse().unwrap()
}

pub fn pod(node: &NodeName, blocked: Option<&str>) -> Pod {
    Pod {
        namespace: "web".to_owned(),
        name: "shop".to_owned(),
        uid: "pod-uid".parse().unwrap(),
        node: node.clone(),
        kind: PodKind::Ordinary,
        labels: BTreeMap::new(),
        ready: true,
        managed: true,
        empty_dir: false,
        terminating: false,
        ends: None,
        blocked: blocked.map(str::to_owned),
    }
}
