//! Between Hetzner's words and ours; no IO.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use fabrik_core::id::{ClusterId, IntentId, NodeName, PoolName, ServerId};
use fabrik_core::names::{
    API_PORT, CLUSTER_LABEL, IMAGE_LABEL, INTENT_LABEL, K3S_LABEL, POOL_LABEL, ROLE_LABEL,
    SERVERS_POOL,
};
use fabrik_core::observed::{FirewallRule, FloatingIp, Image, LoadBalancer, Power, Role, Server};
use fabrik_core::spec::K3sRelease;
use serde_json::{Value, json};

use super::wire::{self, Labels, Resource};

pub fn cluster_labels(cluster: &ClusterId) -> Labels {
    Labels::from([(CLUSTER_LABEL.to_owned(), cluster.to_string())])
}

pub fn pool_labels(cluster: &ClusterId, pool: &PoolName) -> Labels {
    let mut labels = cluster_labels(cluster);
    labels.insert(POOL_LABEL.to_owned(), pool.to_string());
    labels
}

/// Of a server that was made for an intent.
pub fn server_labels(cluster: &ClusterId, pool: &PoolName, intent: &IntentId) -> Labels {
    let mut labels = pool_labels(cluster, pool);
    let is_server = pool.as_str() == SERVERS_POOL;
    let role = if is_server { "server" } else { "agent" };
    labels.insert(ROLE_LABEL.to_owned(), role.to_owned());
    labels.insert(INTENT_LABEL.to_owned(), intent.to_string());
    labels
}

pub fn is_ours(resource: &impl Resource, cluster: &ClusterId) -> bool {
    resource.labels().get(CLUSTER_LABEL).map(String::as_str) == Some(cluster.as_str())
}

/// What a resource is and whose, for people: `server "x" (id 5) of cluster abc`.
pub fn holder<T: Resource>(resource: &T) -> String {
    let whose = match resource.labels().get(CLUSTER_LABEL) {
        Some(cluster) => format!("of fabrik cluster {}", printable(cluster)),
        None => "without a fabrik label".to_owned(),
    };
    format!(
        "{} `{}` (id {}) {whose}",
        T::KIND.replace('_', " ").replace("ssh", "SSH"),
        printable(resource.name()),
        resource.id(),
    )
}

/// Why a server is not the worker `name` that was made for `intent`; `None` when it is.
pub fn mismatch(
    server: &wire::Server,
    cluster: &ClusterId,
    name: &NodeName,
    intent: &IntentId,
) -> Option<String> {
    let checks = [
        (CLUSTER_LABEL, cluster.as_str()),
        (INTENT_LABEL, intent.as_str()),
    ];
    for (label, wanted) in checks {
        let found = server.labels.get(label);
        if found.map(String::as_str) != Some(wanted) {
            let found = found.map_or("no value".to_owned(), |v| format!("`{}`", printable(v)));
            let id = server.id;
            return Some(format!(
                "label {label} of server {id} has {found} instead of `{wanted}`"
            ));
        }
    }
    (server.name != name.as_str()).then(|| {
        let (id, found) = (server.id, printable(&server.name));
        format!("server {id} is called `{found}` instead of `{name}`")
    })
}

/// Why `server` is no machine of this cluster's control plane, or one that was made for another intent. Those that were
/// there before fabrik bear no intent, and the name that a person gave them.
pub fn mismatch_of_server(
    server: &wire::Server,
    cluster: &ClusterId,
    intent: &IntentId,
) -> Option<String> {
    let borne = server.labels.get(INTENT_LABEL);
    if let Some(other) = borne.filter(|borne| *borne != intent.as_str()) {
        let (id, other) = (server.id, printable(other));
        return Some(format!(
            "label {INTENT_LABEL} of server {id} has `{other}` instead of `{intent}`"
        ));
    }
    let wanted = [(CLUSTER_LABEL, cluster.as_str()), (ROLE_LABEL, "server")];
    let differs = |(label, value): &&(&str, &str)| {
        server.labels.get(*label).map(String::as_str) != Some(*value)
    };
    let (label, value) = wanted.iter().find(differs)?;
    Some(format!(
        "label {label} of server {} is not `{value}`",
        server.id
    ))
}

/// A server as it is observed; the error says what can't be read.
pub fn server(wire: &wire::Server) -> Result<Server, String> {
    let label = |key: &str| wire.labels.get(key);
    let created = wire.created.parse();
    let created = created.map_err(|_| format!("server {} has no readable `created`", wire.id))?;
    Ok(Server {
        id: ServerId(wire.id),
        name: wire.name.clone(),
        role: match label(ROLE_LABEL).map(String::as_str) {
            Some("server") => Role::Server,
            Some("agent") => Role::Agent,
            _ => Role::Unknown,
        },
        pool: label(POOL_LABEL).and_then(|v| v.parse().ok()),
        intent: label(INTENT_LABEL).and_then(|v| v.parse().ok()),
        power: power(&wire.status),
        address: wire.private_net.iter().find_map(|net| net.ip.parse().ok()),
        server_type: wire.server_type.name.clone(),
        location: wire.location.name.clone(),
        created,
    })
}

