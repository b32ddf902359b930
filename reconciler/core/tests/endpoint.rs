//! The load balancer before the API servers comes, stays as it is, and goes.

mod model;

use fabrik_core::spec::LoadBalancer;
use model::Model;

fn wanted() -> LoadBalancer {
    LoadBalancer {
        kind: "lb11".to_owned(),
        location: "fsn1".to_owned(),
        public: true,
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
