//! What Hetzner sells: locations, server types, images. Numbers and prices are near the real ones;
//! nobody should bill by them.

use serde_json::{Value, json};

pub struct Catalog {
    pub locations: Vec<Location>,
    pub server_types: Vec<ServerType>,
    pub images: Vec<Image>,
    pub load_balancer_types: Vec<LoadBalancerType>,
}

pub struct Location {
    pub id: u64,
    pub name: &'static str,
    pub city: &'static str,
    pub country: &'static str,
    pub network_zone: &'static str,
    latitude: f64,
    longitude: f64,
}

pub struct ServerType {
    pub id: u64,
    pub name: &'static str,
    pub cores: u32,
    pub memory_gb: u32,
    pub disk_gb: u32,
    /// Net price of a month in cents.
    pub cents_per_month: u32,
    pub locations: &'static [&'static str],
}

pub struct LoadBalancerType {
    pub id: u64,
    pub name: &'static str,
    pub max_connections: u32,
    pub max_services: usize,
    pub max_targets: usize,
    pub max_assigned_certificates: u32,
    cents_per_month: u32,
}

pub struct Image {
    pub id: u64,
    pub name: &'static str,
    pub flavor: &'static str,
    pub version: &'static str,
    pub architecture: &'static str,
}

const EU: &[&str] = &["nbg1", "fsn1", "hel1"];
const EVERYWHERE: &[&str] = &["nbg1", "fsn1", "hel1", "ash", "hil", "sin"];
/// The size of the disk that an image of Hetzner's needs.
pub const IMAGE_DISK_GB: u32 = 5;
const IMAGE_CREATED: &str = "2025-08-18T00:00:00Z";
/// 20 TB, what a server in Europe may send without extra cost.
pub const INCLUDED_TRAFFIC_BYTES: u64 = 20 * 1024 * 1024 * 1024 * 1024;
const HOURS_PER_MONTH: f64 = 624.0;
pub const VAT_PERCENT: f64 = 19.0;

impl Catalog {
    pub fn new() -> Self {
        Self {
            locations: locations(),
            server_types: server_types(),
            images: images(),
            load_balancer_types: load_balancer_types(),
        }
    }

    pub fn location(&self, name: &str) -> Option<&Location> {
        self.locations.iter().find(|location| location.name == name)
    }

    pub fn server_type(&self, name: &str) -> Option<&ServerType> {
        self.server_types
            .iter()
            .find(|server_type| server_type.name == name)
    }

    pub fn load_balancer_type(&self, name: &str) -> Option<&LoadBalancerType> {
        self.load_balancer_types.iter().find(|t| t.name == name)
    }

    pub fn image(&self, id: u64) -> Option<&Image> {
        self.images.iter().find(|image| image.id == id)
    }
}

/// A net price in cents, as the API shows prices.
pub fn price(cents: f64) -> Value {
    let gross = cents * (1.0 + VAT_PERCENT / 100.0);
    json!({"net": format!("{:.10}", cents / 100.0), "gross": format!("{:.10}", gross / 100.0)})
}

/// What an hour costs of what costs so many cents a month.
pub fn hourly(cents_per_month: f64) -> Value {
    price(cents_per_month / HOURS_PER_MONTH)
}

fn prices(cents_per_month: u32, locations: &[&str]) -> Value {
    let month = f64::from(cents_per_month);
    let of_location = |location: &&str| {
        json!({
            "location": location,
            "price_hourly": hourly(month),
            "price_monthly": price(month),
            "included_traffic": INCLUDED_TRAFFIC_BYTES,
            "price_per_tb_traffic": price(100.0),
        })
    };
    locations.iter().map(of_location).collect()
}

impl Location {
    pub fn render(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "description": format!("{} DC Park 1", self.city),
            "country": self.country,
            "city": self.city,
            "latitude": self.latitude,
            "longitude": self.longitude,
            "network_zone": self.network_zone,
        })
    }
}

impl ServerType {
    pub fn architecture(&self) -> &'static str {
        if self.name.starts_with("cax") {
            "arm"
        } else {
            "x86"
        }
    }

    pub fn cpu_type(&self) -> &'static str {
        if self.name.starts_with("ccx") {
            "dedicated"
        } else {
            "shared"
        }
    }

    pub fn category(&self) -> &'static str {
        match self.name.get(..3) {
            Some("ccx") => "General Purpose",
            Some("cpx") => "Regular Performance",
            _ => "Cost-Optimized",
        }
    }

    pub fn prices(&self) -> Value {
        prices(self.cents_per_month, self.locations)
    }
}

impl LoadBalancerType {
    pub fn prices(&self) -> Value {
        prices(self.cents_per_month, EVERYWHERE)
    }

    pub fn render(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "description": self.name.to_uppercase(),
            "max_connections": self.max_connections,
            "max_services": self.max_services,
            "max_targets": self.max_targets,
            "max_assigned_certificates": self.max_assigned_certificates,
            "deprecation": null,
            "prices": self.prices(),
        })
    }
}