/// A snapshot that servers can be made from; anything else is none.
pub fn image(wire: &wire::Image) -> Option<Image> {
    let is_whole = wire.kind == "snapshot" && wire.status == "available";
    is_whole.then_some(())?;
    Some(Image {
        id: wire.id,
        pool: wire.labels.get(IMAGE_LABEL)?.parse().ok()?,
        architecture: wire.architecture.clone(),
        created: wire.created.parse().ok()?,
        k3s: wire.labels.get(K3S_LABEL).and_then(|label| minor(label)),
    })
}

/// `1.36`, or a whole version.
fn minor(text: &str) -> Option<u32> {
    text.parse::<K3sRelease>().ok().map(K3sRelease::minor)
}

pub fn power(status: &str) -> Power {
    match status {
        "running" => Power::Running,
        "off" => Power::Off,
        _ => Power::Changing,
    }
}

/// The control plane's machines, as a target of a load balancer says it.
pub fn servers_selector(cluster: &ClusterId) -> String {
    format!("{CLUSTER_LABEL}={cluster},{ROLE_LABEL}=server")
}

pub fn load_balancer(wire: &wire::LoadBalancer, cluster: &ClusterId) -> LoadBalancer {
    let selector = servers_selector(cluster);
    let to_api = |service: &wire::Service| {
        service.protocol == "tcp"
            && (service.listen_port, service.destination_port) == (API_PORT, API_PORT)
    };
    let to_servers =
        |target: &wire::Target| target.label_selector.selector == selector && target.use_private_ip;
    let address = if wire.public_net.enabled {
        Some(&wire.public_net.ipv4)
    } else {
        wire.private_net.first()
    };
    LoadBalancer {
        id: wire.id,
        name: wire.name.clone(),
        kind: wire.kind.name.clone(),
        location: wire.location.name.clone(),
        public: wire.public_net.enabled,
        address: address
            .map(|address| address.ip.clone())
            .filter(|ip| !ip.is_empty()),
        leads_to_servers: wire.services.iter().any(to_api) && wire.targets.iter().any(to_servers),
    }
}

pub fn floating_ip(wire: &wire::FloatingIp) -> FloatingIp {
    FloatingIp {
        id: wire.id,
        name: wire.name.clone(),
        family: wire.family.clone(),
        location: wire.home_location.name.clone(),
        address: first_address(&wire.ip),
        server: wire.server.map(ServerId),
    }
}

/// The address itself, and of an IPv6 network the first one, which Hetzner gives to a server's interface as well.
fn first_address(ip: &str) -> Option<IpAddr> {
    match ip.split_once('/') {
        None => ip.parse().ok(),
        Some((network, _)) => {
            let network: Ipv6Addr = network.parse().ok()?;
            Some(Ipv6Addr::from(u128::from(network) | 1).into())
        }
    }
}

/// A rule as it is observed. One that is not inbound keeps that in its protocol, so that it equals no wanted one and
/// the drift shows.
pub fn rule(wire: &wire::Rule) -> FirewallRule {
    let inbound = wire.direction == "in";
    let ips = if inbound {
        &wire.source_ips
    } else {
        &wire.destination_ips
    };
    FirewallRule {
        protocol: if inbound {
            wire.protocol.clone()
        } else {
            format!("{} {}", wire.direction, wire.protocol)
        },
        port: wire.port.clone(),
        source_ips: ips.iter().cloned().collect(),
    }
}

/// Rules as Hetzner takes them: all inbound.
pub fn rules_body(rules: &[FirewallRule]) -> Value {
    let body = |rule: &FirewallRule| {
        let mut body = json!({
            "direction": "in",
            "protocol": rule.protocol,
            "source_ips": rule.source_ips,
        });
        if !rule.port.is_empty() {
            body["port"] = json!(rule.port);
        }
        body
    };
    rules.iter().map(body).collect()
}

/// Type and base64 of a public key: what makes it the same key.
pub fn bare_key(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().take(2).collect();
    words.join(" ")
}

/// Whether `name` is `<cluster>-<pool>-<n>` for one of the pools.
pub fn is_group_name<'a>(
    name: &str,
    cluster: &str,
    pools: impl IntoIterator<Item = &'a PoolName>,
) -> bool {
    let rest = name.strip_prefix(cluster).and_then(|r| r.strip_prefix('-'));
    let pools: BTreeSet<_> = pools.into_iter().map(PoolName::as_str).collect();
    rest.and_then(|rest| rest.rsplit_once('-'))
        .is_some_and(|(pool, n)| {
            pools.contains(pool) && !n.is_empty() && n.chars().all(|c| c.is_ascii_digit())
        })
}

