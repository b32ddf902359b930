//! What goes wrong on the way to the cluster, and at founding.

use std::path::PathBuf;

/// `doing` completes "while …" and names the object.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("while {doing}: {source}")]
    Kubernetes { doing: String, source: kube::Error },
    #[error("{object} is malformed: {problem}")]
    Malformed { object: String, problem: String },
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("no credentials for Kubernetes: {problem}. Run `fabrik found` on this server again")]
    Credentials { problem: String },
    #[error("none of the API servers answers ({servers}): {problem}")]
    Unreachable { servers: String, problem: String },
}

impl ClusterError {
    /// Whether the API server does not know who asks (401).
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Kubernetes { source, .. } if status_code(source) == Some(401))
    }
}

/// Makes the error of what was being done.
pub(crate) fn while_doing(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> ClusterError {
    let doing = doing.into();
    move |source| ClusterError::Kubernetes { doing, source }
}

/// The HTTP status that the API server answered with.
pub(crate) fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
