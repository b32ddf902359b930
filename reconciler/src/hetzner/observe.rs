//! What of this cluster is at Hetzner. Whole or not at all: a list that can't be believed fails the pass.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use fabrik_core::endpoint;
use fabrik_core::id::{ClusterId, PoolName, ServerId};
use fabrik_core::ledger::Ledger;
use fabrik_core::names::{CLUSTER_LABEL, CONFIRM_GONE_ANNOTATION};
use fabrik_core::observed::{
    FEW_MISSING, FirewallResource, Hetzner, PlacementGroup, Resource, SshKeyResource,
};
use fabrik_core::spec::{Pool, Spec};
use futures::future::{join_all, try_join_all};
use futures::try_join;

use super::client::{Client, Purpose};
use super::convert::{self, bare_key, holder, is_ours};
use super::error::{HetznerError, RequestId};
use super::wire;

/// Reads all lists at once, and asks by id for each server of the ledger that they lack.
pub async fn observe(
    client: &Client,
    cluster: &ClusterId,
    spec: &Spec,
    ledger: &Ledger,
    confirmed_gone: &BTreeSet<ServerId>,
) -> Result<Hetzner, HetznerError> {
    let selector = ("label_selector", format!("{CLUSTER_LABEL}=={cluster}"));
    let api = &spec.api;
    let (servers, networks, firewalls, keys, groups, load_balancers, floating_ips, images) = try_join!(
        client.list::<wire::Server>(Some(selector.clone()), Purpose::Observe),
        client.list::<wire::Network>(None, Purpose::Observe),
        client.list::<wire::Firewall>(None, Purpose::Observe),
        client.list::<wire::SshKey>(None, Purpose::Observe),
        client.list::<wire::PlacementGroup>(None, Purpose::Observe),
        look_for::<wire::LoadBalancer>(client, cluster, api.load_balancer.is_some()),
        look_for::<wire::FloatingIp>(client, cluster, api.floating_ip.is_some()),
        async {
            if asks_for_images(spec) {
                client
                    .list::<wire::Image>(Some(selector), Purpose::Observe)
                    .await
            } else {
                Ok(Vec::new())
            }
        },
    )?;

    let mut seen = Hetzner::default();
    for server in servers.iter().filter(|s| is_ours(*s, cluster)) {
        add_server(&mut seen, server)?;
    }
    let wanted = spec.name.as_str();
    let mut taken = BTreeMap::new();
    seen.network = named(&networks, wanted, cluster, &mut taken).map(|network| Resource {
        id: network.id,
        name: network.name.clone(),
    });
    seen.firewall = named(&firewalls, wanted, cluster, &mut taken).map(|f| FirewallResource {
        id: f.id,
        name: f.name.clone(),
        rules: f.rules.iter().map(convert::rule).collect(),
    });
    // Somebody else's is in nobody's way where none is wanted.
    let mut in_no_way = BTreeMap::new();
    let name = endpoint::load_balancer_name(&spec.name);
    let others = if api.load_balancer.is_some() {
        &mut taken
    } else {
        &mut in_no_way
    };
    seen.load_balancer = named(&load_balancers, &name, cluster, others)
        .map(|found| convert::load_balancer(found, cluster));
    let name = endpoint::floating_ip_name(&spec.name);
    let others = if api.floating_ip.is_some() {
        &mut taken
    } else {
        &mut in_no_way
    };
    seen.floating_ip = named(&floating_ips, &name, cluster, others).map(convert::floating_ip);
    for (name, line) in &spec.ssh_keys {
        let resource_name = format!("{wanted}-{name}");
        if let Some(key) = ssh_key(&keys, &resource_name, line, cluster, &mut taken) {
            seen.ssh_keys.insert(name.clone(), key);
        }
    }
    let servers = PoolName::servers();
    for group in &groups {
        if is_ours(group, cluster) {
            seen.placement_groups
                .insert(group.name.clone(), placement_group(group));
        } else if convert::is_group_name(&group.name, wanted, spec.pools.keys().chain([&servers])) {
            taken.insert(group.name.clone(), holder(group));
        }
    }
    let ours = images.iter().filter(|i| is_ours(*i, cluster));
    seen.images = ours.filter_map(convert::image).collect();
    seen.taken = taken;
    find_missing(client, cluster, ledger, confirmed_gone, &mut seen).await?;
    Ok(seen)
}

/// All of a kind; without asking where none is wanted and none of ours was there a moment ago.
async fn look_for<T: wire::Resource>(
    client: &Client,
    cluster: &ClusterId,
    is_wanted: bool,
) -> Result<Vec<T>, HetznerError> {
    if !is_wanted && client.absent.is_known(T::PATH, Instant::now()) {
        return Ok(Vec::new());
    }
    let all = client.list::<T>(None, Purpose::Observe).await?;
    let there_are_some = all.iter().any(|found| is_ours(found, cluster));
    client.absent.learn(T::PATH, there_are_some, Instant::now());
    Ok(all)
}

/// Requests are few: where each pool names its image, nobody needs the list.
fn asks_for_images(spec: &Spec) -> bool {
    spec.servers.is_some() || spec.pools.values().any(Pool::boots_snapshot)
}

