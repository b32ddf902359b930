//! What Hetzner offers and asks for it: whether a spec can be had, what it costs a month, and what an image is written with.

use std::collections::BTreeMap;

use super::Architecture;
use crate::destroy::Kind;
use crate::effect::Choice;
use crate::price::{Price, PriceList};
use crate::spec::Spec;

pub const BYTES_PER_GB: u64 = 1_000_000_000;

/// What a project can order, with prices for a month.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    pub server_types: BTreeMap<String, ServerType>,
    pub prices: PriceList,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerType {
    pub architecture: Option<Architecture>,
    pub disk_gb: u64,
    pub locations: BTreeMap<String, Place>,
}

/// A server type in a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub in_stock: bool,
    pub price: Price,
}

/// Servers that are all alike, as a spec wants them.
pub struct Group<'a> {
    /// `servers`, or `pool NAME`.
    pub name: String,
    pub count: u32,
    pub server_types: &'a [String],
    pub locations: &'a [String],
}

/// What it costs a month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    pub items: Vec<Item>,
    pub currency: String,
    pub vat_rate: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub count: u32,
    pub what: String,
    pub each: Price,
}

/// The control plane and the pools, in the order of the spec. Empty pools are left out.
pub fn groups(spec: &Spec) -> Vec<Group<'_>> {
    let servers = spec.servers.iter().map(|servers| Group {
        name: "servers".to_owned(),
        count: servers.count,
        server_types: &servers.server_types,
        locations: &servers.locations,
    });
    let pools = spec.pools.iter().map(|(name, pool)| Group {
        name: format!("pool {name}"),
        count: pool.count,
        server_types: &pool.server_types,
        locations: &pool.locations,
    });
    servers.chain(pools).filter(|g| g.count > 0).collect()
}

impl Group<'_> {
    /// Each type in each location, the first type everywhere before the second: in this order it is asked for.
    pub fn choices(&self) -> impl Iterator<Item = Choice> {
        self.server_types.iter().flat_map(|server_type| {
            self.locations.iter().map(|location| Choice {
                server_type: server_type.clone(),
                location: location.clone(),
            })
        })
    }

    /// The first choice that is in stock.
    pub fn first_in_stock(&self, offer: &Offer) -> Option<(Choice, Place)> {
        self.choices()
            .filter_map(|choice| Some((offer.place(&choice)?, choice)))
            .find(|(place, _)| place.in_stock)
            .map(|(place, choice)| (choice, place))
    }

    /// Why none of its servers can be had; `None` where one can.
    pub fn fault(&self, offer: &Offer) -> Option<String> {
        if self.first_in_stock(offer).is_some() {
            return None;
        }
        let unknown: Vec<_> = self
            .server_types
            .iter()
            .filter(|t| !offer.server_types.contains_key(*t))
            .map(String::as_str)
            .collect();
        let types = self.server_types.join(", ");
        let locations = self.locations.join(", ");
        Some(if unknown.len() == self.server_types.len() {
            format!("Hetzner has no server type {}", unknown.join(", "))
        } else {
            format!("Hetzner has no {types} to give in {locations} now")
        })
    }
}

impl Offer {
    pub fn place(&self, choice: &Choice) -> Option<Place> {
        let server_type = self.server_types.get(&choice.server_type)?;
        server_type.locations.get(&choice.location).copied()
    }

    /// What a temporary server is made of that has `bytes` written to its disk: the smallest disk first, for a snapshot
    /// fits no smaller one (docs.hetzner.com, "Snapshots"), and then the cheapest.
    pub fn for_image(&self, architecture: Architecture, bytes: u64) -> Vec<Choice> {
        let mut fitting: Vec<_> = self
            .server_types
            .iter()
            .filter(|(_, t)| t.architecture == Some(architecture))
            .filter(|(_, t)| t.disk_gb.saturating_mul(BYTES_PER_GB) >= bytes)
            .flat_map(|(name, t)| {
                let in_stock = t.locations.iter().filter(|(_, place)| place.in_stock);
                in_stock.map(move |(location, place)| {
                    let choice = Choice {
                        server_type: name.clone(),
                        location: location.clone(),
                    };
                    ((t.disk_gb, place.price.net), choice)
                })
            })
            .collect();
        fitting.sort_by_key(|(rank, _)| *rank);
        fitting.into_iter().map(|(_, choice)| choice).collect()
    }

