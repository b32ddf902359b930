//! The end of a cluster, in a project that holds more than that.

use std::collections::BTreeSet;

use fabrik::hetzner::destroy::{DestroyError, Ended, Event, Wanted, destroy, survey};
use fabrik::hetzner::pricing;
use fabrik_core::destroy::{Asked, Kept, Key, Kind, Left, Step};
use fabrik_core::price::Money;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::world::{Bed, KEY};

const OTHER: &str = "0000000000000000";
/// Every kind of which the emulator shows a list.
const LISTS: [&str; 11] = [
    "servers",
    "images",
    "networks",
    "firewalls",
    "ssh_keys",
    "placement_groups",
    "primary_ips",
    "floating_ips",
    "load_balancers",
    "volumes",
    "certificates",
];

const ALL: Asked = Asked {
    volumes: true,
    snapshots: true,
    protected: true,
};

/// Ids by kind and name.
struct Project(Bed);

impl Project {
    async fn make(&self, path: &str, kind: &str, body: Value) -> u64 {
        let made = self.0.post(path, body).await;
        made[kind]["id"].as_u64().unwrap()
    }

    fn labels(&self) -> Value {
        json!({"fabrik.dev/cluster": self.0.cluster, "fabrik.dev/role": "agent"})
    }

    /// A cluster with everything that one may have; returns its network and its server.
    async fn fill(&self) -> (u64, u64) {
        let labels = self.labels();
        let subnet =
            json!({"type": "cloud", "ip_range": "10.0.1.0/24", "network_zone": "eu-central"});
        let network = json!({"name": "demo", "ip_range": "10.0.0.0/16", "subnets": [subnet],
            "labels": labels});
        let network = self.make("networks", "network", network).await;
        let firewall = json!({"name": "demo", "rules": [], "labels": labels});
        let firewall = self.make("firewalls", "firewall", firewall).await;
        let group = json!({"name": "demo-web-1", "type": "spread", "labels": labels});
        let group = self
            .make("placement_groups", "placement_group", group)
            .await;
        let key = json!({"name": "demo-alice", "public_key": KEY, "labels": labels});
        self.make("ssh_keys", "ssh_key", key).await;
        let server = self.server(
            "demo-web-1",
            &labels,
            json!({"networks": [network],
            "firewalls": [{"firewall": firewall}], "placement_group": group}),
        );
        let server = server.await;
        let floating = json!({"type": "ipv4", "server": server, "labels": labels});
        self.make("floating_ips", "floating_ip", floating).await;
        let primary =
            json!({"name": "demo-own", "type": "ipv4", "location": "fsn1", "labels": labels});
        self.make("primary_ips", "primary_ip", primary).await;
        let volume = json!({"name": "data", "size": 10, "server": server, "labels": labels});
        self.make("volumes", "volume", volume).await;
        let snapshot = json!({"description": "system", "type": "snapshot", "labels": labels});
        let path = format!("servers/{server}/actions/create_image");
        self.make(&path, "image", snapshot).await;
        let balancer = json!({"name": "demo-api", "load_balancer_type": "lb11", "location": "fsn1",
            "network": network, "labels": labels});
        self.make("load_balancers", "load_balancer", balancer).await;
        let certificate = json!({"name": "demo-web", "certificate": "c", "private_key": "k",
            "labels": labels});
        self.make("certificates", "certificate", certificate).await;
        (network, server)
    }

    async fn server(&self, name: &str, labels: &Value, more: Value) -> u64 {
        let mut body = json!({"name": name, "server_type": "cx33", "location": "fsn1",
            "image": "debian-12", "labels": labels});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        self.make("servers", "server", body).await
    }

    async fn protect(&self, path: &str, id: u64, more: Value) {
        let mut body = json!({"delete": true});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let path = format!("{path}/{id}/actions/change_protection");
        self.0.post(&path, body).await;
    }

    fn wanted(&self, asked: Asked) -> Wanted {
        Wanted {
            cluster: self.0.cluster.clone(),
            name: "demo".parse().unwrap(),
            asked,
        }
    }

    async fn destroy(&self, asked: Asked) -> (Result<Ended, DestroyError>, Vec<Step>, Vec<String>) {
        let wanted = self.wanted(asked);
        let (mut steps, mut failures) = (Vec::new(), Vec::new());
        let ended = destroy(&self.0.client, &wanted, |event| match event {
            Event::Begun(step, _) => steps.push(step),
            Event::Failed(error) => failures.push(error.to_string()),
            Event::Gone(_) | Event::CameBack(_) => {}
        });
        (ended.await, steps, failures)
    }

