//! The one error of this room.

use std::path::PathBuf;

/// `doing` completes "while …" and names the object.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("while {doing}: {source}")]
    Kubernetes { doing: String, source: kube::Error },
    #[error(
        "{object} is not the one that was meant: its UID is {found}, ours was {meant}. \
         Nothing was done to it; it is observed again"
    )]
    Replaced {
        object: String,
        meant: String,
        found: String,
    },
    #[error("{object} changed while it was being changed; it is observed again")]
    Conflict { object: String },
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
    /// The variant's name, as a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Kubernetes { .. } => "kubernetes",
            Self::Replaced { .. } => "replaced",
            Self::Conflict { .. } => "conflict",
            Self::Malformed { .. } => "malformed",
            Self::File { .. } => "file",
            Self::Credentials { .. } => "credentials",
            Self::Unreachable { .. } => "unreachable",
        }
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
