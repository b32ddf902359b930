//! As much of an API server as `fabrik install` asks: the observation, Nodes, join tokens, and the word by which a server is
//! asked for. Behind it is the leader's own decision, and a machine that joins once it was told and let in.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fabrik::report::observed::Document;
use fabrik_core::desired::Desired;
use fabrik_core::join::Asked;
use fabrik_core::observed::Observed;
use fabrik_core::servers::own;
use fabrik_core::spec::Spec;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::world::server;

const CLUSTER: &str = "/apis/fabrik.dev/v1alpha1/fabrikclusters/demo";

#[derive(Clone)]
struct Known {
    document: Arc<Mutex<Document>>,
    desired: Arc<Desired>,
    /// What the machine was told; with it the worker's Node is Ready.
    told: PathBuf,
    written: Arc<Mutex<Vec<String>>>,
}

pub struct Api {
    pub url: String,
    known: Known,
    task: JoinHandle<()>,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Api {
    pub async fn start(document: Document, spec: Spec, told: PathBuf) -> Self {
        let desired = Desired {
            commit: document.in_force.clone().unwrap(),
            spec,
            units: [].into(),
            targets: [].into(),
            sources: [].into(),
        };
        let known = Known {
            document: Arc::new(Mutex::new(document)),
            desired: Arc::new(desired),
            told,
            written: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(known.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, known, task }
    }

    /// What was asked to be made, changed or deleted.
    pub fn written(&self) -> Vec<String> {
        self.known.written.lock().unwrap().clone()
    }

    /// What the leader sees.
    pub fn change(&self, change: impl FnOnce(&mut Observed)) {
        change(&mut self.known.document.lock().unwrap().observed);
    }
}

impl Known {
    /// A pass of the leader's, and then what comes of it.
    fn observation(&self) -> Vec<u8> {
        let mut document = self.document.lock().unwrap();
        let observed = &mut document.observed;
        loop {
            let now = Timestamp::now();
            let step = own::step(&self.desired, observed, now);
            for change in &step.changes {
                observed.ledger.apply(change, now);
            }
            if step.changes.is_empty() {
                break;
            }
        }
        let published = document.clone().publish().unwrap();
        let intents = document.observed.ledger.intents.values();
        let mut comes = intents.filter(|intent| intent.pool.as_str() == "servers");
        let comes = comes.next().map(|intent| intent.name.clone());
        if let Some(node) = comes.filter(|_| self.told.exists()) {
            server(&mut document.observed, node.as_str());
        }
        published
    }

    fn hear(&self, body: &Value) {
        let installing = &body["spec"]["installing"];
        let text = |key: &str| installing[key].as_str().unwrap().to_owned();
        let asked = (!installing.is_null()).then(|| Asked {
            node: text("node").parse().unwrap(),
            hash: text("nonceHash").parse().unwrap(),
            until: text("until").parse().unwrap(),
        });
        self.document.lock().unwrap().observed.asked = asked;
    }

    fn is_ready(&self, node: &str) -> bool {
        let document = self.document.lock().unwrap();
        let nodes = &document.observed.nodes;
        let of_observation = nodes.get(&node.parse().unwrap()).map(|node| node.ready);
        of_observation.unwrap_or_else(|| node == "demo-home-desktop" && self.told.exists())
    }
}

async fn answer(State(known): State<Known>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
    if method != Method::GET {
        let body = String::from_utf8_lossy(&body);
        let written = format!("{method} {path} {body}");
        known.written.lock().unwrap().push(written);
    }
    let node = path.strip_prefix("/api/v1/nodes/");
    let found = match (method, path.as_str()) {
        (Method::GET, "/api/v1/namespaces/fabrik-system/configmaps/fabrik-observed") => json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fabrik-observed"},
            "binaryData": {"observed.json.gz": STANDARD.encode(known.observation())},
        }),
        (Method::GET, _) if node.is_some_and(|node| known.is_ready(node)) => json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": node},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }),
        (Method::POST, "/api/v1/namespaces/kube-system/secrets") => {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bootstrap-token"}})
        }
        (Method::PATCH, CLUSTER) => {
            known.hear(&serde_json::from_slice(&body).unwrap());
            json!({"apiVersion": "fabrik.dev/v1alpha1", "kind": "FabrikCluster", "metadata": {"name": "demo"}})
        }
        _ => {
            let status = json!({
                "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404,
                "message": format!("{path} not found"),
            });
            return (StatusCode::NOT_FOUND, axum::Json(status)).into_response();
        }
    };
    axum::Json(found).into_response()
}