impl Image {
    pub fn render(&self) -> Value {
        json!({
            "id": self.id,
            "type": "system",
            "status": "available",
            "name": self.name,
            "description": format!("{} {}", self.flavor, self.version),
            "image_size": null,
            "disk_size": IMAGE_DISK_GB,
            "created": IMAGE_CREATED,
            "created_from": null,
            "bound_to": null,
            "os_flavor": self.flavor,
            "os_version": self.version,
            "architecture": self.architecture,
            "rapid_deploy": true,
            "protection": {"delete": false},
            "deleted": null,
            "labels": {},
        })
    }
}

fn locations() -> Vec<Location> {
    let location = |id, name, city, country, network_zone, latitude, longitude| Location {
        id,
        name,
        city,
        country,
        network_zone,
        latitude,
        longitude,
    };
    vec![
        location(
            1,
            "fsn1",
            "Falkenstein",
            "DE",
            "eu-central",
            50.47612,
            12.370_071,
        ),
        location(
            2,
            "nbg1",
            "Nuremberg",
            "DE",
            "eu-central",
            49.452_102,
            11.076_665,
        ),
        location(
            3,
            "hel1",
            "Helsinki",
            "FI",
            "eu-central",
            60.169_855,
            24.938_379,
        ),
        location(
            4,
            "ash",
            "Ashburn, VA",
            "US",
            "us-east",
            39.045_821,
            -77.487_073,
        ),
        location(
            5,
            "hil",
            "Hillsboro, OR",
            "US",
            "us-west",
            45.54222,
            -122.951_924,
        ),
        location(
            6,
            "sin",
            "Singapore",
            "SG",
            "ap-southeast",
            1.283_333,
            103.833_333,
        ),
    ]
}

fn server_types() -> Vec<ServerType> {
    let server_type =
        |id, name, [cores, memory_gb, disk_gb]: [u32; 3], cents_per_month, locations| ServerType {
            id,
            name,
            cores,
            memory_gb,
            disk_gb,
            cents_per_month,
            locations,
        };
    vec![
        server_type(3, "cx21", [2, 4, 40], 485, EU),
        server_type(5, "cx31", [2, 8, 80], 925, EU),
        server_type(22, "cpx11", [2, 2, 40], 385, EVERYWHERE),
        server_type(45, "cax11", [2, 4, 40], 329, EU),
        server_type(93, "cax21", [4, 8, 80], 599, EU),
        server_type(94, "cax31", [8, 16, 160], 1199, EU),
        server_type(95, "cax41", [16, 32, 320], 2399, EU),
        server_type(96, "ccx13", [2, 8, 80], 1199, EVERYWHERE),
        server_type(97, "ccx23", [4, 16, 160], 2399, EVERYWHERE),
        server_type(108, "cpx12", [1, 2, 40], 599, EU),
        server_type(109, "cpx22", [2, 4, 80], 649, EU),
        server_type(110, "cpx32", [4, 8, 160], 1049, EU),
        server_type(111, "cpx42", [8, 16, 320], 1949, EU),
        server_type(114, "cx23", [2, 4, 40], 299, EU),
        server_type(115, "cx33", [4, 8, 80], 499, EU),
        server_type(116, "cx43", [8, 16, 160], 899, EU),
        server_type(117, "cx53", [16, 32, 320], 1699, EU),
    ]
}

fn load_balancer_types() -> Vec<LoadBalancerType> {
    let load_balancer_type =
        |id, name, max_connections, [services, targets]: [usize; 2], month| LoadBalancerType {
            id,
            name,
            max_connections,
            max_services: services,
            max_targets: targets,
            max_assigned_certificates: 10,
            cents_per_month: month,
        };
    vec![
        load_balancer_type(1, "lb11", 10_000, [5, 25], 539),
        load_balancer_type(2, "lb21", 20_000, [15, 75], 1640),
        load_balancer_type(3, "lb31", 40_000, [30, 150], 3290),
    ]
}

fn images() -> Vec<Image> {
    let systems = [
        (114_690_387, "debian-12", "debian", "12"),
        (310_557_660, "debian-13", "debian", "13"),
        (67_794_396, "ubuntu-22.04", "ubuntu", "22.04"),
        (161_547_269, "ubuntu-24.04", "ubuntu", "24.04"),
        (310_557_700, "fedora-42", "fedora", "42"),
        (310_557_800, "rocky-10", "rocky", "10"),
    ];
    let mut images = Vec::new();
    for (id, name, flavor, version) in systems {
        images.push(Image {
            id,
            name,
            flavor,
            version,
            architecture: "x86",
        });
        images.push(Image {
            id: id + 1,
            name,
            flavor,
            version,
            architecture: "arm",
        });
    }
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_type_is_sold_in_known_locations() {
        let catalog = Catalog::new();
        for server_type in &catalog.server_types {
            for location in server_type.locations {
                assert!(
                    catalog.location(location).is_some(),
                    "{} {location}",
                    server_type.name
                );
            }
        }
    }
}
