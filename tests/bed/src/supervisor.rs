//! A stand-in for the supervisor of a k3s server (port 9345): what an agent talks to when it joins.
//!
//! It follows k3s where a controller of clusters can see it: the paths, the token rule (a bootstrap
//! token of group `system:bootstrappers:k3s:default-node-token`, judged by the real API server),
//! the node password secrets, and that a node which comes back with its certificate must still have
//! its Node object. It is not k3s: no websocket tunnel, no configuration beyond API servers.

mod tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PostParams};
use tokio::task::JoinHandle;

use crate::control_plane::{API_PORT, Trust};
use crate::pki::Subject;
use tls::{Peer, TlsListener};

pub const PORT: u16 = 9345;

/// The group that k3s puts bootstrap tokens of agents in.
pub const TOKEN_GROUP: &str = "system:bootstrappers:k3s:default-node-token";

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Supervisor {
    task: JoinHandle<()>,
}

/// What a supervisor needs to know.
pub struct Settings {
    pub address: Ipv4Addr,
    pub trust: Arc<Trust>,
    /// An administrator's client of this server's own API server.
    pub client: kube::Client,
    /// Told to agents for their balancer.
    pub api_servers: ApiServers,
    /// What a server joins with; without it none can.
    pub server_token: Option<String>,
}

/// All API servers of a cluster.
pub enum ApiServers {
    These(Vec<SocketAddr>),
    /// Where the Nodes of the control plane are.
    Nodes,
}

