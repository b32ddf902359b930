//! An emulator of Hetzner's API with a network, whose servers have a metadata service.

use std::time::Duration;

use hetzner_emulator::{Emulator, Options};
use serde_json::{Value, json};

pub struct Cloud {
    pub emulator: Emulator,
    pub network: Value,
}

impl Cloud {
    pub async fn start() -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let options = Options {
            tokens: vec!["t".to_owned()],
            action_duration: Duration::ZERO,
            ..Options::default()
        };
        let emulator = Emulator::start(options).await.unwrap();
        let mut cloud = Self {
            emulator,
            network: Value::Null,
        };
        let subnet =
            json!({"type": "cloud", "network_zone": "eu-central", "ip_range": "10.0.1.0/24"});
        let network = json!({"name": "demo", "ip_range": "10.0.0.0/16", "subnets": [subnet]});
        cloud.network = cloud.post("networks", network).await["network"]["id"].clone();
        cloud
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("{}/{path}", self.emulator.endpoint());
        let request = reqwest::Client::new().post(url).bearer_auth("t");
        let answer = request.json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{path}");
        answer.json().await.unwrap()
    }

    /// A server with that user data; its id, and where its metadata service is.
    pub async fn server(&self, name: &str, user_data: &str) -> (u64, String) {
        let order = json!({
            "name": name, "server_type": "cx33", "image": "debian-12", "location": "fsn1",
            "networks": [self.network], "user_data": user_data,
        });
        let server = self.post("servers", order).await;
        let id = server["server"]["id"].as_u64().unwrap();
        let url = self.emulator.url();
        (id, format!("{url}/_emulator/servers/{id}/hetzner/v1"))
    }
}
