//! The body of `POST /servers`: read, checked, and every reference in it resolved.

use crate::input::{IdOrName, Input};
use crate::labels::Labels;
use crate::project::Project;
use crate::resources::servers::Server;
use crate::resources::{catalog, images, new_name_and_labels, ssh_keys};

const MAX_USER_DATA_BYTES: usize = 32 * 1024;
const MAX_FIREWALLS: usize = 5;
const MAX_NETWORKS: usize = 3;

/// What the body asks for, with every reference resolved.
pub struct Order {
    pub name: String,
    pub labels: Labels,
    pub server_type: &'static str,
    pub image: u64,
    pub location: &'static str,
    pub placement_group: Option<u64>,
    pub networks: Vec<u64>,
    pub firewalls: Vec<u64>,
    pub has_ssh_keys: bool,
    pub user_data: Option<String>,
    pub start: bool,
    pub public: PublicNet,
}

/// Which public interfaces the server gets.
#[derive(Clone, Copy)]
pub struct PublicNet {
    pub ipv4: Interface,
    pub ipv6: Interface,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    None,
    /// With an address that comes and goes with the server.
    New,
    /// With this primary IP.
    Own(u64),
}

impl PublicNet {
    fn is_none(self) -> bool {
        [self.ipv4, self.ipv6] == [Interface::None; 2]
    }
}

/// Reads the body; what is wrong with it goes to `input`.
pub fn read(project: &Project, input: &mut Input) -> Option<Order> {
    let (name, labels) = new_name_and_labels::<Server>(input);
    let server_type = server_type(project, input);
    let image = image(project, input, server_type);
    let location = location(project, input, server_type);
    let user_data = input.text("user_data");
    if user_data
        .as_ref()
        .is_some_and(|data| data.len() > MAX_USER_DATA_BYTES)
    {
        input.reject(
            "user_data",
            format!("must be at most {MAX_USER_DATA_BYTES} bytes"),
        );
    }
    let public = public_net(project, input);
    let networks = references(input, "networks", MAX_NETWORKS, |id| {
        project.networks.contains_key(&id)
    });
    require_disjoint(project, input, &networks);
    let order = Order {
        name,
        labels,
        placement_group: input.id("placement_group"),
        networks,
        firewalls: firewalls(project, input),
        has_ssh_keys: has_ssh_keys(project, input),
        user_data,
        start: input.boolean("start_after_create").unwrap_or(true),
        public,
        server_type: server_type?,
        image: image?,
        location: location?,
    };
    if order
        .placement_group
        .is_some_and(|id| !project.placement_groups.contains_key(&id))
    {
        input.reject("placement_group", "placement group not found");
    }
    if order.public.is_none() && order.networks.is_empty() {
        input.reject(
            "public_net",
            "a server without public interface needs a network",
        );
    }
    if order.public.is_none() && !order.firewalls.is_empty() {
        input.reject(
            "firewalls",
            "a server without public interface takes no firewall",
        );
    }
    Some(order)
}

fn server_type(project: &Project, input: &mut Input) -> Option<&'static str> {
    input.require("server_type");
    let wanted = input.id_or_name("server_type")?;
    let found = project.catalog.server_types.iter().find(|t| match &wanted {
        IdOrName::Id(id) => t.id == *id,
        IdOrName::Name(name) => t.name == name,
    });
    match found {
        Some(server_type) if catalog::is_retired(project, server_type) => {
            input.reject(
                "server_type",
                format!("server type {} is deprecated", server_type.name),
            );
            None
        }
        Some(server_type) => Some(server_type.name),
        None => {
            input.reject("server_type", format!("server type {wanted} not found"));
            None
        }
    }
}

/// An image given by its name is taken in the architecture of the server type; snapshots have none.
fn image(project: &Project, input: &mut Input, server_type: Option<&str>) -> Option<u64> {
    input.require("image");
    let wanted = input.id_or_name("image")?;
    let architecture = project.catalog.server_type(server_type?)?.architecture();
    let systems = &project.catalog.images;
    let found = match &wanted {
        IdOrName::Id(id) => images::is_known(project, *id).then_some(*id),
        IdOrName::Name(name) => systems
            .iter()
            .find(|image| image.name == name && image.architecture == architecture)
            .map(|image| image.id),
    };
    if found.is_none() {
        input.reject("image", format!("image {wanted} not found"));
    }
    found
}

