//! `POST /load_balancers`: everything is checked before anything is made.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::services::{self, Service};
use super::targets::{self, Sight, Target};
use super::{LoadBalancer, PrivateNet};
use crate::action::ResourceRef;
use crate::call::{Answer, Call, Reply};
use crate::catalog::LoadBalancerType;
use crate::error::ApiError;
use crate::input::{IdOrName, Input};
use crate::project::Project;
use crate::public_address::{Family, PublicAddress};
use crate::resources::networks::addresses::{self, Wish};
use crate::resources::{Meta, Resource, catalog, find, new_name_and_labels, require_unique_name};

pub fn create(project: &mut Project, call: &Call) -> Answer {
    let mut input = call.input();
    let (name, labels) = new_name_and_labels::<LoadBalancer>(&mut input);
    let kind = kind(project, &mut input);
    let location = location(project, &mut input);
    let algorithm = input.object("algorithm");
    let algorithm = algorithm.map(|algorithm| algorithm.get("type").cloned().unwrap_or_default());
    let algorithm = algorithm.map(|kind| algorithm_of(&mut input, &kind));
    let services = services_of_body(&mut input);
    let targets = Target::of_body(&mut input);
    let network = input.id("network");
    let public_enabled = input.boolean("public_interface").unwrap_or(true);
    if network.is_some_and(|id| !project.networks.contains_key(&id)) {
        input.reject("network", "network not found");
    }
    input.finish()?;
    let (Some(kind), Some(location)) = (kind, location) else {
        return Err(ApiError::invalid("location", "is not valid"));
    };
    let (type_name, most_services, most) = (kind.name, kind.max_services, kind.max_targets);
    require_unique_name(&project.load_balancers, &name, None)?;
    if project.load_balancers.len() >= project.settings.load_balancer_limit {
        let message = "load balancer limit exceeded";
        return Err(ApiError::limit_exceeded("load_balancer_limit", message));
    }
    services::require_room(&services, most_services)?;
    let sight = Sight {
        network,
        public_enabled,
        most,
    };
    targets::require_reachable(project, &sight, &[], &targets)?;
    let ip = network.map(|network| {
        let wish = Wish {
            network,
            ..Wish::default()
        };
        address_in(project, &wish, location)
    });
    let ip = ip.transpose()?;

    let id = project.next_id();
    let meta = Meta {
        id,
        name,
        created: project.now,
        labels,
    };
    let lb = LoadBalancer {
        meta,
        type_name,
        location,
        algorithm: algorithm.unwrap_or_else(|| "round_robin".to_owned()),
        services,
        targets,
        private_net: network.zip(ip).map(|(network, ip)| PrivateNet {
            network,
            ip,
            attached: true,
        }),
        public_enabled,
        ipv4: PublicAddress::take(project, Family::V4, id)?,
        ipv6: PublicAddress::take(project, Family::V6, id)?,
        delete_protected: false,
    };
    project.load_balancers.insert(id, lb);
    let subject = ResourceRef::load_balancer(id);
    let action = project.begin("create_load_balancer", subject, &[], |_| {});
    let lb = find(&project.load_balancers, id)?.render(project);
    Ok(Reply::created(
        json!({"load_balancer": lb, "action": project.render_action(action)}),
    ))
}

/// The address that a load balancer gets in a network.
pub fn address_in(project: &Project, wish: &Wish, location: &str) -> Result<Ipv4Addr, ApiError> {
    let zone = project.catalog.location(location);
    addresses::choose(project, wish, zone.map_or("", |l| l.network_zone), None)
}

pub fn algorithm_of(input: &mut Input, kind: &Value) -> String {
    let kind = kind.as_str().unwrap_or_default();
    if !["round_robin", "least_connections"].contains(&kind) {
        let message = "must be 'round_robin' or 'least_connections'";
        input.reject("algorithm", message);
    }
    kind.to_owned()
}

fn services_of_body(input: &mut Input) -> Vec<Service> {
    let mut services = Vec::new();
    for (nth, value) in input.list("services").iter().enumerate() {
        match Service::read(value, None) {
            Ok(service) => services.push(service),
            Err((field, message)) => input.reject(&format!("services.{nth}.{field}"), message),
        }
    }
    services
}

fn kind<'a>(project: &'a Project, input: &mut Input) -> Option<&'a LoadBalancerType> {
    input.require("load_balancer_type");
    let wanted = input.id_or_name("load_balancer_type")?;
    let mut types = project.catalog.load_balancer_types.iter();
    let found = types.find(|kind| match &wanted {
        IdOrName::Id(id) => kind.id == *id,
        IdOrName::Name(name) => kind.name == name,
    });
    if found.is_none() {
        let message = format!("load balancer type {wanted} not found");
        input.reject("load_balancer_type", message);
    }
    found
}

/// A location, or a network zone, of which Hetzner chooses one; here it is the first.
fn location(project: &Project, input: &mut Input) -> Option<&'static str> {
    let zone = input.text("network_zone");
    if zone.is_some() == input.value("location").is_some() {
        let message = "either location or network_zone is needed";
        input.reject("location", message);
        return None;
    }
    let Some(zone) = zone else {
        return catalog::location_of_body(project, input, "location");
    };
    let mut locations = project.catalog.locations.iter();
    let found = locations.find(|location| location.network_zone == zone);
    if found.is_none() {
        input.reject("network_zone", "network zone not found");
    }
    found.map(|location| location.name)
}
