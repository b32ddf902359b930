//! What the project can order, and at what price.

use std::collections::BTreeMap;

use fabrik_core::seed::Architecture;
use fabrik_core::seed::cost::{Money, Offer, Place, Price, ServerType};
use futures::try_join;
use reqwest::Method;
use serde::{Deserialize, Deserializer};

use super::super::client::{Call, Client, Purpose};
use super::super::error::HetznerError;
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
    #[serde(default, deserialize_with = "or_default")]
    prices: Vec<LocationPrice>,
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

#[derive(Debug, Deserialize)]
struct LocationPrice {
    #[serde(default, deserialize_with = "or_default")]
    location: String,
    #[serde(default, deserialize_with = "or_default")]
    price_monthly: WirePrice,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
struct WirePrice {
    #[serde(deserialize_with = "money")]
    net: Money,
    #[serde(deserialize_with = "money")]
    gross: Money,
}

#[derive(Debug, Deserialize)]
struct Pricing {
    #[serde(default, deserialize_with = "or_default")]
    currency: String,
    #[serde(default, deserialize_with = "or_default")]
    vat_rate: String,
    #[serde(default, deserialize_with = "or_default")]
    primary_ips: Vec<AddressPrices>,
    #[serde(default, deserialize_with = "or_default")]
    image: ImagePrice,
}

#[derive(Debug, Deserialize)]
struct AddressPrices {
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    family: String,
    #[serde(default, deserialize_with = "or_default")]
    prices: Vec<LocationPrice>,
}

#[derive(Debug, Default, Deserialize)]
struct ImagePrice {
    #[serde(default, deserialize_with = "or_default")]
    price_per_gb_month: WirePrice,
}

resource!(WireType, "server_types", "server_type");

/// Reads Hetzner's lists of types and prices.
pub async fn offer(client: &Client) -> Result<Offer, HetznerError> {
    let call = Call {
        method: Method::GET,
        path: "pricing".to_owned(),
        query: Vec::new(),
        body: None,
        purpose: Purpose::Observe,
        what: "read the prices".to_owned(),
    };
    let (types, answer) = try_join!(
        client.list::<WireType>(None, Purpose::Observe),
        client.send(&call),
    )?;
    let pricing: Pricing = answer.field("pricing")?;
    let ipv4 = pricing.primary_ips.iter().filter(|p| p.family == "ipv4");
    Ok(Offer {
        server_types: types
            .into_iter()
            .map(|t| (t.name.clone(), server_type(&t)))
            .collect(),
        ipv4: ipv4.flat_map(|p| by_location(&p.prices)).collect(),
        image_gb: pricing.image.price_per_gb_month.into(),
        currency: pricing.currency,
        vat_rate: pricing.vat_rate,
    })
}

fn server_type(wire: &WireType) -> ServerType {
    let prices: BTreeMap<String, Price> = by_location(&wire.prices).collect();
    let places = wire.locations.iter().map(|location| {
        let place = Place {
            in_stock: location.available.unwrap_or(true),
            price: prices.get(&location.name).copied().unwrap_or_default(),
        };
        (location.name.clone(), place)
    });
    ServerType {
        architecture: Architecture::of_word(&wire.architecture),
        disk_gb: wire.disk,
        locations: places.collect(),
    }
}

fn by_location(prices: &[LocationPrice]) -> impl Iterator<Item = (String, Price)> {
    prices
        .iter()
        .map(|p| (p.location.clone(), p.price_monthly.into()))
}

impl From<WirePrice> for Price {
    fn from(wire: WirePrice) -> Self {
        Self {
            net: wire.net,
            gross: wire.gross,
        }
    }
}

fn money<'de, D: Deserializer<'de>>(from: D) -> Result<Money, D::Error> {
    String::deserialize(from)?
        .parse()
        .map_err(serde::de::Error::custom)
}
