//! What Hetzner asks for what it rents, a month.

mod money;

use std::collections::BTreeMap;

pub use self::money::{Amount, Money};
use crate::destroy::Kind;

/// Without VAT, and with it, as Hetzner states both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Price {
    pub net: Money,
    pub gross: Money,
}

/// What of a resource its price depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Size {
    /// The type of a server or a load balancer; `ipv4` or `ipv6` of an address.
    pub kind: String,
    pub location: String,
    /// Of a volume and a snapshot.
    pub gb: Amount,
}

/// Hetzner's list, as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriceList {
    /// `EUR` for one.
    pub currency: String,
    /// In percent, as Hetzner writes it.
    pub vat_rate: String,
    /// By kind, type and location.
    pub by_place: BTreeMap<(Kind, String, String), Price>,
    /// Of what is paid by its size.
    pub by_gb: BTreeMap<Kind, Price>,
}

impl PriceList {
    /// `None` where the list does not tell.
    pub fn monthly(&self, kind: Kind, size: &Size) -> Option<Price> {
        match kind {
            Kind::Server | Kind::LoadBalancer | Kind::FloatingIp | Kind::PrimaryIp => {
                self.place(kind, &size.kind, &size.location)
            }
            Kind::Volume | Kind::Snapshot => Some(self.by_gb.get(&kind)?.times(size.gb)),
            Kind::PlacementGroup
            | Kind::Firewall
            | Kind::Certificate
            | Kind::SshKey
            | Kind::Network => Some(Price::default()),
        }
    }

    /// Of what has a type and a location.
    pub fn place(&self, kind: Kind, word: &str, location: &str) -> Option<Price> {
        let place = (kind, word.to_owned(), location.to_owned());
        self.by_place.get(&place).copied()
    }
}

impl Price {
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            net: self.net.plus(other.net),
            gross: self.gross.plus(other.gross),
        }
    }

    #[must_use]
    pub fn times(self, amount: Amount) -> Self {
        Self {
            net: self.net.times(amount),
            gross: self.gross.times(amount),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_goes_by_type_place_and_size_and_is_none_where_the_list_is_silent() {
        let price = |net: &str| Price {
            net: net.parse().unwrap(),
            gross: Money::default(),
        };
        let place = |kind, word: &str| (kind, word.to_owned(), "fsn1".to_owned());
        let list = PriceList {
            by_place: BTreeMap::from([
                (place(Kind::Server, "cx23"), price("3.49")),
                (place(Kind::PrimaryIp, "ipv4"), price("0.5")),
            ]),
            by_gb: BTreeMap::from([(Kind::Volume, price("0.044"))]),
            ..PriceList::default()
        };
        for (kind, word, gb, expected) in [
            (Kind::Server, "cx23", "0", Some("3.49")),
            (Kind::Server, "cx99", "0", None),
            (Kind::PrimaryIp, "ipv4", "0", Some("0.50")),
            (Kind::Volume, "", "50", Some("2.20")),
            (Kind::Snapshot, "snapshot", "2", None),
            (Kind::Network, "", "0", Some("0.00")),
        ] {
            let size = Size {
                kind: word.to_owned(),
                location: "fsn1".to_owned(),
                gb: gb.parse().unwrap(),
            };
            let price = list.monthly(kind, &size).map(|p| p.net.to_string());
            assert_eq!(price.as_deref(), expected, "{kind}");
        }
    }
}
