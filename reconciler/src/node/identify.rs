//! Who this machine is: its name, addresses, provider id, labels and taints come from the server's user data and
//! metadata, or from the file that `fabrik install` wrote, never from the system, so that one system serves a whole pool.
//!
//! Both are read at the first boot only; what is known by then is kept on the disk. From it the files of k3s, the agent and
//! the network are written at each boot, before any of these starts: another build may write them in another way.

mod balancer;
mod files;
mod first_boot;
mod kept;
pub mod machine_file;
mod metadata;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fabrik_core::id::NodeName;
use fabrik_core::names::API_PORT;
use reqwest::Url;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

pub use self::files::K3s;
pub use self::kept::{ControlPlane, IDENTITY, Identity, STATE_DIR, keep, keep_token, kept};
pub use self::metadata::Addresses;

use self::balancer::Balancer;
use self::first_boot::first_boot;
use super::NodeError;
use crate::cluster::user_data;
use crate::handover::{self, first_server};

const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long one supervisor may take to be reached, and all of them together.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const SERVERS_LIMIT: Duration = Duration::from_secs(30);

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
        "the server's user data is for `{role}` in layout {version}, and this build knows `{}`, `{}` and `{}` in layout \
         {}. Make an image of the fabrik that the servers run",
        user_data::AGENT,
        user_data::SERVER,
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
    Handover(#[from] Box<handover::HandoverError>),
    #[error(
        "{path} is for {given}, and this machine has been {kept}. Install it anew, with its disk wiped",
        path = path.display()
    )]
    OtherNode {
        path: PathBuf,
        kept: NodeName,
        given: NodeName,
    },
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Writes the files of this boot below `root`; `metadata` is the URL of the metadata service.
pub async fn run(metadata: &str, root: &Path, by_hand: ByHand) -> Result<(), IdentifyError> {
    let Some(identity) = who(metadata, root, by_hand).await? else {
        info!("a person tells this machine who it is: nothing is written");
        return Ok(());
    };
    let server = server(root, &identity).await;
    // What the system says of all interfaces.
    let network = fs::read_to_string(root.join(files::NETWORK_OF_ALL)).unwrap_or_default();
    let told = server.as_deref().map_or(K3s::Goes, K3s::Joins);
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
    if let Some(given) = machine_file::read(root)? {
        return machine_file::take(root, given).await.map(Some);
    }
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

/// Whether somebody has written what k3s is started with.
fn is_told_by_hand(root: &Path) -> bool {
    let written = fs::read_dir(root.join(files::K3S_DIR));
    let names = written.into_iter().flatten().flatten();
    names.map(|e| e.file_name()).any(|n| n != files::INTERFACE)
}

/// Where the metadata service does not answer, that is no reason not to boot.
async fn is_the_same_machine(metadata: &str, identity: &Identity) -> Result<(), IdentifyError> {
    if identity.is_own_machine() {
        return Ok(());
    }
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

/// k3s asks one supervisor only until it knows the others. Where none answers in time it is the one of before, or the first
/// one, and k3s goes on asking.
async fn server(root: &Path, identity: &Identity) -> Option<String> {
    let balancer = match identity.control_plane {
        Some(_) => Balancer::default(),
        None => balancer::read(root),
    };
    let servers = balancer.servers(&identity.servers);
    let answers = first_that_answers(&servers).await;
    let server = answers.or_else(|| balancer.joined_at().or(servers.first()));
    server.cloned()
}

async fn first_that_answers(servers: &[String]) -> Option<&String> {
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
    warn!("no server answers; k3s goes on asking");
    None
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
    let port = url.port().unwrap_or(API_PORT);
    let connected = timeout(CONNECT_LIMIT, TcpStream::connect((host, port))).await;
    matches!(connected, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
