//! The pages of `fabrik destroy`. Pure: the same project is the same text.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use fabrik_core::destroy::{Kept, Key, Kind, Left, Plan, Resource};
use fabrik_core::id::{ClusterId, ClusterName};
use fabrik_core::price::{Price, PriceList};

use crate::hetzner::destroy::Thing;

/// A cluster and the project that it is in.
#[derive(Clone, Copy)]
pub struct Page<'a> {
    pub name: &'a ClusterName,
    pub id: &'a ClusterId,
    pub things: &'a [Thing],
    pub prices: Option<&'a PriceList>,
}

impl Page<'_> {
    /// What would go, and what stays.
    pub fn before(&self, plan: &Plan) -> String {
        let mut page = format!("Cluster {} (id {}) at Hetzner\n", self.name, self.id);
        if plan.is_done() {
            page.push_str("\nNothing is there that would be removed.\n");
        } else {
            page.push_str("\nThis is removed, with all that is on it:\n");
            self.table(&mut page, plan);
        }
        self.rest(&mut page, plan);
        page.trim_end().to_owned()
    }

    /// What went, and what is left.
    pub fn after(&self, removed: &[Resource], plan: &Plan) -> String {
        let number = removed.len();
        let plural = if number == 1 { "" } else { "s" };
        let mut page = format!(
            "\nRemoved {number} resource{plural} of cluster {}.\n",
            self.name
        );
        self.rest(&mut page, plan);
        page.trim_end().to_owned()
    }

    fn table(&self, page: &mut String, plan: &Plan) {
        let mut sum = Price::default();
        let goes = |key: &Key| plan.goes.contains(key) || plan.goes_along.contains_key(key);
        for thing in self.things.iter().filter(|t| goes(&t.resource.key)) {
            let Resource { key, name, .. } = &thing.resource;
            let price = self.price(thing);
            sum = sum.plus(price.unwrap_or_default());
            let along = match plan.goes_along.get(key) {
                Some(with) => format!("  with {}", self.names(with)),
                None => String::new(),
            };
            let cost = self.cost(price);
            let _infallible = writeln!(
                page,
                "  {:<16} {name:<36} {:>12} {cost:>14}{along}",
                key.kind, key.id
            );
        }
        if let Some(prices) = self.prices {
            let _infallible = writeln!(
                page,
                "  About {} {} a month, without VAT.",
                sum.net, prices.currency
            );
        }
    }

    fn rest(&self, page: &mut String, plan: &Plan) {
        let rows = |page: &mut String, title: &str, rows: Vec<(&Key, String)>| {
            if rows.is_empty() {
                return;
            }
            let _infallible = writeln!(page, "\n{title}");
            for (key, why) in rows {
                let _infallible = writeln!(page, "  {}: {why}", self.name_of(key));
            }
        };
        let kept = plan
            .kept
            .iter()
            .map(|(key, why)| (key, self.kept(key.kind, why)));
        rows(
            page,
            "This bears the cluster's id and stays:",
            kept.collect(),
        );
        let left = plan
            .left
            .iter()
            .map(|(key, why)| (key, self.left(*key, why)));
        rows(
            page,
            "This is not fabrik's, and is left alone:",
            left.collect(),
        );
    }

    fn kept(&self, kind: Kind, why: &Kept) -> String {
        match why {
            Kept::Data if kind == Kind::Snapshot => {
                "nobody asked for its end; --snapshots does".to_owned()
            }
            Kept::Data => "it holds data; --volumes removes it".to_owned(),
            Kept::Protected => "it is protected; --protected removes it all the same".to_owned(),
            Kept::UsedBy(by) => format!("{} stays and uses it", self.names(by)),
            Kept::Selectors(selectors) => format!(
                "it is applied by the label selector {}; take that away, and repeat",
                selectors.join(" and ")
            ),
        }
    }

    fn left(&self, key: Key, why: &Left) -> String {
        let delete = delete_command(key);
        match why {
            Left::OtherCluster(id) => {
                format!("it has this cluster's name, and is of fabrik cluster {id}")
            }
            Left::NoLabel => format!(
                "it has this cluster's name and not its label. If it is of no use: {delete}"
            ),
            Left::AttachedTo(to) => format!(
                "it is attached to {}. If the cluster's Kubernetes made it and it is of no use any more: {delete}",
                self.names(to)
            ),
            Left::OfSomeKubernetes => format!(
                "the Kubernetes of this cluster or another has made it, and it is attached to nothing. If it is of no use: {delete}"
            ),
        }
    }

    fn price(&self, thing: &Thing) -> Option<Price> {
        self.prices?.monthly(thing.resource.key.kind, &thing.size)
    }

    fn cost(&self, price: Option<Price>) -> String {
        match (price, self.prices) {
            (Some(price), Some(prices)) if price != Price::default() => {
                format!("{} {}", price.net, prices.currency)
            }
            (None, Some(_)) => "?".to_owned(),
            _ => String::new(),
        }
    }

    fn names(&self, keys: &BTreeSet<Key>) -> String {
        let names: Vec<String> = keys.iter().map(|key| self.name_of(key)).collect();
        names.join(", ")
    }

    fn name_of(&self, key: &Key) -> String {
        let thing = self.things.iter().find(|t| t.resource.key == *key);
        match thing {
            Some(thing) => named(&thing.resource),
            None => format!("{} {}", key.kind, key.id),
        }
    }
}

