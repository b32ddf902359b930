//! What leads to the API servers comes, stays as it is or moves to where it is of use, and goes.

mod model;

use fabrik_core::effect::Effect;
use fabrik_core::endpoint;
use fabrik_core::id::{PoolName, ServerId};
use fabrik_core::spec::{FloatingIp, IpFamily, LoadBalancer};
use model::Model;
use serde_json::json;

fn wanted() -> LoadBalancer {
    LoadBalancer {
        kind: "lb11".to_owned(),
        location: "fsn1".to_owned(),
        public: true,
        address: None,
    }
}

fn with_load_balancer() -> Model {
    let mut model = Model::wanting(0);
    model.desired.spec.api.load_balancer = Some(wanted());
    model.settle();
    model
}

fn told(model: &mut Model) -> String {
    let holds = model.step().holds;
    holds.iter().map(|hold| format!("{hold}\n")).collect()
}

#[test]
fn it_is_made_once_and_goes_when_it_is_no_longer_wanted() {
    let mut model = with_load_balancer();
    let verbs = |model: &Model| -> Vec<String> {
        let of_it = |(verb, target): &(String, String)| {
            verb.ends_with("load-balancer")
                .then(|| format!("{verb} {target}"))
        };
        model.done.iter().filter_map(of_it).collect()
    };
    assert_eq!(verbs(&model), ["create-load-balancer demo-api"]);
    assert_eq!(told(&mut model), "");
    model.desired.spec.api.load_balancer = None;
    model.settle();
    assert_eq!(
        verbs(&model),
        [
            "create-load-balancer demo-api",
            "delete-load-balancer demo-api"
        ]
    );
}

#[test]
fn somebody_else_s_of_that_name_is_told_and_left_alone() {
    let mut model = Model::wanting(0);
    model.desired.spec.api.load_balancer = Some(wanted());
    let theirs = "load balancer `demo-api` (id 5) without a fabrik label".to_owned();
    let taken = &mut model.observed.hetzner.taken;
    taken.insert("demo-api".to_owned(), theirs);
    model.settle();
    assert!(model.observed.hetzner.load_balancer.is_none());
    assert!(told(&mut model).starts_with("demo-api: is needed and belongs to load balancer"));
}

#[test]
fn what_can_not_change_without_people_losing_their_way_is_told() {
    let mut model = with_load_balancer();
    let lb = model.observed.hetzner.load_balancer.as_mut().unwrap();
    lb.kind = "lb21".to_owned();
    lb.location = "hel1".to_owned();
    lb.public = false;
    lb.leads_to_servers = false;
    let holds = told(&mut model);
    for said in [
        "is of type lb21, and cluster.toml says lb11: `hcloud load-balancer change-type",
        "is in hel1, and cluster.toml says fsn1.",
        "can not be reached from the internet, and cluster.toml wants it otherwise: `hcloud load-balancer enable-public-interface",
        "does not send port 6443 to the servers",
    ] {
        assert!(holds.contains(said), "{said}: {holds}");
    }
    assert_eq!(model.step().effects, []);
}

const ADDRESS: &str = "203.0.113.10";

fn floating(address: Option<&str>) -> FloatingIp {
    FloatingIp {
        family: IpFamily::Ipv4,
        location: "fsn1".to_owned(),
        address: address.map(|a| a.parse().unwrap()),
    }
}

/// Three servers, of which the second one leads.
fn with_floating_ip() -> Model {
    let mut model = Model::with_servers(3);
    model.observed.leader = Some("server-2".parse().unwrap());
    model.desired.spec.api.floating_ip = Some(floating(Some(ADDRESS)));
    model.settle();
    model
}

fn of_floating_ip(model: &Model) -> Vec<String> {
    let of_it = |(verb, target): &(String, String)| {
        verb.ends_with("floating-ip")
            .then(|| format!("{verb} {target}"))
    };
    model.done.iter().filter_map(of_it).collect()
}

fn host(model: &Model) -> Option<String> {
    endpoint::host(&model.desired, &model.observed)
}

