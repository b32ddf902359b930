//! `/actions`, and the lists of actions below each resource.

use serde_json::json;

use crate::action::Action;
use crate::call::{Answer, Call, Method, Reply};
use crate::error::ApiError;
use crate::listing::page;
use crate::project::Project;
use crate::resources::{id_of, unrouted};

const SORTABLE: &[&str] = &["id", "command", "status", "started", "finished"];

pub fn route(project: &Project, call: &Call, rest: &[&str]) -> Answer {
    match (call.method, rest) {
        (Method::Get, []) => by_ids(project, call),
        (Method::Get, [id]) => one(project, id, |_| true),
        _ => Err(unrouted(rest)),
    }
}

/// `/servers/actions` and `/servers/actions/{id}`: the actions on all resources of a kind.
pub fn of_kind(project: &Project, call: &Call, kind: &str, rest: &[&str]) -> Answer {
    let concerns = |action: &Action| action.resources.iter().any(|r| r.kind == kind);
    match rest {
        [] => list(project, call, concerns),
        [id] => one(project, id, concerns),
        _ => Err(ApiError::no_such_route()),
    }
}

/// `/servers/{id}/actions` and `/servers/{id}/actions/{action_id}`.
pub fn of_resource(project: &Project, call: &Call, kind: &str, id: u64, rest: &[&str]) -> Answer {
    let concerns = |action: &Action| {
        action
            .resources
            .iter()
            .any(|r| r.kind == kind && r.id == id)
    };
    match rest {
        [] => list(project, call, concerns),
        [action] => one(project, action, concerns),
        _ => Err(ApiError::no_such_route()),
    }
}

/// Since 2025-01-30 the numbers must be named; there is no list of all actions any more. A number
/// that is not known is left out.
fn by_ids(project: &Project, call: &Call) -> Answer {
    let ids = call
        .parameters("id")
        .map(id_of)
        .collect::<Result<Vec<_>, _>>()?;
    if ids.is_empty() {
        return Err(ApiError::invalid("id", "missing data for required field"));
    }
    list(project, call, |action| ids.contains(&action.id))
}

fn list(project: &Project, call: &Call, wanted: impl Fn(&Action) -> bool) -> Answer {
    let statuses: Vec<_> = call.parameters("status").collect();
    let items = project
        .actions
        .values()
        .filter(|a| wanted(a) && (statuses.is_empty() || statuses.contains(&a.status.as_str())))
        .map(|action| action.render(project.now))
        .collect();
    page(call, "actions", SORTABLE, items)
}

fn one(project: &Project, id: &str, wanted: impl Fn(&Action) -> bool) -> Answer {
    let id = id_of(id)?;
    match project.actions.get(&id).filter(|action| wanted(action)) {
        Some(action) => Ok(Reply::ok(json!({"action": action.render(project.now)}))),
        None => Err(ApiError::not_found("action", id)),
    }
}
