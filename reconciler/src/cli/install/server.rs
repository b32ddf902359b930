//! A machine becomes a server of the control plane. What a server has it gets from the leader and from nobody else: the laptop
//! gives it a nonce to ask with, tells the leader the nonce's hash, and never sees what is answered.

use std::collections::BTreeMap;
use std::time::Duration;

use fabrik_core::hex;
use fabrik_core::id::NodeName;
use fabrik_core::join::{self, Asked, NONCE_SECS};
use fabrik_core::observed::Observed;
use fabrik_core::servers::own;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{InstallError, JOIN_LIMIT, LOOK_PAUSE, Place, is_ready};
use crate::cli::access::{Access, asked_to};
use crate::cli::plan::source::published;
use crate::cli::{Failure, say};
use crate::cluster::user_data::{self, Joining, ServerData};
use crate::node::identify::machine_file::Given;
use crate::report::observed::Document;
use crate::secrets::Secret;

/// How long the leader may take to let it in: it looks at all servers anew.
pub const INVITE_LIMIT: Duration = Duration::from_secs(180);

pub fn nonce() -> Result<Secret, InstallError> {
    let mut bytes = [0; 32];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| InstallError::NoRandomness)?;
    Ok(Secret::new(hex(&bytes).into_bytes()))
}

pub fn given(place: &Place<'_>, document: &Document, joining: &Joining, nonce: Secret) -> Given {
    Given::Server(ServerData {
        fabrik: user_data::VERSION,
        role: user_data::SERVER.to_owned(),
        pool: place.pool_name.clone(),
        node_name: place.node.clone(),
        cluster_name: place.spec.name.clone(),
        cluster_id: document.observed.ledger.cluster.clone(),
        public_key: joining.public_key.clone(),
        cache_urls: joining.cache_urls.clone(),
        nonce,
        ca_hash: joining.ca_hash.clone(),
        join_urls: joining.join_urls.clone(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
    })
}

/// Asks the leader, and waits until the machine is a server. Afterwards nobody is asked for any more, however it ended.
pub async fn let_in(access: &Access, place: &Place<'_>, nonce: &Secret) -> Result<(), Failure> {
    let asked = Asked {
        node: place.node.clone(),
        hash: join::hash(nonce.expose()),
        until: Timestamp::now() + SignedDuration::from_secs(NONCE_SECS),
    };
    let installing = json!({"node": asked.node, "nonceHash": asked.hash, "until": asked.until});
    ask(access, installing).await?;
    let ended = wait(access, place, &asked).await;
    ask(access, Value::Null).await?;
    ended
}

async fn ask(access: &Access, installing: Value) -> Result<(), Failure> {
    let patch = Patch::Merge(json!({"spec": {"installing": installing}}));
    let clusters = access.clusters();
    let parameters = PatchParams::default();
    let patched = clusters.patch(&access.cluster, &parameters, &patch).await;
    patched.map_err(asked_to(format!("change FabrikCluster {}", access.cluster)))?;
    Ok(())
}

/// The API may fail while etcd's members change.
async fn wait(access: &Access, place: &Place<'_>, asked: &Asked) -> Result<(), Failure> {
    let node = &place.node;
    say(format!("waiting until the leader lets {node} in"))?;
    let began = Instant::now();
    let mut is_let_in = false;
    loop {
        let late = || InstallError::NotReady { node: node.clone() }.into();
        let failed = match look_at(access, node).await {
            Ok((observed, is_ready)) => {
                if is_ready && own::is_member(node, &observed) {
                    return Ok(());
                }
                let mut nonces = observed.ledger.nonces.values();
                if !is_let_in && nonces.any(|nonce| nonce.hash == asked.hash) {
                    is_let_in = true;
                    say(format!("waiting for {node}"))?;
                }
                if !is_let_in && began.elapsed() >= INVITE_LIMIT {
                    return Err(not_let_in(place, &observed).into());
                }
                late()
            }
            Err(failed) => failed,
        };
        if began.elapsed() >= JOIN_LIMIT {
            return Err(failed);
        }
        sleep(LOOK_PAUSE).await;
    }
}

async fn look_at(access: &Access, node: &NodeName) -> Result<(Observed, bool), Failure> {
    let document = Document::read(&published(access).await?)?;
    Ok((document.observed, is_ready(access, node).await?))
}

fn not_let_in(place: &Place<'_>, observed: &Observed) -> InstallError {
    let node = place.node.clone();
    let why = own::may_join(place.spec, &node, observed).err();
    let why = why.map_or("it does not say why".to_owned(), |hold| hold.message);
    InstallError::NotLetIn { node, why }
}
