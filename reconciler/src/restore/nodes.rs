//! The API server after the reset: waited for, and rid of the Nodes whose machines Hetzner says are gone.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fabrik_core::id::{NodeName, ServerId};
use http::Request;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::{Client, ResourceExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::error::RestoreError;
use crate::cluster::connect::from_kubeconfig;
use crate::cluster::error::{status_code, while_doing};

const READY_MINUTES: u64 = 10;
const ANSWER: Duration = Duration::from_secs(5);

/// A client of this server's API server, once that is ready.
pub async fn api(kubeconfig: &Path) -> Result<Client, RestoreError> {
    let until = Instant::now() + Duration::from_secs(60 * READY_MINUTES);
    loop {
        // k3s may write the file anew.
        let problem = match from_kubeconfig(kubeconfig).await {
            Ok((client, _)) => match ready(&client).await {
                Ok(()) => return Ok(client),
                Err(problem) => problem,
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() >= until {
            let minutes = READY_MINUTES;
            return Err(RestoreError::NotReady { minutes, problem });
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Deletes the Node of each server that is gone, if it is that very machine's.
pub async fn remove(
    client: &Client,
    gone: &BTreeMap<NodeName, ServerId>,
) -> Result<Vec<NodeName>, RestoreError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut removed = Vec::new();
    for (name, server) in gone {
        let found = nodes.get_opt(name.as_str()).await;
        let found = found.map_err(while_doing(format!("reading Node {name}")))?;
        let Some(node) = found else { continue };
        let provider_id = node.spec.as_ref().and_then(|s| s.provider_id.as_deref());
        if provider_id != Some(server.provider_id().as_str()) {
            continue;
        }
        let only_this = DeleteParams::default().preconditions(Preconditions {
            uid: node.uid(),
            resource_version: None,
        });
        match nodes.delete(name.as_str(), &only_this).await {
            Err(error) if !matches!(status_code(&error), Some(404 | 409)) => {
                return Err(while_doing(format!("deleting Node {name}"))(error).into());
            }
            _ => removed.push(name.clone()),
        }
    }
    Ok(removed)
}

async fn ready(client: &Client) -> Result<(), String> {
    let request = Request::get("/readyz").body(Vec::new());
    let request = request.map_err(|error| error.to_string())?;
    match timeout(ANSWER, client.request_text(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {ANSWER:?}")),
    }
}