    /// What the emulator still has, as `kind name`.
    async fn left(&self) -> BTreeSet<String> {
        let state = self.0.control("state").await;
        let list = |kind: &&str| {
            let all = state[*kind].as_array().unwrap().clone();
            let kind = (*kind).to_owned();
            all.into_iter().map(move |r| {
                let name = r["name"].as_str().or(r["description"].as_str());
                format!("{kind} {}", name.unwrap())
            })
        };
        LISTS.iter().flat_map(list).collect()
    }
}

#[tokio::test]
async fn all_of_a_cluster_goes_and_only_that() {
    let project = Project(Bed::start().await);
    let (network, server) = project.fill().await;
    project
        .protect("servers", server, json!({"rebuild": true}))
        .await;
    project.protect("networks", network, json!({})).await;
    let stranger = json!({"fabrik.dev/cluster": OTHER});
    project.server("demo-web-2", &stranger, json!({})).await;
    project.server("mine", &json!({}), json!({})).await;
    let before = project.left().await;

    // Nothing that somebody may miss goes unasked, nor what it stands on.
    let (ended, steps, _) = project.destroy(Asked::default()).await;
    let ended = ended.unwrap();
    let key = |kind, id| Key { kind, id };
    let kept = |kind| {
        let mut kept = ended.plan.kept.iter().filter(|(key, _)| key.kind == kind);
        kept.next().map(|(_, why)| why.clone())
    };
    assert_eq!(kept(Kind::Server), Some(Kept::Protected));
    assert_eq!(kept(Kind::Network), Some(Kept::Protected));
    let by_server = Kept::UsedBy(BTreeSet::from([key(Kind::Server, server)]));
    for kind in [Kind::Firewall, Kind::PlacementGroup, Kind::FloatingIp] {
        assert_eq!(kept(kind), Some(by_server.clone()), "{kind}");
    }
    for kind in [Kind::Volume, Kind::Snapshot] {
        assert_eq!(kept(kind), Some(Kept::Data));
    }
    let told: Vec<&Left> = ended.plan.left.values().collect();
    assert_eq!(told, [&Left::OtherCluster(OTHER.to_owned())]);
    assert_eq!(steps.len(), 4, "{steps:?}");
    let mut after = before.clone();
    for gone in [
        "ssh_keys demo-alice",
        "primary_ips demo-own",
        "load_balancers demo-api",
        "certificates demo-web",
    ] {
        assert!(after.remove(gone), "{gone}");
    }
    assert_eq!(project.left().await, after);

    // Asked for everything, it takes what is left of the cluster.
    let (ended, steps, _) = project.destroy(ALL).await;
    assert!(ended.unwrap().plan.is_done());
    let of_server = steps
        .iter()
        .filter(|s| s.key() == key(Kind::Server, server));
    let of_server: Vec<&Step> = of_server.collect();
    let server = key(Kind::Server, server);
    let expected = [
        &Step::Unprotect(server),
        &Step::PowerOff(server),
        &Step::Delete(server),
    ];
    assert_eq!(of_server, expected);
    assert_eq!(
        steps.last(),
        Some(&Step::Delete(key(Kind::Network, network)))
    );
    let servers: Vec<_> = project.left().await.into_iter().collect();
    let ips = servers
        .iter()
        .filter(|s| s.starts_with("primary_ips "))
        .count();
    assert_eq!(ips, 4, "two servers' own addresses");
    let rest: Vec<_> = servers
        .iter()
        .filter(|s| !s.starts_with("primary_ips "))
        .collect();
    assert_eq!(rest, ["servers demo-web-2", "servers mine"]);

    // And finds nothing more to do.
    let (ended, steps, _) = project.destroy(ALL).await;
    assert_eq!((ended.unwrap().removed.len(), steps.len()), (0, 0));
}

