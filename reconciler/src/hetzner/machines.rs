//! The servers of a control plane as Hetzner has them, for when the cluster itself can't be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fabrik_core::id::{ClusterId, NodeName, ServerId};
use fabrik_core::names::{CLUSTER_LABEL, ROLE_LABEL};
use fabrik_core::observed::Power;

use super::client::{Client, Purpose};
use super::convert::{self, is_ours};
use super::error::HetznerError;
use super::wire;

/// A server of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub id: ServerId,
    pub name: String,
    pub power: Power,
    pub addresses: BTreeSet<IpAddr>,
}

/// What Hetzner knows of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machines {
    pub there: Vec<Machine>,
    /// Asked for by id, and answered with 404.
    pub gone: BTreeSet<ServerId>,
}

/// The servers with this cluster's labels, and those of `known`, each asked for by its id where the list lacks it. `None`
/// where `this` server is not among them: then it is another project's token, by which everything is gone.
pub async fn control_plane(
    client: &Client,
    cluster: &ClusterId,
    this: &NodeName,
    known: &BTreeMap<NodeName, ServerId>,
) -> Result<Option<Machines>, HetznerError> {
    let selector = (
        "label_selector",
        format!("{CLUSTER_LABEL}=={cluster},{ROLE_LABEL}==server"),
    );
    let listed = client.list::<wire::Server>(Some(selector), Purpose::Observe);
    let listed = listed.await?;
    let ours = listed.iter().filter(|s| is_ours(*s, cluster));
    let mut machines = Machines {
        there: ours.map(machine).collect(),
        gone: BTreeSet::new(),
    };
    for id in known.values() {
        if machines.there.iter().any(|m| m.id == *id) {
            continue;
        }
        match client.get::<wire::Server>(id.0, Purpose::Observe).await? {
            Some(server) => machines.there.push(machine(&server)),
            None => {
                machines.gone.insert(*id);
            }
        }
    }
    let own = known.get(this);
    let is_this = |m: &Machine| m.name == this.as_str() || Some(&m.id) == own;
    Ok(machines.there.iter().any(is_this).then_some(machines))
}

/// `urls` of servers without those whose address is a worker's by now: Hetzner gives a machine any address of the network that
/// is free, and so one that a server had (docs.hetzner.cloud, "Attach a Server to a Network").
///
/// # Errors
/// The list is not complete.
pub async fn not_of_workers(
    client: &Client,
    cluster: &ClusterId,
    urls: &[String],
) -> Result<Vec<String>, HetznerError> {
    let selector = format!("{CLUSTER_LABEL}=={cluster},{ROLE_LABEL}==agent");
    let filter = Some(("label_selector", selector));
    let workers = client.list::<wire::Server>(filter, Purpose::Act).await?;
    let addresses = workers.iter().flat_map(|w| machine(w).addresses);
    Ok(not_at(urls, &addresses.collect()))
}

/// `urls` without those that lead to one of these addresses.
pub fn not_at(urls: &[String], addresses: &BTreeSet<IpAddr>) -> Vec<String> {
    let address = |url: &String| -> Option<IpAddr> {
        let uri: http::Uri = url.parse().ok()?;
        uri.host()?.trim_matches(['[', ']']).parse().ok()
    };
    let is_there = |url: &&String| address(url).is_some_and(|a| addresses.contains(&a));
    urls.iter().filter(|url| !is_there(url)).cloned().collect()
}

fn machine(server: &wire::Server) -> Machine {
    let private = server.private_net.iter();
    let addresses = private.chain([&server.public_net.ipv4]);
    Machine {
        id: ServerId(server.id),
        name: server.name.clone(),
        power: convert::power(&server.status),
        addresses: addresses.filter_map(|a| a.ip.parse().ok()).collect(),
    }
}
