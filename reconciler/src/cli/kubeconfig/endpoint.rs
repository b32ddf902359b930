//! Where a new kubeconfig leads: to what the cluster has before its API servers, if it answers.

use std::net::IpAddr;
use std::time::Duration;

use kube::config::{Cluster, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Deserialize;
use tokio::time::timeout;

use super::super::access::{Access, AccessError, asked_to, part};
use super::{https, name_of_cluster};

/// A name that all API servers have in their certificates, whatever leads to them (k3s-io/k3s, pkg/cluster/https.go).
const SERVER_NAME: &str = "kubernetes";
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    api: Option<String>,
}

/// The cluster as it is reached by its endpoint; `None` where it has none, or where that does not answer, which is told.
pub async fn find(
    access: &Access,
    kubeconfig: &Kubeconfig,
    cluster: &Cluster,
) -> Result<Option<Cluster>, AccessError> {
    let about = format!("read FabrikCluster {}", access.cluster);
    let found = access.clusters().get(&access.cluster).await;
    let status: Status = part(&found.map_err(asked_to(about))?, "status")?;
    let Some(url) = status.api.and_then(|url| https(&url).ok()) else {
        return Ok(None);
    };
    let cluster = by(&url, cluster);
    match answers(kubeconfig, &cluster).await {
        Ok(()) => Ok(Some(cluster)),
        Err(why) => {
            eprintln!("note: {url}, which leads to the API servers, is not used: {why}");
            Ok(None)
        }
    }
}

/// No certificate need bear an address.
fn by(url: &str, cluster: &Cluster) -> Cluster {
    let host = url.parse::<http::Uri>().ok();
    let host = host.as_ref().and_then(http::Uri::host).unwrap_or_default();
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    Cluster {
        server: Some(url.to_owned()),
        tls_server_name: is_address.then(|| SERVER_NAME.to_owned()),
        ..cluster.clone()
    }
}

/// Whether the API servers are reached from here that way.
async fn answers(kubeconfig: &Kubeconfig, cluster: &Cluster) -> Result<(), String> {
    let mut kubeconfig = kubeconfig.clone();
    let name = name_of_cluster(&kubeconfig).map_err(|error| error.to_string())?;
    let named = kubeconfig.clusters.iter_mut().find(|c| c.name == name);
    if let Some(named) = named {
        named.cluster = Some(cluster.clone());
    }
    let ask = async {
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let client = Client::try_from(config.map_err(|error| error.to_string())?);
        let version = client
            .map_err(|error| error.to_string())?
            .apiserver_version()
            .await;
        version.map(drop).map_err(|error| error.to_string())
    };
    let patience = PATIENCE.as_secs();
    let answer = timeout(PATIENCE, ask).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {patience} s")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_asked_for_a_name_that_certificates_bear_and_a_name_for_itself() {
        for (url, name) in [
            ("https://203.0.113.9:6443", Some(SERVER_NAME)),
            ("https://[2001:db8::1]:6443", Some(SERVER_NAME)),
            ("https://api.example.com:6443", None),
        ] {
            let found = by(url, &Cluster::default());
            assert_eq!(found.server.as_deref(), Some(url));
            assert_eq!(found.tls_server_name.as_deref(), name, "{url}");
        }
    }
}
