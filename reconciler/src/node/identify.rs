//! Who this machine is: its name, addresses, provider id, labels and taints come from the server's user data and
//! metadata, never from the system, so that one system serves a whole pool.
//!
//! Both are read at the first boot only; what is known by then is kept on the disk. From it the files of k3s, the agent and
//! the network are written at each boot, before any of these starts: another build may write them in another way.

mod files;
mod metadata;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use fabrik_core::id::NodeName;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use self::metadata::{Addresses, Metadata};
use super::state::{read, write_durably};
use super::{NodeError, config};
use crate::cluster::user_data::{self, UserData};

/// What is kept, below the machine's root.
const STATE_DIR: &str = "var/lib/fabrik-identity";
const IDENTITY: &str = "identity.json";
/// The network may come up late, and a server's private network later still.
const METADATA_LIMIT: Duration = Duration::from_secs(300);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long one supervisor may take to be reached, and all of them together.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const SERVERS_LIMIT: Duration = Duration::from_secs(30);
const K3S_PORT: u16 = 6443;

#[derive(Debug, thiserror::Error)]
pub enum IdentifyError {
    #[error("{url}: the server's metadata can't be read: {problem}")]
    Metadata { url: String, problem: String },
    /// Says where, and never what: it holds a token.
    #[error(
        "the server's user data is not what fabrik gives a server (line {line}, column {column}). This machine joins no \
         cluster: delete the server, fabrik makes another"
    )]
    NotOurs { line: usize, column: usize },
    #[error(
        "the server's user data is for `{role}` in layout {version}, and this build knows `{}` in layout {}. Make an image \
         of the fabrik that the servers run",
        user_data::AGENT,
        user_data::VERSION
    )]
    Unknown { role: String, version: u32 },
    #[error(
        "this disk was {kept}, server {kept_server}, and the machine is server {server}: an image was made of a node. Two \
         nodes of one name would fight, so this one joins nothing. Make images of machines that never joined"
    )]
    OtherServer {
        kept: NodeName,
        kept_server: u64,
        server: u64,
    },
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// What is kept of the first boot. The token is in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Identity {
    /// Hetzner's id of the server.
    server: u64,
    addresses: Addresses,
    /// In the configuration of the agent, where the cluster has a key.
    agent: Option<config::Cluster>,
    cache_urls: Vec<String>,
    node: NodeName,
    servers: Vec<String>,
    labels: Vec<String>,
    taints: Vec<String>,
}

/// Writes the files of this boot below `root`; `metadata` is the URL of the metadata service.
pub async fn run(metadata: &str, root: &Path) -> Result<(), IdentifyError> {
    let state = root.join(STATE_DIR);
    let identity = match kept(&state)? {
        Some(identity) => {
            is_the_same_machine(metadata, &identity).await?;
            identity
        }
        None => first_boot(metadata, &state).await?,
    };
    let server = first_that_answers(&identity.servers).await;
    // What the system says of all interfaces.
    let network = fs::read_to_string(root.join(files::NETWORK_OF_ALL)).unwrap_or_default();
    for (path, text) in files::of(&identity, server, &network) {
        let path = root.join(path);
        match write(&path, &text) {
            // A full disk must not keep the node down: its kubelet is who makes room.
            Err(error) if path.exists() => {
                warn!(path = %path.display(), %error, "stays as an earlier boot wrote it");
            }
            written => written.map_err(NodeError::io(path))?,
        }
    }
    info!(node = %identity.node, server = identity.server, "this machine knows who it is");
    Ok(())
}

fn kept(state: &Path) -> Result<Option<Identity>, NodeError> {
    let path = state.join(IDENTITY);
    let Some(text) = read(&path)? else {
        return Ok(None);
    };
    let identity = serde_json::from_str(&text);
    identity.map(Some).map_err(|error| NodeError::Malformed {
        path,
        problem: error.to_string(),
    })
}

/// The token first: where there is an identity, all of it is there.
async fn first_boot(metadata: &str, state: &Path) -> Result<Identity, IdentifyError> {
    let (metadata, user_data) = patiently(metadata).await?;
    let user_data = parse(&user_data)?;
    keep(state, "token", user_data.token.expose())?;
    let agent = user_data.public_key.map(|public_key| config::Cluster {
        name: user_data.cluster_name,
        id: user_data.cluster_id,
        public_key,
    });
    let labels = user_data.labels.into_iter();
    let identity = Identity {
        server: metadata.instance_id,
        addresses: metadata.addresses,
        agent,
        cache_urls: user_data.cache_urls,
        node: user_data.node_name,
        servers: user_data.servers,
        labels: labels
            .map(|(key, value)| format!("{key}={value}"))
            .collect(),
        taints: user_data.taints,
    };
    let text = serde_json::to_vec_pretty(&identity).map_err(|error| NodeError::Malformed {
        path: state.join(IDENTITY),
        problem: error.to_string(),
    })?;
    keep(state, IDENTITY, &text)?;
    Ok(identity)
}

