//! The load balancer before the API servers.

use fabrik_core::effect::NewLoadBalancer;
use fabrik_core::id::ClusterId;
use fabrik_core::names::API_PORT;
use serde_json::json;

use super::{Outcome, create};
use crate::hetzner::client::Client;
use crate::hetzner::convert;
use crate::hetzner::error::HetznerError;
use crate::hetzner::wire;

/// All of it in one request: what has no service and no target would never be found incomplete by its name.
pub async fn make(
    client: &Client,
    new: &NewLoadBalancer,
    cluster: &ClusterId,
) -> Result<Outcome, HetznerError> {
    let service = json!({
        "protocol": "tcp",
        "listen_port": API_PORT,
        "destination_port": API_PORT,
        // An API server of k3s answers nothing to who is not known, so that it takes connections has to do.
        "health_check": {"protocol": "tcp", "port": API_PORT, "interval": 5, "timeout": 3, "retries": 2},
    });
    let target = json!({
        "type": "label_selector",
        "label_selector": {"selector": convert::servers_selector(cluster)},
        "use_private_ip": true,
    });
    let body = json!({
        "load_balancer_type": new.kind,
        "location": new.location,
        "network": new.network,
        "public_interface": new.public,
        "services": [service],
        "targets": [target],
    });
    let labels = convert::cluster_labels(cluster);
    create::<wire::LoadBalancer>(client, cluster, &new.name, &labels, body).await
}

pub async fn delete(
    client: &Client,
    id: u64,
    name: &str,
    cluster: &ClusterId,
) -> Result<Outcome, HetznerError> {
    let what = format!("delete load balancer `{name}` (id {id})");
    let is_meant = |found: &wire::LoadBalancer| found.name == name;
    super::delete(client, cluster, id, what, is_meant).await
}
