//! `POST /servers`: everything is checked before anything is made.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::action::ResourceRef;
use crate::call::{Answer, Call, Reply};
use crate::error::ApiError;
use crate::events::EventKind;
use crate::project::Project;
use crate::random;
use crate::resources::networks::addresses::{self, Wish};
use crate::resources::servers::order::{self, Order};
use crate::resources::servers::{PrivateNet, PublicIpv4, PublicIpv6, Server, Status, power};
use crate::resources::{Meta, Resource, find, images, placement_groups, require_unique_name};

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
    let ipv4 = if order.public.ipv4 {
        let address = project.addresses.take();
        let exhausted = || ApiError::limit_exceeded("primary_ip_limit", "no public IPv4 is left");
        Some(address.ok_or_else(exhausted)?)
    } else {
        None
    };
    Ok(make(project, order, &ips, ipv4))
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

fn make(
    project: &mut Project,
    order: Order,
    ips: &[(u64, Ipv4Addr)],
    ipv4: Option<Ipv4Addr>,
) -> Reply {
    let id = project.next_id();
    let ipv4 = ipv4.map(|address| PublicIpv4 {
        id: project.next_id(),
        address,
    });
    let ipv6 = order.public.ipv6.then(|| PublicIpv6 {
        id: project.next_id(),
        network: ipv6_network(id),
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
    Reply::created(json!({
        "server": server,
        "action": project.render_action(create),
        "next_actions": project.render_actions(&next_actions),
        "root_password": root_password,
    }))
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

fn ipv6_network(server: u64) -> Ipv6Addr {
    let prefix = 0x2001_0db8_u128 << 96;
    Ipv6Addr::from(prefix | (u128::from(server & 0xffff_ffff) << 64))
}
