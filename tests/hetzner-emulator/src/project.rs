//! Everything one Hetzner project holds, and how time passes in it. No IO and no clock: the caller
//! says what time it is.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::action::{Action, ResourceRef, Status};
use crate::address_pool::AddressPool;
use crate::catalog::Catalog;
use crate::error::ApiError;
use crate::events::{Event, EventKind, EventLog};
use crate::resources::certificates::Certificate;
use crate::resources::firewalls::Firewall;
use crate::resources::floating_ips::FloatingIp;
use crate::resources::images::Snapshot;
use crate::resources::load_balancers::LoadBalancer;
use crate::resources::networks::Network;
use crate::resources::placement_groups::PlacementGroup;
use crate::resources::primary_ips::PrimaryIp;
use crate::resources::servers::Server;
use crate::resources::ssh_keys::SshKey;
use crate::resources::volumes::Volume;
use crate::settings::Settings;

/// Numbers start above 2^32, so that a client that keeps them in 32 bits is found out.
const FIRST_ID: u64 = 4_300_000_001;

pub struct Project {
    pub now: Timestamp,
    pub settings: Settings,
    pub catalog: Catalog,
    pub addresses: AddressPool,
    pub events: EventLog,
    pub actions: BTreeMap<u64, Action>,
    pub servers: BTreeMap<u64, Server>,
    /// The snapshots; what Hetzner offers is in the catalog.
    pub images: BTreeMap<u64, Snapshot>,
    pub networks: BTreeMap<u64, Network>,
    pub firewalls: BTreeMap<u64, Firewall>,
    pub ssh_keys: BTreeMap<u64, SshKey>,
    pub placement_groups: BTreeMap<u64, PlacementGroup>,
    pub primary_ips: BTreeMap<u64, PrimaryIp>,
    pub floating_ips: BTreeMap<u64, FloatingIp>,
    pub load_balancers: BTreeMap<u64, LoadBalancer>,
    pub volumes: BTreeMap<u64, Volume>,
    pub certificates: BTreeMap<u64, Certificate>,
    /// The running actions by their ends.
    running: BTreeSet<(Timestamp, u64)>,
    last_id: u64,
}

/// What an action does to the project when it ends well.
pub type Change = Box<dyn FnOnce(&mut Project) + Send>;

impl Project {
    pub fn new(addresses: AddressPool, settings: Settings, now: Timestamp) -> Self {
        Self {
            now,
            settings,
            catalog: Catalog::new(),
            addresses,
            events: EventLog::default(),
            actions: BTreeMap::new(),
            servers: BTreeMap::new(),
            images: BTreeMap::new(),
            networks: BTreeMap::new(),
            firewalls: BTreeMap::new(),
            ssh_keys: BTreeMap::new(),
            placement_groups: BTreeMap::new(),
            primary_ips: BTreeMap::new(),
            floating_ips: BTreeMap::new(),
            load_balancers: BTreeMap::new(),
            volumes: BTreeMap::new(),
            certificates: BTreeMap::new(),
            running: BTreeSet::new(),
            last_id: FIRST_ID - 1,
        }
    }

    /// Forgets every resource and action. Settings, numbers and the event sequence go on, so that a
    /// client from before the reset can't take a new resource for an old one.
    pub fn reset(&mut self) {
        let servers: Vec<u64> = self.servers.keys().copied().collect();
        for id in servers {
            self.announce(EventKind::Deleted, id);
        }
        let images: Vec<u64> = self.images.keys().copied().collect();
        for id in images {
            self.delete_snapshot(id);
        }
        self.actions.clear();
        self.running.clear();
        self.servers.clear();
        self.networks.clear();
        self.firewalls.clear();
        self.ssh_keys.clear();
        self.placement_groups.clear();
        self.primary_ips.clear();
        self.floating_ips.clear();
        self.load_balancers.clear();
        self.volumes.clear();
        self.certificates.clear();
        self.addresses.release_all();
    }

    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Lets time pass until `now`: actions that are due end, in the order of their ends.
    pub fn settle(&mut self, now: Timestamp) {
        while let Some((ends, id)) = self.running.first().copied().filter(|due| due.0 <= now) {
            self.running.pop_first();
            self.now = self.now.max(ends);
            let change = self
                .actions
                .get_mut(&id)
                .and_then(|action| action.end(ends));
            if let Some(change) = change {
                change(self);
            }
        }
        self.now = self.now.max(now);
    }