#[test]
fn a_floating_ip_is_the_leader_s_and_moves_when_that_server_is_lost_and_not_back() {
    let mut model = with_floating_ip();
    assert_eq!(
        of_floating_ip(&model),
        [
            "create-floating-ip demo-api-ip",
            "assign-floating-ip demo-api-ip to server-2"
        ]
    );
    assert_eq!(told(&mut model), "");
    assert_eq!(host(&model).as_deref(), Some(ADDRESS));
    model.done.clear();
    let name = "server-2".parse().unwrap();
    model.observed.nodes.get_mut(&name).unwrap().ready = false;
    model.settle();
    let moved = of_floating_ip(&model);
    assert_eq!(moved.len(), 1, "{moved:?}");
    assert!(!moved[0].ends_with("server-2"), "{moved:?}");
    model.observed.nodes.get_mut(&name).unwrap().ready = true;
    model.settle();
    assert_eq!(of_floating_ip(&model), moved);
}

#[test]
fn a_floating_ip_leaves_a_server_before_anything_is_done_to_it() {
    let mut model = with_floating_ip();
    model.want_servers(1);
    model.step();
    let leaving = model
        .observed
        .ledger
        .tickets
        .values()
        .next()
        .unwrap()
        .server;
    model.observed.hetzner.floating_ip.as_mut().unwrap().server = Some(leaving);
    let effects = model.step().effects;
    let verbs: Vec<_> = effects.iter().map(Effect::verb).collect();
    assert_eq!(verbs.first(), Some(&"assign-floating-ip"), "{verbs:?}");
    model.settle();
    let left: Vec<ServerId> = model.observed.hetzner.servers.keys().copied().collect();
    let holder = model.observed.hetzner.floating_ip.unwrap().server;
    assert_eq!(left, [holder.unwrap()]);
}

#[test]
fn a_floating_ip_stays_where_nobody_would_be_better() {
    let mut model = with_floating_ip();
    for node in model.observed.nodes.values_mut() {
        node.ready = false;
    }
    assert_eq!(model.step().effects, []);
    model.observed.hetzner.floating_ip.as_mut().unwrap().server = None;
    assert_eq!(model.step().effects, []);
}

#[test]
fn its_address_is_told_until_the_servers_know_it_and_leads_nobody_before() {
    let mut model = with_floating_ip();
    for (wanted, said) in [
        (
            None,
            "has the address 203.0.113.10, which the servers don't take for theirs yet: write `address = \"203.0.113.10\"`",
        ),
        (
            Some("203.0.113.66"),
            "has the address 203.0.113.10, and cluster.toml says 203.0.113.66",
        ),
    ] {
        model.desired.spec.api.floating_ip = Some(floating(wanted));
        let holds = told(&mut model);
        assert!(holds.contains(said), "{holds}");
        assert_eq!(host(&model), None);
    }
}

#[test]
fn what_replaces_another_comes_first_and_the_other_goes_when_it_leads_to_the_servers() {
    let mut model = Model::with_servers(3);
    model.desired.spec.api.load_balancer = Some(wanted());
    model.settle();
    assert_eq!(host(&model).as_deref(), Some("203.0.113.9"));
    model.desired.spec.api.load_balancer = None;
    model.desired.spec.api.floating_ip = Some(floating(None));
    model.settle();
    assert!(told(&mut model).contains(
        "load balancer demo-api: is not wanted any more, and goes when the floating IP leads to the servers"
    ));
    // The address is in a system that no server runs yet.
    model.desired.spec.api.floating_ip = Some(floating(Some(ADDRESS)));
    model.settle();
    assert!(model.observed.hetzner.load_balancer.is_some());
    let running = model.observed.systems.values().next().unwrap();
    let running = running.report.as_ref().unwrap().running.to_string();
    let target = json!({"system": {"output": running, "derivation": format!("{running}.drv"),
        "kubernetes": "1.36.3+k3s1"}});
    let servers: PoolName = "servers".parse().unwrap();
    let target = serde_json::from_value(target).unwrap();
    model.desired.targets.insert(servers.clone(), target);
    let effects = model.step().effects;
    let is_removal = |effect: &&Effect| matches!(effect, Effect::DeleteLoadBalancer { .. });
    model.act(effects.iter().find(is_removal).unwrap());
    assert_eq!(host(&model).as_deref(), Some(ADDRESS));

    model.desired.targets.remove(&servers);
    model.desired.spec.api.floating_ip = None;
    model.desired.spec.api.load_balancer = Some(wanted());
    model.settle();
    assert_eq!(model.observed.hetzner.floating_ip, None);
    assert_eq!(host(&model).as_deref(), Some("203.0.113.9"));
}
