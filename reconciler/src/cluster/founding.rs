//! The steps of founding. Each can be done twice, by two servers at once.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fabrik_core::id::ClusterId;
use fabrik_core::ledger::Ledger;
use http::Request;
use k8s_openapi::api::core::v1::{Node, Secret as KubeSecret};
use kube::Client;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::json;

use super::connect::Clients;
use super::error::{ClusterError, status_code, while_doing};
use super::found::FoundError;
use super::ledger::LedgerStore;
use super::resources::{FabrikNode, FabrikNodeSpec};
use crate::config::Config;

mod manifests;
mod server;
mod stated;

pub(super) use self::manifests::apply_manifests;
pub use self::manifests::keep_up;
pub(super) use self::server::{Places, sections};
pub(super) use stated::{Clusters, expect_age_key};

const PROBE_NAME: &str = "fabrik-founding-probe";
const DEADLINE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(250);

/// Makes `dir` if it is missing, for its owner only.
pub(crate) fn private_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

/// Replaces a file as a whole; only its owner may read it.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    // Temporary files are made for their owner only.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

pub async fn wait_for_api(admin: &Client) -> Result<(), FoundError> {
    poll("the API server was not ready", async || {
        let request = Request::get("/readyz")
            .body(Vec::new())
            .map_err(|e| e.to_string())?;
        admin
            .request_text(request)
            .await
            .map(|_| ())
            .map_err(|e| e.to_string())
    })
    .await
}

/// The cluster's id: the ledger's, or in a new ledger `known`, which resources at Hetzner bear already, or a new one.
pub(super) async fn cluster_id(
    admin: &Client,
    known: Option<&ClusterId>,
) -> Result<ClusterId, FoundError> {
    let store = LedgerStore::new(admin.clone());
    let new = match known {
        // The server that founds was made by the first intent.
        Some(id) => Ledger {
            next_intent: 1,
            ..Ledger::new(id.clone())
        },
        None => Ledger::new(random_id()?),
    };
    let ledger = store
        .create_if_absent(&new)
        .await
        .map_err(|error| ClusterError::Malformed {
            object: "FabrikLedger ledger".to_owned(),
            problem: error.to_string(),
        })?;
    match known {
        Some(known) if *known != ledger.cluster => Err(FoundError::OtherCluster {
            found: ledger.cluster.to_string(),
            known: known.to_string(),
        }),
        _ => Ok(ledger.cluster),
    }
}

/// The CA file's bytes as the kubeconfig has them: join tokens pin their hash, so not a byte may differ.
pub(super) fn ca_of(kubeconfig: &Path) -> Result<Vec<u8>, FoundError> {
    let no_ca = || FoundError::NoCa {
        path: kubeconfig.to_owned(),
    };
    let file = kube::config::Kubeconfig::read_from(kubeconfig).map_err(|_| no_ca())?;
    let context = file
        .contexts
        .iter()
        .find(|c| Some(&c.name) == file.current_context.as_ref());
    let cluster = context.and_then(|c| c.context.as_ref()).map(|c| &c.cluster);
    let cluster = file.clusters.iter().find(|c| Some(&c.name) == cluster);
    let cluster = cluster.and_then(|c| c.cluster.as_ref()).ok_or_else(no_ca)?;
    if let Some(data) = &cluster.certificate_authority_data {
        return STANDARD.decode(data).map_err(|_| no_ca());
    }
    // kube has made a relative path absolute.
    let path = cluster.certificate_authority.as_ref().ok_or_else(no_ca)?;
    std::fs::read(path).map_err(|source| FoundError::File {
        path: path.into(),
        source,
    })
}

/// Waits until each policy has refused what it is there to refuse. A new policy takes some seconds.
pub(super) async fn wait_for_policies(admin: &Client, config: &Config) -> Result<(), FoundError> {
    let leader = Clients::connect(config).await?.leader_once;
    poll("the admission policies were not in force", async || {
        denied("fabrik-node-keys", forge_node_label(admin).await)?;
        denied("fabrik-node-status", forge_node_status(admin).await)?;
        denied("fabrik-join-tokens", forge_secret(&leader).await)
    })
    .await?;
    let nodes: Api<FabrikNode> = Api::all(admin.clone());
    match nodes.delete(PROBE_NAME, &DeleteParams::default()).await {
        Err(error) if status_code(&error) != Some(404) => {
            Err(while_doing(format!("deleting FabrikNode {PROBE_NAME}"))(error).into())
        }
        _ => Ok(()),
    }
}

