//! An emulator of its own for a test, and how it is called.

#![allow(dead_code, reason = "each test program uses its part of it")]

use std::time::Duration;

use hetzner_emulator::{Emulator, Options};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

pub const TOKEN: &str = "a-token-that-must-not-be-shown";

pub struct Bench {
    pub emulator: Emulator,
    pub client: Client,
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(Options {
            action_duration: Duration::from_millis(20),
            ..Options::default()
        })
        .await
    }

    pub async fn with(options: Options) -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let emulator = Emulator::start(options).await.unwrap();
        Self {
            emulator,
            client: Client::new(),
        }
    }

    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> reqwest::Result<Response> {
        let request = self
            .client
            .request(method, format!("{}{path}", self.emulator.url()));
        let request = request.bearer_auth(TOKEN);
        if body.is_null() {
            request.send().await
        } else {
            request.json(&body).send().await
        }
    }

    pub async fn call(&self, method: Method, path: &str, body: Value) -> Response {
        self.try_call(method, path, body).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        let response = self.call(Method::GET, path, Value::Null).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let response = self.call(Method::POST, path, body).await;
        assert!(
            response.status().is_success(),
            "{path}: {}",
            response.text().await.unwrap()
        );
        response.json().await.unwrap_or_default()
    }

    pub async fn order_fault(&self, fault: Value) {
        self.post("/_emulator/faults", fault).await;
    }

    pub async fn server_names(&self) -> Vec<String> {
        let list = self.get("/v1/servers").await;
        let servers = list["servers"].as_array().unwrap().iter();
        servers
            .map(|server| server["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits for the next event of this kind after `since`; its number and its server.
    pub async fn event(&self, kind: &str, mut since: u64) -> (u64, u64) {
        loop {
            let path = format!("/_emulator/events?since={since}&wait_ms=10000");
            let found = self.get(&path).await;
            let events = found["events"].as_array().unwrap();
            assert!(!events.is_empty(), "no {kind} event after {since}");
            for event in events {
                since = event["seq"].as_u64().unwrap();
                if event["kind"] == kind {
                    return (since, event["server"].as_u64().unwrap());
                }
            }
        }
    }

    pub async fn running_server(&self) -> (u64, u64) {
        self.post("/v1/servers", order("machine")).await;
        self.event("running", 0).await
    }
}

pub fn order(name: &str) -> Value {
    json!({"name": name, "server_type": "cx23", "image": "debian-12"})
}
