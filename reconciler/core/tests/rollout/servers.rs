//! The control plane, and its etcd.

use fabrik_core::effect::Effect;

use super::name;
use super::world::{Fate, World};

#[test]
fn one_server_goes_down_only_by_the_users_word() {
    let mut world = World::new(1, 1, 1);
    world.want("new", "1.36.3+k3s1");
    let holds = world.stand_still();
    assert!(
        holds
            .iter()
            .any(|h| h.contains("allow-control-plane-downtime")),
        "{holds:?}"
    );
    assert!(world.tried.is_empty());
    world.desired.spec.update.allow_control_plane_downtime = true;
    world.settle("new");
}

#[test]
fn etcd_that_can_not_be_read_lets_no_server_go() {
    let mut world = World::new(3, 1, 1);
    world.blocked.insert(name("servers-1"));
    world.want("next", "1.37.0+k3s1");
    (0..20).for_each(|_| drop(world.tick()));
    world.blocked.clear();
    world.no_etcd = true;
    (0..20).for_each(|_| drop(world.tick()));
    assert!(world.tried.is_empty(), "{:?}", world.tried);
    let tickets = &world.observed.ledger.tickets;
    assert_eq!(tickets.len(), 1, "its drain is not for nothing");
    world.no_etcd = false;
    world.settle("next");
}

/// etcd was whole when the order was written down: that is no leave to send it later.
#[test]
fn an_order_that_was_not_sent_waits_while_another_server_is_down() {
    let mut world = World::new(3, 1, 1);
    world.want("new", "1.36.3+k3s1");
    let first = world.until_ordered("servers");
    let other = name("servers-2");
    assert_ne!(first, other);
    world.machines.get_mut(&other).unwrap().hangs = true;
    (0..6).for_each(|_| drop(world.tick()));
    world.cut_off = None;
    let told = world.tick().holds;
    let told = told.iter().find(|h| h.about == format!("node {first}"));
    assert!(
        told.is_some_and(|h| h
            .message
            .contains("is not told to try now: waits: without it 1 of 3")),
        "{told:?}"
    );
    assert!(world.tried.is_empty(), "{:?}", world.tried);
    world.machines.get_mut(&other).unwrap().hangs = false;
    world.settle("new");
    assert_eq!(world.tried.len(), 4, "{:?}", world.tried);
}

/// Found by the exhaustive search: it was uncordoned and then cordoned again under the same ticket, for an hour, and a
/// request to uncordon that was late reached it when it went down.
#[test]
fn a_server_that_may_not_go_after_all_gives_its_ticket_back_before_its_cordon() {
    let mut world = World::new(3, 1, 1);
    world.want("new", "1.36.3+k3s1");
    while world.marks.is_empty() {
        world.tick();
    }
    let other = world.observed.nodes.values().find(|n| !n.unschedulable);
    let other = other.unwrap().name.clone();
    world.cordon_by_hand(&other);
    for _ in 0..20 {
        let step = world.tick();
        let tickets = &world.observed.ledger.tickets;
        for effect in &step.effects {
            if let Effect::Uncordon { node, .. } = effect {
                assert!(tickets.values().all(|t| t.node != node.name), "{step:?}");
            }
        }
    }
    assert_eq!(world.marks.len(), 1, "{:?}", world.marks);
    let ours = |n: &fabrik_core::observed::Node| n.cordoned_under.is_some();
    assert!(!world.observed.nodes.values().any(ours));
}