    /// What a spec costs by its first choices that are in stock, with `image_bytes` of snapshots. Nothing of what can't be
    /// had is in it.
    pub fn bill(&self, spec: &Spec, image_bytes: u64) -> Bill {
        let mut items = Vec::new();
        let mut addresses: BTreeMap<String, u32> = BTreeMap::new();
        for group in groups(spec) {
            let Some((choice, place)) = group.first_in_stock(self) else {
                continue;
            };
            items.push(Item {
                count: group.count,
                what: format!(
                    "{} in {}, {}",
                    choice.server_type, choice.location, group.name
                ),
                each: place.price,
            });
            let count = addresses.entry(choice.location).or_default();
            *count = count.saturating_add(group.count);
        }
        let price = |kind, word: &str, location: &str| self.prices.place(kind, word, location);
        items.extend(addresses.into_iter().filter_map(|(location, count)| {
            let each = price(Kind::PrimaryIp, "ipv4", &location)?;
            let what = format!("IPv4 address in {location}");
            Some(Item { count, what, each })
        }));
        items.extend(spec.api.load_balancer.iter().filter_map(|lb| {
            let each = price(Kind::LoadBalancer, &lb.kind, &lb.location)?;
            let what = format!("{} in {}, load balancer", lb.kind, lb.location);
            let count = 1;
            Some(Item { count, what, each })
        }));
        items.extend(spec.api.floating_ip.iter().filter_map(|ip| {
            let each = price(Kind::FloatingIp, ip.family.word(), &ip.location)?;
            let what = format!("floating {} in {}", ip.family.word(), ip.location);
            let count = 1;
            Some(Item { count, what, each })
        }));
        let gigabytes = image_bytes.div_ceil(BYTES_PER_GB);
        if gigabytes > 0 {
            let each = self.prices.by_gb.get(&Kind::Snapshot).copied();
            items.push(Item {
                count: u32::try_from(gigabytes).unwrap_or(u32::MAX),
                what: "GB of images, at most".to_owned(),
                each: each.unwrap_or_default(),
            });
        }
        Bill {
            items,
            currency: self.prices.currency.clone(),
            vat_rate: self.prices.vat_rate.clone(),
        }
    }
}

impl Bill {
    pub fn total(&self) -> Price {
        let all = self.items.iter().map(Item::all);
        all.fold(Price::default(), Price::plus)
    }
}

