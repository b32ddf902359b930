//! How a server of the control plane comes to its secrets: never by its user data, which the metadata service goes on
//! serving for as long as the server lives.
//!
//! The first server is handed them by the laptop that seeds the cluster, over SSH and under a host key that the machine made
//! itself (`fabrik receive`). Nothing here decides anything about the cluster, and each step may be cut off anywhere and be
//! done again.

mod bundle;
pub mod first_server;
pub mod host_key;
mod place;
mod receive;
mod start;

use std::path::{Path, PathBuf};

use fabrik_core::id::NodeName;
use tokio::process::Command;

pub use self::bundle::{Bundle, Cluster, Repository};
pub use self::first_server::FirstServer;
pub use self::place::place;
pub use self::receive::{done, host_key, identity, use_host_key};
pub use self::start::start;

use crate::cluster::{ClusterError, FoundError};
use crate::node::NodeError;
use crate::node::programs::Programs;
use crate::secrets::SecretsError;

/// The layout's version, of user data for a first server and of what is handed over.
pub const VERSION: u32 = 1;

/// Where NixOS has a machine's programs.
const PROGRAMS: &str = "run/current-system/sw/bin";

#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error(
        "this machine does not know yet who it is, or a person made it: `systemctl status fabrik-identity` says which. Try \
         again when that has ended"
    )]
    NobodyYet,
    #[error(
        "{node} is not the first server of a cluster: it is handed nothing, it gets its secrets from the servers that are there"
    )]
    NotFirst { node: NodeName },
    #[error(
        "{node} still has the host key of its user data, which its metadata service shows: it takes nothing that is secret. \
         `fabrik receive host-key --use` first"
    )]
    HostKeyOfUserData { node: NodeName },
    /// Says where, and never what: it holds secrets.
    #[error(
        "what came is not what fabrik hands over (line {line}, column {column}); nothing was written"
    )]
    NotOurs { line: usize, column: usize },
    #[error(
        "what came has layout {found}, and this build knows {VERSION}. Use one fabrik for the laptop and for the image"
    )]
    Version { found: u32 },
    #[error("what came is longer than {limit} bytes; nothing was written")]
    TooLong { limit: u64 },
    #[error(
        "this machine was made for cluster {ours}, and what came is for {theirs}; nothing was written"
    )]
    OtherCluster { ours: String, theirs: String },
    #[error(
        "{}: it holds another key than the one that came, and this server was founded with it. Hand over the first one, \
         which the laptop has kept", path.display()
    )]
    OtherKey { path: PathBuf },
    #[error(
        "{node} has had the data of a cluster, and they are gone: it founds no second one. docs/restore.md says what to \
         do with a server that lost its data"
    )]
    HadData { node: NodeName },
    #[error("`{command}` failed: {reason}")]
    Program { command: String, reason: String },
    #[error(
        "k3s did not come up within {secs} s: {reason}. `journalctl -u k3s` says why; then repeat this"
    )]
    K3s { secs: u64, reason: String },
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Found(#[from] FoundError),
}

impl HandoverError {
    /// For `map_err` on what is done to the file at `path`.
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// `systemctl` of the machine below `root`, to its end.
async fn systemctl(root: &Path, arguments: &[&str]) -> Result<(), HandoverError> {
    let program = Programs::new(&root.join(PROGRAMS)).find("systemctl");
    let failed = |reason: String| HandoverError::Program {
        command: format!("systemctl {}", arguments.join(" ")),
        reason,
    };
    let mut command = Command::new(program);
    let output = command.args(arguments).kill_on_drop(true).output().await;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{}: {}", output.status, said.trim())))
}
