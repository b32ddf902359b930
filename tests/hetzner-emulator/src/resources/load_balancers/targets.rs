//! Where a load balancer sends what it takes, and whether it is well there.

use serde_json::{Value, json};

use super::LoadBalancer;
use crate::error::ApiError;
use crate::input::Input;
use crate::labels::Selector;
use crate::project::Project;
use crate::resources::find;
use crate::resources::servers::{Server, Status};

#[derive(Debug, Clone)]
pub struct Target {
    place: Place,
    pub use_private_ip: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Server(u64),
    Label { text: String, selector: Selector },
    Ip(String),
}

/// A load balancer as its targets see it.
pub struct Sight {
    pub network: Option<u64>,
    pub public_enabled: bool,
    pub most: usize,
}

impl Target {
    /// Reads one entry of `targets`, or the body of `add_target` and `remove_target`.
    pub fn read(value: &Value) -> Result<Self, &'static str> {
        let place = match value["type"].as_str() {
            Some("server") => {
                let id = value["server"]["id"].as_u64();
                Place::Server(id.ok_or("a server needs an id")?)
            }
            Some("label_selector") => {
                let text = value["label_selector"]["selector"].as_str();
                let text = text.ok_or("a label_selector needs a selector")?;
                let selector = Selector::parse(text).map_err(|_| "is not a label selector")?;
                Place::Label {
                    text: text.to_owned(),
                    selector,
                }
            }
            Some("ip") => {
                let ip = value["ip"]["ip"].as_str();
                Place::Ip(ip.ok_or("an ip needs an ip")?.to_owned())
            }
            _ => return Err("type must be 'server', 'label_selector' or 'ip'"),
        };
        Ok(Self {
            place,
            use_private_ip: value["use_private_ip"].as_bool().unwrap_or(false),
        })
    }

    /// The entries of `targets` of a body.
    pub fn of_body(input: &mut Input) -> Vec<Self> {
        let mut targets = Vec::new();
        for value in input.list("targets") {
            match Self::read(value) {
                Ok(target) => targets.push(target),
                Err(message) => input.reject("targets", message),
            }
        }
        targets
    }

    /// Whether both are the same place; how it is reached does not matter.
    pub fn is(&self, other: &Self) -> bool {
        self.place == other.place
    }

    pub fn is_server(&self, id: u64) -> bool {
        self.place == Place::Server(id)
    }

    pub fn covers(&self, server: &Server) -> bool {
        match &self.place {
            Place::Server(id) => *id == server.meta.id,
            Place::Label { selector, .. } => selector.matches(&server.meta.labels),
            Place::Ip(_) => false,
        }
    }

    pub fn render(&self, project: &Project, lb: &LoadBalancer) -> Value {
        let of_server = |server: &Server| {
            json!({
                "type": "server",
                "server": {"id": server.meta.id},
                "use_private_ip": self.use_private_ip,
                "health_status": self.health(server, lb),
            })
        };
        match &self.place {
            Place::Server(id) => project.servers.get(id).map_or(Value::Null, of_server),
            Place::Label { text, .. } => {
                let covered = project.servers.values().filter(|s| self.covers(s));
                json!({
                    "type": "label_selector",
                    "label_selector": {"selector": text},
                    "use_private_ip": self.use_private_ip,
                    "targets": covered.map(of_server).collect::<Vec<_>>(),
                })
            }
            Place::Ip(ip) => json!({"type": "ip", "ip": {"ip": ip}}),
        }
    }

    /// A server that runs and can be reached is taken for healthy.
    fn health(&self, server: &Server, lb: &LoadBalancer) -> Value {
        let reached = if self.use_private_ip {
            lb.network().is_some_and(|net| server.is_in_network(net))
        } else {
            server.ipv4.is_some()
        };
        let status = if reached && server.status == Status::Running {
            "healthy"
        } else {
            "unhealthy"
        };
        let services = lb.services.iter();
        services
            .map(|service| json!({"listen_port": service.listen_port, "status": status}))
            .collect()
    }
}

/// Refuses targets that can't be reached, or are there twice.
pub fn require_reachable(
    project: &Project,
    sight: &Sight,
    known: &[Target],
    wanted: &[Target],
) -> Result<(), ApiError> {
    for (nth, target) in wanted.iter().enumerate() {
        let mut others = known.iter().chain(wanted.iter().take(nth));
        if others.any(|other| other.is(target)) {
            let message = "load balancer target is already defined";
            return Err(ApiError::operation("target_already_defined", message));
        }
        require_way(project, sight, target)?;
    }
    if known.len() + wanted.len() > sight.most {
        let message = format!("this type takes no more than {} targets", sight.most);
        return Err(ApiError::limit_exceeded("load_balancer_targets", message));
    }
    Ok(())
}

fn require_way(project: &Project, sight: &Sight, target: &Target) -> Result<(), ApiError> {
    let refuse = |code, message: &str| Err(ApiError::operation(code, message));
    if let Place::Ip(ip) = &target.place {
        let ours = |server: &Server| {
            let address = server.ipv4.as_ref().map(|ip| ip.address.to_string());
            address.as_ref() == Some(ip)
        };
        // Only dedicated servers can be targets by their address, and there are none here.
        return if project.servers.values().any(ours) {
            refuse(
                "cloud_resource_ip_not_allowed",
                "IP belongs to a cloud resource",
            )
        } else {
            refuse("ip_not_owned", "IP is not owned by the project owner")
        };
    }
    if target.use_private_ip && sight.network.is_none() {
        let message = "load balancer is not attached to a network";
        return refuse("load_balancer_not_attached_to_network", message);
    }
    if !target.use_private_ip && !sight.public_enabled {
        let message = "the public interface of the load balancer is disabled";
        return refuse("load_balancer_public_interface_disabled", message);
    }
    let Place::Server(id) = target.place else {
        return Ok(());
    };
    let server = find(&project.servers, id)?;
    let in_network = sight.network.is_some_and(|net| server.is_in_network(net));
    if target.use_private_ip && !in_network {
        let message = "server is not attached to the network of the load balancer";
        return refuse("server_not_attached_to_network", message);
    }
    if !target.use_private_ip && server.ipv4.is_none() {
        return refuse("missing_ipv4", "server has no public IPv4 address");
    }
    Ok(())
}
