//! Reads Hetzner's list of prices (docs.hetzner.cloud, "Pricing").

use std::collections::BTreeMap;

use fabrik_core::destroy::Kind;
use fabrik_core::price::{Money, Price, PriceList};
use reqwest::Method;
use serde::Deserialize;

use super::client::{Call, Client, Purpose};
use super::error::HetznerError;
use super::wire::or_default;

/// What it can't be read from is left out.
pub async fn read(client: &Client) -> Result<PriceList, HetznerError> {
    let call = Call {
        method: Method::GET,
        path: "pricing".to_owned(),
        query: Vec::new(),
        body: None,
        purpose: Purpose::Observe,
        what: "read the prices".to_owned(),
    };
    let list: List = client.send(&call).await?.field("pricing")?;
    Ok(list.into())
}

impl From<List> for PriceList {
    fn from(list: List) -> Self {
        let mut by_place = BTreeMap::new();
        for (kind, entries) in [
            (Kind::Server, list.server_types),
            (Kind::LoadBalancer, list.load_balancer_types),
            (Kind::FloatingIp, list.floating_ips),
            (Kind::PrimaryIp, list.primary_ips),
        ] {
            for entry in entries {
                let is_address = entry.name.is_empty();
                let word = if is_address { entry.family } else { entry.name };
                for place in entry.prices {
                    if let Some(price) = place.price_monthly.price() {
                        by_place.insert((kind, word.clone(), place.location), price);
                    }
                }
            }
        }
        let by_gb = [(Kind::Volume, list.volume), (Kind::Snapshot, list.image)];
        let by_gb = by_gb.into_iter().filter_map(|(kind, entry)| {
            let price = entry.price_per_gb_month.price()?;
            Some((kind, price))
        });
        Self {
            currency: list.currency,
            vat_rate: list.vat_rate,
            by_place,
            by_gb: by_gb.collect(),
        }
    }
}

#[derive(Debug, Deserialize)]
struct List {
    #[serde(default, deserialize_with = "or_default")]
    currency: String,
    #[serde(default, deserialize_with = "or_default")]
    vat_rate: String,
    #[serde(default, deserialize_with = "or_default")]
    server_types: Vec<Entry>,
    #[serde(default, deserialize_with = "or_default")]
    load_balancer_types: Vec<Entry>,
    #[serde(default, deserialize_with = "or_default")]
    floating_ips: Vec<Entry>,
    #[serde(default, deserialize_with = "or_default")]
    primary_ips: Vec<Entry>,
    #[serde(default, deserialize_with = "or_default")]
    volume: PerGb,
    #[serde(default, deserialize_with = "or_default")]
    image: PerGb,
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    /// Of an address, which has no name.
    #[serde(default, deserialize_with = "or_default", rename = "type")]
    family: String,
    #[serde(default, deserialize_with = "or_default")]
    prices: Vec<Place>,
}

#[derive(Debug, Deserialize)]
struct Place {
    #[serde(default, deserialize_with = "or_default")]
    location: String,
    #[serde(default, deserialize_with = "or_default")]
    price_monthly: Sum,
}

#[derive(Debug, Default, Deserialize)]
struct PerGb {
    #[serde(default, deserialize_with = "or_default")]
    price_per_gb_month: Sum,
}

/// Hetzner writes numbers as text.
#[derive(Debug, Default, Deserialize)]
struct Sum {
    #[serde(default, deserialize_with = "or_default")]
    net: String,
    #[serde(default, deserialize_with = "or_default")]
    gross: String,
}

impl Sum {
    fn price(&self) -> Option<Price> {
        let money = |text: &str| text.parse::<Money>().ok();
        Some(Price {
            net: money(&self.net)?,
            gross: money(&self.gross)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_can_not_be_read_is_left_out_and_the_rest_stays() {
        let price = json!({"net": "3.4900000000", "gross": "4.1531000000"});
        let list: List = serde_json::from_value(json!({
            "currency": "EUR",
            "server_types": [{"id": 1, "name": "cx23", "prices": [
                {"location": "fsn1", "price_monthly": price}, {"location": "hel1"}]}],
            "primary_ips": [{"type": "ipv4", "prices": [{"location": "fsn1", "price_monthly": price}]}],
            "volume": {"price_per_gb_month": price},
            "image": {"price_per_gb_month": {"net": "free", "gross": "free"}},
            "load_balancer_types": null,
        }))
        .unwrap();
        let list = PriceList::from(list);
        let places: Vec<_> = list
            .by_place
            .keys()
            .map(|(kind, word, _)| (*kind, word.as_str()))
            .collect();
        assert_eq!(places, [(Kind::Server, "cx23"), (Kind::PrimaryIp, "ipv4")]);
        assert_eq!(list.by_gb.keys().collect::<Vec<_>>(), [&Kind::Volume]);
        assert_eq!(list.by_gb[&Kind::Volume].gross.to_string(), "4.15");
    }
}
