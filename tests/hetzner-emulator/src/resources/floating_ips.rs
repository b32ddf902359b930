//! `/floating_ips` and its actions.

use serde_json::{Value, json};

use crate::action::{ResourceRef, time};
use crate::call::{Answer, Call, Method, Reply};
use crate::catalog::Location;
use crate::error::ApiError;
use crate::project::Project;
use crate::public_address::{Family, PublicAddress};
use crate::resources::{
    Meta, Resource, catalog, find, find_mut, id_of, list, require_unique_name, require_unprotected,
    unrouted, update,
};

pub struct FloatingIp {
    pub meta: Meta,
    pub description: Option<String>,
    pub address: PublicAddress,
    /// Name of the location in the catalog.
    pub home_location: &'static str,
    pub server: Option<u64>,
    pub delete_protected: bool,
}

impl Resource for FloatingIp {
    const KIND: &'static str = "floating_ip";

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn render(&self, project: &Project) -> Value {
        json!({
            "id": self.meta.id,
            "name": self.meta.name,
            "description": self.description,
            "labels": self.meta.labels,
            "created": time(self.meta.created),
            "type": self.address.family().as_str(),
            "ip": self.address.shown(),
            "dns_ptr": self.address.dns_ptr(),
            "home_location": project.catalog.location(self.home_location).map(Location::render),
            "server": self.server,
            "blocked": false,
            "protection": {"delete": self.delete_protected},
        })
    }
}

pub fn route(project: &mut Project, call: &Call, rest: &[&str]) -> Answer {
    use crate::resources::actions::{of_kind, of_resource};
    match (call.method, rest) {
        (Method::Get, []) => list(project, call, "floating_ips", &project.floating_ips, |_| {
            true
        }),
        (Method::Post, []) => create(project, call),
        (Method::Get, ["actions", rest @ ..]) => of_kind(project, call, FloatingIp::KIND, rest),
        (Method::Get, [id]) => read(project, id_of(id)?).map(Reply::ok),
        (Method::Put, [id]) => put(project, call, id_of(id)?),
        (Method::Delete, [id]) => delete(project, id_of(id)?),
        (Method::Get, [id, "actions", rest @ ..]) => {
            let id = id_of(id)?;
            find(&project.floating_ips, id)?;
            of_resource(project, call, FloatingIp::KIND, id, rest)
        }
        (Method::Post, [id, "actions", action]) => perform(project, call, id_of(id)?, action),
        _ => Err(unrouted(rest)),
    }
}

/// The numbers of those that a server has.
pub fn of_server(project: &Project, server: u64) -> Vec<u64> {
    let ips = project.floating_ips.values();
    ips.filter(|ip| ip.server == Some(server))
        .map(|ip| ip.meta.id)
        .collect()
}

/// The server is gone; its addresses are free.
pub fn leave_server(project: &mut Project, server: u64) {
    for ip in project.floating_ips.values_mut() {
        ip.server.take_if(|id| *id == server);
    }
}

fn read(project: &Project, id: u64) -> Result<Value, ApiError> {
    Ok(json!({"floating_ip": find(&project.floating_ips, id)?.render(project)}))
}

fn create(project: &mut Project, call: &Call) -> Answer {
    let mut input = call.input();
    let family = Family::read(&mut input);
    let (name, description) = (input.text("name"), input.text("description"));
    if let Some(error) = name.as_deref().and_then(FloatingIp::name_error) {
        input.reject("name", error);
    }
    let labels = input.labels().unwrap_or_default();
    let server = input.id("server");
    let wished = catalog::location_of_body(project, &mut input, "home_location");
    let there = server.and_then(|id| project.servers.get(&id));
    if server.is_some() && there.is_none() {
        input.reject("server", "server not found");
    }
    if server.is_none() && input.value("home_location").is_none() {
        input.reject("home_location", "missing data for required field");
    }
    let home_location = wished.or(there.map(|server| server.location));
    input.finish()?;
    let (Some(family), Some(home_location)) = (family, home_location) else {
        return Err(ApiError::invalid("home_location", "is not valid"));
    };
    let id = project.next_id();
    let name = name.unwrap_or_else(|| format!("floating-ip-{id}"));
    require_unique_name(&project.floating_ips, &name, None)?;
    if project.floating_ips.len() >= project.settings.floating_ip_limit {
        let message = "floating IP limit exceeded";
        return Err(ApiError::limit_exceeded("floating_ip_limit", message));
    }
    let meta = Meta {
        id,
        name,
        created: project.now,
        labels,
    };
    let ip = FloatingIp {
        meta,
        description,
        address: PublicAddress::take(project, family, id)?,
        home_location,
        server: None,
        delete_protected: false,
    };
    project.floating_ips.insert(id, ip);
    let action = server.map(|server| give(project, id, server));
    let action = action.map_or(Value::Null, |id| project.render_action(id));
    let ip = find(&project.floating_ips, id)?.render(project);
    Ok(Reply::created(json!({"floating_ip": ip, "action": action})))
}

