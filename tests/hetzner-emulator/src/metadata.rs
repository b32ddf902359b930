//! The metadata service as a server sees it (hcloud-go `hcloud/metadata`, docs.hetzner.cloud
//! "Server Metadata"): plain text, one document in YAML.

use std::fmt::Write;
use std::net::Ipv6Addr;

use crate::project::Project;
use crate::resources::servers::Server;

/// The text below `/hetzner/v1/`, or `None` where there is nothing.
pub fn read(project: &Project, server: &Server, path: &str) -> Option<String> {
    match path {
        "userdata" => server.user_data.clone(),
        "metadata" => Some(document(project, server)),
        _ => field(project, server, path.strip_prefix("metadata/")?),
    }
}

fn field(project: &Project, server: &Server, name: &str) -> Option<String> {
    Some(match name {
        "hostname" => server.meta.name.clone(),
        "instance-id" => server.meta.id.to_string(),
        "public-ipv4" => server
            .ipv4
            .as_ref()
            .map_or_else(String::new, |ip| ip.address.to_string()),
        "local-ipv4" => {
            let first = server.private_nets.iter().find(|net| net.attached);
            first.map_or_else(String::new, |net| net.ip.to_string())
        }
        "region" => project
            .catalog
            .location(server.location)?
            .network_zone
            .to_owned(),
        "availability-zone" => format!("{}-dc1", server.location),
        "private-networks" => private_networks(project, server),
        _ => return None,
    })
}

fn document(project: &Project, server: &Server) -> String {
    let mut text = String::new();
    for name in [
        "availability-zone",
        "hostname",
        "instance-id",
        "local-ipv4",
        "public-ipv4",
        "region",
    ] {
        let value = field(project, server, name).unwrap_or_default();
        let value = if value.is_empty() { "''" } else { &value };
        let _ = writeln!(text, "{name}: {value}");
    }
    text.push_str(&network_config(server));
    text
}

/// As cloud-init reads it: the public interface, and a second name of it for IPv6, which is static.
fn network_config(server: &Server) -> String {
    let [.., a, b, c, d] = server.meta.id.to_be_bytes();
    let mac = format!("96:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
    let mut text = format!(
        "network-config:\n  config:\n  - mac_address: {mac}\n    name: eth0\n    subnets:\n    \
         - ipv4: true\n      type: dhcp\n    type: physical\n"
    );
    if let Some(ipv6) = &server.ipv6 {
        let address = Ipv6Addr::from_bits(ipv6.network.to_bits() | 1);
        let _ = write!(
            text,
            "  - name: eth0:0\n    subnets:\n    - address: {address}/64\n      gateway: fe80::1\n      \
             ipv6: true\n      type: static\n    type: physical\n"
        );
    }
    text.push_str("  version: 1\n");
    text
}

fn private_networks(project: &Project, server: &Server) -> String {
    let mut text = String::new();
    for (nth, net) in server
        .private_nets
        .iter()
        .filter(|net| net.attached)
        .enumerate()
    {
        let Some(network) = project.networks.get(&net.network) else {
            continue;
        };
        let subnet = network
            .subnets
            .iter()
            .find(|subnet| subnet.ip_range.contains(&net.ip));
        let subnet = subnet.map_or(network.ip_range, |subnet| subnet.ip_range);
        let aliases: Vec<_> = net.alias_ips.iter().map(ToString::to_string).collect();
        let _ = write!(
            text,
            "- ip: {}\n  alias_ips: [{}]\n  interface_num: {}\n  mac_address: {}\n  \
             network_id: {}\n  network_name: {}\n  network: {}\n  subnet: {subnet}\n  gateway: {}\n",
            net.ip,
            aliases.join(", "),
            nth + 1,
            net.mac_address,
            net.network,
            network.meta.name,
            network.ip_range,
            network.gateway(),
        );
    }
    text
}
