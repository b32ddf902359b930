//! `/volumes`, as far as it takes to make one and to clear up.

use serde_json::{Value, json};

use crate::action::{ResourceRef, time};
use crate::call::{Answer, Call, Method, Reply};
use crate::catalog::Location;
use crate::error::ApiError;
use crate::project::Project;
use crate::resources::{
    Meta, Resource, catalog, find, id_of, list, new_name_and_labels, require_unique_name,
    require_unprotected, unrouted, update,
};

const MIN_GB: u64 = 10;
const MAX_GB: u64 = 10_240;

pub struct Volume {
    pub meta: Meta,
    pub size_gb: u64,
    pub format: Option<String>,
    /// Name of the location in the catalog.
    pub location: &'static str,
    pub server: Option<u64>,
    pub delete_protected: bool,
    /// Whether the creating action has ended.
    pub available: bool,
}

impl Resource for Volume {
    const KIND: &'static str = "volume";

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
            "size": self.size_gb,
            "format": self.format,
            "status": self.status(),
            "linux_device": format!("/dev/disk/by-id/scsi-0HC_Volume_{}", self.meta.id),
            "location": project.catalog.location(self.location).map(Location::render),
            "server": self.server,
            "protection": {"delete": self.delete_protected},
        })
    }
}

impl Volume {
    const fn status(&self) -> &'static str {
        if self.available {
            "available"
        } else {
            "creating"
        }
    }
}

pub fn route(project: &mut Project, call: &Call, rest: &[&str]) -> Answer {
    use crate::resources::actions::{of_kind, of_resource};
    match (call.method, rest) {
        (Method::Get, []) => {
            let statuses: Vec<_> = call.parameters("status").collect();
            let wanted = |v: &Volume| statuses.is_empty() || statuses.contains(&v.status());
            list(project, call, "volumes", &project.volumes, wanted)
        }
        (Method::Post, []) => create(project, call),
        (Method::Get, ["actions", rest @ ..]) => of_kind(project, call, Volume::KIND, rest),
        (Method::Get, [id]) => read(project, id_of(id)?).map(Reply::ok),
        (Method::Put, [id]) => {
            let id = id_of(id)?;
            update(&mut project.volumes, call, id)?;
            read(project, id).map(Reply::ok)
        }
        (Method::Delete, [id]) => delete(project, id_of(id)?),
        (Method::Get, [id, "actions", rest @ ..]) => {
            let id = id_of(id)?;
            find(&project.volumes, id)?;
            of_resource(project, call, Volume::KIND, id, rest)
        }
        (Method::Post, [id, "actions", action]) => perform(project, call, id_of(id)?, action),
        _ => Err(unrouted(rest)),
    }
}

/// The numbers of those that a server has.
pub fn of_server(project: &Project, server: u64) -> Vec<u64> {
    let volumes = project.volumes.values();
    volumes
        .filter(|volume| volume.server == Some(server))
        .map(|volume| volume.meta.id)
        .collect()
}

/// The server is gone; its volumes stay.
pub fn leave_server(project: &mut Project, server: u64) {
    for volume in project.volumes.values_mut() {
        volume.server.take_if(|id| *id == server);
    }
}

fn read(project: &Project, id: u64) -> Result<Value, ApiError> {
    Ok(json!({"volume": find(&project.volumes, id)?.render(project)}))
}

fn create(project: &mut Project, call: &Call) -> Answer {
    let mut input = call.input();
    let (name, labels) = new_name_and_labels::<Volume>(&mut input);
    let size_gb = input.required_id("size");
    if input.value("size").is_some() && !(MIN_GB..=MAX_GB).contains(&size_gb) {
        input.reject("size", format!("must be {MIN_GB} to {MAX_GB}"));
    }
    let format = input.text("format");
    let server = input.id("server");
    let there = server.and_then(|id| project.servers.get(&id));
    if server.is_some() && there.is_none() {
        input.reject("server", "server not found");
    }
    let wished = catalog::location_of_body(project, &mut input, "location");
    if server.is_some() == input.value("location").is_some() {
        input.reject("location", "either location or server is needed");
    }
    let location = there.map(|server| server.location).or(wished);
    input.finish()?;
    let location = location.ok_or_else(|| ApiError::invalid("location", "is not valid"))?;
    require_unique_name(&project.volumes, &name, None)?;
    let id = project.next_id();
    let meta = Meta {
        id,
        name,
        created: project.now,
        labels,
    };
    let volume = Volume {
        meta,
        size_gb,
        format,
        location,
        server: None,
        delete_protected: false,
        available: false,
    };
    project.volumes.insert(id, volume);
    let action = begin(project, "create_volume", id, server, |volume| {
        volume.available = true;
    });
    let next = server.map(|server| {
        let (subject, other) = (ResourceRef::volume(id), ResourceRef::server(server));
        project.begin("attach_volume", subject, &[other], move |project| {
            let is_there = project.servers.contains_key(&server);
            if let Some(volume) = project.volumes.get_mut(&id) {
                volume.server = Some(server).filter(|_| is_there);
            }
        })
    });
    let volume = find(&project.volumes, id)?.render(project);
    Ok(Reply::created(json!({
        "volume": volume,
        "action": project.render_action(action),
        "next_actions": project.render_actions(next.as_slice()),
    })))
}

fn delete(project: &mut Project, id: u64) -> Answer {
    let volume = find(&project.volumes, id)?;
    require_unprotected(Volume::KIND, volume.delete_protected)?;
    if volume.server.is_some() {
        let message = "volume is still attached to a server";
        return Err(ApiError::operation("resource_in_use", message));
    }
    project.require_unlocked(ResourceRef::volume(id))?;
    project.volumes.remove(&id);
    Ok(Reply::no_content())
}

fn perform(project: &mut Project, call: &Call, id: u64, action: &str) -> Answer {
    let server = find(&project.volumes, id)?.server;
    project.require_unlocked(ResourceRef::volume(id))?;
    let action = match action {
        "detach" if server.is_none() => {
            let message = "volume is not attached";
            return Err(ApiError::new(404, "not_found", message));
        }
        "detach" => begin(project, "detach_volume", id, server, |volume| {
            volume.server = None;
        }),
        "change_protection" => {
            let mut input = call.input();
            let delete = input.boolean("delete");
            input.finish()?;
            begin(project, "change_protection", id, None, move |volume| {
                volume.delete_protected = delete.unwrap_or(volume.delete_protected);
            })
        }
        _ => return Err(ApiError::no_such_route()),
    };
    Ok(Reply::created(
        json!({"action": project.render_action(action)}),
    ))
}

fn begin(
    project: &mut Project,
    command: &'static str,
    id: u64,
    server: Option<u64>,
    change: impl FnOnce(&mut Volume) + Send + 'static,
) -> u64 {
    let other = server.map(ResourceRef::server);
    project.begin(
        command,
        ResourceRef::volume(id),
        other.as_slice(),
        move |project| {
            if let Some(volume) = project.volumes.get_mut(&id) {
                change(volume);
            }
        },
    )
}
