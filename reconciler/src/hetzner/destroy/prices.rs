//! What a resource costs a month, by Hetzner's own list. For people: nothing is decided by it.

use std::collections::BTreeMap;

use fabrik_core::destroy::Kind;
use reqwest::Method;
use serde::Deserialize;

use super::super::client::{Call, Client, Purpose};
use super::super::error::HetznerError;
use super::super::wire;

/// What of a resource its price depends on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Size {
    /// The type of a server or a load balancer; `ipv4` or `ipv6` of an address.
    pub kind: String,
    pub location: String,
    /// Of a volume and a snapshot.
    pub gb: f64,
}

/// Net prices of a month.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prices {
    /// `EUR` or `USD`.
    pub currency: String,
    by_place: BTreeMap<(Kind, String, String), f64>,
    by_gb: BTreeMap<Kind, f64>,
}

impl Prices {
    /// Hetzner's list of prices (docs.hetzner.cloud, "Pricing").
    pub async fn read(client: &Client) -> Result<Self, HetznerError> {
        let call = Call {
            method: Method::GET,
            path: "pricing".to_owned(),
            query: Vec::new(),
            body: None,
            purpose: Purpose::Observe,
            what: "read the prices".to_owned(),
        };
        let list: List = client.send(&call).await?.field("pricing")?;
        Ok(Self::of(list))
    }

    /// Without VAT; `None` where the list does not tell.
    pub fn monthly(&self, kind: Kind, size: &Size) -> Option<f64> {
        match kind {
            Kind::Server | Kind::LoadBalancer | Kind::FloatingIp | Kind::PrimaryIp => {
                let place = (kind, size.kind.clone(), size.location.clone());
                self.by_place.get(&place).copied()
            }
            Kind::Volume | Kind::Snapshot => self.by_gb.get(&kind).map(|price| price * size.gb),
            Kind::PlacementGroup
            | Kind::Firewall
            | Kind::Certificate
            | Kind::SshKey
            | Kind::Network => Some(0.0),
        }
    }

    fn of(list: List) -> Self {
        let mut prices = Self {
            currency: list.currency,
            ..Self::default()
        };
        for (kind, entries) in [
            (Kind::Server, list.server_types),
            (Kind::LoadBalancer, list.load_balancer_types),
            (Kind::FloatingIp, list.floating_ips),
            (Kind::PrimaryIp, list.primary_ips),
        ] {
            for entry in entries {
                let name = if entry.name.is_empty() {
                    entry.kind
                } else {
                    entry.name
                };
                for place in entry.prices {
                    if let Some(net) = place.price_monthly.net() {
                        let key = (kind, name.clone(), place.location);
                        prices.by_place.insert(key, net);
                    }
                }
            }
        }
        let by_gb = [(Kind::Volume, list.volume), (Kind::Snapshot, list.image)];
        for (kind, entry) in by_gb {
            if let Some(net) = entry.price_per_gb_month.net() {
                prices.by_gb.insert(kind, net);
            }
        }
        prices
    }
}

#[derive(Debug, Deserialize)]
struct List {
    #[serde(default, deserialize_with = "wire::or_default")]
    currency: String,
    #[serde(default, deserialize_with = "wire::or_default")]
    server_types: Vec<Entry>,
    #[serde(default, deserialize_with = "wire::or_default")]
    load_balancer_types: Vec<Entry>,
    #[serde(default, deserialize_with = "wire::or_default")]
    floating_ips: Vec<Entry>,
    #[serde(default, deserialize_with = "wire::or_default")]
    primary_ips: Vec<Entry>,
    #[serde(default, deserialize_with = "wire::or_default")]
    volume: PerGb,
    #[serde(default, deserialize_with = "wire::or_default")]
    image: PerGb,
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(default, deserialize_with = "wire::or_default")]
    name: String,
    #[serde(default, deserialize_with = "wire::or_default", rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "wire::or_default")]
    prices: Vec<Place>,
}

#[derive(Debug, Deserialize)]
struct Place {
    #[serde(default, deserialize_with = "wire::or_default")]
    location: String,
    #[serde(default, deserialize_with = "wire::or_default")]
    price_monthly: Price,
}

#[derive(Debug, Default, Deserialize)]
struct PerGb {
    #[serde(default, deserialize_with = "wire::or_default")]
    price_per_gb_month: Price,
}

/// Hetzner writes numbers as text.
#[derive(Debug, Default, Deserialize)]
struct Price {
    #[serde(default, deserialize_with = "wire::or_default")]
    net: String,
}

impl Price {
    fn net(&self) -> Option<f64> {
        self.net.parse().ok().filter(|net: &f64| net.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_price_goes_by_type_place_and_size_and_is_none_where_the_list_is_silent() {
        let list = serde_json::from_value(json!({
            "currency": "EUR",
            "server_types": [{"id": 1, "name": "cx23", "prices": [
                {"location": "fsn1", "price_monthly": {"net": "3.4900000000", "gross": "4.1531000000"}}]}],
            "primary_ips": [{"type": "ipv4", "prices": [
                {"location": "fsn1", "price_monthly": {"net": "0.5000000000"}}]}],
            "volume": {"price_per_gb_month": {"net": "0.0440000000"}},
            "image": {"price_per_gb_month": {"net": "free"}},
            "load_balancer_types": null,
        }));
        let prices = Prices::of(list.unwrap());
        let size = |kind: &str, gb| Size {
            kind: kind.to_owned(),
            location: "fsn1".to_owned(),
            gb,
        };
        let cents = |kind, size: Size| {
            let price = prices.monthly(kind, &size)?;
            Some(format!("{price:.2}"))
        };
        for (kind, size, expected) in [
            (Kind::Server, size("cx23", 0.0), Some("3.49")),
            (Kind::Server, size("cx99", 0.0), None),
            (Kind::PrimaryIp, size("ipv4", 0.0), Some("0.50")),
            (Kind::Volume, size("", 50.0), Some("2.20")),
            (Kind::Snapshot, size("snapshot", 2.0), None),
            (Kind::Network, size("", 0.0), Some("0.00")),
        ] {
            assert_eq!(cents(kind, size).as_deref(), expected, "{kind}");
        }
    }
}
