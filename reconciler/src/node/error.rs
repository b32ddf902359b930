//! What can go wrong on a node, and the way out of each.

use std::path::PathBuf;

use fabrik_core::agent::JournalError;

use super::boot::BootError;
use crate::config::ConfigError;

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Without its journal the agent does not know what it has begun, so it begins nothing.
    #[error(
        "{}: the journal can't be read: {source}. The node stays as it is. When it runs the system that it should, \
         remove the file and restart fabrik-agent", path.display()
    )]
    Journal { path: PathBuf, source: JournalError },
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A link that NixOS makes, and that points elsewhere here.
    #[error("{}: `{found}` is no system in the Nix store", path.display())]
    NoSystem { path: PathBuf, found: String },
    #[error("{}: {problem}", path.display())]
    Malformed { path: PathBuf, problem: String },
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("the time for it was over before it could boot the new system")]
    Late,
    #[error("{program}: {reason}")]
    Program { program: String, reason: String },
    #[error(
        "{}: {problem}. k3s writes this file when the node has joined", path.display()
    )]
    Kubeconfig { path: PathBuf, problem: String },
    /// It was told that they are there.
    #[error("Secret {object}, which its secrets lie ready in, can't be read: {problem}")]
    Secrets { object: String, problem: String },
    #[error("the secrets that lie ready {0}")]
    Delivery(#[from] crate::delivery::Why),
    #[error("{address}: the front of the cache can't be served: {source}")]
    Listen {
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
}

impl NodeError {
    /// For `map_err` on what is done to the file at `path`.
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// An error with all that caused it, on one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |e| e.source());
    let texts: Vec<_> = chain.map(ToString::to_string).collect();
    texts.join(": ")
}