fn put(project: &mut Project, call: &Call, id: u64) -> Answer {
    let mut input = call.input();
    let description = input.text("description");
    input.finish()?;
    update(&mut project.floating_ips, call, id)?;
    if description.is_some() {
        find_mut(&mut project.floating_ips, id)?.description = description;
    }
    read(project, id).map(Reply::ok)
}

/// Since 2026-05-01 an address must be unassigned first.
fn delete(project: &mut Project, id: u64) -> Answer {
    let ip = find(&project.floating_ips, id)?;
    require_unprotected("floating IP", ip.delete_protected)?;
    if ip.server.is_some() {
        let message = "floating IP must be unassigned";
        return Err(ApiError::operation("must_be_unassigned", message));
    }
    project.require_idle(ResourceRef::floating_ip(id))?;
    if let Some(ip) = project.floating_ips.remove(&id) {
        ip.address.release(project);
    }
    Ok(Reply::no_content())
}

fn perform(project: &mut Project, call: &Call, id: u64, action: &str) -> Answer {
    find(&project.floating_ips, id)?;
    project.require_idle(ResourceRef::floating_ip(id))?;
    let action = match action {
        "assign" => assign(project, call, id)?,
        "unassign" => unassign(project, id)?,
        "change_protection" => change_protection(project, call, id)?,
        _ => return Err(ApiError::no_such_route()),
    };
    Ok(Reply::created(
        json!({"action": project.render_action(action)}),
    ))
}

/// An address of another server moves: that is what a leader does with it.
fn assign(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let mut input = call.input();
    let server = input.required_id("server");
    input.finish()?;
    find(&project.servers, server)?;
    if find(&project.floating_ips, id)?.server == Some(server) {
        let message = "floating IP is already assigned";
        return Err(ApiError::operation("floating_ip_assigned", message));
    }
    Ok(give(project, id, server))
}

fn give(project: &mut Project, id: u64, server: u64) -> u64 {
    let (subject, other) = (ResourceRef::floating_ip(id), ResourceRef::server(server));
    project.begin("assign_floating_ip", subject, &[other], move |project| {
        let is_there = project.servers.contains_key(&server);
        if let Some(ip) = project.floating_ips.get_mut(&id) {
            ip.server = Some(server).filter(|_| is_there);
        }
    })
}

fn unassign(project: &mut Project, id: u64) -> Result<u64, ApiError> {
    let Some(server) = find(&project.floating_ips, id)?.server else {
        let message = "floating IP is not assigned";
        return Err(ApiError::new(404, "not_found", message));
    };
    let (subject, other) = (ResourceRef::floating_ip(id), ResourceRef::server(server));
    Ok(
        project.begin("unassign_floating_ip", subject, &[other], move |project| {
            if let Some(ip) = project.floating_ips.get_mut(&id) {
                ip.server = None;
            }
        }),
    )
}

fn change_protection(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let mut input = call.input();
    input.require("delete");
    let delete = input.boolean("delete").unwrap_or(false);
    input.finish()?;
    let subject = ResourceRef::floating_ip(id);
    Ok(
        project.begin("change_protection", subject, &[], move |project| {
            if let Some(ip) = project.floating_ips.get_mut(&id) {
                ip.delete_protected = delete;
            }
        }),
    )
}