impl Item {
    pub fn all(&self) -> Price {
        self.each.times(self.count.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(in_stock: bool, net: &str) -> Place {
        Place {
            in_stock,
            price: Price {
                net: net.parse().unwrap(),
                gross: net.parse().unwrap(),
            },
        }
    }

    fn server_type(word: &str, disk_gb: u64, places: &[(&str, Place)]) -> ServerType {
        let locations = places.iter().map(|(name, p)| ((*name).to_owned(), *p));
        ServerType {
            architecture: Architecture::of_word(word),
            disk_gb,
            locations: locations.collect(),
        }
    }

    fn offer() -> Offer {
        let types = [
            (
                "cx23",
                server_type(
                    "x86",
                    40,
                    &[("fsn1", place(false, "3")), ("hel1", place(true, "3"))],
                ),
            ),
            (
                "cx33",
                server_type(
                    "x86",
                    80,
                    &[("fsn1", place(true, "5")), ("hel1", place(true, "5"))],
                ),
            ),
            (
                "cpx12",
                server_type("x86", 40, &[("fsn1", place(true, "6"))]),
            ),
            (
                "cax11",
                server_type("arm", 40, &[("fsn1", place(true, "3"))]),
            ),
        ];
        Offer {
            server_types: types.map(|(name, t)| (name.to_owned(), t)).into(),
            prices: PriceList::default(),
        }
    }

    fn group<'a>(server_types: &'a [String], locations: &'a [String]) -> Group<'a> {
        Group {
            name: "servers".to_owned(),
            count: 3,
            server_types,
            locations,
        }
    }

    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn the_first_choice_in_stock_is_taken_type_before_location() {
        let chosen = |types: &[&str], locations: &[&str]| {
            let (types, locations) = (texts(types), texts(locations));
            let found = group(&types, &locations).first_in_stock(&offer());
            found.map(|(choice, _)| format!("{} {}", choice.server_type, choice.location))
        };
        assert_eq!(
            chosen(&["cx23", "cx33"], &["fsn1", "hel1"]).unwrap(),
            "cx23 hel1"
        );
        assert_eq!(chosen(&["cx23", "cx33"], &["fsn1"]).unwrap(), "cx33 fsn1");
        assert_eq!(chosen(&["cx23"], &["fsn1"]), None);
    }

    #[test]
    fn what_can_not_be_had_is_said_with_the_reason() {
        let fault = |types: &[&str], locations: &[&str]| {
            let (types, locations) = (texts(types), texts(locations));
            group(&types, &locations).fault(&offer())
        };
        assert_eq!(fault(&["cx23"], &["hel1"]), None);
        assert_eq!(
            fault(&["cx21"], &["hel1"]).unwrap(),
            "Hetzner has no server type cx21"
        );
        let said = fault(&["cx21", "cx23"], &["fsn1"]).unwrap();
        assert_eq!(said, "Hetzner has no cx21, cx23 to give in fsn1 now");
    }

    #[test]
    fn an_image_is_written_on_the_smallest_disk_that_holds_it_and_the_cheapest_of_these() {
        let chosen = |architecture, bytes| {
            let choices = offer().for_image(architecture, bytes).into_iter();
            choices
                .map(|c| format!("{} {}", c.server_type, c.location))
                .collect::<Vec<_>>()
        };
        let all = ["cx23 hel1", "cpx12 fsn1", "cx33 fsn1", "cx33 hel1"];
        assert_eq!(chosen(Architecture::X86, 3 * BYTES_PER_GB), all);
        assert_eq!(chosen(Architecture::X86, 41 * BYTES_PER_GB), all[2..]);
        assert_eq!(chosen(Architecture::X86, 81 * BYTES_PER_GB), [""; 0]);
        assert_eq!(chosen(Architecture::Arm, 1), ["cax11 fsn1"]);
    }

    #[test]
    fn what_leads_to_the_api_servers_is_on_the_bill() {
        let spec = r#"
[cluster]
name = "demo"
[kubernetes]
version = "1.36"
[hetzner]
token = { file = "secrets/hetzner.yaml", key = "token" }
[api.load-balancer]
type = "lb11"
location = "fsn1"
private = true
[api.floating-ip]
type = "ipv4"
location = "fsn1"
"#;
        let spec = crate::spec::parse("cluster.toml", spec).unwrap();
        let key = |kind, word: &str| (kind, word.to_owned(), "fsn1".to_owned());
        let offer = Offer {
            prices: PriceList {
                by_place: BTreeMap::from([
                    (key(Kind::LoadBalancer, "lb11"), place(true, "5.39").price),
                    (key(Kind::FloatingIp, "ipv4"), place(true, "3").price),
                ]),
                ..PriceList::default()
            },
            ..Offer::default()
        };
        let items = offer.bill(&spec, 0).items;
        let lines: Vec<_> = items
            .iter()
            .map(|i| format!("{} × {} {}", i.count, i.what, i.each.net))
            .collect();
        assert_eq!(
            lines,
            [
                "1 × lb11 in fsn1, load balancer 5.39",
                "1 × floating ipv4 in fsn1 3.00",
            ]
        );
    }

    #[test]
    fn a_bill_is_summed_before_it_is_rounded() {
        let sum = Bill {
            items: vec![
                Item {
                    count: 3,
                    what: String::new(),
                    each: place(true, "4.99").price,
                },
                Item {
                    count: 3,
                    what: String::new(),
                    each: place(true, "0.0011").price,
                },
            ],
            currency: String::new(),
            vat_rate: String::new(),
        };
        assert_eq!(sum.total().net.to_string(), "14.97");
    }
}
