//! `/networks`: the resource itself. Its actions are in [`actions`], addresses in [`addresses`].

mod actions;
pub mod addresses;
mod subnets;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

pub use self::subnets::Subnet;
use crate::action::{ResourceRef, time};
use crate::call::{Answer, Call, Method, Reply};
use crate::error::ApiError;
use crate::input::Input;
use crate::project::Project;
use crate::resources::{
    Meta, Resource, find, find_mut, id_of, list, load_balancers, new_name_and_labels,
    require_unique_name, require_unprotected, unrouted, update,
};

const MIN_PREFIX: u8 = 8;
const MAX_PREFIX: u8 = 24;

pub struct Network {
    pub meta: Meta,
    pub ip_range: Ipv4Net,
    pub subnets: Vec<Subnet>,
    pub routes: Vec<Route>,
    pub delete_protected: bool,
    pub expose_routes_to_vswitch: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub destination: Ipv4Net,
    pub gateway: Ipv4Addr,
}

impl Network {
    /// The first address of the network, which Hetzner keeps for itself.
    pub fn gateway(&self) -> Ipv4Addr {
        self.ip_range
            .hosts()
            .next()
            .unwrap_or_else(|| self.ip_range.addr())
    }
}

impl Resource for Network {
    const KIND: &'static str = "network";

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn render(&self, project: &Project) -> Value {
        let subnets: Vec<_> = self
            .subnets
            .iter()
            .map(|s| s.render(self.gateway()))
            .collect();
        let routes: Vec<_> = self
            .routes
            .iter()
            .map(|r| json!({"destination": r.destination, "gateway": r.gateway}))
            .collect();
        json!({
            "id": self.meta.id,
            "name": self.meta.name,
            "created": time(self.meta.created),
            "ip_range": self.ip_range,
            "subnets": subnets,
            "routes": routes,
            "servers": attached_servers(project, self.meta.id),
            "load_balancers": load_balancers::in_network(project, self.meta.id),
            "protection": {"delete": self.delete_protected},
            "labels": self.meta.labels,
            "expose_routes_to_vswitch": self.expose_routes_to_vswitch,
        })
    }
}

pub fn route(project: &mut Project, call: &Call, rest: &[&str]) -> Answer {
    use crate::resources::actions::{of_kind, of_resource};
    match (call.method, rest) {
        (Method::Get, []) => list(project, call, "networks", &project.networks, |_| true),
        (Method::Post, []) => create(project, call),
        (Method::Get, ["actions", rest @ ..]) => of_kind(project, call, Network::KIND, rest),
        (Method::Get, [id]) => read(project, id_of(id)?).map(Reply::ok),
        (Method::Put, [id]) => put(project, call, id_of(id)?),
        (Method::Delete, [id]) => delete(project, id_of(id)?),
        (Method::Get, [id, "actions", rest @ ..]) => {
            let id = id_of(id)?;
            find(&project.networks, id)?;
            of_resource(project, call, Network::KIND, id, rest)
        }
        (Method::Post, [id, "actions", action]) => {
            actions::perform(project, call, id_of(id)?, action)
        }
        _ => Err(unrouted(rest)),
    }
}

/// Refuses with 409 while an action changes the network: networks answer `conflict`, not `locked`.
pub fn require_unlocked(project: &Project, id: u64) -> Result<(), ApiError> {
    if project.is_locked(ResourceRef::network(id)) {
        return Err(ApiError::new(
            409,
            "conflict",
            "the network is being changed, try again",
        ));
    }
    Ok(())
}

fn attached_servers(project: &Project, id: u64) -> Vec<u64> {
    let servers = project.servers.values();
    let attached = servers.filter(|server| server.is_in_network(id));
    attached.map(|server| server.meta.id).collect()
}

fn read(project: &Project, id: u64) -> Result<Value, ApiError> {
    Ok(json!({"network": find(&project.networks, id)?.render(project)}))
}

fn create(project: &mut Project, call: &Call) -> Answer {
    let mut input = call.input();
    let (name, labels) = new_name_and_labels::<Network>(&mut input);
    let ip_range = input.required_ipv4_range("ip_range");
    let ip_range = ip_range.filter(|range| accept_range(&mut input, *range));
    let (mut subnet_list, mut route_list) = (Vec::new(), Vec::new());
    if let Some(range) = ip_range {
        subnet_list = subnets::of_body(&mut input, project, range);
        route_list = routes_of_body(&mut input);
    }
    let expose_routes_to_vswitch = input.boolean("expose_routes_to_vswitch").unwrap_or(false);
    input.finish()?;
    require_unique_name(&project.networks, &name, None)?;

    let meta = Meta {
        id: project.next_id(),
        name,
        created: project.now,
        labels,
    };
    let id = meta.id;
    let network = Network {
        meta,
        ip_range: ip_range.unwrap_or_default(),
        subnets: subnet_list,
        routes: route_list,
        delete_protected: false,
        expose_routes_to_vswitch,
    };
    project.networks.insert(id, network);
    read(project, id).map(Reply::created)
}

/// A private range of a size that Hetzner takes.
fn accept_range(input: &mut Input, range: Ipv4Net) -> bool {
    let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];
    let inside = |outer: &&str| {
        outer
            .parse::<Ipv4Net>()
            .is_ok_and(|net| net.contains(&range))
    };
    let fits = (MIN_PREFIX..=MAX_PREFIX).contains(&range.prefix_len());
    let accepted = fits && private.iter().any(inside);
    if !accepted {
        input.reject(
            "ip_range",
            "must be a private range (RFC 1918) of /8 to /24",
        );
    }
    accepted
}

fn routes_of_body(input: &mut Input) -> Vec<Route> {
    let mut routes = Vec::new();
    for item in input.list("routes") {
        let destination = item["destination"]
            .as_str()
            .and_then(|text| text.parse().ok());
        let gateway = item["gateway"].as_str().and_then(|text| text.parse().ok());
        match (destination, gateway) {
            (Some(destination), Some(gateway)) => routes.push(Route {
                destination,
                gateway,
            }),
            _ => input.reject("routes", "must have a destination and a gateway"),
        }
    }
    routes
}

fn put(project: &mut Project, call: &Call, id: u64) -> Answer {
    let mut input = call.input();
    let expose = input.boolean("expose_routes_to_vswitch");
    input.finish()?;
    update(&mut project.networks, call, id)?;
    if let Some(expose) = expose {
        find_mut(&mut project.networks, id)?.expose_routes_to_vswitch = expose;
    }
    read(project, id).map(Reply::ok)
}

/// What is attached is detached at once.
fn delete(project: &mut Project, id: u64) -> Answer {
    require_unprotected(Network::KIND, find(&project.networks, id)?.delete_protected)?;
    require_unlocked(project, id)?;
    project.networks.remove(&id);
    for server in project.servers.values_mut() {
        server.private_nets.retain(|net| net.network != id);
    }
    load_balancers::leave_network(project, id);
    Ok(Reply::no_content())
}
