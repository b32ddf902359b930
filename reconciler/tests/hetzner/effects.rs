//! Each effect, and what is there afterwards.

use fabrik::hetzner::{HetznerError, Outcome};
use fabrik_core::effect::{Choice, Effect, NewFloatingIp, NewLoadBalancer};
use fabrik_core::id::ServerId;
use fabrik_core::observed::FirewallRule;
use fabrik_core::spec::{IpFamily, PlacementStrategy, Servers};
use serde_json::{Value, json};

use super::world::{Bed, KEY, intent, name, spec};

#[tokio::test]
async fn a_server_gets_all_that_it_was_ordered_with() {
    let bed = Bed::start().await;
    let mut order = bed.order().await;
    let key = create(&bed, &ssh_key("demo-alice")).await;
    let group = create(&bed, &placement_group("demo-workers-1")).await;
    order.ssh_keys = vec![key];
    order.placement_group = Some(group);
    let (network, firewall) = (order.network, order.firewall);
    let id = create(&bed, &Effect::CreateServer(order)).await;

    let state = bed.control("state").await;
    let servers = state["servers"].as_array().unwrap();
    let [server] = servers.as_slice() else {
        panic!("{servers:?}")
    };
    assert_eq!(server["id"], json!(id));
    assert_eq!(server["name"], json!(name()));
    assert_eq!(server["private_net"][0]["network"], json!(network));
    assert_eq!(server["public_net"]["firewalls"][0]["id"], json!(firewall));
    assert_eq!(server["placement_group"]["id"], json!(group));
    assert_eq!(server["user_data"], "{\"fabrik\":1}");
    let labels = json!({"fabrik.dev/cluster": bed.cluster, "fabrik.dev/pool": "workers",
        "fabrik.dev/role": "agent", "fabrik.dev/intent": intent()});
    assert_eq!(server["labels"], labels);
    let orders = bed.requests("POST", "/v1/servers").await;
    assert_eq!(orders.last().unwrap()["body"]["ssh_keys"], json!([key]));
}

#[tokio::test]
async fn what_is_there_already_is_found_and_seen_as_ours() {
    let bed = Bed::start().await;
    for effect in [ssh_key("demo-alice"), placement_group("demo-workers-1")] {
        let id = create(&bed, &effect).await;
        assert_eq!(bed.execute(&effect).await, Ok(Outcome::Found(id)));
    }
    let seen = bed.observe().await.unwrap();
    assert!(seen.ssh_keys["alice"].ours);
    assert_eq!(seen.ssh_keys["alice"].public_key, KEY);
    assert!(seen.placement_groups["demo-workers-1"].servers.is_empty());
    assert!(seen.taken.is_empty(), "{:?}", seen.taken);
}

#[tokio::test]
async fn snapshots_are_looked_for_where_a_pool_names_no_image() {
    let bed = Bed::start().await;
    let order = bed.new_server().await;
    let server = create(&bed, &order).await;
    let snapshot = |labels: Value| {
        let body = json!({"type": "snapshot", "labels": labels});
        let path = format!("servers/{server}/actions/create_image");
        let bed = &bed;
        async move { bed.post(&path, body).await["image"]["id"].as_u64() }
    };
    let ours = json!({"fabrik.dev/cluster": bed.cluster, "fabrik.dev/image": "workers"});
    let id = snapshot(ours).await.unwrap();
    let foreign = json!({"fabrik.dev/cluster": "0000000000000000", "fabrik.dev/image": "workers"});
    snapshot(foreign).await.unwrap();
    assert!(bed.observe().await.unwrap().images.is_empty());
    assert!(bed.requests("GET", "/v1/images").await.is_empty());
    let mut spec = spec();
    spec.servers = Some(Servers {
        count: 3,
        server_types: vec!["cx33".to_owned()],
        locations: vec!["fsn1".to_owned()],
        placement: PlacementStrategy::Spread,
        may_shrink: false,
    });
    let seen = bed.observe_for(&spec).await.unwrap().images;
    let [image] = seen.as_slice() else {
        panic!("{seen:?}")
    };
    assert_eq!((image.id, image.pool.as_str()), (id, "workers"));
    assert_eq!(image.architecture, "x86");
}

#[tokio::test]
async fn firewall_rules_are_replaced_and_read_back() {
    let bed = Bed::start().await;
    let firewall = Effect::CreateFirewall {
        name: "demo".to_owned(),
        rules: vec![rule("icmp", "")],
    };
    let id = create(&bed, &firewall).await;
    let mut rules = vec![rule("tcp", "22"), rule("udp", "51820")];
    let set = |firewall| Effect::SetFirewallRules {
        firewall,
        name: "demo".to_owned(),
        rules: rules.clone(),
    };
    bed.execute(&set(id)).await.unwrap();
    let foreign = bed.post("firewalls", json!({"name": "hers"})).await;
    let error = bed
        .execute(&set(foreign["firewall"]["id"].as_u64().unwrap()))
        .await
        .unwrap_err();
    assert!(matches!(error, HetznerError::NotOurs { .. }), "{error}");
    let error = bed.execute(&set(999_999)).await.unwrap_err();
    assert!(matches!(error, HetznerError::NotFound { .. }), "{error}");

    let mut seen = bed.observe().await.unwrap().firewall.unwrap().rules;
    seen.sort();
    rules.sort();
    assert_eq!(seen, rules);
}

