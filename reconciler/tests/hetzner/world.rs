//! A project at the emulator, the client under test, and what the emulator saw of it.

use std::collections::{BTreeMap, BTreeSet};

use fabrik::hetzner::{Client, Context, HetznerError, Outcome, Token, execute, observe};
use fabrik_core::effect::{Choice, Effect, NewServer};
use fabrik_core::id::{ClusterId, IntentId, NodeName, ServerId};
use fabrik_core::ledger::{Change, Ledger};
use fabrik_core::observed::Hetzner;
use fabrik_core::spec::{Api, Firewall, Kubernetes, Limits, Network, SecretRef, Spec};
use hetzner_emulator::{Emulator, Options};
use jiff::Timestamp;
use serde_json::{Value, json};

pub const TOKEN: &str = "planted-token-5d41402abc4b2a76b9719d911017c592";
pub const INTENT: &str = "k3x9qd";
pub const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk";

pub struct Bed {
    pub client: Client,
    pub cluster: ClusterId,
    pub ledger: Ledger,
    pub confirmed_gone: BTreeSet<ServerId>,
    emulator: Emulator,
}

impl Bed {
    pub async fn start() -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let options = Options {
            tokens: vec![TOKEN.to_owned()],
            action_duration: std::time::Duration::ZERO,
            ..Options::default()
        };
        let emulator = Emulator::start(options).await.unwrap();
        let cluster: ClusterId = "abcdefgh01234567".parse().unwrap();
        Self {
            client: Client::new(&emulator.endpoint(), Token::new(TOKEN)).unwrap(),
            emulator,
            ledger: Ledger::new(cluster.clone()),
            confirmed_gone: BTreeSet::new(),
            cluster,
        }
    }

    pub async fn observe(&self) -> Result<Hetzner, HetznerError> {
        self.observe_for(&spec()).await
    }

    pub async fn observe_for(&self, spec: &Spec) -> Result<Hetzner, HetznerError> {
        observe(
            &self.client,
            &self.cluster,
            spec,
            &self.ledger,
            &self.confirmed_gone,
        )
        .await
    }

    pub async fn execute(&self, effect: &Effect) -> Result<Outcome, HetznerError> {
        let context = Context {
            cluster: &self.cluster,
            user_data: "{\"fabrik\":1}",
        };
        execute(&self.client, effect, context).await.unwrap()
    }

    /// As somebody else who uses the project.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("{}/{path}", self.emulator.endpoint());
        let request = reqwest::Client::new().post(url).bearer_auth(TOKEN);
        let answer = request.json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{path}");
        answer.json().await.unwrap()
    }

    /// What the emulator's control API says.
    pub async fn control(&self, path: &str) -> Value {
        let url = format!("{}/_emulator/{path}", self.emulator.url());
        reqwest::get(url).await.unwrap().json().await.unwrap()
    }

    /// Requests of this method and path, whatever their query, so far.
    pub async fn requests(&self, method: &str, path: &str) -> Vec<Value> {
        let journal = self.control("requests").await;
        let all = journal["requests"].as_array().unwrap().iter();
        let bare = |r: &Value| r["path"].as_str().unwrap().split('?').next() == Some(path);
        all.filter(|r| r["method"] == method && bare(r))
            .cloned()
            .collect()
    }

    /// Faults that have hit a request so far.
    pub async fn faults_hit(&self) -> Vec<String> {
        let journal = self.control("requests").await;
        let all = journal["requests"].as_array().unwrap().iter();
        all.filter_map(|r| Some(r["fault"].as_str()?.to_owned()))
            .collect()
    }

    pub async fn out_of_stock(&self, types: Value) {
        let url = format!("{}/_emulator/settings", self.emulator.url());
        let body = json!({"out_of_stock": types});
        let sent = reqwest::Client::new().put(url).json(&body).send().await;
        assert!(sent.unwrap().status().is_success());
    }

    pub async fn fault(&self, fault: Value) {
        let url = format!("{}/_emulator/faults", self.emulator.url());
        let sent = reqwest::Client::new()
            .post(url)
            .json(&fault)
            .send()
            .await
            .unwrap();
        assert_eq!(sent.status(), 201);
    }

    pub async fn create_network(&self) -> u64 {
        let effect = Effect::CreateNetwork {
            name: "demo".to_owned(),
            range: "10.0.0.0/16".to_owned(),
            nodes: "10.0.1.0/24".to_owned(),
            zone: "eu-central".to_owned(),
        };
        match self.execute(&effect).await.unwrap() {
            Outcome::Created(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub async fn new_server(&self) -> Effect {
        Effect::CreateServer(self.order().await)
    }

    /// A server that the emulator can give, by its second choice.
    pub async fn order(&self) -> NewServer {
        let network = self.create_network().await;
        let firewall = Effect::CreateFirewall {
            name: "demo".to_owned(),
            rules: Vec::new(),
        };
        let Outcome::Created(firewall) = self.execute(&firewall).await.unwrap() else {
            panic!("no firewall")
        };
        NewServer {
            intent: intent(),
            pool: "workers".parse().unwrap(),
            name: name(),
            choices: vec![
                Choice {
                    server_type: "cx21".to_owned(),
                    location: "fsn1".to_owned(),
                },
                Choice {
                    server_type: "cx33".to_owned(),
                    location: "nbg1".to_owned(),
                },
            ],
            image: "debian-12".to_owned(),
            network,
            firewall,
            ssh_keys: Vec::new(),
            placement_group: None,
            node_labels: BTreeMap::new(),
            node_taints: Vec::new(),
        }
    }
}

pub fn intent() -> IntentId {
    INTENT.parse().unwrap()
}

pub fn name() -> NodeName {
    "demo-workers-k3x9qd".parse().unwrap()
}

pub fn spec() -> Spec {
    Spec {
        name: "demo".parse().unwrap(),
        kubernetes: Kubernetes {
            version: "1.36.3+k3s1".to_owned(),
        },
        hetzner: Some(fabrik_core::spec::Hetzner {
            token: SecretRef {
                file: String::new(),
                key: String::new(),
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
        ssh_keys: BTreeMap::from([("alice".to_owned(), format!("{KEY} alice"))]),
        api: Api::default(),
        servers: None,
        own_servers: BTreeMap::new(),
        own_servers_system: None,
        pools: BTreeMap::new(),
        update: fabrik_core::spec::Update::default(),
        nix: fabrik_core::spec::Nix::default(),
        secrets: BTreeMap::new(),
        limits: Limits::default(),
    }
}

pub fn remember(ledger: &mut Ledger, intent: &str, server: u64) {
    let id: IntentId = intent.parse().unwrap();
    let name = format!("demo-workers-{intent}").parse().unwrap();
    let pool = "workers".parse().unwrap();
    ledger.apply(
        &Change::Intend {
            sequence: 0,
            id: id.clone(),
            pool,
            name,
        },
        Timestamp::UNIX_EPOCH,
    );
    let server = ServerId(server);
    ledger.apply(
        &Change::Bind {
            id,
            server,
            address: None,
        },
        Timestamp::UNIX_EPOCH,
    );
}
