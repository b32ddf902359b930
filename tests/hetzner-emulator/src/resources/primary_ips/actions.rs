//! The actions of a primary IP.

use serde_json::json;

use crate::action::ResourceRef;
use crate::call::{Answer, Call, Reply};
use crate::error::ApiError;
use crate::input::Input;
use crate::project::Project;
use crate::public_address::{Family, PublicAddress};
use crate::resources::find;
use crate::resources::servers::{PublicIpv4, PublicIpv6, Status};

pub fn perform(project: &mut Project, call: &Call, id: u64, action: &str) -> Answer {
    find(&project.primary_ips, id)?;
    project.require_idle(ResourceRef::primary_ip(id))?;
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

/// The server that `assignee_id` and `assignee_type` name.
pub fn assignee_of_body(project: &Project, input: &mut Input) -> Option<u64> {
    let id = input.id("assignee_id");
    let kind = input.text("assignee_type");
    if id.is_some() && kind.as_deref() != Some("server") {
        input.reject("assignee_type", "must be 'server'");
    }
    if id.is_some_and(|id| !project.servers.contains_key(&id)) {
        input.reject("assignee_id", "server not found");
        return None;
    }
    id
}

/// Refuses a server that is on, or has an address of the family.
pub fn require_room(project: &Project, server: u64, family: Family) -> Result<(), ApiError> {
    require_off(project, server)?;
    let server = find(&project.servers, server)?;
    match family {
        Family::V4 if server.ipv4.is_some() => Err(ApiError::operation(
            "server_has_ipv4",
            "server already has an IPv4 address",
        )),
        Family::V6 if server.ipv6.is_some() => Err(ApiError::operation(
            "server_has_ipv6",
            "server already has an IPv6 address",
        )),
        _ => Ok(()),
    }
}

fn require_off(project: &Project, server: u64) -> Result<(), ApiError> {
    project.require_unlocked(ResourceRef::server(server))?;
    if find(&project.servers, server)?.status != Status::Off {
        let message = "server must be stopped";
        return Err(ApiError::operation("server_not_stopped", message));
    }
    Ok(())
}

/// The action at whose end the server has the address.
pub fn give(project: &mut Project, id: u64, server: u64) -> u64 {
    let (subject, other) = (ResourceRef::server(server), ResourceRef::primary_ip(id));
    project.begin("assign_primary_ip", subject, &[other], move |project| {
        let ip = project.primary_ips.get_mut(&id);
        if let (Some(ip), Some(server)) = (ip, project.servers.get_mut(&server)) {
            ip.assignee = Some(server.meta.id);
            match ip.address {
                PublicAddress::V4(address) => server.ipv4 = Some(PublicIpv4 { id, address }),
                PublicAddress::V6(network) => server.ipv6 = Some(PublicIpv6 { id, network }),
            }
        }
    })
}

fn assign(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let mut input = call.input();
    input.require("assignee_id");
    let server = assignee_of_body(project, &mut input);
    input.finish()?;
    let server = server.unwrap_or_default();
    let ip = find(&project.primary_ips, id)?;
    if ip.assignee.is_some() {
        let message = "primary IP is already assigned to a server";
        return Err(ApiError::operation("primary_ip_already_assigned", message));
    }
    if find(&project.servers, server)?.location != ip.location {
        let message = "primary IP is in a different location";
        return Err(ApiError::invalid("assignee_id", message));
    }
    require_room(project, server, ip.address.family())?;
    Ok(give(project, id, server))
}

fn unassign(project: &mut Project, id: u64) -> Result<u64, ApiError> {
    let Some(server) = find(&project.primary_ips, id)?.assignee else {
        let message = "primary IP is not assigned";
        return Err(ApiError::new(404, "not_found", message));
    };
    require_off(project, server)?;
    let (subject, other) = (ResourceRef::server(server), ResourceRef::primary_ip(id));
    Ok(
        project.begin("unassign_primary_ip", subject, &[other], move |project| {
            if let Some(ip) = project.primary_ips.get_mut(&id) {
                ip.assignee = None;
            }
            if let Some(server) = project.servers.get_mut(&server) {
                server.ipv4.take_if(|ip| ip.id == id);
                server.ipv6.take_if(|ip| ip.id == id);
            }
        }),
    )
}

fn change_protection(project: &mut Project, call: &Call, id: u64) -> Result<u64, ApiError> {
    let mut input = call.input();
    input.require("delete");
    let delete = input.boolean("delete").unwrap_or(false);
    if delete && find(&project.primary_ips, id)?.auto_delete {
        input.reject("delete", "auto_delete must be off");
    }
    input.finish()?;
    let subject = ResourceRef::primary_ip(id);
    Ok(
        project.begin("change_protection", subject, &[], move |project| {
            if let Some(ip) = project.primary_ips.get_mut(&id) {
                ip.delete_protected = delete;
            }
        }),
    )
}
