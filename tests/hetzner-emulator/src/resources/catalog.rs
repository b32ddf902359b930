//! `/server_types`, `/load_balancer_types` and `/locations`: what can be ordered.

use serde_json::{Value, json};

use crate::action::time;
use crate::call::{Answer, Call, Method, Reply};
use crate::catalog::{LoadBalancerType, Location, ServerType};
use crate::error::ApiError;
use crate::input::{IdOrName, Input};
use crate::labels::Labels;
use crate::listing::{Filter, page};
use crate::project::Project;
use crate::resources::{id_of, unrouted};

pub fn locations(project: &Project, call: &Call, rest: &[&str]) -> Answer {
    let catalog = &project.catalog;
    match (call.method, rest) {
        (Method::Get, []) => {
            let filter = Filter::of(call)?;
            let named = catalog
                .locations
                .iter()
                .filter(|l| filter.accepts(l.name, &Labels::new()));
            page(
                call,
                "locations",
                &["id", "name"],
                named.map(Location::render).collect(),
            )
        }
        (Method::Get, [id]) => {
            let id = id_of(id)?;
            let found = catalog.locations.iter().find(|location| location.id == id);
            let location = found.ok_or_else(|| ApiError::not_found("location", id))?;
            Ok(Reply::ok(json!({"location": location.render()})))
        }
        _ => Err(unrouted(rest)),
    }
}

/// The location that a field of a body names, by its number or its name.
pub fn location_of_body(project: &Project, input: &mut Input, field: &str) -> Option<&'static str> {
    let wanted = input.id_or_name(field)?;
    let mut locations = project.catalog.locations.iter();
    let found = locations.find(|location| match &wanted {
        IdOrName::Id(id) => location.id == *id,
        IdOrName::Name(name) => location.name == name,
    });
    if found.is_none() {
        input.reject(field, format!("location {wanted} not found"));
    }
    found.map(|location| location.name)
}

pub fn server_types(project: &Project, call: &Call, rest: &[&str]) -> Answer {
    let types = &project.catalog.server_types;
    match (call.method, rest) {
        (Method::Get, []) => {
            let filter = Filter::of(call)?;
            let items = types
                .iter()
                .filter(|t| !is_retired(project, t) && filter.accepts(t.name, &Labels::new()))
                .map(|server_type| render_server_type(project, server_type))
                .collect();
            page(call, "server_types", &["id", "name"], items)
        }
        (Method::Get, [id]) => {
            let id = id_of(id)?;
            let found = types.iter().find(|server_type| server_type.id == id);
            let found = found.ok_or_else(|| ApiError::not_found("server_type", id))?;
            Ok(Reply::ok(
                json!({"server_type": render_server_type(project, found)}),
            ))
        }
        _ => Err(unrouted(rest)),
    }
}

pub fn load_balancer_types(project: &Project, call: &Call, rest: &[&str]) -> Answer {
    let types = &project.catalog.load_balancer_types;
    match (call.method, rest) {
        (Method::Get, []) => {
            let filter = Filter::of(call)?;
            let named = types
                .iter()
                .filter(|t| filter.accepts(t.name, &Labels::new()));
            let items = named.map(LoadBalancerType::render).collect();
            page(call, "load_balancer_types", &["id", "name"], items)
        }
        (Method::Get, [id]) => {
            let id = id_of(id)?;
            let found = types.iter().find(|t| t.id == id);
            let found = found.ok_or_else(|| ApiError::not_found("load_balancer_type", id))?;
            Ok(Reply::ok(json!({"load_balancer_type": found.render()})))
        }
        _ => Err(unrouted(rest)),
    }
}

/// Whether the type can't be ordered any more. Such a type is in no list either; servers that have
/// it go on, and it can be read by its number.
pub fn is_retired(project: &Project, server_type: &ServerType) -> bool {
    let deprecation = project.settings.deprecations.get(server_type.name);
    deprecation.is_some_and(|d| d.unavailable_after <= project.now)
}

pub fn render_server_type(project: &Project, server_type: &ServerType) -> Value {
    let deprecation = project.settings.deprecations.get(server_type.name).map(
        |d| json!({"announced": time(d.announced), "unavailable_after": time(d.unavailable_after)}),
    );
    let retired = is_retired(project, server_type);
    let locations: Vec<_> = server_type
        .locations
        .iter()
        .filter_map(|name| project.catalog.location(name))
        .map(|location| {
            json!({
                "id": location.id,
                "name": location.name,
                "deprecation": deprecation,
                "available": !retired && project.settings.in_stock(server_type.name, location.name),
                "recommended": deprecation.is_none(),
            })
        })
        .collect();
    json!({
        "id": server_type.id,
        "name": server_type.name,
        "description": server_type.name.to_uppercase(),
        "category": server_type.category(),
        "cores": server_type.cores,
        "memory": server_type.memory_gb,
        "disk": server_type.disk_gb,
        "prices": server_type.prices(),
        "storage_type": "local",
        "cpu_type": server_type.cpu_type(),
        "architecture": server_type.architecture(),
        "deprecation": deprecation,
        "locations": locations,
    })
}
