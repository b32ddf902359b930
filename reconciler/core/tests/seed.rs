//! A seed that is cut off anywhere: whatever was done and whatever was not written down, it comes to the same end.

#[path = "seed/world.rs"]
mod world;

use fabrik_core::id::ServerId;
use fabrik_core::observed::Power;
use fabrik_core::seed::{
    Extent, Ground, Image, Next, Rescue, Snapshot, SnapshotState, Stage, Step, Stop, next,
};
use proptest::collection::vec;
use proptest::prelude::*;

use world::{Fate, World, digest, image};

/// More steps than any walk without faults takes.
const PATIENCE: usize = 200;

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Done),
        1 => Just(Fate::NotBegun),
        1 => Just(Fate::Unheard),
        1 => Just(Fate::HalfWay),
        1 => Just(Fate::OtherImage),
    ]
}

proptest! {
    #[test]
    fn a_seed_ends_whole_with_one_of_each_and_with_all_that_is_not_its_own(
        fates in vec(fate(), 0..60),
        extent in prop_oneof![Just(Extent::Images), Just(Extent::Cluster)],
        old in 0_usize..5,
        two_images in any::<bool>(),
    ) {
        let mut world = World::new(extent);
        world.old_snapshots(old);
        if two_images {
            world.wanted.images.push(image("workers", "b"));
        }
        world.walk(fates, PATIENCE);

        prop_assert!(world.server_of_image().is_none(), "a temporary server is left");
        prop_assert!(world.seen.key.is_none(), "the temporary key is left");
        for image in &world.wanted.images {
            let newest = world.newest(&image.pool);
            prop_assert_eq!(newest.as_deref(), Some(image.digest.as_str()));
        }
        prop_assert!(world.of_pool("servers") <= 2, "old snapshots are left");
        prop_assert_eq!(world.foreign_deleted, 0);
        let whole = extent == Extent::Cluster;
        prop_assert_eq!(world.firsts_founded, usize::from(whole));
        prop_assert_eq!(world.seen.first.is_some(), whole);
        if whole {
            prop_assert_eq!(world.seen.laptop.stage, Stage::Parted);
            prop_assert!(!world.seen.laptop.has_secrets);
            prop_assert!(world.spoke_only_after_the_host_key_was_changed);
        }
    }
}

#[test]
fn without_faults_the_way_is_this() {
    let mut world = World::new(Extent::Cluster);
    world.walk(Vec::new(), PATIENCE);
    assert_eq!(
        world.told,
        [
            "RegisterKey",
            "CreateImageServer",
            "AwaitServer",
            "EnableRescue",
            "PowerOn",
            "AwaitServer",
            "WriteImage",
            "PowerOff",
            "TakeSnapshot",
            "DeleteImageServer",
            "Make",
            "Make",
            "CreateFirstServer",
            "AwaitServer",
            "Meet",
            "UseHostKey",
            "HandOver",
            "AwaitCommit",
            "WriteKubeconfig",
            "Part",
            "DeleteKey",
            "ForgetSecrets",
        ]
    );
    let before = world.told.len();
    world.walk(Vec::new(), PATIENCE);
    assert_eq!(world.told.len(), before, "a seed that is done does nothing");
}

#[test]
fn an_image_that_is_there_is_used_and_an_older_one_of_the_same_bytes_is_not() {
    let mut world = World::new(Extent::Images);
    let now = &mut world.seen.snapshots;
    now.push(snapshot(1, "a", SnapshotState::Available));
    assert_eq!(next(&world.wanted, &world.seen), Next::Done);
    // New servers would be made of the newest one.
    let now = &mut world.seen.snapshots;
    now.push(snapshot(2, "c", SnapshotState::Available));
    let image = image("servers", "a");
    world.seen.key = Some(1);
    assert_eq!(
        next(&world.wanted, &world.seen),
        Next::Do(Step::CreateImageServer { image })
    );
}