/// Asks by id for what the ledger knows and the list lacks.
async fn find_missing(
    client: &Client,
    cluster: &ClusterId,
    ledger: &Ledger,
    confirmed_gone: &BTreeSet<ServerId>,
    seen: &mut Hetzner,
) -> Result<(), HetznerError> {
    let known: BTreeSet<_> = ledger.known_servers().collect();
    let mut missing: BTreeSet<_> = known
        .into_iter()
        .filter(|id| !seen.servers.contains_key(id))
        .collect();
    let unconfirmed: BTreeSet<_> = missing.difference(confirmed_gone).copied().collect();
    if !unconfirmed.is_empty() && seen.network.is_none() {
        // With another project's token every answer is 404. Where a server is, our network is.
        return Err(HetznerError::IncompleteList {
            what: "list servers".to_owned(),
            problem: incomplete(&unconfirmed),
        });
    }
    let unexpected: BTreeSet<_> = unconfirmed.difference(&leaving(ledger)).copied().collect();
    if unexpected.len() > FEW_MISSING {
        missing.retain(|id| !unexpected.contains(id));
        seen.missing = unexpected;
    }

    let gets = missing.iter().map(|id| async move {
        let server = client.get::<wire::Server>(id.0, Purpose::Observe).await?;
        Ok((*id, server))
    });
    for (id, server) in try_join_all(gets).await? {
        match server {
            None => {
                seen.gone.insert(id);
            }
            Some(server) if is_ours(&server, cluster) => add_server(seen, &server)?,
            Some(server) => {
                tracing::warn!(server = %id, found = %holder(&server), "a known server lost its label");
            }
        }
    }
    Ok(())
}

/// Asks by id for servers that nobody but a Node of one of our names knows (`fabrik_core::arrival::left::to_ask`). One that
/// exists is left out, and so is one that no answer comes for: a Node may name anything, and the look does not fail by it.
pub async fn find_left(client: &Client, named: BTreeSet<ServerId>, seen: &mut Hetzner) {
    let gets = named.into_iter().map(|id| async move {
        match client.get::<wire::Server>(id.0, Purpose::Observe).await {
            Ok(server) => server.is_none().then_some(id),
            Err(error) => {
                tracing::warn!(server = %id, %error, "a server that only a Node names could not be looked for");
                None
            }
        }
    });
    seen.gone.extend(join_all(gets).await.into_iter().flatten());
}

/// Servers that we may have deleted ourselves: their absence is expected.
fn leaving(ledger: &Ledger) -> BTreeSet<ServerId> {
    let cancelled = ledger.intents.values().filter(|i| i.cancelled.is_some());
    let leaving = ledger.tickets.values().filter(|t| t.leave().is_some());
    let tickets = leaving.map(|t| t.server);
    cancelled.filter_map(|i| i.server).chain(tickets).collect()
}

fn incomplete(missing: &BTreeSet<ServerId>) -> String {
    let ids: Vec<String> = missing.iter().map(ToString::to_string).collect();
    format!(
        "servers that should exist ({}) are missing, and so is the cluster's network; that is how another project's \
         token looks. If they are really gone, say so: kubectl annotate --overwrite fabrikcluster --all \
         {CONFIRM_GONE_ANNOTATION}={}",
        ids.join(", "),
        ids.join(",")
    )
}

fn add_server(seen: &mut Hetzner, server: &wire::Server) -> Result<(), HetznerError> {
    let server = convert::server(server).map_err(|problem| HetznerError::Malformed {
        what: "list servers".to_owned(),
        problem,
        id: RequestId::default(),
    })?;
    seen.servers.insert(server.id, server);
    Ok(())
}

/// Our resource of that name. Another's goes into `taken`.
fn named<'a, T: wire::Resource>(
    resources: &'a [T],
    name: &str,
    cluster: &ClusterId,
    taken: &mut BTreeMap<String, String>,
) -> Option<&'a T> {
    let found = resources.iter().find(|r| r.name() == name)?;
    if is_ours(found, cluster) {
        return Some(found);
    }
    let holders = taken.entry(name.to_owned()).or_default();
    if !holders.is_empty() {
        holders.push_str(" and ");
    }
    holders.push_str(&holder(found));
    None
}

/// The project's resource for a wanted key: our own before another's, and the same key before our old one.
fn ssh_key(
    keys: &[wire::SshKey],
    name: &str,
    line: &str,
    cluster: &ClusterId,
    taken: &mut BTreeMap<String, String>,
) -> Option<SshKeyResource> {
    let wanted = bare_key(line);
    let same = |key: &&wire::SshKey| bare_key(&key.public_key) == wanted;
    let ours = |key: &&wire::SshKey| is_ours(*key, cluster);
    let found = keys
        .iter()
        .find(|key| same(key) && ours(key))
        .or_else(|| keys.iter().find(same))
        .or_else(|| named(keys, name, cluster, taken))?;
    Some(SshKeyResource {
        id: found.id,
        public_key: bare_key(&found.public_key),
        ours: ours(&found),
    })
}

fn placement_group(group: &wire::PlacementGroup) -> PlacementGroup {
    PlacementGroup {
        id: group.id,
        name: group.name.clone(),
        servers: group.servers.iter().copied().map(ServerId).collect(),
    }
}
