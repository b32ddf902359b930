//! A founded cluster whose ledger wants one server of the control plane, an emulator of Hetzner where it may be made, and
//! desks of replicas that lead.

use std::fs;
use std::sync::Arc;

use age::x25519::Identity;
use fabrik::cluster::events::Events;
use fabrik::cluster::lease::{Candidate, KubeLease, Leadership};
use fabrik::cluster::{Clients, LedgerStore, tokens};
use fabrik::config::{Config, Join};
use fabrik::hetzner::{self, Token};
use fabrik::join::Desk;
use fabrik::reconcile::ledger::Held;
use fabrik::secrets::Secret;
use fabrik_core::join::{Claim, hash, invite};
use fabrik_core::ledger::{Change, Ledger};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use serde_json::json;
use tokio::sync::Mutex;

use crate::cloud::Cloud;
use crate::join::door::recipient;
use crate::world::World;

pub const INTENT: &str = "abc234";
pub const NODE: &str = "demo-servers-abc234";

pub struct ControlPlane {
    pub world: World,
    pub config: Config,
    pub clients: Clients,
    cloud: Cloud,
    leadership: Leadership<KubeLease>,
    nonce: Secret,
}

impl ControlPlane {
    pub async fn start() -> Self {
        let world = World::start().await;
        let founded = world.found("one", "demo", "server-1").await.unwrap();
        let mut config = Config::load(&founded.config).unwrap();
        let token = world.path("k3s-token");
        fs::write(&token, "K10ca::server:planted-k3s").unwrap();
        config.join = Some(Join {
            listen: ([127, 0, 0, 1], 0).into(),
            certificate_file: "/none".into(),
            key_file: "/none".into(),
            k3s_token_file: token,
        });
        config.kubernetes.join_urls = ["10.0.1.2:6443", "10.0.1.200:6443", "api.example.com"]
            .map(|host| format!("https://{host}"))
            .into();
        let clients = Clients::connect(&config).await.unwrap();
        let timing = config.leader_election;
        let lease = KubeLease::new(clients.leader_once.clone(), timing.lease_duration);
        let leadership = Candidate::new(lease, "server-1_0".to_owned(), timing)
            .acquire()
            .await;
        let plane = Self {
            world,
            config,
            clients,
            cloud: Cloud::start().await,
            leadership,
            nonce: tokens::nonce(
                &Secret::new(b"the cluster's age key".to_vec()),
                &founded.cluster_id,
                &INTENT.parse().unwrap(),
            ),
        };
        plane.want_a_server().await;
        plane
    }

    /// As the leader does it before it makes one.
    async fn want_a_server(&self) {
        let intend = Change::Intend {
            sequence: 1,
            id: INTENT.parse().unwrap(),
            pool: "servers".parse().unwrap(),
            name: NODE.parse().unwrap(),
        };
        let now = Timestamp::now();
        let mut held = self.held();
        held.read().await.unwrap();
        let authority = &self.leadership.authority;
        let ledger = held.write(&[intend], now, authority).await.unwrap();
        let hash = hash(self.nonce.expose());
        let invite = invite(&ledger, &INTENT.parse().unwrap(), hash, now).unwrap();
        held.write(&[invite], now, authority).await.unwrap();
    }

    fn held(&self) -> Held {
        Held {
            store: LedgerStore::new(self.clients.leader_once.clone()),
            current: None,
            epoch: i64::try_from(self.leadership.authority.epoch).unwrap(),
        }
    }

    /// Of a leader that knows nothing but what is written.
    pub fn desk(&self) -> Desk {
        self.desk_of(self.config.clone())
    }

    /// Whose k3s has no token.
    pub fn desk_without_a_token(&self) -> Desk {
        let mut config = self.config.clone();
        config.join = config.join.map(|join| Join {
            k3s_token_file: "/none".into(),
            ..join
        });
        self.desk_of(config)
    }

    fn desk_of(&self, config: Config) -> Desk {
        let endpoint = self.cloud.emulator.endpoint();
        let token = Token::from(&Secret::new(b"t".to_vec()));
        Desk {
            config: Arc::new(config),
            ledger: Arc::new(Mutex::new(self.held())),
            authority: self.leadership.authority.clone(),
            hetzner: Some(hetzner::Client::new(&endpoint, token).unwrap()),
            events: Events::new(self.clients.leader.clone(), "server-1", "demo"),
        }
    }

    /// The server of the intent, whose address is the network's first one.
    pub async fn make_server(&self) {
        let order = json!({
            "name": NODE, "server_type": "cx33", "image": "debian-12", "location": "fsn1",
            "networks": [self.cloud.network],
            "labels": {"fabrik.dev/cluster": self.config.cluster.id, "fabrik.dev/intent": INTENT},
        });
        self.cloud.post("servers", order).await;
    }

    /// Which gets the network's second one, where the configuration has a supervisor.
    pub async fn make_worker(&self) {
        let order = json!({
            "name": "demo-workers-wrk234", "server_type": "cx33", "image": "debian-12", "location": "fsn1",
            "networks": [self.cloud.network],
            "labels": {"fabrik.dev/cluster": self.config.cluster.id, "fabrik.dev/role": "agent"},
        });
        self.cloud.post("servers", order).await;
    }

    pub fn claim(&self, identity: &Identity, from: &str) -> Claim {
        Claim {
            hash: hash(self.nonce.expose()),
            node: NODE.parse().unwrap(),
            recipient: recipient(identity),
            source: from.parse().unwrap(),
        }
    }

    pub fn nonce(&self) -> String {
        self.nonce.expose_str().unwrap().to_owned()
    }

    pub async fn ledger(&self) -> Ledger {
        let store = LedgerStore::new(self.clients.leader_once.clone());
        store.read().await.unwrap().0
    }

    /// What is said in the first Event with that reason.
    pub async fn hear_of(&self, reason: &'static str) -> impl Future<Output = String> + use<> {
        let events: Api<Event> = Api::namespaced(self.world.bed.kube().await.unwrap(), "default");
        async move {
            let all = WatchParams::default();
            let stream = events.watch(&all, "0").await.unwrap();
            let notes = stream.filter_map(async |event| match event.unwrap() {
                WatchEvent::Added(event) if event.reason.as_deref() == Some(reason) => event.note,
                _ => None,
            });
            Box::pin(notes).next().await.unwrap()
        }
    }

    pub async fn end(self) {
        self.leadership.release().await;
        self.world.end().await;
    }
}
