//! The secrets that this node is given: fetched as the kubelet, opened in memory, placed under `/run/fabrik/secrets`.
//!
//! On the disk they are as they came, encrypted to this node's own key, so that a machine that boots has them before an API
//! server answers. They go only when the leader says so, under the cluster's signature.

mod files;
pub(super) mod key;

use std::time::Duration;

use fabrik_core::id::{AgeRecipient, SecretsDigest};
use fabrik_core::names::{NAMESPACE, SECRETS_ANNOTATION};
use k8s_openapi::api::core::v1::Secret as Object;
use kube::api::Api;
use kube::{Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use self::files::Folder;
use super::error::causes;
use super::state::State;
use super::{AgentConfig, NodeError};
use crate::cluster::nodes::{CIPHERTEXT_KEY, SIGNATURE_KEY, secrets_object};
use crate::cluster::resources::FabrikNode;
use crate::delivery::{self, Addressee, Delivery, Sealed, Why};

/// How long after something failed it is tried again, and how often an owner is looked for who is not there yet.
const PAUSE: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// What the agent reports of its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holdings {
    pub recipient: Option<AgeRecipient>,
    /// Those that are in place.
    pub digest: Option<SecretsDigest>,
    pub problem: Option<String>,
}

/// Keeps the node's key, and its secrets where its units look for them.
pub struct Keeper {
    config: AgentConfig,
    state: State,
    folder: Folder,
    key: Option<age::x25519::Identity>,
    /// What was placed last: its digest and its commit's number.
    placed: Option<(SecretsDigest, u64)>,
    holdings: watch::Sender<Holdings>,
}

impl Keeper {
    /// With what was given before in its place already.
    pub fn start(config: &AgentConfig, holdings: watch::Sender<Holdings>) -> Self {
        let mut keeper = Self::new(config, holdings);
        let done = keeper.place_again();
        keeper.tell(done);
        keeper
    }

    fn new(config: &AgentConfig, holdings: watch::Sender<Holdings>) -> Self {
        Self {
            state: State::new(&config.state_dir),
            folder: Folder::of(config),
            config: config.clone(),
            key: None,
            placed: None,
            holdings,
        }
    }

    /// What was given is fetched whenever this node's object says that there is something else. Runs until dropped.
    pub async fn follow(&mut self, client: Client, mut seen: watch::Receiver<Option<FabrikNode>>) {
        let api: Api<Object> = Api::namespaced(client, NAMESPACE);
        loop {
            let noted = seen.borrow_and_update().as_ref().and_then(noted);
            let done = self.catch_up(&api, noted).await;
            let waits = self.tell(done);
            tokio::select! {
                changed = seen.changed() => if changed.is_err() { return },
                () = sleep(PAUSE), if waits => {}
            }
        }
    }

    /// Brings in place what lies ready. `Ok` is what is still amiss.
    async fn catch_up(
        &mut self,
        api: &Api<Object>,
        noted: Option<SecretsDigest>,
    ) -> Result<Vec<String>, NodeError> {
        let current = self.placed.as_ref().map(|(digest, _)| digest);
        if noted.is_none() || noted.as_ref() == current {
            let is_whole = self.key.is_some() && self.holdings.borrow().problem.is_none();
            return if is_whole {
                Ok(Vec::new())
            } else {
                self.place_again()
            };
        }
        let sealed = fetch(api, &self.config).await?;
        let delivery = self.open(&sealed)?;
        if let Some((_, ours)) = self.placed.as_ref().filter(|(_, n)| *n > delivery.sequence) {
            let (found, ours) = (delivery.sequence, *ours);
            return Err(Why::Older { found, ours }.into());
        }
        if Some(&delivery.digest) != noted.as_ref() {
            // The leader is about to tell of it, or somebody has put another one in its place.
            return Ok(vec![
                "those that lie ready are not those that it was told of".to_owned(),
            ]);
        }
        // On the disk first: what is placed again, after a failure or a boot, is what is there.
        self.state.write_secrets(&sealed)?;
        let amiss = self.place(&delivery)?;
        let count = delivery.files.len();
        tracing::info!(count, digest = %delivery.digest, "the secrets of this node are in place");
        Ok(amiss)
    }