/// Text that somebody else chose, without what could mislead a terminal.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterId {
        "abcdefgh01234567".parse().unwrap()
    }

    fn worker(change: impl FnOnce(&mut wire::Server)) -> wire::Server {
        let labels = server_labels(
            &cluster(),
            &"workers".parse().unwrap(),
            &"k3x9qd".parse().unwrap(),
        );
        let mut server = serde_json::from_value(json!({
            "id": 7, "name": "demo-workers-k3x9qd", "status": "running",
            "created": "2026-01-30T23:50:00+00:00", "labels": labels, "locked": false,
        }))
        .unwrap();
        change(&mut server);
        server
    }

    fn mismatch_of(server: &wire::Server) -> Option<String> {
        let name = "demo-workers-k3x9qd".parse().unwrap();
        mismatch(server, &cluster(), &name, &"k3x9qd".parse().unwrap())
    }

    #[test]
    fn a_server_is_the_one_that_was_meant_only_by_cluster_intent_and_name() {
        assert_eq!(mismatch_of(&worker(|_| {})), None);
        let set = |key: &str, value: &str| {
            worker(|s| {
                s.labels.insert(key.to_owned(), value.to_owned());
            })
        };
        assert!(mismatch_of(&set(CLUSTER_LABEL, "0000000000000000")).is_some());
        assert!(mismatch_of(&set(INTENT_LABEL, "aaaaaa")).is_some());
        assert!(mismatch_of(&worker(|s| s.name.push('x'))).is_some());
        assert!(mismatch_of(&worker(|s| s.labels.clear())).is_some());
    }

    #[test]
    fn a_machine_of_the_control_plane_is_told_by_cluster_and_role() {
        let with = |role: &str, id: &str| {
            worker(|s| {
                s.labels.insert(ROLE_LABEL.to_owned(), role.to_owned());
                s.labels.insert(CLUSTER_LABEL.to_owned(), id.to_owned());
            })
        };
        let ours = cluster();
        let mismatch = |s: wire::Server| mismatch_of_server(&s, &ours, &"k3x9qd".parse().unwrap());
        assert_eq!(mismatch(with("server", ours.as_str())), None);
        assert!(mismatch(with("agent", ours.as_str())).is_some());
        assert!(mismatch(with("server", "0000000000000000")).is_some());
        let relabelled = |change: fn(&mut Labels)| {
            let mut server = with("server", ours.as_str());
            change(&mut server.labels);
            mismatch(server)
        };
        assert_eq!(relabelled(|l| drop(l.remove(INTENT_LABEL))), None);
        let other = relabelled(|l| drop(l.insert(INTENT_LABEL.to_owned(), "aaaaaa".to_owned())));
        assert!(other.unwrap().contains("`aaaaaa` instead of `k3x9qd`"));
    }

    #[test]
    fn what_is_unknown_about_a_server_is_passed_over_but_its_age_is_not_invented() {
        let odd = worker(|s| {
            s.status = "migrating-to-mars".to_owned();
            s.labels.insert(ROLE_LABEL.to_owned(), "oracle".to_owned());
            s.labels
                .insert(POOL_LABEL.to_owned(), "Not A Pool".to_owned());
        });
        let seen = server(&odd).unwrap();
        assert_eq!(
            (seen.power, seen.role, seen.pool),
            (Power::Changing, Role::Unknown, None)
        );
        assert!(server(&worker(|s| s.created.clear())).is_err());
    }

    #[test]
    fn a_rule_comes_back_as_it_was_written_and_an_outbound_one_equals_none() {
        let rules = [
            FirewallRule {
                protocol: "tcp".to_owned(),
                port: "22".to_owned(),
                source_ips: BTreeSet::from(["10.0.0.0/8".to_owned()]),
            },
            FirewallRule {
                protocol: "icmp".to_owned(),
                port: String::new(),
                source_ips: BTreeSet::from(["0.0.0.0/0".to_owned()]),
            },
        ];
        let mut read: Vec<wire::Rule> = serde_json::from_value(rules_body(&rules)).unwrap();
        assert_eq!(read.iter().map(rule).collect::<Vec<_>>(), rules);
        read[0].direction = "out".to_owned();
        assert!(!rules.contains(&rule(&read[0])));
    }

    #[test]
    fn of_an_ipv6_network_the_first_address_is_taken() {
        for (ip, address) in [
            ("203.0.113.7", Some("203.0.113.7")),
            ("2001:db8:5::/64", Some("2001:db8:5::1")),
            ("", None),
            ("somewhere", None),
        ] {
            assert_eq!(first_address(ip), address.map(|a| a.parse().unwrap()));
        }
    }

    #[test]
    fn the_comment_is_no_part_of_a_key() {
        assert_eq!(
            bare_key("ssh-ed25519  AAAA alice@home \n"),
            "ssh-ed25519 AAAA"
        );
    }

    #[test]
    fn a_group_s_name_is_cluster_pool_and_a_number() {
        let pools: Vec<PoolName> = vec!["web-a".parse().unwrap()];
        assert!(is_group_name("demo-web-a-2", "demo", &pools));
        for other in [
            "demo-web-a",
            "demo-web-a-",
            "demo-web-a-x",
            "demo-db-1",
            "web-a-1",
        ] {
            assert!(!is_group_name(other, "demo", &pools), "{other}");
        }
    }
}
