//! `[network]` and `[firewall]`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::cidr::{Cidr, CidrFault};
use super::super::reader::{Reader, Table, Text};
use super::super::{Firewall, Network, Pool, Servers};
use super::location::zone_of;
use crate::id::PoolName;

/// Hetzner's smallest network (docs.hetzner.cloud, "Create a Network": `ip_range`).
const SMALLEST_NETWORK_BITS: u8 = 24;
/// Hetzner's smallest subnet (there, `subnets`).
const SMALLEST_SUBNET_BITS: u8 = 30;
/// Each node has a range of this size of its own (kube-controller-manager, `--node-cidr-mask-size-ipv4`).
const NODE_PODS_BITS: u8 = 24;
/// The tenth address of services is the cluster's DNS (docs.k3s.io, "k3s server", `--cluster-dns`).
const SMALLEST_SERVICES_BITS: u8 = 28;
/// The first address is Hetzner's gateway; the network's own and the broadcast address are no host's.
const UNUSABLE_ADDRESSES: u128 = 3;
/// Each rule of a Hetzner firewall takes so many sources (docs.hetzner.cloud, "Firewalls").
const MAX_SOURCES: usize = 100;

/// Checked ranges and where each stands.
pub struct Checked {
    range: Ranged,
    nodes: Ranged,
    pub zone: String,
    pods: Ranged,
    services: Ranged,
}

struct Ranged {
    key: &'static str,
    cidr: Cidr,
    span: Option<Range<usize>>,
}

impl Checked {
    pub fn range(&self) -> Cidr {
        self.range.cidr
    }

    /// Ranges out of which somebody gives addresses, and who. Hetzner does where the cluster has a project there.
    pub fn given_to_others(&self, at_hetzner: bool) -> Vec<(Cidr, &'static str)> {
        let hetzner = (
            self.nodes.cidr,
            "from which Hetzner gives its servers theirs",
        );
        let mut given = vec![
            (self.pods.cidr, "which are pods'"),
            (self.services.cidr, "which are services'"),
        ];
        given.extend(at_hetzner.then_some(hetzner));
        given
    }

    pub fn into_network(self) -> Network {
        Network {
            range: self.range.cidr.to_string(),
            nodes: self.nodes.cidr.to_string(),
            zone: self.zone,
            pods: self.pods.cidr.to_string(),
            services: self.services.cidr.to_string(),
        }
    }
}

pub fn network<'a>(reader: &'a Reader<'a>, root: &mut Table<'a>) -> Option<Checked> {
    let mut table = root.table("network", "[network]");
    let range = range(&mut table, "range", "10.0.0.0/16");
    let nodes = self::range(&mut table, "nodes", "10.0.1.0/24");
    let pods = self::range(&mut table, "pods", "10.42.0.0/16");
    let services = self::range(&mut table, "services", "10.43.0.0/16");
    let zone = zone(&mut table);
    let span = table.span.clone();
    table.finish();
    let checked = Checked {
        range: range?,
        nodes: nodes?,
        zone: zone?,
        pods: pods?,
        services: services?,
    };
    Ranges {
        reader,
        table: span,
    }
    .check(&checked);
    Some(checked)
}

pub fn firewall(root: &mut Table<'_>) -> Option<Firewall> {
    let mut table = root.table("firewall", "[firewall]");
    let ssh_from = sources(&mut table, "ssh-from");
    let api_from = sources(&mut table, "api-from");
    table.finish();
    Some(Firewall {
        ssh_from: ssh_from?,
        api_from: api_from?,
    })
}

/// The subnet has an address for each node, and there is a range for the pods of each.
pub fn holds_all_nodes(
    reader: &Reader<'_>,
    network: &Checked,
    servers: Option<&Servers>,
    pools: &BTreeMap<PoolName, Pool>,
) {
    let counts = pools.values().map(|pool| pool.count);
    let counts = counts.chain(servers.map(|servers| servers.count));
    let wanted: u128 = counts.map(u128::from).sum();
    let free = network.nodes.cidr.size().saturating_sub(UNUSABLE_ADDRESSES);
    let fault = |ranged: &Ranged, problem: String, remedy: &str| {
        let span = ranged.span.clone().unwrap_or(0..0);
        let problem = format!("`{}` = {} {problem}", ranged.key, ranged.cidr);
        reader.fault(&span, "[network]", problem, remedy);
    };
    if wanted > free {
        fault(
            &network.nodes,
            format!("has addresses for {free} servers at most, and {wanted} are wanted"),
            "choose a larger subnet of `range`, or smaller counts",
        );
    }
    let blocks = network.pods.cidr.size() >> (32 - NODE_PODS_BITS);
    if wanted > blocks {
        fault(
            &network.pods,
            format!(
                "has a /{NODE_PODS_BITS} for the pods of {blocks} nodes at most, and {wanted} are wanted"
            ),
            "choose a larger range, with room for what may come: it is fixed with the first commit",
        );
    }
}

