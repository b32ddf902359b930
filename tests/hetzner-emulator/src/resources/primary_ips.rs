//! `/primary_ips`: the resource itself. Its actions are in [`actions`].

mod actions;

use serde_json::{Value, json};

use crate::action::{ResourceRef, time};
use crate::call::{Answer, Call, Method, Reply};
use crate::catalog::Location;
use crate::error::ApiError;
use crate::project::Project;
use crate::public_address::{Family, PublicAddress};
use crate::resources::{
    Meta, Resource, catalog, find, find_mut, id_of, list, new_name_and_labels, require_unique_name,
    require_unprotected, unrouted, update,
};

pub struct PrimaryIp {
    pub meta: Meta,
    pub address: PublicAddress,
    /// Name of the location in the catalog.
    pub location: &'static str,
    /// The server that has it.
    pub assignee: Option<u64>,
    /// Whether it goes with that server.
    pub auto_delete: bool,
    pub delete_protected: bool,
}

impl Resource for PrimaryIp {
    const KIND: &'static str = "primary_ip";

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
            "labels": self.meta.labels,
            "created": time(self.meta.created),
            "type": self.address.family().as_str(),
            "ip": self.address.shown(),
            "dns_ptr": self.address.dns_ptr(),
            "location": project.catalog.location(self.location).map(Location::render),
            // Since 2026-08-01 (changelog 2026-04-27-primary-ips-will-return-unassigned).
            "assignee_type": self.assignee.map_or("unassigned", |_| "server"),
            "assignee_id": self.assignee,
            "auto_delete": self.auto_delete,
            "blocked": false,
            "protection": {"delete": self.delete_protected},
        })
    }
}

pub fn route(project: &mut Project, call: &Call, rest: &[&str]) -> Answer {
    use crate::resources::actions::{of_kind, of_resource};
    match (call.method, rest) {
        (Method::Get, []) => {
            let ip = call.parameter("ip");
            let wanted = |one: &PrimaryIp| ip.is_none_or(|ip| ip == one.address.shown());
            list(project, call, "primary_ips", &project.primary_ips, wanted)
        }
        (Method::Post, []) => create(project, call),
        (Method::Get, ["actions", rest @ ..]) => of_kind(project, call, PrimaryIp::KIND, rest),
        (Method::Get, [id]) => read(project, id_of(id)?).map(Reply::ok),
        (Method::Put, [id]) => put(project, call, id_of(id)?),
        (Method::Delete, [id]) => delete(project, id_of(id)?),
        (Method::Get, [id, "actions", rest @ ..]) => {
            let id = id_of(id)?;
            find(&project.primary_ips, id)?;
            of_resource(project, call, PrimaryIp::KIND, id, rest)
        }
        (Method::Post, [id, "actions", action]) => {
            actions::perform(project, call, id_of(id)?, action)
        }
        _ => Err(unrouted(rest)),
    }
}

/// Refuses when the project may not have so many more.
pub fn require_allowed(project: &Project, more: usize) -> Result<(), ApiError> {
    if project.primary_ips.len() + more > project.settings.primary_ip_limit {
        let message = "primary IP limit exceeded";
        return Err(ApiError::limit_exceeded("primary_ip_limit", message));
    }
    Ok(())
}

/// The address that a server gets by itself, and loses with its own end.
pub fn come_with_server(
    project: &mut Project,
    family: Family,
    location: &'static str,
    server: u64,
) -> Result<u64, ApiError> {
    let id = project.next_id();
    let meta = Meta {
        id,
        name: format!("primary_ip-{id}"),
        created: project.now,
        labels: std::collections::BTreeMap::new(),
    };
    let ip = PrimaryIp {
        meta,
        address: PublicAddress::take(project, family, id)?,
        location,
        assignee: Some(server),
        auto_delete: true,
        delete_protected: false,
    };
    project.primary_ips.insert(id, ip);
    Ok(id)
}

/// The server is gone: what goes with it goes, and the rest is free.
pub fn leave_server(project: &mut Project, server: u64) {
    let ids: Vec<_> = project
        .primary_ips
        .values_mut()
        .filter(|ip| ip.assignee == Some(server))
        .map(|ip| {
            ip.assignee = None;
            (ip.meta.id, ip.auto_delete)
        })
        .collect();
    for (id, auto_delete) in ids {
        if auto_delete {
            remove(project, id);
        }
    }
}

fn remove(project: &mut Project, id: u64) {
    if let Some(ip) = project.primary_ips.remove(&id) {
        ip.address.release(project);
    }
}

fn read(project: &Project, id: u64) -> Result<Value, ApiError> {
    Ok(json!({"primary_ip": find(&project.primary_ips, id)?.render(project)}))
}

fn create(project: &mut Project, call: &Call) -> Answer {
    let mut input = call.input();
    let (name, labels) = new_name_and_labels::<PrimaryIp>(&mut input);
    let family = Family::read(&mut input);
    let assignee = actions::assignee_of_body(project, &mut input);
    let wished = catalog::location_of_body(project, &mut input, "location");
    let auto_delete = input.boolean("auto_delete").unwrap_or(false);
    // Either of the two says where it is.
    let there = assignee.and_then(|id| project.servers.get(&id));
    let location = there.map(|server| server.location).or(wished);
    if assignee.is_none() && input.value("location").is_none() {
        input.reject("location", "missing data for required field");
    }
    input.finish()?;
    let (Some(family), Some(location)) = (family, location) else {
        return Err(ApiError::invalid("location", "is not valid"));
    };
    require_unique_name(&project.primary_ips, &name, None)?;
    require_allowed(project, 1)?;
    if let Some(server) = assignee {
        actions::require_room(project, server, family)?;
    }
    let id = project.next_id();
    let meta = Meta {
        id,
        name,
        created: project.now,
        labels,
    };
    let ip = PrimaryIp {
        meta,
        address: PublicAddress::take(project, family, id)?,
        location,
        assignee: None,
        auto_delete,
        delete_protected: false,
    };
    project.primary_ips.insert(id, ip);
    let action = assignee.map(|server| actions::give(project, id, server));
    let action = action.map_or(Value::Null, |id| project.render_action(id));
    let ip = find(&project.primary_ips, id)?.render(project);
    Ok(Reply::created(json!({"primary_ip": ip, "action": action})))
}

fn put(project: &mut Project, call: &Call, id: u64) -> Answer {
    let mut input = call.input();
    let auto_delete = input.boolean("auto_delete");
    input.finish()?;
    update(&mut project.primary_ips, call, id)?;
    if let Some(auto_delete) = auto_delete {
        find_mut(&mut project.primary_ips, id)?.auto_delete = auto_delete;
    }
    read(project, id).map(Reply::ok)
}

/// Since 2026-05-01 an address must be unassigned first.
fn delete(project: &mut Project, id: u64) -> Answer {
    let ip = find(&project.primary_ips, id)?;
    require_unprotected("primary IP", ip.delete_protected)?;
    if ip.assignee.is_some() {
        let message = "primary IP must be unassigned";
        return Err(ApiError::operation("must_be_unassigned", message));
    }
    project.require_idle(ResourceRef::primary_ip(id))?;
    remove(project, id);
    Ok(Reply::no_content())
}
