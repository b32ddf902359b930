//! Which address a server gets in a network.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::error::ApiError;
use crate::project::Project;
use crate::resources::find;
use crate::resources::load_balancers::PrivateNet;
use crate::resources::networks::subnets::overlap;
use crate::resources::servers::Server;

const MAX_ATTACHED: usize = 100;
const MAX_NETWORKS_PER_SERVER: usize = 3;
/// The gateway of the public interfaces; never given out.
const RESERVED: Ipv4Addr = Ipv4Addr::new(172, 31, 1, 1);

/// What a server that wants to be attached asks for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    pub network: u64,
    pub ip: Option<Ipv4Addr>,
    pub alias_ips: Vec<Ipv4Addr>,
    /// The subnet to take the address from.
    pub ip_range: Option<Ipv4Net>,
}

/// The address for a server in `network_zone` by its wish, or why there is none. `server` is the
/// server as it stands, if it does already.
pub fn choose(
    project: &Project,
    wish: &Wish,
    network_zone: &str,
    server: Option<&Server>,
) -> Result<Ipv4Addr, ApiError> {
    let network = find(&project.networks, wish.network)?;
    if let Some(server) = server {
        require_attachable(project, server, wish.network)?;
    }
    let taken = taken(project, wish.network);
    if attached_count(project, wish.network) >= MAX_ATTACHED {
        let message = format!("no more than {MAX_ATTACHED} resources can be attached to a network");
        return Err(ApiError::limit_exceeded("network_attachments", message));
    }
    let usable = |subnet: Ipv4Net, address: Ipv4Addr| {
        address != network.gateway()
            && address != RESERVED
            && address != subnet.network()
            && address != subnet.broadcast()
            && !taken.contains(&address)
    };
    let subnets: Vec<_> = network
        .subnets
        .iter()
        .filter(|s| s.kind != "vswitch" && s.network_zone == network_zone)
        .filter(|s| wish.ip_range.is_none_or(|range| range == s.ip_range))
        .map(|s| s.ip_range)
        .collect();
    let fits = |ip: Ipv4Addr| {
        subnets
            .iter()
            .any(|net| net.contains(&ip) && usable(*net, ip))
    };
    if let Some(ip) = wish.alias_ips.iter().find(|ip| !fits(**ip)) {
        return Err(ApiError::operation(
            "ip_not_available",
            format!("{ip} is not available"),
        ));
    }
    match wish.ip {
        Some(ip) if fits(ip) => Ok(ip),
        Some(ip) => Err(ApiError::operation(
            "ip_not_available",
            format!("{ip} is not available"),
        )),
        None => subnets
            .iter()
            .find_map(|net| {
                net.hosts()
                    .find(|ip| usable(*net, *ip) && !wish.alias_ips.contains(ip))
            })
            .ok_or_else(|| {
                let message = format!("no subnet of the network has a free IP in {network_zone}");
                ApiError::operation("no_subnet_available", message)
            }),
    }
}

fn require_attachable(project: &Project, server: &Server, network: u64) -> Result<(), ApiError> {
    if server.private_nets.iter().any(|net| net.network == network) {
        let message = "server is already attached to the network";
        return Err(ApiError::operation("server_already_attached", message));
    }
    if server.private_nets.len() >= MAX_NETWORKS_PER_SERVER {
        let message = format!("a server has no more than {MAX_NETWORKS_PER_SERVER} networks");
        return Err(ApiError::limit_exceeded("server_networks", message));
    }
    let range = find(&project.networks, network)?.ip_range;
    let overlaps = server
        .private_nets
        .iter()
        .filter_map(|net| project.networks.get(&net.network))
        .any(|other| overlap(other.ip_range, range));
    if overlaps {
        let message = "the network's range overlaps with a network of the server";
        return Err(ApiError::operation("networks_overlap", message));
    }
    Ok(())
}

fn attached_count(project: &Project, network: u64) -> usize {
    let attached = |server: &&Server| server.private_nets.iter().any(|net| net.network == network);
    let servers = project.servers.values().filter(attached).count();
    servers + load_balancer_nets(project, network).count()
}

/// The addresses of a network that something has, or is about to have.
pub fn taken(project: &Project, network: u64) -> BTreeSet<Ipv4Addr> {
    project
        .servers
        .values()
        .flat_map(|server| &server.private_nets)
        .filter(|net| net.network == network)
        .flat_map(|net| net.alias_ips.iter().copied().chain([net.ip]))
        .chain(load_balancer_nets(project, network).map(|net| net.ip))
        .collect()
}

fn load_balancer_nets(project: &Project, network: u64) -> impl Iterator<Item = &PrivateNet> {
    let nets = project.load_balancers.values();
    nets.filter_map(|lb| lb.private_net.as_ref())
        .filter(move |net| net.network == network)
}