/// What the ranges must be to one another.
struct Ranges<'a> {
    reader: &'a Reader<'a>,
    table: Option<Range<usize>>,
}

impl Ranges<'_> {
    fn check(&self, network: &Checked) {
        let Checked {
            range,
            nodes,
            pods,
            services,
            ..
        } = network;
        for ranged in [range, nodes, pods, services] {
            if !ranged.cidr.is_private() {
                self.fault(
                    ranged,
                    "is not a private range",
                    "choose a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
                );
            }
        }
        if range.cidr.prefix() > SMALLEST_NETWORK_BITS {
            self.fault(
                range,
                "is too small for a network at Hetzner",
                "use /24 or larger",
            );
        }
        if nodes.cidr.prefix() > SMALLEST_SUBNET_BITS {
            self.fault(
                nodes,
                "is too small for a subnet at Hetzner",
                "use /30 or larger",
            );
        }
        if services.cidr.prefix() > SMALLEST_SERVICES_BITS {
            self.fault(
                services,
                "is too small: the cluster's DNS is its tenth address",
                "use /28 or larger",
            );
        }
        if !range.cidr.contains(nodes.cidr) {
            self.fault(
                nodes,
                &format!("is not within `range` = {}", range.cidr),
                &format!("choose a part of {}", range.cidr),
            );
        }
        for (one, other) in [(pods, range), (services, range), (services, pods)] {
            if one.cidr.overlaps(other.cidr) {
                self.fault(
                    one,
                    &format!("overlaps `{}` = {}", other.key, other.cidr),
                    "choose ranges that have no address in common",
                );
            }
        }
    }

    fn fault(&self, ranged: &Ranged, problem: &str, remedy: &str) {
        let span = ranged
            .span
            .clone()
            .or_else(|| self.table.clone())
            .unwrap_or(0..0);
        self.reader.fault(
            &span,
            "[network]",
            format!("`{}` = {} {problem}", ranged.key, ranged.cidr),
            remedy,
        );
    }
}

fn range(table: &mut Table<'_>, key: &'static str, default: &'static str) -> Option<Ranged> {
    let given = table.get(key);
    let (text, span) = match &given {
        Some(entry) => (table.as_string(entry)?.value, Some(entry.span.clone())),
        None => (default, None),
    };
    let cidr = parse_cidr(
        table,
        key,
        &Text {
            value: text,
            span: span.clone().unwrap_or(0..0),
        },
    )?;
    if cidr.is_ipv4() {
        return Some(Ranged { key, cidr, span });
    }
    table.fault(
        &span.unwrap_or(0..0),
        format!("`{key}` = {cidr} is not IPv4"),
        format!("use an IPv4 range like {default}"),
    );
    None
}

fn sources(table: &mut Table<'_>, key: &'static str) -> Option<Vec<String>> {
    let texts = table.strings_or_empty(key)?;
    let mut sources = Vec::new();
    for text in &texts {
        sources.push(parse_cidr(table, key, text).map(|cidr| cidr.to_string()));
    }
    if let Some(text) = texts.get(MAX_SOURCES) {
        table.fault(
            &text.span,
            format!(
                "`{key}` has {} sources; Hetzner takes {MAX_SOURCES}",
                texts.len()
            ),
            "join some of them into larger ranges",
        );
    }
    sources.into_iter().collect()
}

fn parse_cidr(table: &Table<'_>, key: &str, text: &Text<'_>) -> Option<Cidr> {
    let Text { value, span } = text;
    match Cidr::parse(value) {
        Ok(cidr) => return Some(cidr),
        Err(CidrFault::Malformed) => table.fault(
            span,
            format!("`{key}`: `{value}` is not an address range"),
            "write ADDRESS/BITS like 10.0.0.0/16, or 203.0.113.7/32 for one address",
        ),
        Err(CidrFault::HostBits(range)) => table.fault(
            span,
            format!("`{key}`: `{value}` has bits set behind its prefix"),
            format!("did you mean `{range}`?"),
        ),
    }
    None
}

fn zone(table: &mut Table<'_>) -> Option<String> {
    let Some(entry) = table.get("zone") else {
        return Some("eu-central".to_owned());
    };
    let text = table.as_string(&entry)?;
    let word = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase());
    if text
        .value
        .split_once('-')
        .is_some_and(|(a, b)| word(a) && word(b))
    {
        return Some(text.value.to_owned());
    }
    let (problem, remedy) = match zone_of(text.value) {
        Some(zone) => (
            format!("`{}` is a location, and no network zone", text.value),
            format!("write the zone that it is in: `zone = \"{zone}\"`"),
        ),
        None => (
            format!("`{}` is not a network zone", text.value),
            "use one of Hetzner's, like `eu-central` or `us-east`".to_owned(),
        ),
    };
    table.fault(&text.span, problem, remedy);
    None
}
