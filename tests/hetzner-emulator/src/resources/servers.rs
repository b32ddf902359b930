//! `/servers`: the resource itself. How one is made is in [`create`], what can be done to one in
//! [`actions`].

mod actions;
mod create;
mod order;
mod power;
mod rescue;
mod snapshot;

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

pub use self::power::{halted, rebooted};
pub use self::rescue::Rescue;
use crate::action::{ResourceRef, time};
use crate::call::{Answer, Call, Method, Reply};
use crate::catalog::{INCLUDED_TRAFFIC_BYTES, Location};
use crate::error::ApiError;
use crate::events::EventKind;
use crate::project::Project;
use crate::public_address::host_name;
use crate::resources::{
    Meta, Resource, catalog, find, floating_ips, id_of, images, list, load_balancers, primary_ips,
    require_unprotected, unrouted, update, volumes,
};

pub struct Server {
    pub meta: Meta,
    pub status: Status,
    /// Name of the type in the catalog.
    pub type_name: &'static str,
    /// Number of the image, in the catalog or of a snapshot.
    pub image: u64,
    /// Name of the location in the catalog.
    pub location: &'static str,
    pub ipv4: Option<PublicIpv4>,
    pub ipv6: Option<PublicIpv6>,
    pub private_nets: Vec<PrivateNet>,
    pub placement_group: Option<u64>,
    pub delete_protected: bool,
    pub rebuild_protected: bool,
    pub user_data: Option<String>,
    /// A hung machine does not hear the power button.
    pub hung: bool,
    /// The rescue system that it boots next, once.
    pub rescue: Option<Rescue>,
    /// The rescue system that it booted last; `None` is its disk.
    pub booted: Option<Rescue>,
}

/// What is true of a server. What is under way (starting, stopping, deleting) follows from the
/// actions that run on it; see [`Server::shown_status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Its disk is being made.
    Initializing,
    Running,
    Off,
}

/// A primary IP of the server.
pub struct PublicIpv4 {
    pub id: u64,
    pub address: Ipv4Addr,
}

pub struct PublicIpv6 {
    pub id: u64,
    /// The first address of the server's /64.
    pub network: Ipv6Addr,
}

pub struct PrivateNet {
    pub network: u64,
    pub ip: Ipv4Addr,
    pub alias_ips: Vec<Ipv4Addr>,
    pub mac_address: String,
    /// False while the attaching action runs; the address is reserved then but not shown.
    pub attached: bool,
}

impl Resource for Server {
    const KIND: &'static str = "server";

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn render(&self, project: &Project) -> Value {
        let server_type = project.catalog.server_type(self.type_name);
        json!({
            "id": self.meta.id,
            "name": self.meta.name,
            "status": self.shown_status(project),
            "created": time(self.meta.created),
            "public_net": self.render_public_net(project),
            "private_net": self.render_private_nets(),
            "server_type": server_type.map(|t| catalog::render_server_type(project, t)),
            "location": project.catalog.location(self.location).map(Location::render),
            "image": images::render(project, self.image),
            "iso": null,
            "rescue_enabled": self.rescue_enabled(project.now),
            "locked": project.is_locked(ResourceRef::server(self.meta.id)),
            "backup_window": null,
            "outgoing_traffic": 0,
            "ingoing_traffic": 0,
            "included_traffic": INCLUDED_TRAFFIC_BYTES,
            "protection": {"delete": self.delete_protected, "rebuild": self.rebuild_protected},
            "labels": self.meta.labels,
            "volumes": volumes::of_server(project, self.meta.id),
            "load_balancers": load_balancers::of_server(project, self),
            "primary_disk_size": server_type.map(|t| t.disk_gb),
            "placement_group": self.placement_group
                .and_then(|id| project.placement_groups.get(&id))
                .map(|group| group.render(project)),
        })
    }

    /// A server's name is a host name (RFC 1123).
    fn name_error(name: &str) -> Option<&'static str> {
        let label = |part: &str| {
            (1..=63).contains(&part.len())
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        };
        let valid = name.len() <= 253 && name.split('.').all(label);
        (!valid).then_some("must be a valid hostname")
    }
}

