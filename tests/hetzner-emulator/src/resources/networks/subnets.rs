//! Subnets of a network: how they are read, checked and shown.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::{Map, Value, json};

use crate::input::Input;
use crate::project::Project;

pub const MAX_SUBNETS: usize = 50;
/// What a subnet gets that names no range.
const DEFAULT_PREFIX: u8 = 24;
const MAX_PREFIX: u8 = 30;
const KINDS: [&str; 3] = ["cloud", "server", "vswitch"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    pub kind: String,
    pub ip_range: Ipv4Net,
    pub network_zone: String,
    pub vswitch_id: Option<u64>,
}

impl Subnet {
    pub fn render(&self, gateway: Ipv4Addr) -> Value {
        json!({
            "type": self.kind,
            "ip_range": self.ip_range,
            "network_zone": self.network_zone,
            "gateway": gateway,
            "vswitch_id": self.vswitch_id,
        })
    }
}

/// The `subnets` of a body that creates a network.
pub fn of_body(input: &mut Input, project: &Project, network: Ipv4Net) -> Vec<Subnet> {
    let mut subnets: Vec<Subnet> = Vec::new();
    for item in input.list("subnets") {
        let Some(object) = item.as_object() else {
            input.reject("subnets", "must be a list of objects");
            continue;
        };
        match one(object, project, network, &subnets) {
            Ok(subnet) => subnets.push(subnet),
            Err(errors) => {
                for (field, message) in errors {
                    input.reject(&format!("subnets.{field}"), message);
                }
            }
        }
    }
    if subnets.len() > MAX_SUBNETS {
        input.reject("subnets", format!("must be no more than {MAX_SUBNETS}"));
    }
    subnets
}

/// One subnet of a body, fitted into the network beside `others`.
pub fn one(
    body: &Map<String, Value>,
    project: &Project,
    network: Ipv4Net,
    others: &[Subnet],
) -> Result<Subnet, Vec<(&'static str, String)>> {
    let mut errors = Vec::new();
    let text = |field: &str| body.get(field).and_then(Value::as_str);
    let kind = text("type").unwrap_or_default();
    if !KINDS.contains(&kind) {
        errors.push(("type", format!("must be one of {}", KINDS.join(", "))));
    }
    let zone = text("network_zone").unwrap_or_default();
    if !project
        .catalog
        .locations
        .iter()
        .any(|location| location.network_zone == zone)
    {
        errors.push(("network_zone", format!("network zone '{zone}' not found")));
    }
    let range = match text("ip_range") {
        None => free_range(network, others).ok_or_else(|| "no range is left".to_owned()),
        Some(text) => fitting_range(text, network, others),
    };
    match range {
        Ok(ip_range) if errors.is_empty() => Ok(Subnet {
            kind: kind.to_owned(),
            ip_range,
            network_zone: zone.to_owned(),
            vswitch_id: body.get("vswitch_id").and_then(Value::as_u64),
        }),
        Ok(_) => Err(errors),
        Err(message) => {
            errors.push(("ip_range", message));
            Err(errors)
        }
    }
}

fn fitting_range(text: &str, network: Ipv4Net, others: &[Subnet]) -> Result<Ipv4Net, String> {
    let range: Ipv4Net = text
        .parse()
        .map_err(|_| format!("'{text}' is not an IPv4 range"))?;
    if range.trunc() != range || range.prefix_len() > MAX_PREFIX {
        return Err(format!(
            "'{text}' must have no host bits and be /{MAX_PREFIX} or larger"
        ));
    }
    if !network.contains(&range) {
        return Err(format!("'{text}' is not part of the network {network}"));
    }
    match others.iter().find(|other| overlap(other.ip_range, range)) {
        Some(other) => Err(format!(
            "'{text}' overlaps with the subnet {}",
            other.ip_range
        )),
        None => Ok(range),
    }
}

fn free_range(network: Ipv4Net, others: &[Subnet]) -> Option<Ipv4Net> {
    let prefix = DEFAULT_PREFIX.max(network.prefix_len());
    let mut ranges = network.subnets(prefix).ok()?;
    ranges.find(|range| !others.iter().any(|other| overlap(other.ip_range, *range)))
}

pub fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}
