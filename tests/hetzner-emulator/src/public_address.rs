//! Public addresses as primary and floating IPs and load balancers have them.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::input::Input;
use crate::project::Project;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicAddress {
    V4(Ipv4Addr),
    /// The first address of a /64.
    V6(Ipv6Addr),
}

impl Family {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    /// The `type` of a body.
    pub fn read(input: &mut Input) -> Option<Self> {
        match input.required_text("type").as_str() {
            "ipv4" => return Some(Self::V4),
            "ipv6" => return Some(Self::V6),
            // Named as missing already, or no text.
            "" => {}
            _ => input.reject("type", "must be 'ipv4' or 'ipv6'"),
        }
        None
    }
}

impl PublicAddress {
    /// A free address for the resource `id`.
    pub fn take(project: &mut Project, family: Family, id: u64) -> Result<Self, ApiError> {
        if family == Family::V6 {
            return Ok(Self::V6(ipv6_network(id)));
        }
        let exhausted = || ApiError::limit_exceeded("primary_ip_limit", "no public IPv4 is left");
        let address = project.addresses.take().ok_or_else(exhausted)?;
        Ok(Self::V4(address))
    }

    pub fn release(self, project: &mut Project) {
        if let Self::V4(address) = self {
            project.addresses.release(address);
        }
    }

    pub const fn family(self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    /// As the `ip` of a resource.
    pub fn shown(self) -> String {
        match self {
            Self::V4(address) => address.to_string(),
            Self::V6(network) => format!("{network}/64"),
        }
    }

    /// As the `dns_ptr` of a resource: IPv6 has none unless it is set.
    pub fn dns_ptr(self) -> Value {
        match self {
            Self::V4(address) => json!([{"ip": address, "dns_ptr": host_name(address)}]),
            Self::V6(_) => json!([]),
        }
    }
}

/// The name that a new address gets in the reverse DNS.
pub fn host_name(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("static.{d}.{c}.{b}.{a}.clients.your-server.de")
}

/// The network that belongs to the resource of this number.
fn ipv6_network(id: u64) -> Ipv6Addr {
    let prefix = 0x2001_0db8_u128 << 96;
    Ipv6Addr::from(prefix | (u128::from(id & 0xffff_ffff) << 64))
}