impl Server {
    pub fn shown_status(&self, project: &Project) -> &'static str {
        let subject = ResourceRef::server(self.meta.id);
        let runs = |command| {
            let mut running = project.running_actions();
            running.any(|a| a.command == command && a.resources.first() == Some(&subject))
        };
        let stops = || runs("stop_server") || (!self.hung && runs("shutdown_server"));
        match self.status {
            _ if runs("delete_server") => "deleting",
            Status::Initializing => "initializing",
            Status::Off if runs("start_server") => "starting",
            Status::Off => "off",
            Status::Running if stops() => "stopping",
            Status::Running => "running",
        }
    }

    pub fn is_in_network(&self, network: u64) -> bool {
        let mut attached = self.private_nets.iter().filter(|net| net.attached);
        attached.any(|net| net.network == network)
    }

    fn render_public_net(&self, project: &Project) -> Value {
        let firewalls: Vec<_> = project
            .firewalls
            .values()
            .filter(|firewall| firewall.covers(self))
            .map(|firewall| {
                let pending = self.status == Status::Initializing
                    || firewall.is_pending_on(project, self.meta.id);
                let status = if pending { "pending" } else { "applied" };
                json!({"id": firewall.meta.id, "status": status})
            })
            .collect();
        json!({
            "ipv4": self.ipv4.as_ref().map(|ip| json!({
                "id": ip.id,
                "ip": ip.address,
                "blocked": false,
                "dns_ptr": host_name(ip.address),
            })),
            "ipv6": self.ipv6.as_ref().map(|ip| json!({
                "id": ip.id,
                "ip": format!("{}/64", ip.network),
                "blocked": false,
                "dns_ptr": [],
            })),
            "floating_ips": floating_ips::of_server(project, self.meta.id),
            "firewalls": firewalls,
        })
    }

    fn render_private_nets(&self) -> Value {
        let shown = self.private_nets.iter().filter(|net| net.attached);
        shown
            .map(|net| {
                json!({
                    "network": net.network,
                    "ip": net.ip,
                    "alias_ips": net.alias_ips,
                    "mac_address": net.mac_address,
                })
            })
            .collect()
    }
}

pub fn route(project: &mut Project, call: &Call, rest: &[&str]) -> Answer {
    use crate::resources::actions::{of_kind, of_resource};
    match (call.method, rest) {
        (Method::Get, []) => {
            let statuses: Vec<_> = call.parameters("status").collect();
            let wanted = |server: &Server| {
                statuses.is_empty() || statuses.contains(&server.shown_status(project))
            };
            list(project, call, "servers", &project.servers, wanted)
        }
        (Method::Post, []) => create::create(project, call),
        (Method::Get, ["actions", rest @ ..]) => of_kind(project, call, Server::KIND, rest),
        (Method::Get, [id]) => read(project, id_of(id)?).map(Reply::ok),
        (Method::Put, [id]) => {
            let id = id_of(id)?;
            update(&mut project.servers, call, id)?;
            read(project, id).map(Reply::ok)
        }
        (Method::Delete, [id]) => delete(project, id_of(id)?),
        (Method::Get, [id, "actions", rest @ ..]) => {
            let id = id_of(id)?;
            find(&project.servers, id)?;
            of_resource(project, call, Server::KIND, id, rest)
        }
        (Method::Post, [id, "actions", action]) => {
            actions::perform(project, call, id_of(id)?, action)
        }
        _ => Err(unrouted(rest)),
    }
}

fn read(project: &Project, id: u64) -> Result<Value, ApiError> {
    Ok(json!({"server": find(&project.servers, id)?.render(project)}))
}

fn delete(project: &mut Project, id: u64) -> Answer {
    require_unprotected(Server::KIND, find(&project.servers, id)?.delete_protected)?;
    let subject = ResourceRef::server(id);
    project.require_unlocked(subject)?;
    let action = project.begin("delete_server", subject, &[], move |project| {
        remove(project, id);
    });
    Ok(Reply::ok(json!({"action": project.render_action(action)})))
}

/// Takes the server away with all that hangs on it.
fn remove(project: &mut Project, id: u64) {
    project.announce(EventKind::Deleted, id);
    project.servers.remove(&id);
    primary_ips::leave_server(project, id);
    floating_ips::leave_server(project, id);
    volumes::leave_server(project, id);
    load_balancers::leave_server(project, id);
    for firewall in project.firewalls.values_mut() {
        firewall.forget_server(id);
    }
}
