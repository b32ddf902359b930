//! What the project can order, and at what price.

use fabrik_core::destroy::Kind;
use fabrik_core::price::PriceList;
use fabrik_core::seed::Architecture;
use fabrik_core::seed::cost::{Offer, Place, ServerType};
use futures::try_join;
use serde::Deserialize;

use super::super::client::{Client, Purpose};
use super::super::error::HetznerError;
use super::super::pricing;
use super::super::wire::{Labels, or_default, resource};

#[derive(Debug, Deserialize)]
struct WireType {
    id: u64,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
    /// In GB.
    #[serde(default, deserialize_with = "or_default")]
    disk: u64,
    #[serde(default, deserialize_with = "or_default")]
    locations: Vec<WireLocation>,
    /// It has none.
    #[serde(skip)]
    labels: Labels,
}

#[derive(Debug, Deserialize)]
struct WireLocation {
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    /// Since April 2026 (docs.hetzner.cloud, changelog); where it is missing, the order will tell.
    #[serde(default)]
    available: Option<bool>,
}

resource!(WireType, "server_types", "server_type");

/// Reads Hetzner's lists of types and prices.
pub async fn offer(client: &Client) -> Result<Offer, HetznerError> {
    let (types, prices) = try_join!(
        client.list::<WireType>(None, Purpose::Observe),
        pricing::read(client),
    )?;
    let server_types = types
        .iter()
        .map(|t| (t.name.clone(), server_type(t, &prices)));
    Ok(Offer {
        server_types: server_types.collect(),
        prices,
    })
}

fn server_type(wire: &WireType, prices: &PriceList) -> ServerType {
    let places = wire.locations.iter().map(|location| {
        let price = prices.place(Kind::Server, &wire.name, &location.name);
        let place = Place {
            in_stock: location.available.unwrap_or(true),
            price: price.unwrap_or_default(),
        };
        (location.name.clone(), place)
    });
    ServerType {
        architecture: Architecture::of_word(&wire.architecture),
        disk_gb: wire.disk,
        locations: places.collect(),
    }
}