impl Supervisor {
    pub async fn start(settings: Settings) -> Result<Self> {
        let own = std::net::IpAddr::from(settings.address);
        let subject = Subject::server("k3s-supervisor-stand-in", &["localhost"], &[own]);
        let certified = settings.trust.cluster.issue(&subject)?;
        let ca = settings.trust.cluster.certificate_pem();
        let listen = SocketAddr::from((settings.address, PORT));
        let listener = TlsListener::bind(listen, &certified, ca).await?;
        let router = Router::new()
            .route("/cacerts", get(ca_certificates))
            .route("/v1-k3s/apiservers", get(api_servers))
            .route("/v1-k3s/server-bootstrap", get(server_bootstrap))
            .route("/v1-k3s/client-kubelet.crt", post(client_kubelet))
            .route("/v1-k3s/serving-kubelet.crt", post(serving_kubelet))
            .with_state(Arc::new(settings));
        let service = router.into_make_service_with_connect_info::<Peer>();
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, service).await {
                tracing::error!(%error, "the supervisor stand-in ended");
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why an agent is turned away, in words like k3s' own.
enum Denied {
    Unauthorized(String),
    Forbidden(String),
    BadRequest(String),
    Internal(anyhow::Error),
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        match self {
            Self::Unauthorized(reason) => (StatusCode::UNAUTHORIZED, reason),
            Self::Forbidden(reason) => (StatusCode::FORBIDDEN, reason),
            Self::BadRequest(reason) => (StatusCode::BAD_REQUEST, reason),
            Self::Internal(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
        }
        .into_response()
    }
}

impl<E: Into<anyhow::Error>> From<E> for Denied {
    fn from(error: E) -> Self {
        Self::Internal(error.into())
    }
}

type Shared = State<Arc<Settings>>;

/// Without authentication, as in k3s: the agent compares it with the hash in its token.
async fn ca_certificates(State(settings): Shared) -> String {
    settings.trust.cluster.certificate_pem().to_owned()
}

async fn api_servers(
    State(settings): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Result<Json<Vec<String>>, Denied> {
    authenticate(&settings, &peer, &headers).await?;
    let servers = match &settings.api_servers {
        ApiServers::These(servers) => servers.clone(),
        ApiServers::Nodes => of_nodes(&settings).await?,
    };
    Ok(Json(servers.iter().map(ToString::to_string).collect()))
}

async fn of_nodes(settings: &Settings) -> Result<Vec<SocketAddr>, Denied> {
    let nodes: Api<Node> = Api::all(settings.client.clone());
    let servers = ListParams::default().labels("node-role.kubernetes.io/control-plane=true");
    let nodes = nodes.list(&servers).await?.items.into_iter();
    let own = std::net::IpAddr::from(settings.address);
    let addresses = nodes
        .filter_map(|node| node.status?.addresses)
        .flatten()
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .filter(|address| *address != own);
    // Its own Node may not be there yet.
    let all = [own].into_iter().chain(addresses);
    Ok(all.map(|address| (address, API_PORT).into()).collect())
}

/// What a server gets that joins: here the authority alone, by which the bed knows the rest.
async fn server_bootstrap(State(settings): Shared, headers: HeaderMap) -> Result<String, Denied> {
    let shown = headers.get("authorization").and_then(|v| v.to_str().ok());
    let expected = settings.server_token.as_ref().map(|token| {
        let credentials = STANDARD.encode(format!("server:{token}"));
        format!("Basic {credentials}")
    });
    if expected.is_none() || expected.as_deref() != shown {
        let reason = "not authorized: this is not the server token";
        return Err(Denied::Unauthorized(reason.to_owned()));
    }
    Ok(settings.trust.cluster.certificate_pem().to_owned())
}

async fn client_kubelet(
    State(settings): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    request_pem: String,
) -> Result<String, Denied> {
    let node = admit(&settings, &peer, &headers).await?;
    let subject = Subject::client(&format!("system:node:{node}"), Some("system:nodes"));
    let ca = &settings.trust.cluster;
    ca.sign_request(&request_pem, &subject)
        .map_err(|error| Denied::BadRequest(format!("{error:#}")))
}

async fn serving_kubelet(
    State(settings): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    request_pem: String,
) -> Result<String, Denied> {
    let node = admit(&settings, &peer, &headers).await?;
    let subject = Subject::server(&node, &[&node, "localhost"], &[peer.address.ip()]);
    let ca = &settings.trust.cluster;
    ca.sign_request(&request_pem, &subject)
        .map_err(|error| Denied::BadRequest(format!("{error:#}")))
}

/// Who asks: a node with its certificate, or somebody with a join token.
enum Caller {
    Node(String),
    TokenHolder,
}

/// The name of the node that may have certificates for this request.
async fn admit(settings: &Settings, peer: &Peer, headers: &HeaderMap) -> Result<String, Denied> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let node = header("k3s-node-name")
        .ok_or_else(|| missing("k3s-Node-Name"))?
        .to_owned();
    let password = header("k3s-node-password").ok_or_else(|| missing("k3s-Node-Password"))?;
    match authenticate(settings, peer, headers).await? {
        Caller::Node(own) if own != node => Err(Denied::Forbidden(format!(
            "node {own} may not act for node {node}"
        ))),
        Caller::Node(_) => {
            // k3s: a node whose object was deleted does not come back by its certificate.
            let nodes: Api<Node> = Api::all(settings.client.clone());
            if nodes.get_opt(&node).await?.is_none() {
                let reason = format!("unable to verify node identity: nodes \"{node}\" not found");
                return Err(Denied::Forbidden(reason));
            }
            check_password(settings, &node, password).await?;
            Ok(node)
        }
        Caller::TokenHolder => {
            check_password(settings, &node, password).await?;
            Ok(node)
        }
    }
}

fn missing(header: &str) -> Denied {
    Denied::BadRequest(format!("missing header {header}"))
}

async fn authenticate(
    settings: &Settings,
    peer: &Peer,
    headers: &HeaderMap,
) -> Result<Caller, Denied> {
    if let Some(user) = &peer.user {
        let node = user.strip_prefix("system:node:");
        return node
            .map(|node| Caller::Node(node.to_owned()))
            .ok_or_else(|| Denied::Unauthorized(format!("{user} is not a node")));
    }
    let authorization = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
    let token = token.ok_or_else(|| Denied::Unauthorized("not authorized".to_owned()))?;
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: token.to_owned(),
            audiences: None,
        },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(settings.client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await?;
    let groups = answer
        .status
        .and_then(|status| status.user)
        .and_then(|user| user.groups);
    if groups.is_some_and(|groups| groups.iter().any(|group| group == TOKEN_GROUP)) {
        Ok(Caller::TokenHolder)
    } else {
        Err(Denied::Unauthorized(
            "not authorized: the token is not valid".to_owned(),
        ))
    }
}

/// The first password of a name is recorded; from then on no other one will do.
async fn check_password(settings: &Settings, node: &str, password: &str) -> Result<(), Denied> {
    let secrets: Api<Secret> = Api::namespaced(settings.client.clone(), "kube-system");
    let name = format!("{node}.node-password.k3s");
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        data: Some([("hash".to_owned(), ByteString(hash(node, password)))].into()),
        ..Secret::default()
    };
    let known = match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => secrets.get(&name).await?,
        Err(error) => return Err(error.into()),
    };
    let known = known
        .data
        .and_then(|mut data| data.remove("hash"))
        .context("no hash in it")?;
    if known.0 == hash(node, password) {
        Ok(())
    } else {
        let reason = format!("unable to verify password for node {node}: hash does not match");
        Err(Denied::Forbidden(reason))
    }
}

/// k3s uses scrypt here; passwords of a bed are random and long, a plain digest serves.
fn hash(node: &str, password: &str) -> Vec<u8> {
    let salted = format!("{node}:{password}");
    ring::digest::digest(&ring::digest::SHA256, salted.as_bytes())
        .as_ref()
        .to_vec()
}
