//! The units of a system find the secrets of its commit.

use fabrik_core::effect::Effect;
use fabrik_core::hold::HoldReason;
use fabrik_core::id::{SecretName, SecretsDigest};
use fabrik_core::ledger::Change;
use fabrik_core::system::Needs;

use super::name;
use super::world::World;

#[test]
fn nobody_may_try_a_system_before_its_secrets_are_in_place() {
    let mut world = World::new(1, 0, 1);
    world.desired.spec.update.allow_control_plane_downtime = true;
    world.want_secret();
    world.needs = Needs::Switch;
    let vpn: SecretName = "vpn".parse().unwrap();
    world.desired.sources.insert(vpn, "a".repeat(40));
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
    let changes = fabrik_core::step::step(&world.desired, &world.observed, world.now).changes;
    assert!(matches!(changes[..], [Change::Grant { .. }]), "{changes:?}");
    world.observed.ledger.apply(&changes[0], world.now);
    // Another one comes before it is told to try.
    let mut is_told = |blob: &str| {
        let blob = blob.repeat(40);
        world.desired.sources.insert("vpn".parse().unwrap(), blob);
        let effects = world.decide().effects;
        effects.iter().any(|e| matches!(e, Effect::Order { .. }))
    };
    assert!(!is_told("b"));
    assert!(is_told("a"));
}