/// A resource as people find it at Hetzner.
pub fn named(resource: &Resource) -> String {
    let Resource { key, name, .. } = resource;
    format!("{} `{name}` (id {})", key.kind, key.id)
}

/// In the words of Hetzner's command line tool (hetznercloud/cli).
fn delete_command(key: Key) -> String {
    let what = match key.kind {
        Kind::Snapshot => "image".to_owned(),
        kind => kind.to_string().to_lowercase().replace(' ', "-"),
    };
    format!("`hcloud {what} delete {}`", key.id)
}

#[cfg(test)]
mod tests {
    use fabrik_core::destroy::{Asked, plan};
    use fabrik_core::observed::Power;
    use fabrik_core::price::Size;

    use super::*;

    fn thing(kind: Kind, id: u64, name: &str, cluster: Option<&str>) -> Thing {
        let resource = Resource {
            key: Key { kind, id },
            name: name.to_owned(),
            cluster: cluster.map(str::to_owned),
            protected: false,
            power: (kind == Kind::Server).then_some(Power::Running),
            cluster_name: None,
            is_control_plane: false,
            used_by: BTreeSet::new(),
            attached_to: BTreeSet::new(),
            selectors: Vec::new(),
            goes_with_user: false,
            is_made_by_kubernetes: false,
        };
        Thing {
            resource,
            size: Size::default(),
        }
    }

    #[test]
    fn a_page_says_of_each_thing_whether_it_goes_and_why_not() {
        let id: ClusterId = "abcdefgh01234567".parse().unwrap();
        let ours = Some(id.as_str());
        let mut things = vec![
            thing(Kind::Server, 1, "demo-web-1", ours),
            thing(Kind::PrimaryIp, 2, "primary_ip-2", None),
            thing(Kind::Volume, 3, "data", ours),
            thing(Kind::Volume, 4, "pvc-1", None),
            thing(Kind::LoadBalancer, 5, "demo", Some("0000000000000000")),
            thing(Kind::SshKey, 6, "mine", None),
        ];
        let on_server = BTreeSet::from([things[0].resource.key]);
        for id in [1, 3] {
            things[id].resource.attached_to = on_server.clone();
        }
        things[1].resource.goes_with_user = true;
        let name = "demo".parse().unwrap();
        let resources: Vec<Resource> = things.iter().map(|t| t.resource.clone()).collect();
        let plan = plan(&resources, &id, &name, Asked::default());
        let page = Page {
            name: &name,
            id: &id,
            things: &things,
            prices: None,
        };
        let lines = |text: String| -> Vec<String> {
            let words = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
            text.lines().map(words).filter(|l| !l.is_empty()).collect()
        };
        let rest = [
            "This bears the cluster's id and stays:",
            "volume `data` (id 3): it holds data; --volumes removes it",
            "This is not fabrik's, and is left alone:",
            "load balancer `demo` (id 5): it has this cluster's name, and is of fabrik cluster 0000000000000000",
            "volume `pvc-1` (id 4): it is attached to server `demo-web-1` (id 1). If the cluster's Kubernetes made it and it is \
             of no use any more: `hcloud volume delete 4`",
        ];
        let mut expected = vec![
            "Cluster demo (id abcdefgh01234567) at Hetzner",
            "This is removed, with all that is on it:",
            "server demo-web-1 1",
            "primary IP primary_ip-2 2 with server `demo-web-1` (id 1)",
        ];
        expected.extend(rest);
        assert_eq!(lines(page.before(&plan)), expected);
        let mut expected = vec!["Removed 1 resource of cluster demo."];
        expected.extend(rest);
        assert_eq!(lines(page.after(&resources[..1], &plan)), expected);
        assert_eq!(
            delete_command(things[4].resource.key),
            "`hcloud load-balancer delete 5`"
        );
    }
}