#[tokio::test]
async fn refusals_of_the_moment_and_lost_replies_change_nothing_about_the_end() {
    let project = Project(Bed::start().await);
    project.fill().await;
    for (method, path, fault) in [
        ("POST", "poweroff$", json!({"kind": "reply_lost"})),
        (
            "DELETE",
            "^/v1/servers/",
            json!({"kind": "error", "status": 423, "code": "locked"}),
        ),
        (
            "DELETE",
            "^/v1/firewalls/",
            json!({"kind": "error", "status": 422, "code": "resource_in_use",
            "message": "still in use"}),
        ),
        ("DELETE", "^/v1/networks/", json!({"kind": "reply_lost"})),
        (
            "GET",
            "^/v1/volumes$",
            json!({"kind": "error", "status": 429, "code": "rate_limit_exceeded",
            "times": 5}),
        ),
    ] {
        let mut fault = fault;
        fault["method"] = json!(method);
        fault["path"] = json!(path);
        project.0.fault(fault).await;
    }
    let (ended, _, failures) = project.destroy(ALL).await;
    assert!(ended.unwrap().plan.is_done());
    assert_eq!(project.left().await, BTreeSet::new());
    let said = failures.join("\n");
    assert!(
        said.contains("delete firewall `demo`") && said.contains("still in use"),
        "{said}"
    );
    assert!(!said.contains("busy"), "{said}");
}

#[tokio::test]
async fn what_a_late_create_brings_back_is_found_by_the_last_look() {
    let project = Project(Bed::start().await);
    project.fill().await;
    let wanted = project.wanted(ALL);
    let (tell, network_is_gone) = oneshot::channel();
    let (mut tell, mut back) = (Some(tell), Vec::new());
    let ended = destroy(&project.0.client, &wanted, |event| match event {
        Event::Gone(resource) if resource.key.kind == Kind::Network => {
            tell.take().unwrap().send(()).unwrap();
        }
        Event::CameBack(resource) => back.push(resource.name.clone()),
        _ => {}
    });
    let late = async {
        network_is_gone.await.unwrap();
        let labels = project.labels();
        project.server("demo-web-2", &labels, json!({})).await;
    };
    let (ended, ()) = tokio::join!(ended, late);
    let removed = ended.unwrap().removed;
    assert_eq!(back, ["demo-web-2"]);
    assert!(removed.iter().any(|r| r.name == "demo-web-2"));
    assert_eq!(project.left().await, BTreeSet::new());
}

#[tokio::test]
async fn what_kubernetes_made_is_told_and_holds_the_network() {
    let project = Project(Bed::start().await);
    let (network, server) = project.fill().await;
    let volume = json!({"name": "pvc-1", "size": 10, "server": server});
    let volume = project.make("volumes", "volume", volume).await;
    let balancer = json!({"name": "a1", "load_balancer_type": "lb11", "location": "fsn1",
        "network": network, "labels": {"hcloud-ccm/service-uid": "u"}});
    let balancer = project
        .make("load_balancers", "load_balancer", balancer)
        .await;
    let key = |kind, id| Key { kind, id };

    let (ended, ..) = project.destroy(ALL).await;
    let plan = ended.unwrap().plan;
    let on_network = BTreeSet::from([key(Kind::Network, network)]);
    let balancer = key(Kind::LoadBalancer, balancer);
    assert_eq!(
        plan.left.get(&balancer),
        Some(&Left::AttachedTo(on_network))
    );
    // Its server is gone by now.
    let volume = key(Kind::Volume, volume);
    assert_eq!(plan.left.get(&volume), Some(&Left::OfSomeKubernetes));
    let held = Kept::UsedBy(BTreeSet::from([balancer]));
    assert_eq!(plan.kept.get(&key(Kind::Network, network)), Some(&held));
    let left: Vec<_> = project.left().await.into_iter().collect();
    assert_eq!(
        left,
        ["load_balancers a1", "networks demo", "volumes pvc-1"]
    );
}

#[tokio::test]
async fn each_thing_has_its_price() {
    let project = Project(Bed::start().await);
    project.fill().await;
    let prices = pricing::read(&project.0.client).await.unwrap();
    assert_eq!(prices.currency, "EUR");
    let all = survey(&project.0.client).await.unwrap();
    for thing in &all {
        let kind = thing.resource.key.kind;
        let price = prices.monthly(kind, &thing.size);
        let costs = matches!(
            kind,
            Kind::Server | Kind::LoadBalancer | Kind::FloatingIp | Kind::Volume | Kind::Snapshot
        );
        assert!(
            price.is_some_and(|p| p.net > Money::default() || !costs),
            "{thing:?}: {price:?}"
        );
    }
    assert_eq!(
        all.len(),
        13,
        "each kind once, and the server's own addresses"
    );
}
