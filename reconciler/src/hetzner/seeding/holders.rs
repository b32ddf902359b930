//! Who has the names that a new cluster needs. Asked before anything is made; the leader asks on its own each time.

use fabrik_core::id::{ClusterId, ClusterName};
use fabrik_core::names::SERVERS_POOL;
use futures::try_join;

use super::super::client::{Client, Purpose};
use super::super::convert::{holder, is_ours};
use super::super::error::HetznerError;
use super::super::wire::{self, Resource};

/// What is called as something of `cluster` would be and is not this cluster's, in words for people.
pub async fn holders(
    client: &Client,
    name: &ClusterName,
    cluster: &ClusterId,
    pools: &[String],
) -> Result<Vec<String>, HetznerError> {
    let (servers, networks, firewalls, keys, groups) = try_join!(
        client.list::<wire::Server>(None, Purpose::Observe),
        client.list::<wire::Network>(None, Purpose::Observe),
        client.list::<wire::Firewall>(None, Purpose::Observe),
        client.list::<wire::SshKey>(None, Purpose::Observe),
        client.list::<wire::PlacementGroup>(None, Purpose::Observe),
    )?;
    let whole = |n: &str| n == name.as_str();
    let of_pool = |n: &str| is_of_pool(n, name, pools);
    let temporary = |suffix: &str| format!("{name}-{suffix}");
    let (image, seed) = (temporary(IMAGE_SUFFIX), temporary(KEY_SUFFIX));
    let mut found = others(&networks, cluster, whole);
    found.extend(others(&firewalls, cluster, whole));
    found.extend(others(&groups, cluster, of_pool));
    found.extend(others(&servers, cluster, |n| n == image || of_pool(n)));
    found.extend(others(&keys, cluster, |n| n == seed));
    Ok(found)
}

/// The range of this cluster's network, if it is there.
pub async fn network_range(
    client: &Client,
    name: &ClusterName,
    cluster: &ClusterId,
) -> Result<Option<String>, HetznerError> {
    let filter = ("name", name.to_string());
    let found = client
        .list::<wire::Network>(Some(filter), Purpose::Observe)
        .await?;
    let ours = found.into_iter().find(|n| is_ours(n, cluster));
    Ok(ours.map(|network| network.ip_range))
}

/// The temporary server is called so, after the cluster's name.
pub const IMAGE_SUFFIX: &str = "image";
/// And so the temporary key.
pub const KEY_SUFFIX: &str = "seed";

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

/// Servers and placement groups are called `CLUSTER-POOL-SOMETHING`.
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
