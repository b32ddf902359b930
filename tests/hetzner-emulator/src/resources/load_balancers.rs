//! `/load_balancers`: the resource itself. How one is made is in [`create`], what can be done to one
//! in [`actions`]. No traffic goes through it.

mod actions;
mod create;
mod services;
mod targets;

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use self::services::Service;
use self::targets::Target;
use crate::action::{ResourceRef, time};
use crate::call::{Answer, Call, Method, Reply};
use crate::catalog::{INCLUDED_TRAFFIC_BYTES, LoadBalancerType, Location};
use crate::error::ApiError;
use crate::project::Project;
use crate::public_address::PublicAddress;
use crate::resources::servers::Server;
use crate::resources::{Meta, Resource, find, id_of, list, require_unprotected, unrouted, update};

pub struct LoadBalancer {
    pub meta: Meta,
    /// Name of the type in the catalog.
    type_name: &'static str,
    /// Name of the location in the catalog.
    location: &'static str,
    algorithm: String,
    services: Vec<Service>,
    targets: Vec<Target>,
    pub private_net: Option<PrivateNet>,
    public_enabled: bool,
    ipv4: PublicAddress,
    ipv6: PublicAddress,
    delete_protected: bool,
}

/// A load balancer is in one network at most.
pub struct PrivateNet {
    pub network: u64,
    pub ip: Ipv4Addr,
    /// False while the attaching action runs; the address is reserved then but not shown.
    pub attached: bool,
}

impl Resource for LoadBalancer {
    const KIND: &'static str = "load_balancer";

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn render(&self, project: &Project) -> Value {
        let kind = project.catalog.load_balancer_type(self.type_name);
        let services: Vec<_> = self.services.iter().map(Service::render).collect();
        let targets: Vec<_> = self
            .targets
            .iter()
            .map(|target| target.render(project, self))
            .collect();
        let net = self.private_net.iter().filter(|net| net.attached);
        let private_net: Vec<_> = net
            .map(|net| json!({"network": net.network, "ip": net.ip}))
            .collect();
        json!({
            "id": self.meta.id,
            "name": self.meta.name,
            "labels": self.meta.labels,
            "created": time(self.meta.created),
            "load_balancer_type": kind.map(LoadBalancerType::render),
            "location": project.catalog.location(self.location).map(Location::render),
            "algorithm": {"type": self.algorithm},
            "services": services,
            "targets": targets,
            "private_net": private_net,
            "public_net": {
                "enabled": self.public_enabled,
                "ipv4": reachable(self.ipv4),
                "ipv6": reachable(self.ipv6),
            },
            "protection": {"delete": self.delete_protected},
            "outgoing_traffic": 0,
            "ingoing_traffic": 0,
            "included_traffic": INCLUDED_TRAFFIC_BYTES,
        })
    }
}

impl LoadBalancer {
    /// Whether the server is among its targets.
    pub fn covers(&self, server: &Server) -> bool {
        self.targets.iter().any(|target| target.covers(server))
    }

    /// The network that it is attached to, or is about to be.
    fn network(&self) -> Option<u64> {
        self.private_net.as_ref().map(|net| net.network)
    }
}

fn reachable(address: PublicAddress) -> Value {
    match address {
        PublicAddress::V4(ip) => {
            json!({"ip": ip, "dns_ptr": crate::public_address::host_name(ip)})
        }
        // The first usable address of its network.
        PublicAddress::V6(network) => {
            let ip = std::net::Ipv6Addr::from_bits(network.to_bits() | 1);
            json!({"ip": ip, "dns_ptr": null})
        }
    }
}

pub fn route(project: &mut Project, call: &Call, rest: &[&str]) -> Answer {
    use crate::resources::actions::{of_kind, of_resource};
    match (call.method, rest) {
        (Method::Get, []) => {
            let all = &project.load_balancers;
            list(project, call, "load_balancers", all, |_| true)
        }
        (Method::Post, []) => create::create(project, call),
        (Method::Get, ["actions", rest @ ..]) => of_kind(project, call, LoadBalancer::KIND, rest),
        (Method::Get, [id]) => read(project, id_of(id)?).map(Reply::ok),
        (Method::Put, [id]) => {
            let id = id_of(id)?;
            update(&mut project.load_balancers, call, id)?;
            read(project, id).map(Reply::ok)
        }
        (Method::Delete, [id]) => delete(project, id_of(id)?),
        (Method::Get, [id, "actions", rest @ ..]) => {
            let id = id_of(id)?;
            find(&project.load_balancers, id)?;
            of_resource(project, call, LoadBalancer::KIND, id, rest)
        }
        (Method::Post, [id, "actions", action]) => {
            actions::perform(project, call, id_of(id)?, action)
        }
        _ => Err(unrouted(rest)),
    }
}

/// The numbers of those that are attached to a network.
pub fn in_network(project: &Project, network: u64) -> Vec<u64> {
    let nets = project.load_balancers.values();
    nets.filter(|lb| {
        let net = lb.private_net.as_ref();
        net.is_some_and(|net| net.attached && net.network == network)
    })
    .map(|lb| lb.meta.id)
    .collect()
}

/// The numbers of those that a server is a target of.
pub fn of_server(project: &Project, server: &Server) -> Vec<u64> {
    let all = project.load_balancers.values();
    all.filter(|lb| lb.covers(server))
        .map(|lb| lb.meta.id)
        .collect()
}

/// The server is gone, and no target any more.
pub fn leave_server(project: &mut Project, server: u64) {
    for lb in project.load_balancers.values_mut() {
        lb.targets.retain(|target| !target.is_server(server));
    }
}

/// The network is gone.
pub fn leave_network(project: &mut Project, network: u64) {
    for lb in project.load_balancers.values_mut() {
        lb.private_net.take_if(|net| net.network == network);
    }
}

fn read(project: &Project, id: u64) -> Result<Value, ApiError> {
    Ok(json!({"load_balancer": find(&project.load_balancers, id)?.render(project)}))
}

/// An action since 2026-10-05; before that the answer was empty.
fn delete(project: &mut Project, id: u64) -> Answer {
    let lb = find(&project.load_balancers, id)?;
    require_unprotected("load balancer", lb.delete_protected)?;
    let subject = ResourceRef::load_balancer(id);
    project.require_unlocked(subject)?;
    let action = project.begin("delete_load_balancer", subject, &[], move |project| {
        if let Some(lb) = project.load_balancers.remove(&id) {
            lb.ipv4.release(project);
        }
    });
    Ok(Reply::created(
        json!({"action": project.render_action(action)}),
    ))
}