async fn patiently(url: &str) -> Result<(Metadata, String), IdentifyError> {
    let began = Instant::now();
    let mut said = String::new();
    loop {
        let problem = match metadata::read(url).await {
            Ok(found) => return Ok(found),
            Err(problem) => problem,
        };
        if began.elapsed() >= METADATA_LIMIT {
            let url = url.to_owned();
            return Err(IdentifyError::Metadata { url, problem });
        }
        if problem != said {
            warn!(problem, "the server's metadata is not there yet");
            said = problem;
        }
        sleep(RETRY_PAUSE).await;
    }
}

fn parse(text: &str) -> Result<UserData, IdentifyError> {
    let not_ours = |error: serde_json::Error| IdentifyError::NotOurs {
        line: error.line(),
        column: error.column(),
    };
    let user_data: UserData = serde_json::from_str(text).map_err(not_ours)?;
    if user_data.fabrik != user_data::VERSION || user_data.role != user_data::AGENT {
        return Err(IdentifyError::Unknown {
            role: user_data.role,
            version: user_data.fabrik,
        });
    }
    Ok(user_data)
}

/// Where the metadata service does not answer, that is no reason not to boot.
async fn is_the_same_machine(metadata: &str, identity: &Identity) -> Result<(), IdentifyError> {
    match metadata::instance_id(metadata).await {
        Ok(server) if server != identity.server => Err(IdentifyError::OtherServer {
            kept: identity.node.clone(),
            kept_server: identity.server,
            server,
        }),
        Ok(_) => Ok(()),
        Err(_) => {
            warn!("the metadata service does not answer: what is on the disk counts");
            Ok(())
        }
    }
}

/// k3s asks one supervisor only until it knows the others. Where none answers in time it is the first one, and k3s goes on
/// asking.
async fn first_that_answers(servers: &[String]) -> Option<&str> {
    let began = Instant::now();
    while began.elapsed() < SERVERS_LIMIT {
        for server in servers {
            if answers(server).await {
                return Some(server);
            }
        }
        sleep(RETRY_PAUSE).await;
    }
    warn!("no server answers; k3s tries the first one");
    servers.first().map(String::as_str)
}

async fn answers(server: &str) -> bool {
    let Ok(url) = server.parse::<Url>() else {
        return false;
    };
    let Some(host) = url.host_str() else {
        return false;
    };
    // Brackets are the URL's, not the address'.
    let host = host.trim_matches(['[', ']']);
    let port = url.port().unwrap_or(K3S_PORT);
    let connected = timeout(CONNECT_LIMIT, TcpStream::connect((host, port))).await;
    matches!(connected, Ok(Ok(_)))
}

/// For root alone.
fn keep(state: &Path, name: &str, bytes: &[u8]) -> Result<(), NodeError> {
    let path = state.join(name);
    write_durably(state, &path, bytes).map_err(NodeError::io(path))
}

/// For all to read, as systemd-networkd has to; there is no secret in it. It is written again at the next boot.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)?;
    let readable = fs::Permissions::from_mode(0o644);
    let mut new = tempfile::Builder::new()
        .permissions(readable)
        .tempfile_in(dir)?;
    new.write_all(text.as_bytes())?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn identity() -> Identity {
        Identity {
            server: 42,
            addresses: Addresses {
                private: Ipv4Addr::new(10, 0, 1, 3),
                public: Some(Ipv4Addr::new(203, 0, 113, 7)),
                ipv6: None,
            },
            agent: None,
            cache_urls: Vec::new(),
            node: "demo-workers-k3x9qd".parse().unwrap(),
            servers: vec!["https://10.0.1.1:6443".to_owned()],
            labels: Vec::new(),
            taints: Vec::new(),
        }
    }

    #[test]
    fn what_is_kept_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kept(dir.path()).unwrap(), None);
        let text = serde_json::to_vec(&identity()).unwrap();
        keep(dir.path(), IDENTITY, &text).unwrap();
        assert_eq!(kept(dir.path()).unwrap(), Some(identity()));
    }

    #[test]
    fn user_data_that_is_not_ours_is_not_quoted() {
        let token = "K10abc::id.hunter2";
        for text in [
            format!("#!/bin/sh\necho {token}"),
            format!(r#"{{"fabrik": 1, "role": "agent", "token": 7, "x": "{token}"}}"#),
            format!(r#"{{"fabrik": "{token}"}}"#),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains("(line 1, column"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_user_data_of_another_layout_or_role_names_both() {
        let text = |version: u32, role: &str| {
            format!(
                r#"{{"fabrik": {version}, "role": "{role}", "pool": "workers", "node-name": "w-1",
                "cluster-name": "demo", "cluster-id": "abcdefgh01234567", "public-key": null,
                "servers": [], "token": "t", "from-a-newer-leader": true}}"#
            )
        };
        parse(&text(1, "agent")).unwrap();
        for (version, role) in [(2, "agent"), (1, "server")] {
            let error = parse(&text(version, role)).unwrap_err().to_string();
            let said = format!("is for `{role}` in layout {version}");
            assert!(error.contains(&said), "{error}");
        }
    }
}
