use super::*;

pub const OURS: &str = "abcdefgh01234567";
const OTHER: &str = "0000000000000000";

pub fn thing(kind: Kind, id: u64, name: &str, cluster: Option<&str>) -> Resource {
    Resource {
        key: Key { kind, id },
        name: name.to_owned(),
        cluster: cluster.map(str::to_owned),
        protected: false,
        power: None,
        cluster_name: None,
        is_control_plane: false,
        used_by: BTreeSet::new(),
        attached_to: BTreeSet::new(),
        selectors: Vec::new(),
        goes_with_user: false,
        is_made_by_kubernetes: false,
    }
}

pub fn network(id: u64, name: &str, cluster: Option<&str>) -> Resource {
    thing(Kind::Network, id, name, cluster)
}

/// A worker that runs.
pub fn server(id: u64, cluster: Option<&str>) -> Resource {
    Resource {
        power: Some(Power::Running),
        ..thing(Kind::Server, id, "some", cluster)
    }
}

fn of_server(kind: Kind, id: u64, cluster: Option<&str>, server: u64) -> Resource {
    let on = BTreeSet::from([key(Kind::Server, server)]);
    Resource {
        used_by: on.clone(),
        attached_to: on,
        ..thing(kind, id, "some", cluster)
    }
}

fn key(kind: Kind, id: u64) -> Key {
    Key { kind, id }
}

fn planned(project: &[Resource], asked: Asked) -> Plan {
    let (id, name) = (OURS.parse().unwrap(), "demo".parse().unwrap());
    plan(project, &id, &name, asked)
}

const NOTHING_MORE: Asked = Asked {
    volumes: false,
    snapshots: false,
    protected: false,
};

/// What Hetzner would do.
fn carry_out(project: &mut Vec<Resource>, step: Step) {
    let resource = project.iter_mut().find(|r| r.key == step.key()).unwrap();
    match step {
        Step::Unprotect(_) => resource.protected = false,
        Step::PowerOff(_) => resource.power = Some(Power::Off),
        Step::Delete(gone) => {
            project.retain(|r| r.key != gone && !(r.goes_with_user && r.used_by.contains(&gone)));
            for r in project {
                r.used_by.remove(&gone);
                r.attached_to.remove(&gone);
            }
        }
    }
}

#[test]
fn everything_goes_control_plane_first_and_network_last() {
    let control_plane = Resource {
        is_control_plane: true,
        ..server(1, Some(OURS))
    };
    let held = |kind, id| Resource {
        attached_to: BTreeSet::new(),
        ..of_server(kind, id, Some(OURS), 2)
    };
    let mut project = vec![
        held(Kind::Network, 9),
        held(Kind::Firewall, 8),
        held(Kind::PlacementGroup, 7),
        thing(Kind::SshKey, 6, "demo-alice", Some(OURS)),
        of_server(Kind::FloatingIp, 5, Some(OURS), 2),
        thing(Kind::LoadBalancer, 4, "demo-api", Some(OURS)),
        server(2, Some(OURS)),
        control_plane,
    ];
    let mut rounds = Vec::new();
    loop {
        let plan = planned(&project, NOTHING_MORE);
        if plan.is_done() {
            break;
        }
        for step in &plan.steps {
            carry_out(&mut project, *step);
        }
        rounds.push(plan.steps);
    }
    let one = |id| key(Kind::Server, id);
    let delete = |kind, id| Step::Delete(key(kind, id));
    let expected = [
        vec![Step::PowerOff(one(1))],
        vec![
            delete(Kind::Server, 1),
            Step::PowerOff(one(2)),
            delete(Kind::LoadBalancer, 4),
            delete(Kind::SshKey, 6),
        ],
        vec![delete(Kind::Server, 2)],
        vec![
            delete(Kind::FloatingIp, 5),
            delete(Kind::PlacementGroup, 7),
            delete(Kind::Firewall, 8),
        ],
        vec![delete(Kind::Network, 9)],
    ];
    assert_eq!(rounds, expected);
    assert_eq!(project, []);
}

