//! Who has the names that a new cluster needs. Asked before anything is made; the leader asks on its own each time.

use std::collections::BTreeSet;

use fabrik_core::id::{ClusterId, ClusterName};
use fabrik_core::ledger::Ledger;
use fabrik_core::names::{CLUSTER_LABEL, SERVERS_POOL};
use fabrik_core::spec::Spec;
use futures::try_join;

use super::super::client::{Client, Purpose};
use super::super::convert::{holder, is_ours};
use super::super::error::HetznerError;
use super::super::observe::observe;
use super::super::wire::{self, Resource};

/// What is called as something of `cluster` would be and is not this cluster's, in words for people.
pub async fn holders(
    client: &Client,
    spec: &Spec,
    cluster: &ClusterId,
) -> Result<Vec<String>, HetznerError> {
    let (ledger, none_gone) = (Ledger::new(cluster.clone()), BTreeSet::new());
    let (seen, servers, keys) = try_join!(
        observe(client, cluster, spec, &ledger, &none_gone),
        client.list::<wire::Server>(None, Purpose::Observe),
        client.list::<wire::SshKey>(None, Purpose::Observe),
    )?;
    let name = &spec.name;
    let pools: Vec<String> = spec.pools.keys().map(ToString::to_string).collect();
    let (image, seed) = (format!("{name}-{IMAGE_SUFFIX}"), key_name(name));
    let is_server = |n: &str| n == image || is_of_pool(n, name, &pools);
    // What the leader would find in its way, and what it does not look for by name.
    let mut found: Vec<String> = seen.taken.into_values().collect();
    found.extend(others(&servers, cluster, is_server));
    found.extend(others(&keys, cluster, |n| n == seed));
    Ok(found)
}

/// The cluster whose network has that name: each that has something in a project has one there, and its name is had once.
pub async fn cluster_called(
    client: &Client,
    name: &ClusterName,
) -> Result<Option<ClusterId>, HetznerError> {
    let networks = networks_called(client, name).await?;
    let mut ids = networks
        .iter()
        .filter_map(|n| n.labels().get(CLUSTER_LABEL));
    Ok(ids.find_map(|id| id.parse().ok()))
}

/// The range of this cluster's network, if it is there.
pub async fn network_range(
    client: &Client,
    name: &ClusterName,
    cluster: &ClusterId,
) -> Result<Option<String>, HetznerError> {
    let found = networks_called(client, name).await?;
    let ours = found.into_iter().find(|n| is_ours(n, cluster));
    Ok(ours.map(|network| network.ip_range))
}

async fn networks_called(
    client: &Client,
    name: &ClusterName,
) -> Result<Vec<wire::Network>, HetznerError> {
    let filter = ("name", name.to_string());
    client.list(Some(filter), Purpose::Observe).await
}

/// The temporary server is called so, after the cluster's name.
pub const IMAGE_SUFFIX: &str = "image";
/// The temporary key. Those of `[ssh-keys]` are called `CLUSTER-NAME`, and no cluster has a dot in its name.
pub fn key_name(cluster: &ClusterName) -> String {
    format!("{cluster}.seed")
}

fn others<T: Resource>(
    resources: &[T],
    cluster: &ClusterId,
    is_needed: impl Fn(&str) -> bool,
) -> Vec<String> {
    let needed = resources.iter().filter(|r| is_needed(r.name()));
    needed
        .filter(|r| !is_ours(*r, cluster))
        .map(holder)
        .collect()
}

/// Servers are called `CLUSTER-POOL-SOMETHING`.
fn is_of_pool(text: &str, name: &ClusterName, pools: &[String]) -> bool {
    let rest = text
        .strip_prefix(name.as_str())
        .and_then(|rest| rest.strip_prefix('-'));
    let Some((pool, _)) = rest.and_then(|rest| rest.rsplit_once('-')) else {
        return false;
    };
    pool == SERVERS_POOL || pools.iter().any(|p| p == pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the leader calls those of `[ssh-keys]`.
    #[test]
    fn the_seed_s_key_has_no_name_that_a_person_s_may_have() {
        let seeds = key_name(&"demo".parse().unwrap());
        assert!(!seeds.starts_with("demo-"), "{seeds}");
    }

    #[test]
    fn a_name_is_of_a_pool_by_its_first_two_parts() {
        let name: ClusterName = "demo".parse().unwrap();
        let pools = ["web-a".to_owned()];
        for (text, expected) in [
            ("demo-servers-abc234", true),
            ("demo-web-a-1", true),
            ("demo-web-1", false),
            ("demo-image", false),
            ("demo2-servers-1", false),
            ("demo", false),
        ] {
            assert_eq!(is_of_pool(text, &name, &pools), expected, "{text}");
        }
    }
}