/// Its API server would be older than the others' agents, and in the end two minors apart from the other servers.
#[test]
fn a_server_that_is_no_member_holds_agents_and_minors() {
    let mut world = World::new(3, 2, 1);
    let mut stranger = world.observed.nodes[&name("servers-1")].clone();
    stranger.name = name("servers-9");
    (stranger.uid, stranger.provider_id) = ("uid-servers-9".parse().unwrap(), None);
    let stranger = (stranger.name.clone(), stranger);
    world.observed.nodes.extend([stranger]);

    world.want("next", "1.37.0+k3s1");
    let told = world.stand_still().join("\n");
    assert!(world.tried.is_empty(), "{:?}", world.tried);
    assert!(
        told.contains("waits: server servers-9 is no member"),
        "{told}"
    );
    world.want("new", "1.36.3+k3s1");
    let told = world.stand_still().join("\n");
    assert_eq!(world.tried.len(), 3, "servers alone: {:?}", world.tried);
    assert!(told.contains("agents: wait for server servers-9"), "{told}");
    world.observed.nodes.remove(&name("servers-9"));
    world.settle("new");
}

#[test]
fn agents_wait_where_no_server_is_known() {
    let mut world = World::new(0, 2, 1);
    world.want("new", "1.36.3+k3s1");
    world.look_twice();
    let holds = world.decide().holds;
    assert!(world.observed.ledger.tickets.is_empty());
    let told = holds.iter().map(ToString::to_string);
    let told: Vec<String> = told.collect();
    assert_eq!(
        told,
        ["agents: wait: servers come first, and none is known; 1 more wait behind it"]
    );
}

/// Found by seed 84765: it was back, its ticket had ended, and then the reset came.
#[test]
fn who_was_reset_keeps_its_ticket_until_no_reset_can_come_any_more() {
    let mut world = World::new(3, 1, 1);
    world.fates.insert("bad".to_owned(), Fate::Hangs);
    world.want("bad", "1.36.3+k3s1");
    while !world.log.iter().any(|l| l.contains(" reset ")) {
        world.tick();
    }
    let reset = world.now;
    while !world.observed.ledger.tickets.is_empty() {
        world.tick();
    }
    let kept = world.now.duration_since(reset).as_secs();
    assert!(kept > 60, "{kept} s: {}", world.log.join("\n"));
}

/// The reset would take the second of three etcd members.
#[test]
fn a_server_that_hangs_is_reset_only_when_etcd_can_spare_it() {
    let mut world = World::new(3, 1, 1);
    world.fates.insert("bad".to_owned(), Fate::Hangs);
    world.want("bad", "1.36.3+k3s1");
    world.until_tried("servers-1");
    world.no_etcd = true;
    let told = world.stand_still().join("\n");
    assert!(!world.log.iter().any(|l| l.contains(" reset ")));
    assert!(
        told.contains("it is not reset: waits: etcd was not read"),
        "{told}"
    );
    world.no_etcd = false;
    world.stand_still();
    assert!(world.log.iter().any(|l| l.contains(" reset servers-1")));
    world.nothing_is_left_over();
}

#[test]
fn servers_without_etcd_are_updated_too_one_by_one() {
    let mut world = World::new(2, 1, 1);
    world.sqlite = true;
    world.want("new", "1.37.0+k3s1");
    world.settle("new");
    assert_eq!(world.most_unavailable["servers"], 1);

    let mut world = World::new(1, 1, 1);
    world.sqlite = true;
    world.want("new", "1.36.3+k3s1");
    let told = world.stand_still().join("\n");
    assert!(told.contains("allow-control-plane-downtime"), "{told}");
    world.desired.spec.update.allow_control_plane_downtime = true;
    world.settle("new");
}

#[test]
fn one_of_two_servers_without_etcd_stays_up_whatever_downtime_is_allowed() {
    let mut world = World::new(2, 1, 1);
    world.sqlite = true;
    let update = &mut world.desired.spec.update;
    update.allow_control_plane_downtime = true;
    update
        .held
        .insert(name("servers-1"), "a new disk".to_owned());
    world.cordon_by_hand(&name("servers-1"));
    world.want("new", "1.36.3+k3s1");
    let told = world.stand_still().join("\n");
    assert!(told.contains("another server is down"), "{told}");
    assert!(world.tried.is_empty(), "{:?}", world.tried);
}
