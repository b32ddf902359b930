//! Everything that the project holds, of each kind as the core wants it.

use std::collections::BTreeSet;

use fabrik_core::destroy::{Key, Kind, Resource};
use fabrik_core::names::{CLUSTER_LABEL, NAME_LABEL, ROLE_LABEL};
use fabrik_core::price::Size;
use futures::try_join;
use serde::Deserialize;

use super::super::client::{Client, Purpose};
use super::super::convert;
use super::super::error::HetznerError;
use super::super::wire::{self, Labels, Named};

/// What Kubernetes' cloud controller labels its load balancers with (hetznercloud/hcloud-cloud-controller-manager,
/// internal/hcops/load_balancer.go).
const CLOUD_CONTROLLER_LABEL: &str = "hcloud-ccm/service-uid";
/// How the CSI provisioner's volumes are called (kubernetes-csi/external-provisioner, `--volume-name-prefix`).
const CSI_PREFIX: &str = "pvc-";

/// A resource, and what its price depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    pub resource: Resource,
    pub size: Size,
}

/// Reads all lists at once. Whole or not at all.
pub async fn survey(client: &Client) -> Result<Vec<Thing>, HetznerError> {
    let (servers, balancers, floating, primary, volumes, images) = try_join!(
        all::<Server>(client, None),
        all::<LoadBalancer>(client, None),
        all::<FloatingIp>(client, None),
        all::<PrimaryIp>(client, None),
        all::<Volume>(client, None),
        all::<Image>(client, Some(("type", "snapshot".to_owned()))),
    )?;
    let (groups, firewalls, certificates, keys, networks) = try_join!(
        all::<PlacementGroup>(client, None),
        all::<Firewall>(client, None),
        all::<Certificate>(client, None),
        all::<SshKey>(client, None),
        all::<Network>(client, None),
    )?;
    let lists = [
        servers,
        balancers,
        floating,
        primary,
        volumes,
        images,
        groups,
        firewalls,
        certificates,
        keys,
        networks,
    ];
    Ok(lists.into_iter().flatten().collect())
}

/// One as it is now; `None` when it is gone.
pub async fn read(client: &Client, key: Key) -> Result<Option<Resource>, HetznerError> {
    let thing = match key.kind {
        Kind::Server => one::<Server>(client, key.id).await,
        Kind::LoadBalancer => one::<LoadBalancer>(client, key.id).await,
        Kind::FloatingIp => one::<FloatingIp>(client, key.id).await,
        Kind::PrimaryIp => one::<PrimaryIp>(client, key.id).await,
        Kind::Volume => one::<Volume>(client, key.id).await,
        Kind::Snapshot => one::<Image>(client, key.id).await,
        Kind::PlacementGroup => one::<PlacementGroup>(client, key.id).await,
        Kind::Firewall => one::<Firewall>(client, key.id).await,
        Kind::Certificate => one::<Certificate>(client, key.id).await,
        Kind::SshKey => one::<SshKey>(client, key.id).await,
        Kind::Network => one::<Network>(client, key.id).await,
    };
    Ok(thing?.map(|thing| thing.resource))
}

/// The path of a kind's resources, below the endpoint.
pub fn path(kind: Kind) -> &'static str {
    use wire::Resource as _;
    match kind {
        Kind::Server => Server::PATH,
        Kind::LoadBalancer => LoadBalancer::PATH,
        Kind::FloatingIp => FloatingIp::PATH,
        Kind::PrimaryIp => PrimaryIp::PATH,
        Kind::Volume => Volume::PATH,
        Kind::Snapshot => Image::PATH,
        Kind::PlacementGroup => PlacementGroup::PATH,
        Kind::Firewall => Firewall::PATH,
        Kind::Certificate => Certificate::PATH,
        Kind::SshKey => SshKey::PATH,
        Kind::Network => Network::PATH,
    }
}

