//! The actions of a load balancer.

use serde_json::{Value, json};

use super::create::{address_in, algorithm_of};
use super::services::{self, Service};
use super::targets::{self, Sight, Target};
use super::{LoadBalancer, PrivateNet};
use crate::action::ResourceRef;
use crate::call::{Answer, Call, Reply};
use crate::error::ApiError;
use crate::project::Project;
use crate::resources::networks::addresses::Wish;
use crate::resources::{find, find_mut, networks};

pub fn perform(project: &mut Project, call: &Call, id: u64, action: &str) -> Answer {
    find(&project.load_balancers, id)?;
    project.require_unlocked(ResourceRef::load_balancer(id))?;
    let action = match action {
        "add_service" => add_service(project, call, id)?,
        "update_service" => update_service(project, call, id)?,
        "delete_service" => delete_service(project, call, id)?,
        "add_target" => add_target(project, call, id)?,
        "remove_target" => remove_target(project, call, id)?,
        "attach_to_network" => attach_to_network(project, call, id)?,
        "detach_from_network" => detach_from_network(project, call, id)?,
        "change_algorithm" => change_algorithm(project, call, id)?,
        "change_protection" => change_protection(project, call, id)?,
        "enable_public_interface" => begin(project, "enable_public_interface", id, &[], |lb| {
            lb.public_enabled = true;
        }),
        "disable_public_interface" => disable_public_interface(project, id)?,
        _ => return Err(ApiError::no_such_route()),
    };
    Ok(Reply::created(
        json!({"action": project.render_action(action)}),
    ))
}

/// How many services and targets its type takes.
fn limits(project: &Project, id: u64) -> Result<(usize, usize), ApiError> {
    let kind = find(&project.load_balancers, id)?.type_name;
    let kind = project.catalog.load_balancer_type(kind);
    Ok(kind.map_or((0, 0), |kind| (kind.max_services, kind.max_targets)))
}

fn add_service(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let service = read_service(call, None)?;
    let mut services = find(&project.load_balancers, id)?.services.clone();
    services.push(service);
    services::require_room(&services, limits(project, id)?.0)?;
    Ok(begin(project, "add_service", id, &[], |lb| {
        lb.services = services;
    }))
}

fn update_service(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let mut services = find(&project.load_balancers, id)?.services.clone();
    let nth = position(&services, call)?;
    services[nth] = read_service(call, Some(&services[nth]))?;
    Ok(begin(project, "update_service", id, &[], |lb| {
        lb.services = services;
    }))
}

fn delete_service(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let mut services = find(&project.load_balancers, id)?.services.clone();
    services.remove(position(&services, call)?);
    Ok(begin(project, "delete_service", id, &[], |lb| {
        lb.services = services;
    }))
}

fn read_service(call: &Call, old: Option<&Service>) -> Result<Service, ApiError> {
    let read = Service::read(&Value::Object(call.body.clone()), old);
    read.map_err(|(field, message)| ApiError::invalid(field, message))
}

/// Where the service of the body's port is.
fn position(services: &[Service], call: &Call) -> Result<usize, ApiError> {
    let mut input = call.input();
    let port = input.required_id("listen_port");
    input.finish()?;
    let found = services.iter().position(|s| s.listen_port == port);
    found.ok_or_else(|| {
        let message = format!("service with listen port {port} not found");
        ApiError::new(404, "not_found", message)
    })
}

fn read_target(call: &Call) -> Result<Target, ApiError> {
    let read = Target::read(&Value::Object(call.body.clone()));
    read.map_err(|message| ApiError::invalid("type", message))
}

fn add_target(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let target = read_target(call)?;
    let lb = find(&project.load_balancers, id)?;
    let sight = Sight {
        network: lb.network(),
        public_enabled: lb.public_enabled,
        most: limits(project, id)?.1,
    };
    let wanted = std::slice::from_ref(&target);
    targets::require_reachable(project, &sight, &lb.targets, wanted)?;
    Ok(begin(project, "add_target", id, &[], |lb| {
        lb.targets.push(target);
    }))
}

fn remove_target(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let target = read_target(call)?;
    let lb = find(&project.load_balancers, id)?;
    if !lb.targets.iter().any(|other| other.is(&target)) {
        let message = "load balancer target not found";
        return Err(ApiError::new(404, "not_found", message));
    }
    Ok(begin(project, "remove_target", id, &[], move |lb| {
        lb.targets.retain(|other| !other.is(&target));
    }))
}

fn attach_to_network(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let mut input = call.input();
    let wish = Wish {
        network: input.required_id("network"),
        ip: input.ipv4("ip"),
        ip_range: input.ipv4_range("ip_range"),
        ..Wish::default()
    };
    input.finish()?;
    let network = wish.network;
    find(&project.networks, network)?;
    networks::require_unlocked(project, network)?;
    let lb = find(&project.load_balancers, id)?;
    if lb.private_net.is_some() {
        let message = "load balancer is already attached to a network";
        return Err(ApiError::operation(
            "load_balancer_already_attached",
            message,
        ));
    }
    let net = PrivateNet {
        network,
        ip: address_in(project, &wish, lb.location)?,
        attached: false,
    };
    find_mut(&mut project.load_balancers, id)?.private_net = Some(net);
    let others = [ResourceRef::network(network)];
    Ok(begin(project, "attach_to_network", id, &others, |lb| {
        if let Some(net) = &mut lb.private_net {
            net.attached = true;
        }
    }))
}

/// Targets that are reached by the network stay, and are unhealthy.
fn detach_from_network(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let mut input = call.input();
    let network = input.required_id("network");
    input.finish()?;
    find(&project.networks, network)?;
    if find(&project.load_balancers, id)?.network() != Some(network) {
        let message = "load balancer is not attached to the network";
        return Err(ApiError::new(404, "not_found", message));
    }
    let others = [ResourceRef::network(network)];
    Ok(begin(project, "detach_from_network", id, &others, |lb| {
        lb.private_net = None;
    }))
}

fn change_algorithm(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let mut input = call.input();
    let kind = call.body.get("type").cloned().unwrap_or_default();
    let algorithm = algorithm_of(&mut input, &kind);
    input.finish()?;
    Ok(begin(project, "change_algorithm", id, &[], |lb| {
        lb.algorithm = algorithm;
    }))
}

fn change_protection(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let mut input = call.input();
    let delete = input.boolean("delete");
    input.finish()?;
    Ok(begin(project, "change_protection", id, &[], move |lb| {
        lb.delete_protected = delete.unwrap_or(lb.delete_protected);
    }))
}

fn disable_public_interface(project: &mut Project, id: u64) -> Result<u64, ApiError> {
    let lb = find(&project.load_balancers, id)?;
    if lb.private_net.is_none() {
        let message = "load balancer is not attached to a network";
        let code = "load_balancer_not_attached_to_network";
        return Err(ApiError::operation(code, message));
    }
    if lb.targets.iter().any(|target| !target.use_private_ip) {
        let message = "load balancer has targets that use the public IP";
        return Err(ApiError::operation(
            "targets_without_use_private_ip",
            message,
        ));
    }
    Ok(begin(project, "disable_public_interface", id, &[], |lb| {
        lb.public_enabled = false;
    }))
}

fn begin(
    project: &mut Project,
    command: &'static str,
    id: u64,
    others: &[ResourceRef],
    change: impl FnOnce(&mut LoadBalancer) + Send + 'static,
) -> u64 {
    let subject = ResourceRef::load_balancer(id);
    project.begin(command, subject, others, move |project| {
        if let Some(lb) = project.load_balancers.get_mut(&id) {
            change(lb);
        }
    })
}
