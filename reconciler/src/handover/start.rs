//! The last step of a server's first boot, when k3s is up and all was handed over: founding, and the start of fabrik.

use std::path::{Path, PathBuf};

use tracing::info;

use super::place::{FABRIK, KNOWN_HOSTS, REPOSITORY_TOKEN, kept};
use super::receive::KUBECONFIG;
use super::{HandoverError, PROGRAMS, systemctl};
use crate::cluster::{FoundOptions, Founded, found};
use crate::node::identify::{self, Identity};

const K3S_DIR: &str = "var/lib/rancher/k3s";
const STATE_DIR: &str = "var/lib/fabrik";

/// Founds this server with what it was given, and starts fabrik and the agent.
///
/// # Errors
/// Nothing was handed over yet, k3s is not up, or founding failed: it may be repeated.
pub async fn start(root: &Path) -> Result<Founded, HandoverError> {
    let mut identity = identify::kept(root)?.ok_or(HandoverError::NobodyYet)?;
    let options = options(root, &identity)?;
    // On the heap: it is big.
    let founded = Box::pin(found(options)).await?;
    info!(cluster = %founded.cluster_id, "founded");
    identity.trust(&founded.signing_key);
    identify::keep(root, &identity)?;
    identify::tell_agent(root, &identity)?;
    systemctl(root, &["start", "fabrik", "fabrik-agent"]).await?;
    info!("fabrik runs");
    Ok(founded)
}

fn options(root: &Path, identity: &Identity) -> Result<FoundOptions, HandoverError> {
    let given = kept(root)?;
    let cluster = identity.control_plane().ok_or(HandoverError::NobodyYet)?;
    let dir = root.join(FABRIK);
    let file = |name: &str| -> Option<PathBuf> {
        let path = dir.join(name);
        path.exists().then_some(path)
    };
    // Its own first: it is the one that this server is sure to reach.
    let mut join_urls = vec![identity.supervisor()];
    join_urls.extend(given.k3s_server_urls);
    Ok(FoundOptions {
        kubeconfig: root.join(KUBECONFIG),
        name: cluster.name.clone(),
        cluster_id: Some(cluster.id.clone()),
        node: identity.node().clone(),
        repository: given.repository,
        branch: Some(given.branch),
        api_servers: Vec::new(),
        join_urls,
        known_hosts: file(KNOWN_HOSTS),
        token_file: file(REPOSITORY_TOKEN),
        hetzner_endpoint: given.hetzner_endpoint,
        listen: None,
        webhook_listen: None,
        k3s_dir: Some(root.join(K3S_DIR)),
        nix_dir: Some(root.join(PROGRAMS)),
        cache_listen: None,
        join_listen: None,
        state_dir: Some(root.join(STATE_DIR)),
        poll: None,
        lease_duration: None,
        renew_deadline: None,
        retry_period: None,
        dir,
    })
}