#[test]
fn a_server_that_hetzner_is_at_work_on_is_waited_for() {
    let busy = Resource {
        power: Some(Power::Changing),
        ..server(1, Some(OURS))
    };
    let plan = planned(&[busy], NOTHING_MORE);
    assert_eq!(plan.steps, []);
    assert!(!plan.is_done());
}

#[test]
fn data_and_what_is_protected_go_only_when_asked_for() {
    let volume = thing(Kind::Volume, 1, "v", Some(OURS));
    let snapshot = thing(Kind::Snapshot, 2, "s", Some(OURS));
    let protected = Resource {
        protected: true,
        ..thing(Kind::PrimaryIp, 3, "p", Some(OURS))
    };
    let project = [volume, snapshot, protected];
    let kept = planned(&project, NOTHING_MORE).kept;
    let expected = BTreeMap::from([
        (key(Kind::Volume, 1), Kept::Data),
        (key(Kind::Snapshot, 2), Kept::Data),
        (key(Kind::PrimaryIp, 3), Kept::Protected),
    ]);
    assert_eq!(kept, expected);
    let all = Asked {
        volumes: true,
        snapshots: true,
        protected: true,
    };
    let steps = planned(&project, all).steps;
    let expected = [
        Step::Unprotect(key(Kind::PrimaryIp, 3)),
        Step::Delete(key(Kind::Volume, 1)),
        Step::Delete(key(Kind::Snapshot, 2)),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn what_a_kept_or_a_foreign_server_uses_stays_with_it() {
    let protected = Resource {
        protected: true,
        ..server(1, Some(OURS))
    };
    let foreign = server(2, Some(OTHER));
    let project = [
        of_server(Kind::Firewall, 3, Some(OURS), 1),
        of_server(Kind::Network, 4, Some(OURS), 2),
        Resource {
            selectors: vec!["role=web".to_owned()],
            ..thing(Kind::Firewall, 5, "f", Some(OURS))
        },
        protected,
        foreign,
    ];
    let plan = planned(&project, NOTHING_MORE);
    let by = |id| Kept::UsedBy(BTreeSet::from([key(Kind::Server, id)]));
    let expected = BTreeMap::from([
        (key(Kind::Server, 1), Kept::Protected),
        (key(Kind::Firewall, 3), by(1)),
        (key(Kind::Network, 4), by(2)),
        (
            key(Kind::Firewall, 5),
            Kept::Selectors(vec!["role=web".to_owned()]),
        ),
    ]);
    assert_eq!((plan.kept, plan.steps), (expected, vec![]));
}

#[test]
fn what_bears_no_id_is_told_and_left() {
    let made = |r| Resource {
        is_made_by_kubernetes: true,
        ..r
    };
    let of_ours = of_server(Kind::Volume, 2, None, 1);
    let goes_along = Resource {
        goes_with_user: true,
        ..of_server(Kind::PrimaryIp, 3, None, 1)
    };
    let elsewhere = Resource {
        attached_to: BTreeSet::from([key(Kind::Server, 77)]),
        ..made(thing(Kind::Volume, 6, "pvc-2", None))
    };
    let project = [
        server(1, Some(OURS)),
        of_ours,
        goes_along,
        made(thing(Kind::LoadBalancer, 4, "a1b2", None)),
        thing(Kind::SshKey, 5, "demo-alice", None),
        thing(Kind::Firewall, 7, "demo", Some(OTHER)),
        thing(Kind::Firewall, 8, "demolition", None),
        elsewhere,
    ];
    let plan = planned(&project, NOTHING_MORE);
    let on = BTreeSet::from([key(Kind::Server, 1)]);
    let expected = BTreeMap::from([
        (key(Kind::Volume, 2), Left::AttachedTo(on.clone())),
        (key(Kind::LoadBalancer, 4), Left::OfSomeKubernetes),
        (key(Kind::SshKey, 5), Left::NoLabel),
        (key(Kind::Firewall, 7), Left::OtherCluster(OTHER.to_owned())),
    ]);
    assert_eq!(plan.left, expected);
    assert_eq!(
        plan.goes_along,
        BTreeMap::from([(key(Kind::PrimaryIp, 3), on)])
    );
    assert_eq!(plan.goes, BTreeSet::from([key(Kind::Server, 1)]));
}

mod any_project {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Kind; 11] = [
        Kind::Server,
        Kind::LoadBalancer,
        Kind::FloatingIp,
        Kind::PrimaryIp,
        Kind::Volume,
        Kind::Snapshot,
        Kind::PlacementGroup,
        Kind::Firewall,
        Kind::Certificate,
        Kind::SshKey,
        Kind::Network,
    ];

    fn any_resource() -> impl Strategy<Value = Resource> {
        let whose = prop::sample::select(vec![Some(OURS), Some(OURS), Some(OTHER), None]);
        let name = prop::sample::select(vec!["demo", "demo-workers-a", "other", ""]);
        let power = prop::sample::select(vec![Power::Running, Power::Off]);
        let users = prop::collection::btree_set(1..6u64, 0..3);
        let flags = any::<(bool, bool, bool, bool)>();
        let kind = prop::sample::select(KINDS.to_vec());
        (kind, whose, name, power, users, flags).prop_map(
            |(kind, whose, name, power, users, flags)| {
                // A volume or an address is on one server.
                let at_most = match kind {
                    Kind::FloatingIp | Kind::PrimaryIp | Kind::Volume => 1,
                    _ => 2,
                };
                let users = users.into_iter().take(at_most);
                let users: BTreeSet<Key> = users.map(|id| key(Kind::Server, id)).collect();
                let is_user = matches!(kind, Kind::Server | Kind::LoadBalancer);
                Resource {
                    protected: flags.0,
                    power: (kind == Kind::Server).then_some(power),
                    cluster_name: None,
                    is_control_plane: kind == Kind::Server && flags.1,
                    used_by: if is_user {
                        BTreeSet::new()
                    } else {
                        users.clone()
                    },
                    attached_to: if kind == Kind::Server {
                        BTreeSet::new()
                    } else {
                        users
                    },
                    // Hetzner protects none that goes with its server.
                    goes_with_user: kind == Kind::PrimaryIp && flags.2 && !flags.0,
                    is_made_by_kubernetes: flags.3,
                    ..thing(kind, 0, name, whose)
                }
            },
        )
    }

    proptest! {
        /// Round after round: only ours is touched, nothing that is kept, nothing before what uses it, nothing that runs;
        /// and it ends with all gone that was to go.
        #[test]
        fn is_cleared_by_the_rules(
            mut project in prop::collection::vec(any_resource(), 0..24),
            (volumes, snapshots, protected) in any::<(bool, bool, bool)>(),
        ) {
            for (id, resource) in (1..).zip(&mut project) {
                resource.key.id = id;
            }
            let asked = Asked { volumes, snapshots, protected };
            let before = project.clone();
            let first = planned(&project, asked);
            let mut rounds = 0;
            loop {
                let plan = planned(&project, asked);
                prop_assert!(plan.goes.is_subset(&first.goes));
                if plan.is_done() {
                    break;
                }
                prop_assert!(!plan.steps.is_empty(), "{project:#?}");
                for step in plan.steps {
                    let there: BTreeSet<Key> = project.iter().map(|r| r.key).collect();
                    let resource = project.iter().find(|r| r.key == step.key()).unwrap();
                    prop_assert_eq!(resource.cluster.as_deref(), Some(OURS));
                    prop_assert!(asked.volumes || resource.key.kind != Kind::Volume);
                    prop_assert!(asked.snapshots || resource.key.kind != Kind::Snapshot);
                    prop_assert!(asked.protected || !resource.protected);
                    if matches!(step, Step::Delete(_)) {
                        prop_assert!(!resource.protected && resource.power != Some(Power::Running));
                        prop_assert!(resource.used_by.is_disjoint(&there));
                    }
                    carry_out(&mut project, step);
                }
                rounds += 1;
                prop_assert!(rounds < 10);
            }
            let after: BTreeSet<Key> = project.iter().map(|r| r.key).collect();
            for resource in &before {
                let key = resource.key;
                let went = first.goes.contains(&key) || first.goes_along.contains_key(&key);
                prop_assert_eq!(went, !after.contains(&key), "{:?}", resource);
            }
        }
    }
}
