//! Hetzner's JSON, as far as we read it. What is absent, null or unknown is passed over; only an id must be there.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// A resource as all of Hetzner's lists hold it.
pub trait Resource: serde::de::DeserializeOwned {
    /// The path below the endpoint, which is the key of the list as well.
    const PATH: &'static str;
    /// The key of one of them.
    const KIND: &'static str;

    fn id(&self) -> u64;
    fn name(&self) -> &str;
    fn labels(&self) -> &Labels;
}

pub type Labels = BTreeMap<String, String>;

#[derive(Debug, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the names are Hetzner's")]
pub struct Server {
    pub id: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub status: String,
    #[serde(default, deserialize_with = "or_default")]
    pub created: String,
    #[serde(default, deserialize_with = "or_default")]
    pub server_type: Named,
    #[serde(default, deserialize_with = "or_default")]
    pub location: Named,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
    #[serde(default, deserialize_with = "or_default")]
    pub public_net: PublicNet,
    #[serde(default, deserialize_with = "or_default")]
    pub private_net: Vec<Address>,
}

#[derive(Debug, Default, Deserialize)]
pub struct PublicNet {
    /// Load balancers alone have it.
    #[serde(default, deserialize_with = "or_default")]
    pub enabled: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub ipv4: Address,
}

#[derive(Debug, Default, Deserialize)]
pub struct Address {
    #[serde(default, deserialize_with = "or_default")]
    pub ip: String,
}

#[derive(Debug, Default, Deserialize)]
pub struct Named {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
}

#[derive(Debug, Deserialize)]
pub struct Network {
    pub id: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub ip_range: String,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
}

#[derive(Debug, Deserialize)]
pub struct Firewall {
    pub id: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub rules: Vec<Rule>,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
}

#[derive(Debug, Default, Deserialize)]
pub struct Rule {
    #[serde(default, deserialize_with = "or_default")]
    pub direction: String,
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
    #[serde(default, deserialize_with = "or_default")]
    pub port: String,
    #[serde(default, deserialize_with = "or_default")]
    pub source_ips: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub destination_ips: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct SshKey {
    pub id: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub public_key: String,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
}

#[derive(Debug, Deserialize)]
pub struct PlacementGroup {
    pub id: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub servers: Vec<u64>,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
}

#[derive(Debug, Deserialize)]
pub struct LoadBalancer {
    pub id: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
    #[serde(
        default,
        rename = "load_balancer_type",
        deserialize_with = "or_default"
    )]
    pub kind: Named,
    #[serde(default, deserialize_with = "or_default")]
    pub location: Named,
    #[serde(default, deserialize_with = "or_default")]
    pub public_net: PublicNet,
    #[serde(default, deserialize_with = "or_default")]
    pub private_net: Vec<Address>,
    #[serde(default, deserialize_with = "or_default")]
    pub services: Vec<Service>,
    #[serde(default, deserialize_with = "or_default")]
    pub targets: Vec<Target>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Service {
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
    #[serde(default, deserialize_with = "or_default")]
    pub listen_port: u16,
    #[serde(default, deserialize_with = "or_default")]
    pub destination_port: u16,
}

#[derive(Debug, Default, Deserialize)]
pub struct Target {
    #[serde(default, deserialize_with = "or_default")]
    pub label_selector: Selector,
    #[serde(default, deserialize_with = "or_default")]
    pub use_private_ip: bool,
}

#[derive(Debug, Default, Deserialize)]
pub struct Selector {
    #[serde(default, deserialize_with = "or_default")]
    pub selector: String,
}

#[derive(Debug, Deserialize)]
pub struct FloatingIp {
    pub id: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
    #[serde(default, deserialize_with = "or_default", rename = "type")]
    pub family: String,
    /// An IPv4 address, or an IPv6 network as `2001:db8::/64`.
    #[serde(default, deserialize_with = "or_default")]
    pub ip: String,
    #[serde(default, deserialize_with = "or_default")]
    pub home_location: Named,
    #[serde(default)]
    pub server: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Image {
    pub id: u64,
    /// A snapshot has none.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default", rename = "type")]
    pub kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub status: String,
    #[serde(default, deserialize_with = "or_default")]
    pub created: String,
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
}

/// The part of a list that says how much of it there is.
#[derive(Debug, Deserialize)]
pub struct Meta {
    pub pagination: Pagination,
}

#[derive(Debug, Deserialize)]
pub struct Pagination {
    #[serde(default)]
    pub next_page: Option<u64>,
    #[serde(default)]
    pub total_entries: Option<u64>,
}

/// The body of a refusal.
#[derive(Debug, Deserialize)]
pub struct Refusal {
    pub error: RefusalError,
}

#[derive(Debug, Default, Deserialize)]
pub struct RefusalError {
    #[serde(default, deserialize_with = "or_default")]
    pub code: String,
    #[serde(default, deserialize_with = "or_default")]
    pub message: String,
    #[serde(default, deserialize_with = "or_default")]
    pub details: serde_json::Value,
}

/// For a type with `id`, `name` and `labels`: its path, and the key of one of them.
macro_rules! resource {
    ($type:ident, $path:literal, $kind:literal) => {
        impl $crate::hetzner::wire::Resource for $type {
            const PATH: &'static str = $path;
            const KIND: &'static str = $kind;

            fn id(&self) -> u64 {
                self.id
            }

            fn name(&self) -> &str {
                &self.name
            }

            fn labels(&self) -> &$crate::hetzner::wire::Labels {
                &self.labels
            }
        }
    };
}
pub(super) use resource;

resource!(Server, "servers", "server");
resource!(Network, "networks", "network");
resource!(Firewall, "firewalls", "firewall");
resource!(SshKey, "ssh_keys", "ssh_key");
resource!(PlacementGroup, "placement_groups", "placement_group");
resource!(LoadBalancer, "load_balancers", "load_balancer");
resource!(FloatingIp, "floating_ips", "floating_ip");
resource!(Image, "images", "image");

pub fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
