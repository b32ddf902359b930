//! The actions of a network.

use ipnet::Ipv4Net;
use serde_json::json;

use crate::action::ResourceRef;
use crate::call::{Answer, Call, Reply};
use crate::error::ApiError;
use crate::project::Project;
use crate::resources::find;
use crate::resources::networks::addresses;
use crate::resources::networks::subnets::{self, MAX_SUBNETS};
use crate::resources::networks::{Network, Route, accept_range, require_unlocked};

const MAX_ROUTES: usize = 100;

pub fn perform(project: &mut Project, call: &Call, id: u64, action: &str) -> Answer {
    find(&project.networks, id)?;
    require_unlocked(project, id)?;
    match action {
        "add_subnet" => add_subnet(project, call, id),
        "delete_subnet" => delete_subnet(project, call, id),
        "add_route" => add_route(project, call, id),
        "delete_route" => delete_route(project, call, id),
        "change_ip_range" => change_ip_range(project, call, id),
        "change_protection" => change_protection(project, call, id),
        _ => Err(ApiError::no_such_route()),
    }
}

fn add_subnet(project: &mut Project, call: &Call, id: u64) -> Answer {
    let network = find(&project.networks, id)?;
    if network.subnets.len() >= MAX_SUBNETS {
        let message = format!("a network has no more than {MAX_SUBNETS} subnets");
        return Err(ApiError::limit_exceeded("network_subnets", message));
    }
    let subnet = subnets::one(&call.body, project, network.ip_range, &network.subnets);
    let subnet = subnet.map_err(|errors| {
        let mut input = call.input();
        for (field, message) in errors {
            input.reject(field, message);
        }
        input
            .finish()
            .err()
            .unwrap_or_else(|| ApiError::invalid("subnet", "is not valid"))
    })?;
    Ok(begin(project, "add_subnet", id, move |network| {
        network.subnets.push(subnet);
    }))
}

fn delete_subnet(project: &mut Project, call: &Call, id: u64) -> Answer {
    let mut input = call.input();
    let range = input.required_ipv4_range("ip_range");
    input.finish()?;
    let range = range.unwrap_or_default();
    let network = find(&project.networks, id)?;
    if !network
        .subnets
        .iter()
        .any(|subnet| subnet.ip_range == range)
    {
        return Err(ApiError::new(
            404,
            "not_found",
            format!("subnet {range} not found"),
        ));
    }
    if addresses::taken(project, id)
        .iter()
        .any(|ip| range.contains(ip))
    {
        let message = format!("subnet {range} is still in use");
        return Err(ApiError::operation("resource_in_use", message));
    }
    Ok(begin(project, "delete_subnet", id, move |network| {
        network.subnets.retain(|subnet| subnet.ip_range != range);
    }))
}

fn add_route(project: &mut Project, call: &Call, id: u64) -> Answer {
    let route = route_of(call)?;
    let network = find(&project.networks, id)?;
    if network.routes.len() >= MAX_ROUTES {
        let message = format!("a network has no more than {MAX_ROUTES} routes");
        return Err(ApiError::limit_exceeded("network_routes", message));
    }
    if route.gateway == network.gateway() || !network.ip_range.contains(&route.gateway) {
        let message = "must be an address of the network other than its first";
        return Err(ApiError::invalid("gateway", message));
    }
    if network
        .routes
        .iter()
        .any(|other| subnets::overlap(other.destination, route.destination))
    {
        return Err(ApiError::invalid(
            "destination",
            "overlaps with another route",
        ));
    }
    Ok(begin(project, "add_route", id, move |network| {
        network.routes.push(route);
    }))
}

fn delete_route(project: &mut Project, call: &Call, id: u64) -> Answer {
    let route = route_of(call)?;
    if !find(&project.networks, id)?.routes.contains(&route) {
        let message = format!("route to {} not found", route.destination);
        return Err(ApiError::new(404, "not_found", message));
    }
    Ok(begin(project, "delete_route", id, move |network| {
        network.routes.retain(|r| *r != route);
    }))
}

fn route_of(call: &Call) -> Result<Route, ApiError> {
    let mut input = call.input();
    input.require("destination");
    input.require("gateway");
    let (destination, gateway) = (input.ipv4_range("destination"), input.ipv4("gateway"));
    input.finish()?;
    match (destination, gateway) {
        (Some(destination), Some(gateway)) => Ok(Route {
            destination,
            gateway,
        }),
        _ => Err(ApiError::invalid("destination", "is not a route")),
    }
}

/// The range may only grow, and stays where it is.
fn change_ip_range(project: &mut Project, call: &Call, id: u64) -> Answer {
    let mut input = call.input();
    let range = input.required_ipv4_range("ip_range");
    let range = range.filter(|range| accept_range(&mut input, *range));
    let old = find(&project.networks, id)?.ip_range;
    if range.is_some_and(|new: Ipv4Net| !new.contains(&old) || new.network() != old.network()) {
        input.reject(
            "ip_range",
            format!("must begin as {old} does and be larger"),
        );
    }
    input.finish()?;
    let range = range.unwrap_or(old);
    Ok(begin(project, "change_ip_range", id, move |network| {
        network.ip_range = range;
    }))
}

fn change_protection(project: &mut Project, call: &Call, id: u64) -> Answer {
    let mut input = call.input();
    let delete = input.boolean("delete");
    input.finish()?;
    Ok(begin(project, "change_protection", id, move |network| {
        network.delete_protected = delete.unwrap_or(network.delete_protected);
    }))
}

fn begin(
    project: &mut Project,
    command: &'static str,
    id: u64,
    change: impl FnOnce(&mut Network) + Send + 'static,
) -> Reply {
    let action = project.begin(command, ResourceRef::network(id), &[], move |project| {
        if let Some(network) = project.networks.get_mut(&id) {
            change(network);
        }
    });
    Reply::created(json!({"action": project.render_action(action)}))
}
