//! The actions of a server.

use serde_json::json;

use crate::action::ResourceRef;
use crate::call::{Answer, Call, Reply};
use crate::error::ApiError;
use crate::project::Project;
use crate::resources::networks::addresses::{self, Wish};
use crate::resources::servers::create::{attach, mac_address};
use crate::resources::servers::power::{Button, press};
use crate::resources::servers::{PrivateNet, Server, Status, rescue, snapshot};
use crate::resources::{find, find_mut, networks, placement_groups};

pub fn perform(project: &mut Project, call: &Call, id: u64, action: &str) -> Answer {
    find(&project.servers, id)?;
    project.require_unlocked(ResourceRef::server(id))?;
    if let Some(button) = Button::of(action) {
        return press(project, id, button);
    }
    match action {
        "enable_rescue" => rescue::enable(project, call, id),
        "disable_rescue" => Ok(rescue::disable(project, id)),
        "create_image" => snapshot::create_image(project, call, id),
        "attach_to_network" => attach_to_network(project, call, id),
        "detach_from_network" => detach_from_network(project, call, id),
        "change_protection" => change_protection(project, call, id),
        "add_to_placement_group" => add_to_placement_group(project, call, id),
        "remove_from_placement_group" => remove_from_placement_group(project, id),
        _ => Err(ApiError::no_such_route()),
    }
}

fn attach_to_network(project: &mut Project, call: &Call, id: u64) -> Answer {
    let mut input = call.input();
    let network = input.required_id("network");
    let mut alias_ips = Vec::new();
    for value in input.list("alias_ips") {
        match value.as_str().and_then(|text| text.parse().ok()) {
            Some(ip) => alias_ips.push(ip),
            None => input.reject("alias_ips", format!("{value} is not an IPv4 address")),
        }
    }
    let (ip, ip_range) = (input.ipv4("ip"), input.ipv4_range("ip_range"));
    input.finish()?;
    find(&project.networks, network)?;
    networks::require_unlocked(project, network)?;

    let wish = Wish {
        network,
        ip,
        alias_ips,
        ip_range,
    };
    let server = find(&project.servers, id)?;
    let zone = project
        .catalog
        .location(server.location)
        .map_or("", |l| l.network_zone);
    let ip = addresses::choose(project, &wish, zone, Some(server))?;
    let server = find_mut(&mut project.servers, id)?;
    let mac_address = mac_address(id, server.private_nets.len());
    let alias_ips = wish.alias_ips;
    let net = PrivateNet {
        network,
        ip,
        alias_ips,
        mac_address,
        attached: false,
    };
    server.private_nets.push(net);
    let action = attach(project, id, network);
    Ok(Reply::created(
        json!({"action": project.render_action(action)}),
    ))
}

fn detach_from_network(project: &mut Project, call: &Call, id: u64) -> Answer {
    let mut input = call.input();
    let network = input.required_id("network");
    input.finish()?;
    find(&project.networks, network)?;
    networks::require_unlocked(project, network)?;
    if !find(&project.servers, id)?
        .private_nets
        .iter()
        .any(|net| net.network == network)
    {
        let message = "server is not attached to the network";
        return Err(ApiError::new(404, "not_found", message));
    }
    let others = [ResourceRef::network(network)];
    Ok(begin(
        project,
        "detach_from_network",
        id,
        &others,
        move |server| {
            server.private_nets.retain(|net| net.network != network);
        },
    ))
}

fn change_protection(project: &mut Project, call: &Call, id: u64) -> Answer {
    let mut input = call.input();
    let (delete, rebuild) = (input.boolean("delete"), input.boolean("rebuild"));
    // The official text: both must have the same value.
    let server = find(&project.servers, id)?;
    let delete = delete.unwrap_or(server.delete_protected);
    let rebuild = rebuild.unwrap_or(server.rebuild_protected);
    if delete != rebuild {
        input.reject(
            "rebuild",
            "delete and rebuild protection must have the same value",
        );
    }
    input.finish()?;
    Ok(begin(
        project,
        "change_protection",
        id,
        &[],
        move |server| {
            server.delete_protected = delete;
            server.rebuild_protected = rebuild;
        },
    ))
}

fn add_to_placement_group(project: &mut Project, call: &Call, id: u64) -> Answer {
    let mut input = call.input();
    let group = input.required_id("placement_group");
    input.finish()?;
    let server = find(&project.servers, id)?;
    find(&project.placement_groups, group)?;
    if server.placement_group.is_some() {
        let message = "server is already in a placement group";
        return Err(ApiError::operation("already_in_placement_group", message));
    }
    if server.status != Status::Off {
        return Err(ApiError::operation(
            "server_not_stopped",
            "server must be stopped",
        ));
    }
    placement_groups::require_place(project, group)?;
    // The place is taken at once, so that two servers can't both get the last one.
    find_mut(&mut project.servers, id)?.placement_group = Some(group);
    let others = [ResourceRef {
        kind: "placement_group",
        id: group,
    }];
    Ok(begin(
        project,
        "add_to_placement_group",
        id,
        &others,
        |_| {},
    ))
}

fn remove_from_placement_group(project: &mut Project, id: u64) -> Answer {
    let Some(group) = find(&project.servers, id)?.placement_group else {
        let message = "server is not in a placement group";
        return Err(ApiError::new(404, "not_found", message));
    };
    let others = [ResourceRef {
        kind: "placement_group",
        id: group,
    }];
    Ok(begin(
        project,
        "remove_from_placement_group",
        id,
        &others,
        |server| {
            server.placement_group = None;
        },
    ))
}

fn begin(
    project: &mut Project,
    command: &'static str,
    id: u64,
    others: &[ResourceRef],
    change: impl FnOnce(&mut Server) + Send + 'static,
) -> Reply {
    let action = project.begin(command, ResourceRef::server(id), others, move |project| {
        if let Some(server) = project.servers.get_mut(&id) {
            change(server);
        }
    });
    Reply::created(json!({"action": project.render_action(action)}))
}
