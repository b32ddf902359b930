//! Servers of the control plane in the model: their etcd, and agents that obey at once.

use std::collections::BTreeSet;

use fabrik_core::id::{NodeName, ServerId};
use fabrik_core::observed::{Datastore, Etcd, Image, NodeSystem, Power, Role, Server};
use fabrik_core::quorum::Member;
use fabrik_core::spec::{PlacementStrategy, Servers};
use serde_json::json;

use super::Model;

impl Model {
    /// A cluster that has `count` servers which were made by hand, and asks for as many.
    pub fn with_servers(count: u32) -> Self {
        let mut model = Self::wanting(0);
        model.settle();
        model.observed.datastore = Datastore::Etcd(Etcd {
            members: Some(Vec::new()),
            snapshots: BTreeSet::new(),
        });
        model.observed.hetzner.images.push(Image {
            id: 7,
            pool: "servers".parse().unwrap(),
            architecture: "x86".to_owned(),
            created: model.now,
            k3s: None,
        });
        for number in 1..=u64::from(count) {
            let server = Server {
                id: ServerId(number),
                name: format!("server-{number}"),
                role: Role::Server,
                pool: None,
                intent: None,
                power: Power::Running,
                address: None,
                server_type: "cx33".to_owned(),
                location: "fsn1".to_owned(),
                created: model.now,
            };
            model.join(&server);
            model.votes(&server);
            model.observed.hetzner.servers.insert(server.id, server);
        }
        model.want_servers(count);
        model.settle();
        model.done.clear();
        model
    }

    /// A commit with another number; a smaller one lets servers go.
    pub fn want_servers(&mut self, count: u32) {
        self.desired.spec.servers = Some(Servers {
            count,
            server_types: vec!["cx33".to_owned()],
            locations: vec!["fsn1".to_owned()],
            placement: PlacementStrategy::Anywhere,
            may_shrink: true,
        });
    }

    pub fn etcd(&mut self) -> &mut Vec<Member> {
        if self.observed.datastore.etcd().is_none() {
            self.observed.datastore = Datastore::Etcd(Etcd {
                members: Some(Vec::new()),
                snapshots: BTreeSet::new(),
            });
        }
        match &mut self.observed.datastore {
            Datastore::Etcd(etcd) => etcd.members.get_or_insert_default(),
            Datastore::Unread | Datastore::Other => unreachable!("it is etcd"),
        }
    }

    /// A server is a voter of etcd, and its agent has reported.
    pub fn votes(&mut self, server: &Server) {
        self.votes_as(server.id, &server.name);
    }

    pub fn votes_as(&mut self, server: ServerId, name: &str) {
        let name: NodeName = name.parse().unwrap();
        let leader = self.etcd().is_empty();
        self.etcd().push(Member {
            id: server.0,
            address: None,
            name: name.to_string(),
            node: Some(name.clone()),
            learner: false,
            healthy: true,
            leader,
            lag: 0,
            alarms: Vec::new(),
        });
        let report = json!({
            "boot": "00000000-0000-4000-8000-000000000001",
            "running": "/nix/store/00000000000000000000000000000000-system",
        });
        let system = NodeSystem {
            report: serde_json::from_value(report).unwrap(),
            ..NodeSystem::default()
        };
        self.observed.systems.insert(name, system);
    }

    pub fn is_retired(&self, server: &NodeName) -> bool {
        let system = self.observed.systems.get(server);
        system
            .and_then(|s| s.report.as_ref())
            .is_some_and(|r| r.retired)
    }

    pub(super) fn stop_k3s(&mut self, server: &NodeName, stops: bool) {
        let system = self.observed.systems.get_mut(server).unwrap();
        system.report.as_mut().unwrap().retired = true;
        if stops {
            self.observed.nodes.get_mut(server).unwrap().ready = false;
            let mut members = self.etcd().iter_mut();
            members.find(|m| m.is_of(server)).unwrap().healthy = false;
        }
    }
}