    /// What was given before.
    fn place_again(&mut self) -> Result<Vec<String>, NodeError> {
        self.key()?;
        let Some(sealed) = self.state.secrets()? else {
            return Ok(Vec::new());
        };
        let delivery = self.open(&sealed)?;
        self.place(&delivery)
    }

    fn place(&mut self, delivery: &Delivery) -> Result<Vec<String>, NodeError> {
        let amiss = self.folder.place(&delivery.files)?;
        self.placed = Some((delivery.digest.clone(), delivery.sequence));
        Ok(amiss)
    }

    fn open(&mut self, sealed: &Sealed) -> Result<Delivery, NodeError> {
        let (cluster, node) = (self.config.cluster.clone(), self.config.node.clone());
        let to = Addressee {
            cluster: &cluster.id,
            node: &node,
        };
        Ok(delivery::open(
            &cluster.public_key,
            self.key()?,
            to,
            sealed,
        )?)
    }

    fn key(&mut self) -> Result<&age::x25519::Identity, NodeError> {
        let key = match self.key.take() {
            Some(key) => key,
            None => key::ensure(&self.config.state_dir)?,
        };
        Ok(self.key.insert(key))
    }

    /// Returns whether something is amiss, which may mend itself.
    fn tell(&mut self, done: Result<Vec<String>, NodeError>) -> bool {
        let problem = match done {
            Ok(amiss) => (!amiss.is_empty()).then(|| amiss.join("; ")),
            Err(error) => Some(error.to_string()),
        };
        let recipient = self.key.as_ref().map(key::recipient);
        let recipient = recipient.transpose().unwrap_or_default();
        let now = Holdings {
            recipient,
            digest: self.placed.as_ref().map(|(digest, _)| digest.clone()),
            problem,
        };
        let amiss = now.problem.is_some();
        self.holdings.send_if_modified(|told| {
            if *told == now {
                return false;
            }
            if let Some(problem) = now.problem.as_ref().filter(|_| told.problem != now.problem) {
                tracing::warn!(problem, "the secrets of this node");
            }
            *told = now;
            true
        });
        amiss
    }
}

/// Places what was given before, for units that start before the agent does. Nothing is there on a new machine. What fails
/// is told: a switch that starts this unit must not fail by it, and the agent tries it again.
pub fn place_once(config: &AgentConfig) {
    let mut keeper = Keeper::new(config, watch::Sender::default());
    let done = keeper.place_again();
    keeper.tell(done);
}

/// What lies ready for it, as the leader noted on its object.
fn noted(node: &FabrikNode) -> Option<SecretsDigest> {
    node.annotations().get(SECRETS_ANNOTATION)?.parse().ok()
}

async fn fetch(api: &Api<Object>, config: &AgentConfig) -> Result<Sealed, NodeError> {
    let name = secrets_object(&config.node);
    let failed = |problem: String| NodeError::Secrets {
        object: format!("{NAMESPACE}/{name}"),
        problem,
    };
    let answer = timeout(ANSWER_TIMEOUT, api.get(&name)).await;
    let answer = answer.map_err(|_| failed("no answer".to_owned()))?;
    let object = answer.map_err(|error| failed(causes(&error)))?;
    let mut data = object.data.unwrap_or_default();
    let mut part = |key: &str| {
        let part = data.remove(key).map(|bytes| bytes.0);
        part.ok_or_else(|| failed(format!("it has no `{key}`")))
    };
    let (ciphertext, signature) = (part(CIPHERTEXT_KEY)?, part(SIGNATURE_KEY)?);
    Ok(Sealed {
        ciphertext,
        signature: String::from_utf8_lossy(&signature).into_owned(),
    })
}

#[cfg(test)]
mod tests;