/// Without a wish Hetzner chooses; here it is the first location that has the type.
fn location(
    project: &Project,
    input: &mut Input,
    server_type: Option<&str>,
) -> Option<&'static str> {
    let wanted = input.id_or_name("location");
    let server_type = project.catalog.server_type(server_type?)?;
    let Some(wanted) = wanted else {
        let in_stock = |name: &&&str| project.settings.in_stock(server_type.name, name);
        let free = server_type.locations.iter().find(in_stock);
        return free.or_else(|| server_type.locations.first()).copied();
    };
    let found = project
        .catalog
        .locations
        .iter()
        .find(|location| match &wanted {
            IdOrName::Id(id) => location.id == *id,
            IdOrName::Name(name) => location.name == name,
        });
    match found {
        None => input.reject("location", format!("location {wanted} not found")),
        Some(location) if !server_type.locations.contains(&location.name) => {
            input.reject("location", "unsupported location for server type");
        }
        Some(location) => return Some(location.name),
    }
    None
}

fn public_net(project: &Project, input: &mut Input) -> PublicNet {
    let Some(body) = input.object("public_net") else {
        return PublicNet {
            ipv4: Interface::New,
            ipv6: Interface::New,
        };
    };
    let mut read = Input::new(body);
    let mut interface = |enable: &str, family: &str| {
        let enabled = read.boolean(enable).unwrap_or(true);
        match read.id(family) {
            Some(id) if !project.primary_ips.contains_key(&id) => {
                read.reject(family, "primary IP not found");
                Interface::None
            }
            _ if !enabled => Interface::None,
            Some(id) => Interface::Own(id),
            None => Interface::New,
        }
    };
    let public = PublicNet {
        ipv4: interface("enable_ipv4", "ipv4"),
        ipv6: interface("enable_ipv6", "ipv6"),
    };
    if let Err(error) = read.finish() {
        input.reject("public_net", error.message);
    }
    public
}

fn firewalls(project: &Project, input: &mut Input) -> Vec<u64> {
    let mut ids = Vec::new();
    for item in input.list("firewalls") {
        match item["firewall"].as_u64() {
            Some(id) if project.firewalls.contains_key(&id) => ids.push(id),
            _ => input.reject(
                "firewalls",
                format!("firewall {} not found", item["firewall"]),
            ),
        }
    }
    if ids.len() > MAX_FIREWALLS {
        input.reject("firewalls", format!("must be no more than {MAX_FIREWALLS}"));
    }
    ids
}

fn has_ssh_keys(project: &Project, input: &mut Input) -> bool {
    let wanted = input.ids_or_names("ssh_keys");
    for key in &wanted {
        if ssh_keys::named(project, key).is_none() {
            input.reject("ssh_keys", format!("SSH key {key} not found"));
        }
    }
    !wanted.is_empty()
}

fn references(
    input: &mut Input,
    field: &str,
    most: usize,
    known: impl Fn(u64) -> bool,
) -> Vec<u64> {
    let mut ids = Vec::new();
    for value in input.list(field) {
        match value.as_u64().filter(|id| known(*id)) {
            Some(id) if ids.contains(&id) => input.reject(field, format!("{id} is named twice")),
            Some(id) => ids.push(id),
            None => input.reject(field, format!("{value} not found")),
        }
    }
    if ids.len() > most {
        input.reject(field, format!("must be no more than {most}"));
    }
    ids
}

fn require_disjoint(project: &Project, input: &mut Input, networks: &[u64]) {
    let ranges: Vec<_> = networks
        .iter()
        .filter_map(|id| project.networks.get(id))
        .map(|n| n.ip_range)
        .collect();
    let overlap = |i: usize, j: usize| {
        ranges[i].contains(&ranges[j].addr()) || ranges[j].contains(&ranges[i].addr())
    };
    if (0..ranges.len()).any(|j| (0..j).any(|i| overlap(i, j))) {
        input.reject("networks", "the ranges of the networks overlap");
    }
}