async fn forge_node_label(admin: &Client) -> Result<(), kube::Error> {
    let node = Node {
        metadata: ObjectMeta {
            name: Some(PROBE_NAME.to_owned()),
            labels: Some([("fabrik.dev/probe".to_owned(), "x".to_owned())].into()),
            ..ObjectMeta::default()
        },
        ..Node::default()
    };
    let nodes: Api<Node> = Api::all(admin.clone());
    nodes.create(&dry_run(), &node).await.map(|_| ())
}

async fn forge_node_status(admin: &Client) -> Result<(), kube::Error> {
    let nodes: Api<FabrikNode> = Api::all(admin.clone());
    let spec = FabrikNodeSpec {
        pool: String::new(),
        server_id: 0,
        uid: String::new(),
        intent: String::new(),
        aim: None,
        publication: None,
        caches: Vec::new(),
        order: None,
        retirement: None,
        standing: None,
    };
    // Status of what does not exist is not looked at by any policy.
    match nodes
        .create(&PostParams::default(), &FabrikNode::new(PROBE_NAME, spec))
        .await
    {
        Err(error) if status_code(&error) != Some(409) => return Err(error),
        _ => {}
    }
    let params = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let forged = json!({"status": {"state": "forged"}});
    nodes
        .patch_status(PROBE_NAME, &params, &Patch::Merge(forged))
        .await
        .map(|_| ())
}

async fn forge_secret(leader: &Client) -> Result<(), kube::Error> {
    let secret = KubeSecret {
        metadata: ObjectMeta {
            name: Some(PROBE_NAME.to_owned()),
            ..ObjectMeta::default()
        },
        ..KubeSecret::default()
    };
    let secrets: Api<KubeSecret> = Api::namespaced(leader.clone(), "kube-system");
    secrets.create(&dry_run(), &secret).await.map(|_| ())
}

fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}

fn denied(policy: &str, answer: Result<(), kube::Error>) -> Result<(), String> {
    match answer {
        Err(kube::Error::Api(status)) if status.message.contains(policy) => Ok(()),
        Err(error) => Err(format!("{policy}: {error}")),
        Ok(()) => Err(format!("{policy} lets through what it is there to refuse")),
    }
}

/// The id of a new cluster.
pub fn random_id() -> Result<ClusterId, ClusterError> {
    // 32 of 36 letters and digits: each byte's low 5 bits choose evenly.
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let no_randomness = || ClusterError::Malformed {
        object: "the cluster id".to_owned(),
        problem: "the system gives no random bytes".to_owned(),
    };
    let mut bytes = [0_u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| no_randomness())?;
    let id: String = bytes
        .iter()
        .filter_map(|byte| ALPHABET.get(usize::from(byte & 31)))
        .map(|&letter| char::from(letter))
        .collect();
    id.parse().map_err(|_| no_randomness())
}

/// Tries until it succeeds, and tells the last reason when the time is over.
async fn poll(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<(), String>,
) -> Result<(), FoundError> {
    let mut last = "no answer".to_owned();
    let tries = async {
        while let Err(why) = attempt().await {
            last = why;
            tokio::time::sleep(POLL).await;
        }
    };
    let ended = tokio::time::timeout(DEADLINE, tries).await;
    ended.map_err(|_| FoundError::Timeout {
        what: what.to_owned(),
        deadline: DEADLINE,
        last,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_id_is_random() {
        let ids: BTreeSet<_> = (0..100).map(|_| random_id().unwrap().to_string()).collect();
        assert_eq!(ids.len(), 100);
    }

    #[test]
    fn a_replaced_file_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        replace_file(&path, b"one").unwrap();
        replace_file(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