#[tokio::test]
async fn a_name_that_somebody_else_has_is_told_with_its_holder() {
    let bed = Bed::start().await;
    let order = bed.order().await;
    bed.post(
        "placement_groups",
        json!({"name": "demo-workers-1", "type": "spread"}),
    )
    .await;
    let server = json!({"name": name(), "server_type": "cx23", "image": "debian-12",
        "location": "fsn1", "labels": {"fabrik.dev/cluster": "another"}});
    bed.post("servers", server).await;
    let cases = [
        (
            placement_group("demo-workers-1"),
            "placement group `demo-workers-1`",
            "without a fabrik label",
        ),
        (
            Effect::CreateServer(order),
            "server `demo-workers-k3x9qd`",
            "of fabrik cluster another",
        ),
    ];
    for (effect, what, whose) in cases {
        let error = bed.execute(&effect).await.unwrap_err();
        let HetznerError::NameTaken { holder, .. } = &error else {
            panic!("{error}")
        };
        assert!(
            holder.starts_with(what) && holder.ends_with(whose),
            "{holder}"
        );
    }
}

#[tokio::test]
async fn without_stock_the_next_choice_is_tried_and_in_the_end_all_are_named() {
    let bed = Bed::start().await;
    bed.out_of_stock(json!({"cx33": ["fsn1"]})).await;
    let mut order = bed.order().await;
    let choice = |location: &str| Choice {
        server_type: "cx33".to_owned(),
        location: location.to_owned(),
    };
    order.choices = vec![choice("fsn1"), choice("nbg1")];
    let effect = Effect::CreateServer(order);
    create(&bed, &effect).await;
    let seen = bed.observe().await.unwrap();
    let server = seen.servers.values().next().unwrap();
    assert_eq!(server.location, "nbg1");

    let Effect::CreateServer(mut order) = effect else {
        unreachable!()
    };
    order.intent = "aaaaaa".parse().unwrap();
    order.name = "demo-workers-aaaaaa".parse().unwrap();
    bed.out_of_stock(json!({"*": ["fsn1", "nbg1"]})).await;
    let error = bed.execute(&Effect::CreateServer(order)).await.unwrap_err();
    let HetznerError::OutOfStock { tried, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(tried, "cx33 in fsn1, cx33 in nbg1");
    assert_eq!(bed.observe().await.unwrap().servers.len(), 1);
}

#[tokio::test]
async fn a_type_that_is_none_is_no_matter_of_stock() {
    let bed = Bed::start().await;
    let mut order = bed.order().await;
    let choice = |server_type: &str| Choice {
        server_type: server_type.to_owned(),
        location: "nbg1".to_owned(),
    };
    order.choices = vec![choice("cx3"), choice("cx30")];
    let error = bed.execute(&Effect::CreateServer(order.clone())).await;
    let error = error.unwrap_err();
    let HetznerError::Refused { fields, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(fields[0].name, "server_type", "{error}");

    // Where one of them is, it may come back.
    bed.out_of_stock(json!({"*": ["nbg1"]})).await;
    order.choices.push(choice("cx33"));
    let error = bed.execute(&Effect::CreateServer(order)).await.unwrap_err();
    let HetznerError::OutOfStock { tried, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(tried, "cx3 in nbg1, cx30 in nbg1, cx33 in nbg1");
}

#[tokio::test]
async fn the_load_balancer_leads_to_servers_alone_and_goes_only_when_it_is_ours() {
    let bed = Bed::start().await;
    let new = NewLoadBalancer {
        name: "demo-api".to_owned(),
        kind: "lb11".to_owned(),
        location: "fsn1".to_owned(),
        network: bed.create_network().await,
        public: true,
    };
    let id = create(&bed, &Effect::CreateLoadBalancer(new.clone())).await;
    let seen = bed.observe().await.unwrap().load_balancer.unwrap();
    assert_eq!(
        (seen.id, seen.kind.as_str(), seen.location.as_str()),
        (id, "lb11", "fsn1")
    );
    assert!(seen.public && seen.leads_to_servers);
    let shown = &bed.control("state").await["load_balancers"][0];
    assert_eq!(
        seen.address.as_deref(),
        shown["public_net"]["ipv4"]["ip"].as_str()
    );
    let selector = format!("fabrik.dev/cluster={},fabrik.dev/role=server", bed.cluster);
    assert_eq!(shown["targets"][0]["label_selector"]["selector"], selector);
    let again = bed.execute(&Effect::CreateLoadBalancer(new)).await;
    assert_eq!(again, Ok(Outcome::Found(id)));

    let theirs = json!({"name": "theirs", "load_balancer_type": "lb11", "location": "fsn1"});
    let theirs = bed.post("load_balancers", theirs).await["load_balancer"]["id"]
        .as_u64()
        .unwrap();
    let delete = |load_balancer, name: &str| Effect::DeleteLoadBalancer {
        load_balancer,
        name: name.to_owned(),
    };
    let refused = bed.execute(&delete(theirs, "theirs")).await;
    assert!(
        matches!(refused, Err(HetznerError::NotOurs { .. })),
        "{refused:?}"
    );
    let deleted = delete(id, "demo-api");
    assert_eq!(bed.execute(&deleted).await, Ok(Outcome::Done));
    assert_eq!(bed.execute(&deleted).await, Ok(Outcome::AlreadyGone));
    assert_eq!(bed.observe().await.unwrap().load_balancer, None);
}

#[tokio::test]
async fn the_floating_ip_moves_by_one_request_and_goes_when_nobody_has_it() {
    let bed = Bed::start().await;
    let new = NewFloatingIp {
        name: "demo-api-ip".to_owned(),
        family: IpFamily::Ipv6,
        location: "fsn1".to_owned(),
    };
    let id = create(&bed, &Effect::CreateFloatingIp(new.clone())).await;
    let again = bed.execute(&Effect::CreateFloatingIp(new)).await;
    assert_eq!(again, Ok(Outcome::Found(id)));
    let seen = bed.observe().await.unwrap().floating_ip.unwrap();
    assert_eq!(
        (
            seen.id,
            seen.family.as_str(),
            seen.location.as_str(),
            seen.server
        ),
        (id, "ipv6", "fsn1", None)
    );
    assert!(
        seen.address.unwrap().to_string().ends_with("::1"),
        "{seen:?}"
    );

    let server = async |name: &str| {
        let order =
            json!({"name": name, "server_type": "cx23", "image": "debian-12", "location": "nbg1"});
        ServerId(
            bed.post("servers", order).await["server"]["id"]
                .as_u64()
                .unwrap(),
        )
    };
    let assign = |server| Effect::AssignFloatingIp {
        floating_ip: id,
        name: "demo-api-ip".to_owned(),
        server,
        to: "server-1".parse().unwrap(),
    };
    for server in [server("server-1").await, server("server-2").await] {
        assert_eq!(bed.execute(&assign(server)).await, Ok(Outcome::Done));
        let seen = bed.observe().await.unwrap().floating_ip.unwrap();
        assert_eq!(seen.server, Some(server));
        assert_eq!(bed.execute(&assign(server)).await, Ok(Outcome::AlreadyDone));
    }

    let theirs = json!({"name": "theirs", "type": "ipv4", "home_location": "fsn1"});
    let theirs = bed.post("floating_ips", theirs).await["floating_ip"]["id"].as_u64();
    let delete = |floating_ip, name: &str| Effect::DeleteFloatingIp {
        floating_ip,
        name: name.to_owned(),
    };
    let refused = bed.execute(&delete(theirs.unwrap(), "theirs")).await;
    assert!(
        matches!(refused, Err(HetznerError::NotOurs { .. })),
        "{refused:?}"
    );
    let deleted = delete(id, "demo-api-ip");
    assert_eq!(bed.execute(&deleted).await, Ok(Outcome::Done));
    let seen = bed.observe().await.unwrap().floating_ip.unwrap();
    assert_eq!(seen.server, None);
    assert_eq!(bed.execute(&deleted).await, Ok(Outcome::Done));
    assert_eq!(bed.execute(&deleted).await, Ok(Outcome::AlreadyGone));
    assert_eq!(bed.observe().await.unwrap().floating_ip, None);
}

#[tokio::test]
async fn what_nobody_wants_and_nobody_has_is_asked_for_once() {
    let bed = Bed::start().await;
    for _ in 0..3 {
        bed.observe().await.unwrap();
    }
    for list in ["load_balancers", "floating_ips"] {
        let asked = bed.requests("GET", &format!("/v1/{list}")).await;
        assert_eq!(asked.len(), 1, "{list}");
    }
    let servers = bed.requests("GET", "/v1/servers").await;
    assert_eq!(servers.len(), 3);
}

async fn create(bed: &Bed, effect: &Effect) -> u64 {
    match bed.execute(effect).await.unwrap() {
        Outcome::Created(id) => id,
        other => panic!("{other:?}"),
    }
}

fn ssh_key(name: &str) -> Effect {
    Effect::CreateSshKey {
        name: name.to_owned(),
        public_key: format!("{KEY} alice@home"),
    }
}

fn placement_group(name: &str) -> Effect {
    Effect::CreatePlacementGroup {
        name: name.to_owned(),
        pool: "workers".parse().unwrap(),
    }
}

fn rule(protocol: &str, port: &str) -> FirewallRule {
    FirewallRule {
        protocol: protocol.to_owned(),
        port: port.to_owned(),
        source_ips: ["0.0.0.0/0".to_owned(), "::/0".to_owned()].into(),
    }
}
