//! As much of an API server as `fabrik install` asks: the observation, one Node, and join tokens.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

#[derive(Clone)]
struct Known {
    observation: Arc<Vec<u8>>,
    /// The Node is Ready once this is there.
    joined: PathBuf,
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
    pub async fn start(observation: Vec<u8>, joined: PathBuf) -> Self {
        let known = Known {
            observation: Arc::new(observation),
            joined,
            written: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(known.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, known, task }
    }

    /// What was asked to be made or deleted.
    pub fn written(&self) -> Vec<String> {
        self.known.written.lock().unwrap().clone()
    }
}

async fn answer(State(known): State<Known>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if method != Method::GET {
        known
            .written
            .lock()
            .unwrap()
            .push(format!("{method} {path}"));
    }
    let found = match (method, path.as_str()) {
        (Method::GET, "/api/v1/namespaces/fabrik-system/configmaps/fabrik-observed") => json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fabrik-observed"},
            "binaryData": {"observed.json.gz": STANDARD.encode(known.observation.as_slice())},
        }),
        (Method::GET, "/api/v1/nodes/demo-home-desktop") if known.joined.exists() => json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "demo-home-desktop"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }),
        (Method::POST, "/api/v1/namespaces/kube-system/secrets") => {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bootstrap-token"}})
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