async fn all<T: OfKind>(
    client: &Client,
    filter: Option<(&'static str, String)>,
) -> Result<Vec<Thing>, HetznerError> {
    let all = client.list::<T>(filter, Purpose::Observe).await?;
    Ok(all.into_iter().map(T::thing).collect())
}

async fn one<T: OfKind>(client: &Client, id: u64) -> Result<Option<Thing>, HetznerError> {
    Ok(client.get::<T>(id, Purpose::Act).await?.map(T::thing))
}

/// The fields of all kinds that matter here; what a kind does not have is empty.
#[derive(Debug, Deserialize)]
struct Fields {
    id: u64,
    #[serde(default, deserialize_with = "wire::or_default")]
    name: String,
    #[serde(default, deserialize_with = "wire::or_default")]
    description: String,
    #[serde(default, deserialize_with = "wire::or_default")]
    labels: Labels,
    /// Of a server a word; of a certificate something else.
    #[serde(default)]
    status: serde_json::Value,
    #[serde(default, deserialize_with = "wire::or_default")]
    protection: Protection,
    /// Of a floating IP and a volume.
    #[serde(default)]
    server: Option<u64>,
    /// Of a primary IP.
    #[serde(default)]
    assignee_id: Option<u64>,
    #[serde(default, deserialize_with = "wire::or_default")]
    assignee_type: String,
    #[serde(default, deserialize_with = "wire::or_default")]
    auto_delete: bool,
    /// Of a network and a placement group.
    #[serde(default, deserialize_with = "wire::or_default")]
    servers: Vec<u64>,
    #[serde(default, deserialize_with = "wire::or_default")]
    load_balancers: Vec<u64>,
    /// Of a load balancer.
    #[serde(default, deserialize_with = "wire::or_default")]
    targets: Vec<Target>,
    #[serde(default, deserialize_with = "wire::or_default")]
    private_net: Vec<PrivateNet>,
    /// Of a firewall.
    #[serde(default, deserialize_with = "wire::or_default")]
    applied_to: Vec<Target>,
    /// Of a certificate.
    #[serde(default, deserialize_with = "wire::or_default")]
    used_by: Vec<User>,
    /// What prices depend on.
    #[serde(default, deserialize_with = "wire::or_default", rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "wire::or_default")]
    server_type: Named,
    #[serde(default, deserialize_with = "wire::or_default")]
    load_balancer_type: Named,
    #[serde(default, deserialize_with = "wire::or_default")]
    location: Named,
    #[serde(default, deserialize_with = "wire::or_default")]
    home_location: Named,
    /// Numbers of GB, with or without a fraction.
    #[serde(default)]
    size: serde_json::Value,
    #[serde(default)]
    image_size: serde_json::Value,
}

#[derive(Debug, Default, Deserialize)]
struct Protection {
    #[serde(default, deserialize_with = "wire::or_default")]
    delete: bool,
}

#[derive(Debug, Default, Deserialize)]
struct PrivateNet {
    #[serde(default)]
    network: Option<u64>,
}

/// What a firewall or a load balancer is for: a server, or those that a selector finds.
#[derive(Debug, Default, Deserialize)]
struct Target {
    #[serde(default)]
    server: Option<Id>,
    #[serde(default)]
    label_selector: Option<Selector>,
    /// What a firewall's selector finds.
    #[serde(default, deserialize_with = "wire::or_default")]
    applied_to_resources: Vec<Target>,
    /// What a load balancer's selector finds.
    #[serde(default, deserialize_with = "wire::or_default")]
    targets: Vec<Target>,
}

#[derive(Debug, Default, Deserialize)]
struct Selector {
    #[serde(default, deserialize_with = "wire::or_default")]
    selector: String,
}

#[derive(Debug, Deserialize)]
struct Id {
    id: u64,
}

#[derive(Debug, Deserialize)]
struct User {
    id: u64,
    #[serde(default, deserialize_with = "wire::or_default", rename = "type")]
    kind: String,
}

trait OfKind: wire::Resource {
    fn thing(self) -> Thing;
}

macro_rules! kinds {
    ($($type:ident $of:ident $path:literal $kind:literal)*) => {$(
        #[derive(Debug, Deserialize)]
        #[serde(transparent)]
        struct $type(Fields);

        impl wire::Resource for $type {
            const PATH: &'static str = $path;
            const KIND: &'static str = $kind;

            fn id(&self) -> u64 {
                self.0.id
            }

            fn name(&self) -> &str {
                &self.0.name
            }

            fn labels(&self) -> &Labels {
                &self.0.labels
            }
        }

        impl OfKind for $type {
            fn thing(self) -> Thing {
                self.0.thing(Kind::$of)
            }
        }
    )*};
}

kinds! {
    Server Server "servers" "server"
    LoadBalancer LoadBalancer "load_balancers" "load_balancer"
    FloatingIp FloatingIp "floating_ips" "floating_ip"
    PrimaryIp PrimaryIp "primary_ips" "primary_ip"
    Volume Volume "volumes" "volume"
    Image Snapshot "images" "image"
    PlacementGroup PlacementGroup "placement_groups" "placement_group"
    Firewall Firewall "firewalls" "firewall"
    Certificate Certificate "certificates" "certificate"
    SshKey SshKey "ssh_keys" "ssh_key"
    Network Network "networks" "network"
}

impl Fields {
    fn thing(self, kind: Kind) -> Thing {
        let key = of(kind, self.id);
        let selectors = self.applied_to.iter().filter_map(Target::selector);
        let resource = Resource {
            key,
            cluster: self.labels.get(CLUSTER_LABEL).cloned(),
            cluster_name: self.labels.get(NAME_LABEL).cloned(),
            protected: self.protection.delete,
            power: (kind == Kind::Server)
                .then(|| convert::power(self.status.as_str().unwrap_or_default())),
            is_control_plane: kind == Kind::Server
                && self.labels.get(ROLE_LABEL).map(String::as_str) == Some("server"),
            used_by: self.used_by(kind),
            attached_to: self.attached_to(kind),
            selectors: selectors.collect(),
            goes_with_user: kind == Kind::PrimaryIp && self.auto_delete,
            is_made_by_kubernetes: match kind {
                Kind::LoadBalancer => self.labels.contains_key(CLOUD_CONTROLLER_LABEL),
                Kind::Volume => self.name.starts_with(CSI_PREFIX),
                _ => false,
            },
            name: convert::printable(if self.name.is_empty() {
                &self.description
            } else {
                &self.name
            }),
        };
        let named = |a: Named, b: Named| if a.name.is_empty() { b.name } else { a.name };
        let gb = if kind == Kind::Snapshot {
            self.image_size
        } else {
            self.size
        };
        let size = Size {
            kind: match kind {
                Kind::Server | Kind::LoadBalancer => {
                    named(self.server_type, self.load_balancer_type)
                }
                _ => self.kind,
            },
            location: named(self.location, self.home_location),
            gb: gb.to_string().parse().unwrap_or_default(),
        };
        Thing { resource, size }
    }

    fn used_by(&self, kind: Kind) -> BTreeSet<Key> {
        match kind {
            Kind::FloatingIp | Kind::PrimaryIp | Kind::Volume => self.attached_to(kind),
            Kind::PlacementGroup | Kind::Network => {
                let servers = self.servers.iter().map(|id| of(Kind::Server, *id));
                let balancers = self.load_balancers.iter();
                servers
                    .chain(balancers.map(|id| of(Kind::LoadBalancer, *id)))
                    .collect()
            }
            Kind::Firewall => self.applied_to.iter().flat_map(Target::servers).collect(),
            Kind::Certificate => {
                let balancers = self.used_by.iter().filter(|u| u.kind == "load_balancer");
                balancers.map(|u| of(Kind::LoadBalancer, u.id)).collect()
            }
            Kind::Server | Kind::LoadBalancer | Kind::Snapshot | Kind::SshKey => BTreeSet::new(),
        }
    }

    fn attached_to(&self, kind: Kind) -> BTreeSet<Key> {
        match kind {
            Kind::FloatingIp | Kind::Volume => {
                let server = self.server.iter();
                server.map(|id| of(Kind::Server, *id)).collect()
            }
            Kind::PrimaryIp => {
                let to = match self.assignee_type.as_str() {
                    "load_balancer" => Kind::LoadBalancer,
                    _ => Kind::Server,
                };
                self.assignee_id.iter().map(|id| of(to, *id)).collect()
            }
            Kind::LoadBalancer => {
                let networks = self.private_net.iter().filter_map(|net| net.network);
                let servers = self.targets.iter().flat_map(Target::servers);
                networks
                    .map(|id| of(Kind::Network, id))
                    .chain(servers)
                    .collect()
            }
            _ => BTreeSet::new(),
        }
    }
}

impl Target {
    /// All servers that it stands for.
    fn servers(&self) -> Vec<Key> {
        let nested = self.applied_to_resources.iter().chain(&self.targets);
        let own = self.server.iter().map(|server| of(Kind::Server, server.id));
        own.chain(nested.flat_map(Self::servers)).collect()
    }

    fn selector(&self) -> Option<String> {
        let selector = self.label_selector.as_ref()?;
        Some(convert::printable(&selector.selector))
    }
}

fn of(kind: Kind, id: u64) -> Key {
    Key { kind, id }
}
