//! `/placement_groups`.

use serde_json::{Value, json};

use crate::action::time;
use crate::call::{Answer, Call, Method, Reply};
use crate::error::ApiError;
use crate::project::Project;
use crate::resources::{
    Meta, Resource, find, id_of, list, new_name_and_labels, require_unique_name, unrouted, update,
};

/// A spread group puts each server on a host of its own and therefore takes no more than this.
pub const MAX_SERVERS: usize = 10;
const MAX_GROUPS: usize = 50;

pub struct PlacementGroup {
    pub meta: Meta,
}

impl Resource for PlacementGroup {
    const KIND: &'static str = "placement_group";

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
            "type": "spread",
            "created": time(self.meta.created),
            "servers": members(project, self.meta.id),
        })
    }
}

pub fn route(project: &mut Project, call: &Call, rest: &[&str]) -> Answer {
    match (call.method, rest) {
        (Method::Get, []) => {
            let wanted = |_: &_| call.parameter("type").is_none_or(|kind| kind == "spread");
            list(
                project,
                call,
                "placement_groups",
                &project.placement_groups,
                wanted,
            )
        }
        (Method::Post, []) => create(project, call),
        (Method::Get, [id]) => read(project, id_of(id)?).map(Reply::ok),
        (Method::Put, [id]) => {
            let id = id_of(id)?;
            update(&mut project.placement_groups, call, id)?;
            read(project, id).map(Reply::ok)
        }
        (Method::Delete, [id]) => delete(project, id_of(id)?),
        _ => Err(unrouted(rest)),
    }
}

/// Refuses when the group has no place left for one more server.
pub fn require_place(project: &Project, id: u64) -> Result<(), ApiError> {
    find(&project.placement_groups, id)?;
    if members(project, id).len() >= MAX_SERVERS {
        return Err(ApiError::operation(
            "placement_error",
            format!("placement group has no place for more than {MAX_SERVERS} servers"),
        ));
    }
    Ok(())
}

fn members(project: &Project, id: u64) -> Vec<u64> {
    let servers = project
        .servers
        .values()
        .filter(|server| server.placement_group == Some(id));
    servers.map(|server| server.meta.id).collect()
}

fn read(project: &Project, id: u64) -> Result<Value, ApiError> {
    Ok(json!({"placement_group": find(&project.placement_groups, id)?.render(project)}))
}

fn create(project: &mut Project, call: &Call) -> Answer {
    let mut input = call.input();
    let (name, labels) = new_name_and_labels::<PlacementGroup>(&mut input);
    let kind = input.required_text("type");
    if !kind.is_empty() && kind != "spread" {
        input.reject("type", "must be 'spread'");
    }
    input.finish()?;
    require_unique_name(&project.placement_groups, &name, None)?;
    if project.placement_groups.len() >= MAX_GROUPS {
        let message = format!("a project has no more than {MAX_GROUPS} placement groups");
        return Err(ApiError::limit_exceeded("placement_group_limit", message));
    }
    let meta = Meta {
        id: project.next_id(),
        name,
        created: project.now,
        labels,
    };
    let id = meta.id;
    project.placement_groups.insert(id, PlacementGroup { meta });
    let group = find(&project.placement_groups, id)?.render(project);
    Ok(Reply::created(
        json!({"placement_group": group, "action": null}),
    ))
}

fn delete(project: &mut Project, id: u64) -> Answer {
    find(&project.placement_groups, id)?;
    if !members(project, id).is_empty() {
        let message = format!("placement group with ID {id} is still in use");
        return Err(ApiError::operation("resource_in_use", message));
    }
    project.placement_groups.remove(&id);
    Ok(Reply::no_content())
}
