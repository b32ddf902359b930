//! What can go wrong with Hetzner, in words that say what to do about it.

use std::fmt;

use jiff::Timestamp;

/// One refused request, or one thing that can't be done. `what` completes "could not …" and names the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HetznerError {
    /// Endpoint or token can't be used at all; no request was made.
    #[error("{problem}")]
    Setup { problem: String },
    /// No usable answer. A write may have been done all the same; the next observation shows it.
    #[error(
        "could not {what}: Hetzner can't be reached ({problem}). The leader asks again by itself; a command may be repeated{id}"
    )]
    Unreachable {
        what: String,
        problem: String,
        id: RequestId,
    },
    #[error(
        "could not {what}: Hetzner does not accept the token ({message}); check that it belongs to this project \
         and may read and write, and push a new one if it was revoked{id}"
    )]
    Unauthorized {
        what: String,
        message: String,
        id: RequestId,
    },
    #[error(
        "could not {what}: the project's requests of this hour are used up; fabrik goes on at {until}. \
         If that happens often, see what else uses the API of this project{id}"
    )]
    RateLimited {
        what: String,
        until: Timestamp,
        id: RequestId,
    },
    #[error("could not {what}: it does not exist at Hetzner ({message}){id}")]
    NotFound {
        what: String,
        message: String,
        id: RequestId,
    },
    #[error(
        "could not {what}: the name is taken by {holder}, which is not this cluster's; \
         rename or remove that one, or choose another name{id}"
    )]
    NameTaken {
        what: String,
        holder: String,
        id: RequestId,
    },
    #[error(
        "could not {what}: Hetzner has none to give ({message}; tried: {tried}); fabrik tries again, \
         and more `server-types` or `locations` for the pool give it more choice{id}"
    )]
    OutOfStock {
        what: String,
        tried: String,
        message: String,
        id: RequestId,
    },
    #[error(
        "could not {what}: the project's limit is reached ({message}); ask Hetzner for a higher one \
         (Console → Limits) or remove what is not needed{id}"
    )]
    QuotaExceeded {
        what: String,
        message: String,
        id: RequestId,
    },
    /// Something else is being done to the object.
    #[error(
        "could not {what}: Hetzner is busy with it ({message}). The leader asks again by itself; a command may be repeated{id}"
    )]
    Locked {
        what: String,
        message: String,
        id: RequestId,
    },
    #[error(
        "could not {what}: it is protected ({message}); if it shall go, switch the protection off in Hetzner's console{id}"
    )]
    Protected {
        what: String,
        message: String,
        id: RequestId,
    },
    #[error(
        "could not {what}: Hetzner refuses it ({code}: {message}){}{id}",
        list(fields)
    )]
    Refused {
        what: String,
        code: String,
        message: String,
        fields: Vec<FieldError>,
        id: RequestId,
    },
    #[error(
        "could not {what}: Hetzner's answer can't be understood ({problem}); nothing was changed because of it. \
         A newer fabrik may know this answer{id}"
    )]
    Malformed {
        what: String,
        problem: String,
        id: RequestId,
    },
    /// A list can't be believed, so nothing that was read is.
    #[error(
        "could not {what}: the list is not complete ({problem}); nothing is believed and nothing is deleted. \
         Check that the token belongs to the project that the cluster's servers are in"
    )]
    IncompleteList { what: String, problem: String },
    /// The object has the id that was meant, and is another one.
    #[error(
        "could not {what}: it is not what was meant ({problem}); it is left alone. If its labels were changed by hand, \
         put them back"
    )]
    NotOurs { what: String, problem: String },
}

/// A field of a request and what Hetzner says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub name: String,
    pub messages: Vec<String>,
}

/// Hetzner's `X-Correlation-Id`: what its support asks for. Its text is empty when there was none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestId(pub Option<String>);

impl HetznerError {
    /// The variant's name, for metrics and conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Setup { .. } => "Setup",
            Self::Unreachable { .. } => "Unreachable",
            Self::Unauthorized { .. } => "Unauthorized",
            Self::RateLimited { .. } => "RateLimited",
            Self::NotFound { .. } => "NotFound",
            Self::NameTaken { .. } => "NameTaken",
            Self::OutOfStock { .. } => "OutOfStock",
            Self::QuotaExceeded { .. } => "QuotaExceeded",
            Self::Locked { .. } => "Locked",
            Self::Protected { .. } => "Protected",
            Self::Refused { .. } => "Refused",
            Self::Malformed { .. } => "Malformed",
            Self::IncompleteList { .. } => "IncompleteList",
            Self::NotOurs { .. } => "NotOurs",
        }
    }

    /// Whether the same request may well be answered a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::RateLimited { .. } | Self::Locked { .. }
        )
    }

    /// Whether Hetzner says that a name or a key is there already.
    pub(super) fn is_not_unique(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "uniqueness_error")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(id) => write!(f, " (Hetzner's correlation id: {id})"),
            None => Ok(()),
        }
    }
}

fn list(fields: &[FieldError]) -> String {
    fields
        .iter()
        .map(|f| format!("; {}: {}", f.name, f.messages.join(", ")))
        .collect()
}