    /// Ends one running action now; says whether it ran.
    pub fn finish(&mut self, id: u64) -> bool {
        let Some(action) = self.actions.get_mut(&id) else {
            return false;
        };
        if !self.running.remove(&(action.ends, id)) {
            return false;
        }
        if let Some(change) = action.end(self.now) {
            change(self);
        }
        true
    }

    /// When the next action ends.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.running.first().map(|(ends, _)| *ends)
    }

    /// Starts an action on `subject` that ends after one action time, and says its number.
    pub fn begin(
        &mut self,
        command: &'static str,
        subject: ResourceRef,
        others: &[ResourceRef],
        change: impl FnOnce(&mut Project) + Send + 'static,
    ) -> u64 {
        self.begin_after(SignedDuration::ZERO, command, subject, others, change)
    }

    /// As [`Project::begin`], for an action that waits for another one first: it ends `wait` later.
    pub fn begin_after(
        &mut self,
        wait: SignedDuration,
        command: &'static str,
        subject: ResourceRef,
        others: &[ResourceRef],
        change: impl FnOnce(&mut Project) + Send + 'static,
    ) -> u64 {
        let id = self.next_id();
        let begins = self.now + wait;
        let ends = begins + self.action_time();
        self.running.insert((ends, id));
        let mut resources = vec![subject];
        resources.extend_from_slice(others);
        self.actions.insert(
            id,
            Action {
                id,
                command,
                status: Status::Running,
                started: self.now,
                begins,
                ends,
                finished: None,
                resources,
                change: Some(Box::new(change)),
                failure: None,
            },
        );
        id
    }

    pub fn action_time(&self) -> SignedDuration {
        SignedDuration::from_millis(self.settings.action_duration_ms.cast_signed())
    }

    pub fn render_action(&self, id: u64) -> Value {
        self.actions
            .get(&id)
            .map_or(Value::Null, |action| action.render(self.now))
    }

    pub fn render_actions(&self, ids: &[u64]) -> Value {
        ids.iter().map(|id| self.render_action(*id)).collect()
    }

    /// Whether an action whose subject is `resource` runs.
    pub fn is_locked(&self, resource: ResourceRef) -> bool {
        self.running_actions()
            .any(|action| action.resources.first() == Some(&resource))
    }

    pub fn running_actions(&self) -> impl Iterator<Item = &Action> {
        self.running
            .iter()
            .filter_map(|(_, id)| self.actions.get(id))
    }

    /// Refuses with 423 `locked` while an action runs on `resource`.
    pub fn require_unlocked(&self, resource: ResourceRef) -> Result<(), ApiError> {
        if self.is_locked(resource) {
            let message = format!("{} is locked", resource.kind.replace('_', " "));
            return Err(ApiError::new(423, "locked", message));
        }
        Ok(())
    }

    /// Refuses with 423 `locked` while an action touches `resource`, also as one of several.
    pub fn require_idle(&self, resource: ResourceRef) -> Result<(), ApiError> {
        let mut running = self.running_actions();
        if running.any(|action| action.resources.contains(&resource)) {
            let message = format!("{} is locked", resource.kind.replace('_', " "));
            return Err(ApiError::new(423, "locked", message));
        }
        Ok(())
    }

    /// Notes a turn in a server's life for those who wait for it.
    pub fn announce(&mut self, kind: EventKind, server: u64) {
        let created = (kind == EventKind::Created).then(|| self.servers.get(&server));
        let image = created.flatten().map(|server| server.image);
        self.note(kind, server, image);
    }

    /// Notes that `image` begins to be made of the server's disk.
    pub fn announce_snapshot(&mut self, server: u64, image: u64) {
        self.note(EventKind::Snapshot, server, Some(image));
    }

    /// Forgets a snapshot and notes that.
    pub fn delete_snapshot(&mut self, image: u64) {
        let Some(snapshot) = self.images.remove(&image) else {
            return;
        };
        let (server, name) = snapshot.created_from;
        self.events.push(Event {
            seq: 0,
            time: self.now,
            kind: EventKind::ImageDeleted,
            server,
            name,
            ipv4: None,
            boots: None,
            image: Some(image),
        });
    }

    fn note(&mut self, kind: EventKind, server: u64, image: Option<u64>) {
        let Some(server) = self.servers.get(&server) else {
            return;
        };
        self.events.push(Event {
            seq: 0,
            time: self.now,
            kind,
            server: server.meta.id,
            name: server.meta.name.clone(),
            ipv4: server.ipv4.as_ref().map(|ip| ip.address),
            boots: kind.is_boot().then(|| server.boots()),
            image,
        });
    }
}
