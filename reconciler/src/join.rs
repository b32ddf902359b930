//! How a server that fabrik made comes to what a server of the control plane has: it shows the nonce of its user data to
//! whoever leads (`ask`), by TLS under the authority that the user data names, and gets an answer that only it can open.
//!
//! Who is answered is decided by `fabrik_core::join`; what is here listens (`serve`), writes the decision down before it
//! answers (`desk`), and says nothing secret to anybody else, nor to the log.

mod answer;
pub mod ask;
pub mod desk;
pub mod serve;

use fabrik_core::id::{AgeRecipient, NodeName};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::hetzner::{self, Client, HetznerError};
use crate::secrets::{Secret, in_clear};

pub use self::ask::{AskError, Door, ask};
pub use self::desk::Desk;
pub use self::serve::{Judge, Reply, serve};

/// Where a machine asks.
const JOIN_PATH: &str = "/v1/join";
/// Where it gets the authority, which it believes for its hash alone.
const CA_PATH: &str = "/v1/ca";
/// More than any answer has: keys, and a list of pinned host keys.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What a machine says of itself, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Request {
    #[serde(with = "in_clear")]
    pub nonce: Secret,
    pub node_name: NodeName,
    pub age_recipient: AgeRecipient,
}

/// The configuration that a new machine is told of: whoever is at an address where it is to join gets what it joins with.
///
/// # Errors
/// Hetzner does not say who the workers are.
pub async fn for_new_machines(config: &Config, hetzner: &Client) -> Result<Config, HetznerError> {
    let mut config = config.clone();
    let urls = &config.kubernetes.join_urls;
    config.kubernetes.join_urls =
        hetzner::not_of_workers(hetzner, &config.cluster.id, urls).await?;
    Ok(config)
}
