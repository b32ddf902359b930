//! `/pricing`: what everything costs, in the currency of the project's owner.

use serde_json::{Value, json};

use crate::call::{Answer, Call, Method, Reply};
use crate::catalog::{Catalog, VAT_PERCENT, hourly, price};
use crate::project::Project;
use crate::resources::{catalog, unrouted};

/// Net prices of a month in cents, near the real ones.
const PRIMARY_IPS: [(&str, f64); 2] = [("ipv4", 50.0), ("ipv6", 0.0)];
const FLOATING_IPS: [(&str, f64); 2] = [("ipv4", 300.0), ("ipv6", 100.0)];
const IMAGE_GB: f64 = 1.1;
const VOLUME_GB: f64 = 4.4;
/// Percent of the server's price.
const BACKUP_PERCENT: &str = "20.00";

pub fn route(project: &Project, call: &Call, rest: &[&str]) -> Answer {
    match (call.method, rest) {
        (Method::Get, []) => Ok(Reply::ok(json!({"pricing": pricing(project)}))),
        _ => Err(unrouted(rest)),
    }
}

fn pricing(project: &Project) -> Value {
    let offer = &project.catalog;
    let server_types: Vec<_> = offer
        .server_types
        .iter()
        .filter(|server_type| !catalog::is_retired(project, server_type))
        .map(|t| json!({"id": t.id, "name": t.name, "prices": t.prices()}))
        .collect();
    let load_balancer_types: Vec<_> = offer
        .load_balancer_types
        .iter()
        .map(|t| json!({"id": t.id, "name": t.name, "prices": t.prices()}))
        .collect();
    json!({
        "currency": "EUR",
        "vat_rate": format!("{VAT_PERCENT:.2}"),
        "floating_ip": {"price_monthly": price(FLOATING_IPS[0].1)},
        "floating_ips": FLOATING_IPS.map(|(kind, month)| {
            json!({"type": kind, "prices": everywhere(offer, month, false)})
        }),
        "primary_ips": PRIMARY_IPS.map(|(kind, month)| {
            json!({"type": kind, "prices": everywhere(offer, month, true)})
        }),
        "image": {"price_per_gb_month": price(IMAGE_GB)},
        "volume": {"price_per_gb_month": price(VOLUME_GB)},
        "server_backup": {"percentage": BACKUP_PERCENT},
        "server_types": server_types,
        "load_balancer_types": load_balancer_types,
    })
}

fn everywhere(offer: &Catalog, month: f64, by_the_hour: bool) -> Value {
    let locations = offer.locations.iter().map(|location| {
        let mut prices = json!({"location": location.name, "price_monthly": price(month)});
        if by_the_hour {
            prices["price_hourly"] = hourly(month);
        }
        prices
    });
    locations.collect()
}
