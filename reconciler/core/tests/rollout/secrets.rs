//! The units of a system find the secrets of its commit.

use fabrik_core::effect::Effect;
use fabrik_core::hold::HoldReason;
use fabrik_core::id::SecretsDigest;

use super::name;
use super::world::World;

#[test]
fn nobody_may_try_a_system_before_its_secrets_are_in_place() {
    let mut world = World::new(1, 0, 1);
    world.desired.spec.update.allow_control_plane_downtime = true;
    world.want_secret();
    world.want("new", "1.36.3+k3s1");
    world.look_twice();
    let says = |world: &mut World, secrets: Option<SecretsDigest>| {
        let system = world.observed.systems.get_mut(&name("servers-0")).unwrap();
        let report = system.report.as_mut().unwrap();
        report.recipient = Some(format!("age1{}", "x".repeat(58)).parse().unwrap());
        report.secrets = secrets;
    };
    says(&mut world, None);
    let step = world.decide();
    let mut holds = step.holds.iter();
    assert!(holds.any(|h| h.reason == HoldReason::Secrets && h.message.contains("waits")));
    assert!(world.observed.ledger.tickets.is_empty());

    let digest = step.effects.iter().find_map(|effect| match effect {
        Effect::DeliverSecrets { digest, .. } => Some(digest.clone()),
        _ => None,
    });
    let deliveries = world.observed.deliveries.as_mut().unwrap();
    deliveries.insert(name("servers-0"), digest.clone().unwrap());
    world.decide();
    assert!(
        world.observed.ledger.tickets.is_empty(),
        "they lie ready, and no more"
    );
    says(&mut world, digest);
    let holds = world.decide().holds;
    assert_eq!(world.observed.ledger.tickets.len(), 1, "{holds:?}");
}
