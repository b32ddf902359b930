//! `POST /servers`: everything is checked before anything is made.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::action::ResourceRef;
use crate::call::{Answer, Call, Reply};
use crate::error::ApiError;
use crate::events::EventKind;
use crate::project::Project;
use crate::public_address::{Family, PublicAddress};
use crate::random;
use crate::resources::networks::addresses::{self, Wish};
use crate::resources::servers::order::{self, Interface, Order};
use crate::resources::servers::{PrivateNet, PublicIpv4, PublicIpv6, Server, Status, power};
use crate::resources::{
    Meta, Resource, find, find_mut, images, placement_groups, primary_ips, require_unique_name,
};

pub fn create(project: &mut Project, call: &Call) -> Answer {
    let mut input = call.input();
    let order = order::read(project, &mut input);
    input.finish()?;
    let order = order.ok_or_else(|| ApiError::invalid("server_type", "is not valid"))?;
    if let Some(server_type) = project.catalog.server_type(order.server_type) {
        images::require_fitting(project, order.image, server_type)?;
    }
    require_unique_name(&project.servers, &order.name, None)?;
    if project.servers.len() >= project.settings.server_limit {
        return Err(ApiError::limit_exceeded(
            "server_limit",
            "server limit exceeded",
        ));
    }
    if let Some(group) = order.placement_group {
        placement_groups::require_place(project, group)?;
    }
    if !project.settings.in_stock(order.server_type, order.location) {
        return Err(ApiError::new(
            412,
            "resource_unavailable",
            "error during placement",
        ));
    }
    let ips = order
        .networks
        .iter()
        .map(|network| Ok((*network, address_in(project, *network, order.location)?)))
        .collect::<Result<Vec<_>, ApiError>>()?;
    require_usable(project, &order)?;
    make(project, order, &ips)
}

/// Refuses primary IPs that are not free, or not for this server.
fn require_usable(project: &Project, order: &Order) -> Result<(), ApiError> {
    let interfaces = [
        (order.public.ipv4, Family::V4),
        (order.public.ipv6, Family::V6),
    ];
    for (interface, family) in interfaces {
        let Interface::Own(id) = interface else {
            continue;
        };
        let ip = find(&project.primary_ips, id)?;
        let code = if ip.address.family() != family {
            "primary_ip_version_mismatch"
        } else if ip.assignee.is_some() {
            "primary_ip_assigned"
        } else if ip.location != order.location {
            "primary_ip_datacenter_mismatch"
        } else {
            project.require_idle(ResourceRef::primary_ip(id))?;
            continue;
        };
        let message = format!("primary IP {id} can't be used for this server");
        return Err(ApiError::operation(code, message));
    }
    let new = |(interface, _): &&(Interface, Family)| *interface == Interface::New;
    primary_ips::require_allowed(project, interfaces.iter().filter(new).count())
}

/// The address of a public interface of the server, with the number of its primary IP.
fn address_of(
    project: &mut Project,
    interface: Interface,
    family: Family,
    (server, location): (u64, &'static str),
) -> Result<Option<(u64, PublicAddress)>, ApiError> {
    let id = match interface {
        Interface::None => return Ok(None),
        Interface::New => primary_ips::come_with_server(project, family, location, server)?,
        Interface::Own(id) => id,
    };
    let ip = find_mut(&mut project.primary_ips, id)?;
    ip.assignee = Some(server);
    Ok(Some((id, ip.address)))
}

fn address_in(project: &Project, network: u64, location: &str) -> Result<Ipv4Addr, ApiError> {
    let zone = project
        .catalog
        .location(location)
        .map_or("", |l| l.network_zone);
    addresses::choose(
        project,
        &Wish {
            network,
            ..Wish::default()
        },
        zone,
        None,
    )
}

fn make(project: &mut Project, order: Order, ips: &[(u64, Ipv4Addr)]) -> Answer {
    let id = project.next_id();
    let (public, place) = (order.public, (id, order.location));
    // IPv4 first: only of these there can be too few.
    let ipv4 = address_of(project, public.ipv4, Family::V4, place)?;
    let ipv6 = address_of(project, public.ipv6, Family::V6, place)?;
    let ipv4 = ipv4.and_then(|(id, address)| match address {
        PublicAddress::V4(address) => Some(PublicIpv4 { id, address }),
        PublicAddress::V6(_) => None,
    });
    let ipv6 = ipv6.and_then(|(id, address)| match address {
        PublicAddress::V6(network) => Some(PublicIpv6 { id, network }),
        PublicAddress::V4(_) => None,
    });
    let private_nets = ips
        .iter()
        .enumerate()
        .map(|(nth, (network, ip))| PrivateNet {
            network: *network,
            ip: *ip,
            alias_ips: Vec::new(),
            mac_address: mac_address(id, nth),
            attached: false,
        })
        .collect();
    let meta = Meta {
        id,
        name: order.name,
        created: project.now,
        labels: order.labels,
    };
    project.servers.insert(
        id,
        Server {
            meta,
            status: Status::Initializing,
            type_name: order.server_type,
            image: order.image,
            location: order.location,
            ipv4,
            ipv6,
            private_nets,
            placement_group: order.placement_group,
            delete_protected: false,
            rebuild_protected: false,
            user_data: order.user_data,
            hung: false,
            rescue: None,
            booted: None,
        },
    );
    for firewall in order.firewalls {
        if let Some(firewall) = project.firewalls.get_mut(&firewall) {
            firewall.cover_server(id);
        }
    }
    project.announce(EventKind::Created, id);

    let subject = ResourceRef::server(id);
    let start = order.start;
    let create = project.begin("create_server", subject, &[], move |project| {
        power::created(project, id);
    });
    let mut next_actions = Vec::new();
    if start {
        let wait = project.action_time();
        let started = move |project: &mut Project| power::started(project, id);
        next_actions.push(project.begin_after(wait, "start_server", subject, &[], started));
    }
    for (network, _) in ips {
        next_actions.push(attach(project, id, *network));
    }
    let root_password = if order.has_ssh_keys {
        Value::Null
    } else {
        json!(random::text(20))
    };
    let server = find(&project.servers, id).map_or(Value::Null, |server| server.render(project));
    Ok(Reply::created(json!({
        "server": server,
        "action": project.render_action(create),
        "next_actions": project.render_actions(&next_actions),
        "root_password": root_password,
    })))
}

/// The action at whose end a reserved interface is there.
pub fn attach(project: &mut Project, server: u64, network: u64) -> u64 {
    let (subject, other) = (ResourceRef::server(server), ResourceRef::network(network));
    project.begin("attach_to_network", subject, &[other], move |project| {
        let nets = project
            .servers
            .get_mut(&server)
            .map(|server| &mut server.private_nets);
        for net in nets
            .into_iter()
            .flatten()
            .filter(|net| net.network == network)
        {
            net.attached = true;
        }
    })
}

pub fn mac_address(server: u64, nth: usize) -> String {
    let [.., a, b, c] = server.to_be_bytes();
    format!("86:00:{nth:02x}:{a:02x}:{b:02x}:{c:02x}")
}