#[test]
fn what_a_person_protects_is_kept_and_what_broke_is_made_again() {
    let mut world = World::new(Extent::Images);
    let mut kept = snapshot(1, "c", SnapshotState::Available);
    kept.protected = true;
    let broken = snapshot(5, "a", SnapshotState::Broken);
    world.seen.snapshots = vec![kept, broken];
    for (id, letter) in [(2, "d"), (3, "a"), (4, "a")] {
        let snapshot = snapshot(id, letter, SnapshotState::Available);
        world.seen.snapshots.push(snapshot);
    }
    let mut deleted = Vec::new();
    while let Next::Do(Step::DeleteSnapshot { snapshot }) = next(&world.wanted, &world.seen) {
        world.seen.snapshots.retain(|s| s.id != snapshot);
        deleted.push(snapshot);
    }
    assert_eq!(deleted, [5, 2]);
    assert_eq!(next(&world.wanted, &world.seen), Next::Done);
}

#[test]
fn a_rescue_system_that_does_not_answer_is_given_up_with_its_server() {
    let mut world = World::new(Extent::Images);
    world.begin_image_server(Power::Running, Rescue::Silent);
    let server = ServerId(1);
    assert_eq!(
        next(&world.wanted, &world.seen),
        Next::Do(Step::DeleteImageServer { server })
    );
}

#[test]
fn a_server_with_another_image_on_its_disk_boots_the_rescue_system_again() {
    let mut world = World::new(Extent::Images);
    world.seen.key = Some(1);
    world.begin_image_server(Power::Off, Rescue::None);
    let server = ServerId(1);
    let of = |world: &World| next(&world.wanted, &world.seen);
    world.written(Some(digest("c").as_str().to_owned()));
    assert_eq!(of(&world), Next::Do(Step::EnableRescue { server }));
    world.written(Some(digest("a").as_str().to_owned()));
    let image = image("servers", "a");
    assert_eq!(of(&world), Next::Do(Step::TakeSnapshot { server, image }));
}

#[test]
fn a_disk_that_is_to_be_overwritten_is_known_to_hold_nothing_first() {
    let mut world = World::new(Extent::Images);
    world.seen.key = Some(1);
    world.begin_image_server(Power::Running, Rescue::None);
    world.written(Some(digest("c").as_str().to_owned()));
    let (server, image) = (ServerId(1), image("servers", "a"));
    let of = |world: &World| next(&world.wanted, &world.seen);
    assert_eq!(of(&world), Next::Do(Step::ForgetWritten { server }));
    world.written(None);
    assert_eq!(of(&world), Next::Do(Step::WriteImage { server, image }));
}

#[test]
fn a_name_of_somebody_elses_stops_it_and_so_does_a_founded_server_that_is_gone() {
    let mut world = World::new(Extent::Cluster);
    let available = snapshot(1, "a", SnapshotState::Available);
    world.seen.snapshots.push(available);
    let (name, holder) = ("demo".to_owned(), "network `demo` (id 5)".to_owned());
    world.seen.ground = Some(Ground::Taken {
        name: name.clone(),
        holder: holder.clone(),
    });
    let of = |world: &World| next(&world.wanted, &world.seen);
    assert_eq!(of(&world), Next::Stop(Stop::NameTaken { name, holder }));
    world.seen.ground = None;
    assert_eq!(of(&world), Next::Stop(Stop::NoServers));

    world.seen.laptop.server = Some(ServerId(9));
    for (stage, expected) in [
        (Stage::HandingOver, Next::Stop(Stop::FirstServerGone)),
        (Stage::KubeconfigWritten, Next::Stop(Stop::FirstServerGone)),
        (Stage::Parted, Next::Do(Step::ForgetSecrets)),
    ] {
        world.seen.laptop.stage = stage;
        assert_eq!(of(&world), expected, "{stage:?}");
    }
}

fn snapshot(id: u64, letter: &str, state: SnapshotState) -> Snapshot {
    let Image { pool, digest, .. } = image("servers", letter);
    Snapshot {
        id,
        pool,
        digest: digest.into(),
        created: world::at(id),
        state,
        protected: false,
    }
}
