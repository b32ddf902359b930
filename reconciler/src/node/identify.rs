//! Who this machine is: its name, addresses, provider id, labels and taints come from the server's user data and
//! metadata, never from the system, so that one system serves a whole pool.
//!
//! Both are read at the first boot only; what is known by then is kept on the disk. From it the files of k3s, the agent and
//! the network are written at each boot, before any of these starts: another build may write them in another way.

mod files;
mod kept;
mod metadata;

use std::fs;
use std::path::Path;
use std::time::Duration;

use fabrik_core::id::NodeName;
use reqwest::Url;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

pub use self::files::K3s;
pub use self::kept::{ControlPlane, Identity, STATE_DIR, keep, keep_token, kept};

use self::metadata::Metadata;
use super::{NodeError, config};
use crate::cluster::user_data::{self, UserData};
use crate::handover::{self, FirstServer, first_server};

/// The network may come up late, and a server's private network later still.
const METADATA_LIMIT: Duration = Duration::from_secs(300);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long one supervisor may take to be reached, and all of them together.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const SERVERS_LIMIT: Duration = Duration::from_secs(30);
const K3S_PORT: u16 = 6443;
const CACHE_PORT: u16 = 9642;

/// Whether a machine whose user data is not fabrik's is one that a person looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByHand {
    /// It is left as it is.
    Allowed,
    /// It joins nothing, and says so.
    Refused,
}

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
        "the server's user data is for `{role}` in layout {version}, and this build knows `{}` and `{}` in layout {}. Make an \
         image of the fabrik that the servers run",
        user_data::AGENT,
        first_server::ROLE,
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
    /// On the heap: it is big.
    #[error(transparent)]
    Handover(Box<handover::HandoverError>),
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Writes the files of this boot below `root`; `metadata` is the URL of the metadata service.
pub async fn run(metadata: &str, root: &Path, by_hand: ByHand) -> Result<(), IdentifyError> {
    let Some(identity) = who(metadata, root, by_hand).await? else {
        info!("a person tells this machine who it is: nothing is written");
        return Ok(());
    };
    let server = first_that_answers(&identity.servers).await;
    // What the system says of all interfaces.
    let network = fs::read_to_string(root.join(files::NETWORK_OF_ALL)).unwrap_or_default();
    let told = server.map_or(K3s::Goes, K3s::Joins);
    for (path, text) in files::of(&identity, told, &network) {
        let path = root.join(path);
        match kept::write(&path, &text) {
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

/// `None`: the machine is a person's.
async fn who(
    metadata: &str,
    root: &Path,
    by_hand: ByHand,
) -> Result<Option<Identity>, IdentifyError> {
    if let Some(identity) = kept(root)? {
        is_the_same_machine(metadata, &identity).await?;
        return Ok(Some(identity));
    }
    if by_hand == ByHand::Allowed && is_told_by_hand(root) {
        return Ok(None);
    }
    first_boot(metadata, root, by_hand).await
}

/// Writes what k3s is started with.
pub fn tell_k3s(root: &Path, identity: &Identity, told: K3s<'_>) -> Result<(), NodeError> {
    let path = root.join(files::K3S);
    kept::write(&path, &files::k3s(identity, told)).map_err(NodeError::io(path))
}

/// Writes what the agent is started with, where the cluster has a key.
pub fn tell_agent(root: &Path, identity: &Identity) -> Result<(), NodeError> {
    let Some(text) = files::agent(identity) else {
        return Ok(());
    };
    let path = root.join(files::AGENT);
    kept::write(&path, &text).map_err(NodeError::io(path))
}

/// The secrets first: where there is an identity, all of it is there. `None`: the user data are none of fabrik's.
async fn first_boot(
    url: &str,
    root: &Path,
    by_hand: ByHand,
) -> Result<Option<Identity>, IdentifyError> {
    let text = patiently(url, async || metadata::user_data(url).await).await?;
    let Some(given) = parse(&text, by_hand)? else {
        return Ok(None);
    };
    let metadata = patiently(url, async || metadata::read(url).await).await?;
    let identity = match given {
        Given::Agent(user_data) => {
            keep_token(root, &user_data.token)?;
            of_agent(user_data, metadata)
        }
        Given::FirstServer(user_data) => {
            let met =
                handover::host_key::meet(root, &user_data.host_key, &user_data.authorized_key);
            met.await
                .map_err(|error| IdentifyError::Handover(Box::new(error)))?;
            of_first_server(user_data, metadata)
        }
    };
    keep(root, &identity)?;
    Ok(Some(identity))
}

fn of_agent(user_data: UserData, metadata: Metadata) -> Identity {
    let agent = user_data.public_key.map(|public_key| config::Cluster {
        name: user_data.cluster_name,
        id: user_data.cluster_id,
        public_key,
    });
    let labels = user_data.labels.into_iter();
    Identity {
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
        control_plane: None,
    }
}

fn of_first_server(user_data: FirstServer, metadata: Metadata) -> Identity {
    let own = format!("https://{}:{CACHE_PORT}", metadata.addresses.private);
    Identity {
        server: metadata.instance_id,
        addresses: metadata.addresses,
        // Its key is not made yet.
        agent: None,
        cache_urls: vec![own],
        node: user_data.node_name,
        servers: Vec::new(),
        labels: Vec::new(),
        taints: Vec::new(),
        control_plane: Some(ControlPlane {
            name: user_data.cluster_name,
            id: user_data.cluster_id,
            is_first: true,
        }),
    }
}

/// Whether somebody has written what k3s is started with.
fn is_told_by_hand(root: &Path) -> bool {
    let written = fs::read_dir(root.join(files::K3S_DIR));
    let names = written.into_iter().flatten().flatten();
    names.map(|e| e.file_name()).any(|n| n != files::INTERFACE)
}

async fn patiently<T>(
    url: &str,
    mut read: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, IdentifyError> {
    let began = Instant::now();
    let mut said = String::new();
    loop {
        let problem = match read().await {
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

/// What a machine was created with, by its role.
#[derive(Debug)]
enum Given {
    Agent(UserData),
    FirstServer(FirstServer),
}

/// All that fabrik's user data have in common.
#[derive(Deserialize)]
struct Head {
    fabrik: u32,
    role: String,
}

/// `None`: they are not fabrik's, and that is allowed.
fn parse(text: &str, by_hand: ByHand) -> Result<Option<Given>, IdentifyError> {
    let not_ours = |error: serde_json::Error| IdentifyError::NotOurs {
        line: error.line(),
        column: error.column(),
    };
    let head: Head = match serde_json::from_str(text) {
        Err(_) if by_hand == ByHand::Allowed => return Ok(None),
        head => head.map_err(not_ours)?,
    };
    let given = match (head.fabrik, head.role.as_str()) {
        (user_data::VERSION, user_data::AGENT) => serde_json::from_str(text).map(Given::Agent),
        (handover::VERSION, first_server::ROLE) => {
            serde_json::from_str(text).map(Given::FirstServer)
        }
        _ => {
            return Err(IdentifyError::Unknown {
                role: head.role,
                version: head.fabrik,
            });
        }
    };
    given.map(Some).map_err(not_ours)
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
    if servers.is_empty() {
        return None;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_that_is_not_ours_is_not_quoted() {
        let token = "K10abc::id.hunter2";
        for text in [
            format!("#!/bin/sh\necho {token}"),
            format!(r#"{{"fabrik": 1, "role": "agent", "token": 7, "x": "{token}"}}"#),
            format!(r#"{{"fabrik": "{token}"}}"#),
        ] {
            let error = parse(&text, ByHand::Refused).unwrap_err().to_string();
            assert!(error.contains("(line 1, column"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_machine_that_a_person_made_is_left_alone_and_a_broken_one_of_ours_is_not() {
        for text in ["", "#cloud-config\n", r#"{"fabrik": "mine"}"#] {
            assert!(parse(text, ByHand::Allowed).unwrap().is_none(), "{text}");
            parse(text, ByHand::Refused).unwrap_err();
        }
        for role in ["agent", "first-server"] {
            let broken = format!(r#"{{"fabrik": 1, "role": "{role}"}}"#);
            let error = parse(&broken, ByHand::Allowed).unwrap_err();
            assert!(matches!(error, IdentifyError::NotOurs { .. }), "{error}");
        }
    }

    #[test]
    fn what_k3s_writes_for_itself_is_no_person_s_word() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert!(!is_told_by_hand(root));
        let dir = root.join(files::K3S_DIR);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(files::INTERFACE), "").unwrap();
        assert!(!is_told_by_hand(root));
        fs::write(dir.join("10-mine.yaml"), "").unwrap();
        assert!(is_told_by_hand(root));
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
        let given = parse(&text(1, "agent"), ByHand::Refused).unwrap();
        assert!(matches!(given, Some(Given::Agent(_))), "{given:?}");
        for (version, role) in [(2, "agent"), (2, "first-server"), (1, "desktop")] {
            let error = parse(&text(version, role), ByHand::Allowed);
            let error = error.unwrap_err().to_string();
            let said = format!("is for `{role}` in layout {version}");
            assert!(error.contains(&said), "{error}");
        }
    }
}
