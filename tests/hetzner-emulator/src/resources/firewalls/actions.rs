//! The actions of a firewall. Each answers with a list of actions: one for the firewall and one for
//! each server that it reaches.

use serde_json::json;

use crate::action::ResourceRef;
use crate::call::{Answer, Call, Reply};
use crate::error::ApiError;
use crate::project::Project;
use crate::resources::firewalls::{Firewall, Target, rules, targets_of_body};
use crate::resources::{find, find_mut};

const MAX_PER_SERVER: usize = 5;

pub fn perform(project: &mut Project, call: &Call, id: u64, action: &str) -> Answer {
    find(&project.firewalls, id)?;
    project.require_unlocked(ResourceRef::firewall(id))?;
    let actions = match action {
        "set_rules" => set_rules(project, call, id)?,
        "apply_to_resources" => apply(project, call, id)?,
        "remove_from_resources" => remove(project, call, id)?,
        _ => return Err(ApiError::no_such_route()),
    };
    Ok(Reply::created(
        json!({"actions": project.render_actions(&actions)}),
    ))
}

/// The action of the firewall itself when its rules change.
pub fn settle_rules(project: &mut Project, id: u64) -> u64 {
    project.begin("set_firewall_rules", ResourceRef::firewall(id), &[], |_| {})
}

/// The actions that bring a firewall to the servers of `targets`.
pub fn reach(project: &mut Project, id: u64, targets: &[Target]) -> Vec<u64> {
    let reached = |server: &&_| targets.iter().any(|target| target.covers(server));
    let servers: Vec<_> = project
        .servers
        .values()
        .filter(reached)
        .map(|server| server.meta.id)
        .collect();
    let subject = ResourceRef::firewall(id);
    servers
        .into_iter()
        .map(|s| project.begin("apply_firewall", subject, &[ResourceRef::server(s)], |_| {}))
        .collect()
}

/// Refuses targets that don't exist, twice the same one, and servers that can't take one more.
pub fn require_applicable(
    project: &Project,
    firewall: Option<&Firewall>,
    targets: &[Target],
) -> Result<(), ApiError> {
    for (nth, target) in targets.iter().enumerate() {
        if targets.iter().take(nth).any(|other| other == target) {
            let message = "a resource is named twice";
            return Err(ApiError::operation("server_already_added", message));
        }
        if firewall.is_some_and(|firewall| firewall.applied_to.contains(target)) {
            let message = "firewall was already applied on resource";
            return Err(ApiError::operation("firewall_already_applied", message));
        }
        if let Target::Server(id) = target {
            require_server(project, *id)?;
        }
    }
    Ok(())
}

fn require_server(project: &Project, id: u64) -> Result<(), ApiError> {
    let Some(server) = project.servers.get(&id) else {
        let message = format!("server with ID '{id}' not found");
        return Err(ApiError::operation("firewall_resource_not_found", message));
    };
    if server.ipv4.is_none() && server.ipv6.is_none() {
        let message = "the server has no public interface";
        return Err(ApiError::operation("private_net_only_server", message));
    }
    let others = project
        .firewalls
        .values()
        .filter(|firewall| firewall.covers(server))
        .count();
    if others >= MAX_PER_SERVER {
        let message = format!("a server takes no more than {MAX_PER_SERVER} firewalls");
        return Err(ApiError::limit_exceeded("firewalls_per_server", message));
    }
    Ok(())
}

fn set_rules(project: &mut Project, call: &Call, id: u64) -> Result<Vec<u64>, ApiError> {
    let mut input = call.input();
    input.require("rules");
    let rules = rules::of_body(&mut input);
    input.finish()?;
    let firewall = find_mut(&mut project.firewalls, id)?;
    firewall.rules = rules;
    let targets = firewall.applied_to.clone();
    let mut actions = vec![settle_rules(project, id)];
    actions.extend(reach(project, id, &targets));
    Ok(actions)
}

fn apply(project: &mut Project, call: &Call, id: u64) -> Result<Vec<u64>, ApiError> {
    let mut input = call.input();
    input.require("apply_to");
    let targets = targets_of_body(&mut input, "apply_to");
    input.finish()?;
    require_applicable(project, Some(find(&project.firewalls, id)?), &targets)?;
    find_mut(&mut project.firewalls, id)?
        .applied_to
        .extend(targets.iter().cloned());
    Ok(reach(project, id, &targets))
}

/// A server that is not a target is no error (changelog 2025-08-04), unless a selector reaches it.
fn remove(project: &mut Project, call: &Call, id: u64) -> Result<Vec<u64>, ApiError> {
    let mut input = call.input();
    input.require("remove_from");
    let targets = targets_of_body(&mut input, "remove_from");
    input.finish()?;
    let firewall = find(&project.firewalls, id)?;
    for target in &targets {
        let Target::Server(server) = target else {
            continue;
        };
        let Some(server) = project.servers.get(server) else {
            let message = format!("server with ID '{server}' not found");
            return Err(ApiError::operation("firewall_resource_not_found", message));
        };
        if firewall.covers(server) && !firewall.applied_to.contains(target) {
            let message = "firewall was applied by a label selector";
            return Err(ApiError::operation(
                "firewall_managed_by_label_selector",
                message,
            ));
        }
    }
    let reached: Vec<_> = project
        .servers
        .values()
        .filter(|server| targets.iter().any(|target| target.covers(server)))
        .map(|server| server.meta.id)
        .collect();
    find_mut(&mut project.firewalls, id)?
        .applied_to
        .retain(|target| !targets.contains(target));
    let subject = ResourceRef::firewall(id);
    Ok(reached
        .into_iter()
        .map(|s| {
            project.begin(
                "remove_firewall",
                subject,
                &[ResourceRef::server(s)],
                |_| {},
            )
        })
        .collect())
}
